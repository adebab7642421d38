/*
 * accept_all QUEUE each|batch COPY_RANGE [gso]
 *
 * The least that an NFQUEUE firewall can do: it accepts every packet unseen.  What pyfw costs is
 * measured against it.
 *
 *   each   recv one packet, send one verdict: a system call each way per packet
 *   batch  recvmmsg up to 64 packets, send their verdicts in one message
 *   gso    take packets as large as the stack made them (NFQA_CFG_F_GSO)
 *
 * Prints "ready" once the queue is bound.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "fail.h"

enum {
	BATCH = 64,
	QUEUE_LENGTH = 8192,
	RECEIVE_BUFFER = 32 << 20,
	MESSAGE_SIZE = 0xffff + 4096,	/* the largest packet and the attributes around it */
};

struct message_head {
	struct nlmsghdr netlink;
	struct nfgenmsg nfnetlink;
};

struct verdict_message {
	struct message_head head;
	struct nlattr attribute;
	struct nfqnl_msg_verdict_hdr verdict;
};
_Static_assert(sizeof(struct verdict_message) == 32, "verdicts lie one after the other, unpadded");

static uint8_t messages[BATCH][MESSAGE_SIZE];

static struct message_head message_head(uint16_t queue, uint16_t type, uint32_t length)
{
	return (struct message_head){
		.netlink = {
			.nlmsg_len = length,
			.nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | type,
			.nlmsg_flags = NLM_F_REQUEST,
		},
		.nfnetlink = { .version = NFNETLINK_V0, .res_id = htons(queue) },
	};
}

static uint32_t append_attribute(uint8_t *message, uint32_t length, uint16_t type, const void *value, uint16_t size)
{
	struct nlattr attribute = { .nla_len = NLA_HDRLEN + size, .nla_type = type };

	memcpy(message + length, &attribute, sizeof attribute);
	memcpy(message + length + NLA_HDRLEN, value, size);
	return length + NLA_ALIGN(attribute.nla_len);
}

/* One configuration message with one or two attributes, and the kernel's answer to it. */
static void configure(int fd, uint16_t queue, uint16_t type, const void *value, uint16_t size)
{
	uint8_t request[128] = { 0 };
	uint8_t answer[512];
	uint32_t length = sizeof(struct message_head);
	struct nlmsgerr error;

	length = append_attribute(request, length, type, value, size);
	if (type == NFQA_CFG_FLAGS)	/* flags count only under a mask */
		length = append_attribute(request, length, NFQA_CFG_MASK, value, size);
	struct message_head head = message_head(queue, NFQNL_MSG_CONFIG, length);
	head.netlink.nlmsg_flags |= NLM_F_ACK;
	memcpy(request, &head, sizeof head);

	if (send(fd, request, length, 0) < 0)
		fail("send a queue option");
	if (recv(fd, answer, sizeof answer, 0) < (ssize_t)(NLMSG_HDRLEN + sizeof error))
		fail("receive the answer to a queue option");
	memcpy(&error, answer + NLMSG_HDRLEN, sizeof error);
	errno = -error.error;
	if (error.error)
		fail("set a queue option");
}

static int open_queue(uint16_t queue, uint32_t copy_range, int gso)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK };
	struct nfqnl_msg_config_cmd bind_command = { .command = NFQNL_CFG_CMD_BIND };
	struct nfqnl_msg_config_params copy = { .copy_range = htonl(copy_range), .copy_mode = NFQNL_COPY_PACKET };
	uint32_t queue_length = htonl(QUEUE_LENGTH);
	uint32_t flags = htonl(NFQA_CFG_F_GSO);
	int receive_buffer = RECEIVE_BUFFER;
	int on = 1;
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
		fail("open a netfilter socket");
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &receive_buffer, sizeof receive_buffer) < 0)
		fail("enlarge the receive buffer");
	if (setsockopt(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &on, sizeof on) < 0)
		fail("switch ENOBUFS off");
	configure(fd, queue, NFQA_CFG_CMD, &bind_command, sizeof bind_command);
	configure(fd, queue, NFQA_CFG_PARAMS, &copy, sizeof copy);
	configure(fd, queue, NFQA_CFG_QUEUE_MAXLEN, &queue_length, sizeof queue_length);
	if (gso)
		configure(fd, queue, NFQA_CFG_FLAGS, &flags, sizeof flags);
	return fd;
}

/* The packet's id, in network byte order as the verdict wants it; 0: the message holds none. */
static uint32_t packet_id(const uint8_t *message, uint32_t length)
{
	uint32_t offset = sizeof(struct message_head);
	struct nlattr attribute;
	uint32_t id;

	while (offset + NLA_HDRLEN + sizeof id <= length) {
		memcpy(&attribute, message + offset, sizeof attribute);
		if ((attribute.nla_type & NLA_TYPE_MASK) == NFQA_PACKET_HDR) {
			memcpy(&id, message + offset + NLA_HDRLEN, sizeof id);
			return id;
		}
		if (attribute.nla_len < NLA_HDRLEN)
			break;
		offset += NLA_ALIGN(attribute.nla_len);
	}
	return 0;
}

static struct verdict_message accept_packet(uint16_t queue, uint32_t id)
{
	return (struct verdict_message){
		.head = message_head(queue, NFQNL_MSG_VERDICT, sizeof(struct verdict_message)),
		.attribute = { .nla_len = NLA_HDRLEN + sizeof(struct nfqnl_msg_verdict_hdr), .nla_type = NFQA_VERDICT_HDR },
		.verdict = { .verdict = htonl(NF_ACCEPT), .id = id },
	};
}

static void serve_each(int fd, uint16_t queue)
{
	struct verdict_message verdict;

	for (;;) {
		ssize_t length = recv(fd, messages[0], MESSAGE_SIZE, 0);
		if (length < 0)
			continue;
		verdict = accept_packet(queue, packet_id(messages[0], (uint32_t)length));
		send(fd, &verdict, sizeof verdict, 0);
	}
}

static void serve_batches(int fd, uint16_t queue)
{
	static struct verdict_message verdicts[BATCH];
	struct iovec buffers[BATCH];
	struct mmsghdr received[BATCH] = { 0 };

	for (int i = 0; i < BATCH; i++) {
		buffers[i] = (struct iovec){ messages[i], MESSAGE_SIZE };
		received[i].msg_hdr.msg_iov = &buffers[i];
		received[i].msg_hdr.msg_iovlen = 1;
	}
	for (;;) {
		int count = recvmmsg(fd, received, BATCH, MSG_WAITFORONE, NULL);
		for (int i = 0; i < count; i++)
			verdicts[i] = accept_packet(queue, packet_id(messages[i], received[i].msg_len));
		if (count > 0)
			send(fd, verdicts, (size_t)count * sizeof *verdicts, 0);
	}
}

int main(int argc, char **argv)
{
	if (argc < 4 || argc > 5 || (strcmp(argv[2], "each") && strcmp(argv[2], "batch"))
	    || (argc == 5 && strcmp(argv[4], "gso"))) {
		fputs("usage: accept_all QUEUE each|batch COPY_RANGE [gso]\n", stderr);
		return 2;
	}
	uint16_t queue = (uint16_t)atoi(argv[1]);
	int fd = open_queue(queue, (uint32_t)atoi(argv[3]), argc == 5);

	puts("ready");
	fflush(stdout);
	if (strcmp(argv[2], "batch") == 0)
		serve_batches(fd, queue);
	else
		serve_each(fd, queue);
}
