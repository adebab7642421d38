/*
 * echo_load CLIENT_NAMESPACE SERVER_NAMESPACE SERVER_ADDRESS PACKETS_PER_SECOND SECONDS
 *
 * Sends UDP packets through the gateway at an even pace and echoes them: who was lost, and how long the longest time was
 * in which none came back.  One thread plays both ends.
 *
 * Prints "sending", and at the end one JSON object: packets sent and lost, the longest gap in nanoseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <sys/socket.h>

#include "clock.h"
#include "namespace.h"

enum {
	ECHO_PORT = 7,
	BUFFER = 1 << 26,		/* bytes: what a gateway held back comes all at once */
	PATIENCE_NS = 2000000000,	/* for the last ones */
};

struct echoes {
	uint64_t came;
	uint64_t last_ns;
	uint64_t longest_ns;
};

static int open_socket(const char *namespace)
{
	int room = BUFFER, fd;

	enter_namespace(namespace);
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) < 0)
		fail("open a UDP socket");
	return fd;
}

static void pass_on(int client, int server, struct echoes *echoes)
{
	struct sockaddr_in from;
	socklen_t length = sizeof from;
	uint64_t number, at_ns;

	while (recvfrom(server, &number, sizeof number, 0, (struct sockaddr *)&from, &length) == sizeof number)
		if (sendto(server, &number, sizeof number, 0, (struct sockaddr *)&from, length) < 0)
			fail("echo a packet");
	while (recv(client, &number, sizeof number, 0) == sizeof number) {
		at_ns = now_ns();
		if (echoes->came++ && at_ns - echoes->last_ns > echoes->longest_ns)
			echoes->longest_ns = at_ns - echoes->last_ns;
		echoes->last_ns = at_ns;
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(ECHO_PORT) };
	struct echoes echoes = { 0 };
	uint64_t sent, count, pace_ns, began_ns, deadline_ns;

	if (argc != 6 || !inet_aton(argv[3], &address.sin_addr) || atof(argv[4]) < 1) {
		fputs("usage: echo_load CLIENT_NAMESPACE SERVER_NAMESPACE SERVER_ADDRESS PACKETS_PER_SECOND SECONDS\n", stderr);
		return 2;
	}
	int server = open_socket(argv[2]);
	int client = open_socket(argv[1]);
	if (bind(server, (struct sockaddr *)&address, sizeof address) < 0)
		fail("bind the server");
	if (connect(client, (struct sockaddr *)&address, sizeof address) < 0)
		fail("connect the client");
	pace_ns = (uint64_t)(1e9 / atof(argv[4]));
	count = (uint64_t)(atof(argv[4]) * atof(argv[5]));
	puts("sending");
	fflush(stdout);

	began_ns = now_ns();
	for (sent = 0; sent < count; sent++) {
		sleep_until(began_ns + sent * pace_ns);
		if (send(client, &sent, sizeof sent, 0) < 0)
			fail("send a packet");
		pass_on(client, server, &echoes);
	}
	deadline_ns = now_ns() + PATIENCE_NS;
	while (echoes.came < sent && now_ns() < deadline_ns) {
		sleep_until(now_ns() + pace_ns);
		pass_on(client, server, &echoes);
	}
	printf("{\"sent\": %llu, \"lost\": %llu, \"longest_gap_ns\": %llu}\n", (unsigned long long)sent,
	       (unsigned long long)(sent - echoes.came), (unsigned long long)echoes.longest_ns);
}
