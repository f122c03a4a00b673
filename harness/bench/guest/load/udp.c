// SPDX-License-Identifier: GPL-2.0-only
/*
 * load: UDP, one way. A packet begins with the time at which it was sent, so
 * that whoever gets it knows how long that took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

#define TICK_MS 50

static int fds[MAX_LISTENERS];
static _Atomic bool bound;

static bool is_group(const struct sockaddr_in *to)
{
	return IN_MULTICAST(ntohl(to->sin_addr.s_addr));
}

static void address(struct sockaddr_in *to)
{
	memset(to, 0, sizeof(*to));
	to->sin_family = AF_INET;
	to->sin_port = htons(opt.port);
	if (inet_pton(AF_INET, opt.addr, &to->sin_addr) != 1)
		die("not an IPv4 address: %s", opt.addr);
}

static void set(int fd, int level, int name, int value)
{
	if (value && setsockopt(fd, level, name, &value, sizeof(value)))
		die("setsockopt %d: %s", name, strerror(errno));
}

/* Sockets that listen: one, or several of a group that all get everything. */
static void *binder(void *unused)
{
	struct timeval tick = { .tv_usec = TICK_MS * 1000 };
	struct sockaddr_in to;

	(void)unused;
	enter(opt.rx_netns);
	address(&to);
	for (int i = 0; i < opt.listeners; i++) {
		int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

		if (fd < 0)
			die("socket: %s", strerror(errno));
		set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
		if (opt.rcvbuf)
			set(fd, SOL_SOCKET, SO_RCVBUFFORCE, opt.rcvbuf);
		if (bind(fd, (void *)&to, sizeof(to)))
			die("bind to %s: %s", opt.addr, strerror(errno));
		if (is_group(&to)) {
			struct ip_mreqn group = { .imr_multiaddr = to.sin_addr };

			group.imr_ifindex = if_nametoindex(opt.rx_dev);
			if (setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group,
				       sizeof(group)))
				die("joining %s: %s", opt.addr, strerror(errno));
		}
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof(tick));
		fds[i] = fd;
	}
	bound = true;
	ready++;
	return NULL;
}

static void take(int fd, uint8_t *buf, int flags)
{
	ssize_t n = recv(fd, buf, 65536, flags);
	uint64_t sent;

	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			rx_side.errors++;
		return;
	}
	memcpy(&sent, buf, sizeof(sent));
	atomic_fetch_add_explicit(&rx_side.bytes, n, memory_order_relaxed);
	atomic_fetch_add_explicit(&rx_side.packets, 1, memory_order_relaxed);
	if (n >= (ssize_t)sizeof(sent) && measuring)
		note(&latency, now_ns() - sent);
}

static void *receiver(void *arg)
{
	int me = (intptr_t)arg, n = 0;
	struct pollfd mine[MAX_LISTENERS];
	uint8_t *buf = malloc(65536);

	while (!bound && !stopping)
		pause_ns(1000000);
	for (int i = me; i < opt.listeners; i += opt.rx_threads)
		mine[n++] = (struct pollfd){ .fd = fds[i], .events = POLLIN };
	while (!stopping && n) {
		if (n == 1) {
			take(mine[0].fd, buf, 0);
			continue;
		}
		if (poll(mine, n, TICK_MS) <= 0)
			continue;
		for (int i = 0; i < n; i++)
			if (mine[i].revents)
				take(mine[i].fd, buf, MSG_DONTWAIT);
	}
	return NULL;
}

static void *sender(void *arg)
{
	int me = (intptr_t)arg, n = 0, mine[64];
	uint8_t *buf = calloc(1, 65536);
	struct sockaddr_in to;
	uint64_t sent = 0, now;

	while (!bound && !opt.no_receiver && !stopping)
		pause_ns(1000000);
	enter(opt.tx_netns);
	address(&to);
	for (int i = me; i < opt.flows && n < 64; i += opt.tx_threads) {
		int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

		if (opt.sndbuf)
			set(fd, SOL_SOCKET, SO_SNDBUFFORCE, opt.sndbuf);
		if (is_group(&to)) {
			struct ip_mreqn group = {
				.imr_ifindex = if_nametoindex(opt.tx_dev),
			};
			int no = 0;

			setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &group, sizeof(group));
			setsockopt(fd, IPPROTO_IP, IP_MULTICAST_LOOP, &no, sizeof(no));
		}
		if (fd < 0 || connect(fd, (void *)&to, sizeof(to)))
			die("connect to %s: %s", opt.addr, strerror(errno));
		mine[n++] = fd;
	}
	ready++;
	while (!stopping) {
		now = now_ns();
		memcpy(buf, &now, sizeof(now));
		if (send(mine[sent % n], buf, opt.size, 0) < 0) {
			if (errno == ENOBUFS || errno == EAGAIN || errno == ECONNREFUSED)
				continue;
			tx_side.errors++;
			pause_ns(1000000);
			continue;
		}
		sent++;
		atomic_fetch_add_explicit(&tx_side.packets, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&tx_side.bytes, opt.size, memory_order_relaxed);
		if (opt.gap_us && sent % opt.burst == 0)
			pause_ns(opt.gap_us * 1000);
	}
	return NULL;
}

int udp_start(void)
{
	if (opt.size < 8)
		die("a packet needs 8 bytes for its time");
	if (!opt.no_receiver) {
		spawn(binder, 0, NULL, false);
		for (int i = 0; i < opt.rx_threads; i++)
			spawn(receiver, i, &opt.rx_cpus, false);
	}
	for (int i = 0; i < opt.tx_threads; i++)
		spawn(sender, i, &opt.tx_cpus, false);
	return opt.tx_threads + !opt.no_receiver;
}
