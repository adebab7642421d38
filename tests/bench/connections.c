/*
 * connections CLIENT_NAMESPACE SERVER_NAMESPACE SERVER_ADDRESS SECONDS
 *
 * New TCP connections per second through the gateway: connect, accept, close.  One thread plays client
 * and server.  The client closes with an RST, so that no TIME_WAIT is left over to run out of ports, and
 * walks through so many ports of the server that a tuple does not come again soon.
 *
 * Prints one JSON object: connections that both ends saw open, and the seconds they took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#include "namespace.h"

enum {
	SERVER_PORTS = 64,
	FIRST_PORT = 8000,
	CONCURRENT = 256,		/* handshakes under way at any time */
	EVENTS = 256,
	BACKLOG = 4096,
};

enum end { CLIENT, SERVER };		/* of an epoll event; its descriptor is in the low half */

static int poller;
static struct sockaddr_in server_address = { .sin_family = AF_INET };
static uint64_t opened, accepted, refused;

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void watch(int fd, enum end end, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.u64 = (uint64_t)end << 32 | (uint32_t)fd };

	if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
		fail("watch a socket");
}

static void listen_on(uint16_t port)
{
	struct sockaddr_in address = server_address;
	int on = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	address.sin_port = htons(port);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0
	    || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, BACKLOG) < 0)
		fail("listen");
	watch(fd, SERVER, EPOLLIN);
}

static void begin_connection(void)
{
	static unsigned turn;
	const struct linger reset = { .l_onoff = 1, .l_linger = 0 };
	struct sockaddr_in address = server_address;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	address.sin_port = htons((uint16_t)(FIRST_PORT + turn++ % SERVER_PORTS));
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) < 0)
		fail("open a TCP socket");
	if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
		fail("connect");
	watch(fd, CLIENT, EPOLLOUT);
}

static void finish_connection(int fd, uint32_t events)
{
	if (events & (EPOLLERR | EPOLLHUP))
		refused++;
	else
		opened++;
	close(fd);
	begin_connection();
}

static void accept_connections(int listener)
{
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		accepted++;
		close(fd);
	}
}

int main(int argc, char **argv)
{
	struct epoll_event events[EVENTS];

	if (argc != 5 || !inet_aton(argv[3], &server_address.sin_addr)) {
		fputs("usage: connections CLIENT_NAMESPACE SERVER_NAMESPACE SERVER_ADDRESS SECONDS\n", stderr);
		return 2;
	}
	poller = epoll_create1(0);
	enter_namespace(argv[2]);
	for (uint16_t port = 0; port < SERVER_PORTS; port++)
		listen_on(FIRST_PORT + port);
	enter_namespace(argv[1]);
	for (int i = 0; i < CONCURRENT; i++)
		begin_connection();

	double began_s = now_s();
	double end_s = began_s + atof(argv[4]);
	while (now_s() < end_s) {
		int count = epoll_wait(poller, events, EVENTS, 100);
		for (int i = 0; i < count; i++) {
			int fd = (int)(uint32_t)events[i].data.u64;
			if (events[i].data.u64 >> 32 == SERVER)
				accept_connections(fd);
			else
				finish_connection(fd, events[i].events);
		}
	}
	printf("{\"opened\": %llu, \"accepted\": %llu, \"refused\": %llu, \"seconds\": %.6f}\n", (unsigned long long)opened,
	       (unsigned long long)accepted, (unsigned long long)refused, now_s() - began_s);
}
