// SPDX-License-Identifier: GPL-2.0-only
/* load: TCP connections that carry a stream, requests and answers, or nothing. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

#define CHUNK		65536
#define EVENTS		64
#define TURNS		4	/* calls for one connection until it is another's turn */
#define TICK_MS		50	/* how often a thread without work looks up */
#define PATIENCE	10	/* seconds for a message to come, when nothing is measured */

struct conn {
	int fd;
	int got;		/* of the present message */
	uint64_t asked;		/* when the present request was sent */
};

struct reader {
	int epoll, conns, last;
};

static struct reader readers[MAX_THREADS];
static _Atomic bool listening;
static _Atomic int accepted;
static struct conn *served, *made;
static struct side *const rx = &rx_side, *const tx = &tx_side;

static socklen_t address(struct sockaddr_storage *ss)
{
	struct sockaddr_in6 *v6 = (void *)ss;
	struct sockaddr_in *v4 = (void *)ss;

	memset(ss, 0, sizeof(*ss));
	if (inet_pton(AF_INET, opt.addr, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(opt.port);
		return sizeof(*v4);
	}
	if (inet_pton(AF_INET6, opt.addr, &v6->sin6_addr) != 1)
		die("not an address: %s", opt.addr);
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons(opt.port);
	return sizeof(*v6);
}

static void set(int fd, int level, int name, int value)
{
	if (value && setsockopt(fd, level, name, &value, sizeof(value)))
		die("setsockopt %d: %s", name, strerror(errno));
}

static void tune(int fd)
{
	set(fd, SOL_SOCKET, SO_SNDBUF, opt.sndbuf);
	set(fd, SOL_SOCKET, SO_RCVBUF, opt.rcvbuf);
	set(fd, IPPROTO_TCP, TCP_MAXSEG, opt.mss);
	set(fd, IPPROTO_TCP, TCP_NODELAY, opt.mode != STREAM);
}

static void may_block(int fd, bool yes)
{
	struct timeval tick = { .tv_usec = TICK_MS * 1000 };

	if (!yes) {
		fcntl(fd, F_SETFL, O_NONBLOCK);
		return;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof(tick));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tick, sizeof(tick));
}

static void watch(int epoll, struct conn *conn, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = conn };

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, conn->fd, &event))
		die("epoll: %s", strerror(errno));
}

/* --- the receiving end --- */

static void *acceptor(void *unused)
{
	struct sockaddr_storage ss;
	socklen_t len = address(&ss);
	int fd, one = 1;

	(void)unused;
	enter(opt.rx_netns);
	fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	tune(fd);
	if (bind(fd, (void *)&ss, len) || listen(fd, 4096))
		die("listen on %s: %s", opt.addr, strerror(errno));
	listening = true;
	for (int i = 0; i < opt.flows; i++) {
		struct reader *reader = &readers[i % opt.rx_threads];

		served[i].fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
		if (served[i].fd < 0)
			die("accept: %s", strerror(errno));
		reader->last = i;
		reader->conns++;
		watch(reader->epoll, &served[i], EPOLLIN);
	}
	accepted = opt.flows;
	ready++;
	return NULL;
}

static ssize_t receive(struct conn *conn, uint8_t *buf, int flags)
{
	ssize_t n = recv(conn->fd, buf, CHUNK, flags);

	if (n > 0) {
		atomic_fetch_add_explicit(&rx->bytes, n, memory_order_relaxed);
		atomic_fetch_add_explicit(&rx->packets, 1, memory_order_relaxed);
	} else if (n < 0 && errno != EAGAIN && errno != EINTR && !stopping) {
		rx->errors++;
	}
	return n;
}

static void answer(struct conn *conn, uint8_t *buf, ssize_t n)
{
	conn->got += n;
	while (conn->got >= opt.size) {
		conn->got -= opt.size;
		if (send(conn->fd, buf, opt.size, MSG_NOSIGNAL) != opt.size && !stopping)
			rx->errors++;
	}
}

static void *reader(void *arg)
{
	struct reader *mine = &readers[(intptr_t)arg];
	struct epoll_event events[EVENTS];
	uint8_t *buf = malloc(CHUNK);

	while (!accepted && !stopping)
		pause_ns(1000000);
	if (mine->conns == 1 && opt.mode == STREAM) {
		/* As most programs do it: one that waits for its only connection. */
		may_block(served[mine->last].fd, true);
		while (!stopping)
			receive(&served[mine->last], buf, 0);
		return NULL;
	}
	while (!stopping) {
		int n = epoll_wait(mine->epoll, events, EVENTS, TICK_MS);

		for (int i = 0; i < n; i++) {
			struct conn *conn = events[i].data.ptr;
			ssize_t got = receive(conn, buf, MSG_DONTWAIT);

			if (got > 0 && opt.mode == RR)
				answer(conn, buf, got);
			if (!got)
				epoll_ctl(mine->epoll, EPOLL_CTL_DEL, conn->fd, NULL);
		}
	}
	return NULL;
}

/* --- the sending end --- */

static void connect_all(int me)
{
	struct sockaddr_storage ss;
	socklen_t len = address(&ss);

	for (int i = me; i < opt.flows; i += opt.tx_threads) {
		int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd < 0)
			die("socket: %s", strerror(errno));
		tune(fd);
		if (connect(fd, (void *)&ss, len))
			die("connect to %s: %s", opt.addr, strerror(errno));
		made[i].fd = fd;
	}
}

static bool put(struct conn *conn, const uint8_t *buf, int len)
{
	ssize_t n = send(conn->fd, buf, len, MSG_NOSIGNAL);

	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR && !stopping)
			tx->errors++;
		return false;
	}
	atomic_fetch_add_explicit(&tx->bytes, n, memory_order_relaxed);
	atomic_fetch_add_explicit(&tx->packets, 1, memory_order_relaxed);
	return true;
}

static void stream(int epoll, const uint8_t *buf)
{
	struct epoll_event events[EVENTS];

	while (!stopping) {
		int n = epoll_wait(epoll, events, EVENTS, TICK_MS);

		for (int i = 0; i < n; i++)
			for (int turn = 0; turn < TURNS; turn++)
				if (!put(events[i].data.ptr, buf, CHUNK))
					break;
	}
}

static void ask(struct conn *conn, const uint8_t *buf)
{
	conn->got = 0;
	conn->asked = now_ns();
	put(conn, buf, opt.size);
}

static void ask_and_wait(int me, int epoll, uint8_t *buf)
{
	struct epoll_event events[EVENTS];

	for (int i = me; i < opt.flows; i += opt.tx_threads)
		ask(&made[i], buf);
	while (!stopping) {
		int n = epoll_wait(epoll, events, EVENTS, TICK_MS);

		for (int i = 0; i < n; i++) {
			struct conn *conn = events[i].data.ptr;
			ssize_t got = recv(conn->fd, buf, CHUNK, MSG_DONTWAIT);

			if (got > 0)
				conn->got += got;
			if (conn->got < opt.size)
				continue;
			note(&latency, now_ns() - conn->asked);
			ask(conn, buf);
		}
	}
}

static void *sender(void *arg)
{
	int me = (intptr_t)arg, mine = 0, epoll = epoll_create1(EPOLL_CLOEXEC);
	uint8_t *buf = calloc(1, CHUNK);

	enter(opt.tx_netns);
	while (!listening && !stopping)
		pause_ns(1000000);
	connect_all(me);
	while (!accepted && !stopping)
		pause_ns(1000000);
	ready++;
	if (opt.mode == IDLE)
		return NULL;
	for (int i = me; i < opt.flows; i += opt.tx_threads)
		mine++;
	if (opt.mode == STREAM && mine == 1) {
		may_block(made[me].fd, true);
		while (!stopping)
			put(&made[me], buf, CHUNK);
		return NULL;
	}
	for (int i = me; i < opt.flows; i += opt.tx_threads) {
		may_block(made[i].fd, false);
		watch(epoll, &made[i], opt.mode == RR ? EPOLLIN : EPOLLOUT);
	}
	if (opt.mode == RR)
		ask_and_wait(me, epoll, buf);
	else
		stream(epoll, buf);
	return NULL;
}

/* Every connection carries one message, and it is read. */
static void *send_once(void *unused)
{
	uint8_t *buf = calloc(1, CHUNK);

	(void)unused;
	for (int i = 0; i < opt.flows; i++)
		if (!put(&made[i], buf, opt.size))
			die("send: %s", strerror(errno));
	ready++;
	return NULL;
}

void idle_traffic(void)
{
	uint64_t wanted = (uint64_t)opt.flows * opt.size;
	uint64_t limit = now_ns() + PATIENCE * 1000000000ull;
	int before = ready;

	spawn(send_once, 0, &opt.tx_cpus, false);
	while ((ready == before || rx->bytes < wanted) && now_ns() < limit)
		pause_ns(1000000);
	if (rx->bytes < wanted)
		rx->errors++;
}

int tcp_start(void)
{
	served = calloc(opt.flows, sizeof(*served));
	made = calloc(opt.flows, sizeof(*made));
	if (!served || !made)
		die("no memory");
	for (int i = 0; i < opt.rx_threads; i++)
		readers[i].epoll = epoll_create1(EPOLL_CLOEXEC);
	spawn(acceptor, 0, NULL, false);
	for (int i = 0; i < opt.rx_threads; i++)
		spawn(reader, i, &opt.rx_cpus, false);
	for (int i = 0; i < opt.tx_threads; i++)
		spawn(sender, i, &opt.tx_cpus, false);
	return opt.tx_threads + 1;
}
