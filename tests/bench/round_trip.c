/*
 * round_trip CLIENT_NAMESPACE SERVER_NAMESPACE SERVER_ADDRESS SECONDS
 *
 * How long a UDP packet needs through the gateway and back.  One thread plays both ends, so that what
 * it measures is the way there and the way back, and no switch between a client and a server process.
 *
 * Prints one JSON object: the number of round trips, their 50th and 99th percentile and the longest, in nanoseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "clock.h"
#include "namespace.h"

enum {
	ECHO_PORT = 7,
	PAYLOAD = 36,			/* 64 bytes with the headers */
	MAX_SAMPLES = 1 << 22,
	WARM_UP = 1000,
};

static uint64_t samples_ns[MAX_SAMPLES];

static int open_socket(const char *namespace)
{
	struct timeval patience = { .tv_sec = 2 };
	int fd;

	enter_namespace(namespace);
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0)
		fail("open a UDP socket");
	return fd;
}

static uint64_t round_trip_ns(int client, int server)
{
	uint8_t payload[PAYLOAD] = { 0 };
	struct sockaddr_in from;
	socklen_t from_length = sizeof from;
	uint64_t began_ns = now_ns();

	if (send(client, payload, sizeof payload, 0) < 0
	    || recvfrom(server, payload, sizeof payload, 0, (struct sockaddr *)&from, &from_length) < 0)
		fail("bring a packet to the server");
	if (sendto(server, payload, sizeof payload, 0, (struct sockaddr *)&from, from_length) < 0
	    || recv(client, payload, sizeof payload, 0) < 0)
		fail("bring the answer to the client");
	return now_ns() - began_ns;
}

static int ascending(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(ECHO_PORT) };
	size_t count = 0;

	if (argc != 5 || !inet_aton(argv[3], &address.sin_addr)) {
		fputs("usage: round_trip CLIENT_NAMESPACE SERVER_NAMESPACE SERVER_ADDRESS SECONDS\n", stderr);
		return 2;
	}
	int server = open_socket(argv[2]);
	int client = open_socket(argv[1]);
	if (bind(server, (struct sockaddr *)&address, sizeof address) < 0)
		fail("bind the server");
	if (connect(client, (struct sockaddr *)&address, sizeof address) < 0)
		fail("connect the client");

	for (int i = 0; i < WARM_UP; i++)
		round_trip_ns(client, server);
	uint64_t end_ns = now_ns() + (uint64_t)(atof(argv[4]) * 1e9);
	while (count < MAX_SAMPLES && now_ns() < end_ns)
		samples_ns[count++] = round_trip_ns(client, server);
	if (count == 0)
		fail("measure in no time");
	qsort(samples_ns, count, sizeof *samples_ns, ascending);
	printf("{\"round_trips\": %zu, \"p50_ns\": %llu, \"p99_ns\": %llu, \"longest_ns\": %llu}\n", count,
	       (unsigned long long)samples_ns[count / 2], (unsigned long long)samples_ns[count * 99 / 100],
	       (unsigned long long)samples_ns[count - 1]);
}
