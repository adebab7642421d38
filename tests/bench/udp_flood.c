/*
 * udp_flood NAMESPACE INTERFACE GATEWAY_MAC SOURCE DESTINATION FLOWS RATE COUNT
 *
 * Sends UDP packets of 64 bytes (IP header included) in FLOWS flows, one packet of each flow in turn,
 * through a packet socket: the sender must cost less than any firewall it measures.
 *
 * RATE   packets per second; 0: as fast as it can
 * COUNT  stop after so many packets; 0: never
 *
 * Flow f comes from address SOURCE + f / 50000, port 10000 + f % 50000.  A run with a COUNT, which fills a
 * tracker's table, takes the flows in order; an endless one goes in steps of a large prime, so that what was
 * made side by side is not met side by side.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <sys/socket.h>

#include "clock.h"
#include "namespace.h"

enum {
	BATCH = 64,
	PACKET_SIZE = 64,
	PORTS_PER_SOURCE = 50000,
	FIRST_PORT = 10000,
	DISCARD_PORT = 9,
	ENDLESS_STEP = 7919,
};

struct frame {
	struct iphdr ip;
	struct udphdr udp;
	uint8_t payload[PACKET_SIZE - sizeof(struct iphdr) - sizeof(struct udphdr)];
} __attribute__((packed));
_Static_assert(sizeof(struct frame) == PACKET_SIZE, "the packet is as long as it says");

struct flows {
	uint32_t first_source;		/* host byte order */
	uint32_t count;
	uint32_t next;
	uint32_t step;
};

static uint16_t fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static uint32_t halves(uint32_t word)
{
	return (word & 0xffff) + (word >> 16);
}

/* Everything but the source address, the source port and the checksums. */
static void prepare(struct frame *frame, uint32_t destination)
{
	memset(frame, 0, sizeof *frame);
	frame->ip.version = 4;
	frame->ip.ihl = sizeof frame->ip / 4;
	frame->ip.tot_len = htons(PACKET_SIZE);
	frame->ip.frag_off = htons(IP_DF);
	frame->ip.ttl = 64;
	frame->ip.protocol = IPPROTO_UDP;
	frame->ip.daddr = htonl(destination);
	frame->udp.dest = htons(DISCARD_PORT);
	frame->udp.len = htons(PACKET_SIZE - sizeof frame->ip);
}

static void address(struct frame *frame, uint32_t source, uint16_t port)
{
	const uint32_t version_and_length = 0x4500, ttl_and_protocol = 64 << 8 | IPPROTO_UDP;
	uint32_t destination = ntohl(frame->ip.daddr);
	uint32_t udp_length = PACKET_SIZE - sizeof frame->ip;
	uint32_t addresses = halves(source) + halves(destination);

	frame->ip.saddr = htonl(source);
	frame->udp.source = htons(port);
	frame->ip.check = htons((uint16_t)~fold(version_and_length + PACKET_SIZE + IP_DF + ttl_and_protocol + addresses));
	uint16_t check = (uint16_t)~fold(addresses + IPPROTO_UDP + udp_length + port + DISCARD_PORT + udp_length);
	frame->udp.check = htons(check ? check : 0xffff);
}

static uint32_t next_flow(struct flows *flows)
{
	uint32_t flow = flows->next;

	flows->next = (flow + flows->step) % flows->count;
	return flow;
}

static int open_interface(const char *name)
{
	struct sockaddr_ll link = { .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(name) };
	int on = 1;
	int fd = socket(AF_PACKET, SOCK_DGRAM, 0);	/* protocol 0: receives nothing */

	if (fd < 0 || link.sll_ifindex == 0 || bind(fd, (struct sockaddr *)&link, sizeof link) < 0)
		fail(name);
	if (setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof on) < 0)
		fail("bypass the queueing discipline");
	return fd;
}

static void flood(int fd, struct sockaddr_ll *gateway, struct flows *flows, uint32_t destination, uint64_t rate,
		  uint64_t count)
{
	static struct frame frames[BATCH];
	struct iovec buffers[BATCH];
	struct mmsghdr batch[BATCH] = { 0 };
	uint64_t sent = 0;
	uint64_t began_ns = now_ns();

	for (int i = 0; i < BATCH; i++) {
		prepare(&frames[i], destination);
		buffers[i] = (struct iovec){ &frames[i], sizeof frames[i] };
		batch[i].msg_hdr = (struct msghdr){
			.msg_name = gateway, .msg_namelen = sizeof *gateway, .msg_iov = &buffers[i], .msg_iovlen = 1,
		};
	}
	while (count == 0 || sent < count) {
		unsigned wanted = count && count - sent < BATCH ? (unsigned)(count - sent) : BATCH;
		for (unsigned i = 0; i < wanted; i++) {
			uint32_t flow = next_flow(flows);
			address(&frames[i], flows->first_source + flow / PORTS_PER_SOURCE,
				(uint16_t)(FIRST_PORT + flow % PORTS_PER_SOURCE));
		}
		for (unsigned done = 0; done < wanted;) {
			int taken = sendmmsg(fd, batch + done, wanted - done, 0);
			if (taken < 0 && errno != ENOBUFS && errno != EINTR)
				fail("send");
			done += taken > 0 ? (unsigned)taken : 0;
		}
		sent += wanted;
		if (rate)
			sleep_until(began_ns + sent * 1000000000u / rate);
	}
}

int main(int argc, char **argv)
{
	struct ether_addr *mac;
	struct in_addr source, destination;

	if (argc != 9 || !(mac = ether_aton(argv[3])) || !inet_aton(argv[4], &source) || !inet_aton(argv[5], &destination)) {
		fputs("usage: udp_flood NAMESPACE INTERFACE GATEWAY_MAC SOURCE DESTINATION FLOWS RATE COUNT\n", stderr);
		return 2;
	}
	uint64_t count = strtoull(argv[8], NULL, 10);
	struct flows flows = {
		.first_source = ntohl(source.s_addr), .count = (uint32_t)atoi(argv[6]), .step = count ? 1 : ENDLESS_STEP,
	};
	if (flows.count == 0 || flows.count % ENDLESS_STEP == 0) {
		fputs("udp_flood: FLOWS must be positive and no multiple of 7919\n", stderr);
		return 2;
	}
	enter_namespace(argv[1]);

	struct sockaddr_ll gateway = {
		.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_halen = ETH_ALEN,
		.sll_ifindex = (int)if_nametoindex(argv[2]),
	};
	memcpy(gateway.sll_addr, mac, ETH_ALEN);
	flood(open_interface(argv[2]), &gateway, &flows, ntohl(destination.s_addr), strtoull(argv[7], NULL, 10), count);
}
