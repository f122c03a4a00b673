// SPDX-License-Identifier: GPL-2.0-only
/*
 * tcpflow - TCP traffic of a known amount, with every byte checked.
 *
 * One call runs both ends: a server (the receiver of a bulk transfer) and a
 * client (its sender), each a process of its own, pinned to a CPU and placed
 * in a network namespace if asked. Work is sized by bytes or by round trips,
 * never by time, so that a slow kernel does the same work as a fast one.
 *
 * Prints one JSON object and exits with 0 when everything that was asked for
 * happened, 1 when an error or wrong data was seen, 2 on bad usage, 3 when
 * the time limit passed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/errqueue.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif

#define ZC_SLOTS 64

enum mode { BULK, RR };
enum end { END_CLOSE, END_RST, END_SHUTDOWN, END_EXIT };

static struct {
	enum mode mode;
	const char *addr;
	int port;
	const char *tx_netns, *rx_netns;
	int tx_cpu, rx_cpu;
	int conns;
	long rounds;		/* 0: until SIGTERM */
	uint64_t bytes;
	uint64_t count, req, rsp;
	size_t write_size, read_size;
	int sndbuf, rcvbuf;
	bool nodelay, verify, peek, zerocopy, splice;
	int trunc;		/* every n-th read discards with MSG_TRUNC */
	uint64_t stop_after;	/* the receiver stops reading here */
	enum end rx_end, tx_end;
	long hold_ms, pause_us, linger_ms;
	uint64_t seed;
	const char *snap;	/* a file whose content goes into the report */
	const char *act_file, *act_text;	/* what to do once all is read */
	long act_ms;		/* and how long to wait then */
	bool unlink;		/* the namespaces go as soon as both ends have */
	bool no_eof;		/* the receiver is content with its bytes */
	bool make_it_fail;	/* mark both ends for fault injection */
	uint64_t corrupt;	/* this byte is sent wrong: the check must see it */
	int timeout;
} opt = {
	.mode = BULK, .addr = "127.0.0.1", .port = 7777, .tx_cpu = -1,
	.rx_cpu = -1, .conns = 1, .rounds = 1, .bytes = 1 << 20,
	.count = 1000, .req = 64, .rsp = 64, .write_size = 65536,
	.read_size = 65536, .verify = true, .seed = 1,
	.corrupt = UINT64_MAX, .timeout = 60,
};

/* What one end did; in memory that both ends and their parent share. */
struct side {
	_Atomic uint64_t sent, received, sends, recvs, conns, eofs, resets;
	_Atomic uint64_t refused, mismatches, first_mismatch, trips, truncated;
	_Atomic uint64_t peeked, zc_sends, zc_done, zc_copied, partial;
	_Atomic int error_set;
	char error[200];
};

/* Moments at which opt.snap is read. */
enum snap { ALL_READ, ACTED, ENDED, SNAPS };

static struct shared {
	struct side tx, rx;
	_Atomic int listening, client_done, stop;
	char snaps[SNAPS][8192];
} *shm;

static void fail(struct side *side, const char *fmt, ...)
{
	va_list ap;

	/* The first error is the one that explains the others. */
	if (atomic_exchange(&side->error_set, 1))
		return;
	va_start(ap, fmt);
	vsnprintf(side->error, sizeof(side->error), fmt, ap);
	va_end(ap);
	for (char *c = side->error; *c; c++)
		if (*c == '"' || *c == '\\' || *c < ' ')
			*c = '\'';
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* --- the data: a function of seed, connection, direction and position --- */

static uint64_t word(uint64_t key, uint64_t index)
{
	uint64_t z = key + index * 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static void fill(uint8_t *buf, size_t len, uint64_t key, uint64_t pos)
{
	while (len) {
		uint64_t w = word(key, pos / 8);
		size_t off = pos % 8, n = 8 - off;

		if (n > len)
			n = len;
		memcpy(buf, (uint8_t *)&w + off, n);
		buf += n;
		pos += n;
		len -= n;
	}
}

/* Compare with what fill() would have written; note the first difference. */
static void check(struct side *side, const uint8_t *buf, size_t len,
		  uint64_t key, uint64_t pos)
{
	while (len) {
		uint64_t w = word(key, pos / 8);
		size_t off = pos % 8, n = 8 - off;

		if (n > len)
			n = len;
		if (memcmp(buf, (uint8_t *)&w + off, n)) {
			if (!atomic_fetch_add(&side->mismatches, 1))
				side->first_mismatch = pos;
			return;
		}
		buf += n;
		pos += n;
		len -= n;
	}
}

static uint64_t key_of(int client_port, int reply)
{
	return word(opt.seed, ((uint64_t)client_port << 1) | reply);
}

/* --- what happens beside the traffic --- */

static void snap(struct side *side, enum snap when)
{
	char *to = shm->snaps[when];
	size_t have = 0;
	ssize_t n;
	int fd;

	if (!opt.snap)
		return;
	fd = open(opt.snap, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail(side, "%s: %s", opt.snap, strerror(errno));
	while (fd >= 0 && have < sizeof(shm->snaps[0]) - 1 &&
	       (n = read(fd, to + have, sizeof(shm->snaps[0]) - 1 - have)) > 0)
		have += n;
	close(fd);
}

/* Opened before either end changes its namespace: sysctls may not be in all. */
static int act_fd = -1;

/* Everything is read and the connection still open: now something happens. */
static void act(struct side *side)
{
	snap(side, ALL_READ);
	if (act_fd < 0)
		return;
	if (write(act_fd, opt.act_text, strlen(opt.act_text)) < 0)
		fail(side, "%s: %s", opt.act_file, strerror(errno));
	usleep(opt.act_ms * 1000);
	snap(side, ACTED);
}

static void unlink_netns(const char *netns)
{
	char path[128];

	if (!netns)
		return;
	snprintf(path, sizeof(path), "/run/netns/%s", netns);
	umount2(path, MNT_DETACH);
	unlink(path);
}

/* --- processes and sockets --- */

static int enter(struct side *side, const char *netns, int cpu)
{
	char path[128];
	cpu_set_t set;
	int fd;

	if (netns) {
		snprintf(path, sizeof(path), "/run/netns/%s", netns);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || setns(fd, CLONE_NEWNET)) {
			fail(side, "netns %s: %s", netns, strerror(errno));
			return -1;
		}
		close(fd);
	}
	if (cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		if (sched_setaffinity(0, sizeof(set), &set)) {
			fail(side, "CPU %d: %s", cpu, strerror(errno));
			return -1;
		}
	}
	if (opt.make_it_fail) {
		/* Later, reading a page of the program could fail as well. */
		mlockall(MCL_CURRENT);
		fd = open("/proc/self/make-it-fail", O_WRONLY | O_CLOEXEC);
		if (fd < 0 || write(fd, "1", 1) != 1) {
			fail(side, "make-it-fail: %s", strerror(errno));
			return -1;
		}
		close(fd);
	}
	return 0;
}

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
	if (inet_pton(AF_INET6, opt.addr, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(opt.port);
		return sizeof(*v6);
	}
	return 0;
}

static int port_of(int fd, int peer)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	int err;

	err = peer ? getpeername(fd, (void *)&ss, &len) :
		     getsockname(fd, (void *)&ss, &len);
	if (err)
		return -1;
	return ntohs(ss.ss_family == AF_INET ?
		     ((struct sockaddr_in *)&ss)->sin_port :
		     ((struct sockaddr_in6 *)&ss)->sin6_port);
}

static void tune(int fd)
{
	struct timeval tv = { .tv_sec = opt.timeout };
	int one = 1;

	if (opt.sndbuf)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &opt.sndbuf, sizeof(int));
	if (opt.rcvbuf)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &opt.rcvbuf, sizeof(int));
	if (opt.nodelay)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
}

static void finish(struct side *side, int fd, enum end end)
{
	struct linger hard = { .l_onoff = 1, .l_linger = 0 };
	uint8_t rest[4096];

	switch (end) {
	case END_RST:
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
		break;
	case END_SHUTDOWN:
		shutdown(fd, SHUT_RD);
		/* What is queued can still be read; leave some of it. */
		if (recv(fd, rest, sizeof(rest), MSG_DONTWAIT) > 0)
			atomic_fetch_add(&side->partial, 1);
		break;
	case END_EXIT:
		return;		/* exit() of the process closes it */
	case END_CLOSE:
		break;
	}
	close(fd);
}

static bool is_reset(int err)
{
	return err == ECONNRESET || err == EPIPE;
}

/* --- shortages: injected by a test, perhaps; waited out like rain --- */

static bool is_shortage(int err)
{
	return err == ENOBUFS || err == ENOMEM || err == ENFILE ||
	       err == EADDRNOTAVAIL;
}

static void *room(size_t len)
{
	void *found;

	while (!(found = malloc(len)))
		usleep(5000);
	return found;
}

static int start_thread(pthread_t *thread, void *(*body)(void *), void *arg)
{
	double limit = now() + opt.timeout;
	int err;

	while ((err = pthread_create(thread, NULL, body, arg)) && now() < limit)
		usleep(5000);
	return err;
}

/* --- sending --- */

struct zc {
	uint8_t *ring;
	uint64_t next, done;		/* ids handed out, ids completed */
	bool busy[ZC_SLOTS];
};

static int reap(struct side *side, struct zc *zc, int fd, int wait_ms)
{
	struct pollfd pfd = { .fd = fd };
	struct sock_extended_err *err;
	struct cmsghdr *cmsg;
	char control[256];
	struct msghdr msg;
	uint64_t base, id;

	if (wait_ms && poll(&pfd, 1, wait_ms) < 0 && errno != EINTR)
		return -1;
	for (;;) {
		memset(&msg, 0, sizeof(msg));
		msg.msg_control = control;
		msg.msg_controllen = sizeof(control);
		if (recvmsg(fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -1;
		for (cmsg = CMSG_FIRSTHDR(&msg); cmsg;
		     cmsg = CMSG_NXTHDR(&msg, cmsg)) {
			err = (void *)CMSG_DATA(cmsg);
			if (err->ee_origin != SO_EE_ORIGIN_ZEROCOPY)
				continue;
			base = err->ee_info;
			for (id = base; id <= err->ee_data; id++) {
				zc->busy[id % ZC_SLOTS] = false;
				zc->done++;
				atomic_fetch_add(&side->zc_done, 1);
				if (err->ee_code & SO_EE_CODE_ZEROCOPY_COPIED)
					atomic_fetch_add(&side->zc_copied, 1);
			}
		}
	}
}

static ssize_t send_zc(struct side *side, struct zc *zc, int fd, size_t len,
		       uint64_t key, uint64_t pos)
{
	size_t slot = zc->next % ZC_SLOTS;
	uint8_t *buf = zc->ring + slot * opt.write_size;
	double limit = now() + opt.timeout;
	ssize_t n;

	/* The kernel reads the buffer until it says that it is done with it. */
	while (zc->busy[slot]) {
		if (reap(side, zc, fd, 20) || now() > limit) {
			errno = ETIMEDOUT;
			return -1;
		}
	}
	fill(buf, len, key, pos);
	for (;;) {
		n = send(fd, buf, len, MSG_NOSIGNAL | MSG_ZEROCOPY);
		if (n >= 0 || errno != ENOBUFS)
			break;
		if (reap(side, zc, fd, 20) || now() > limit) {
			errno = ENOBUFS;
			return -1;
		}
	}
	if (n > 0) {
		zc->busy[slot] = true;
		zc->next++;
		atomic_fetch_add(&side->zc_sends, 1);
	}
	reap(side, zc, fd, 0);
	return n;
}

/* Send @len bytes; returns 0, or -1 after a reset (counted) or an error. */
static int send_all(struct side *side, int fd, uint64_t len, uint64_t key,
		    uint64_t pos, uint8_t *buf, struct zc *zc)
{
	uint64_t filled = UINT64_MAX, end = pos + len;
	size_t n;
	ssize_t got;

	while (pos < end) {
		n = end - pos < opt.write_size ? end - pos : opt.write_size;
		if (zc) {
			got = send_zc(side, zc, fd, n, key, pos);
		} else {
			if (opt.verify && filled != pos)
				fill(buf, n, key, pos);
			filled = pos;
			if (opt.corrupt - pos < n)
				buf[opt.corrupt - pos] ^= 1;
			got = send(fd, buf, n, MSG_NOSIGNAL);
		}
		if (got < 0) {
			if (errno == EINTR || is_shortage(errno))
				continue;
			if (is_reset(errno))
				atomic_fetch_add(&side->resets, 1);
			else
				fail(side, "send at %llu: %s",
				     (unsigned long long)pos, strerror(errno));
			return -1;
		}
		pos += got;
		atomic_fetch_add(&side->sent, got);
		atomic_fetch_add(&side->sends, 1);
	}
	return 0;
}

/* --- receiving --- */

static ssize_t recv_splice(int fd, int *pipefd, uint8_t *buf, size_t len)
{
	ssize_t n, got, total = 0;

	n = splice(fd, NULL, pipefd[1], NULL, len, 0);
	while (n > 0 && total < n) {
		got = read(pipefd[0], buf + total, n - total);
		if (got <= 0)
			return -1;
		total += got;
	}
	return n;
}

/*
 * Receive until @want bytes came, the peer is done, or an error: returns the
 * number of bytes, or -1 after a reset (counted) or an error.
 */
static int64_t recv_upto(struct side *side, int fd, uint64_t want,
			 uint64_t key, uint64_t pos, uint8_t *buf, int *pipefd)
{
	uint64_t done = 0, calls = 0;
	bool discard;
	ssize_t n, m;
	size_t len;

	while (done < want) {
		len = want - done < opt.read_size ? want - done : opt.read_size;
		discard = opt.trunc && ++calls % opt.trunc == 0;
		if (opt.peek) {
			m = recv(fd, buf, len, MSG_PEEK);
			if (m > 0) {
				check(side, buf, m, key, pos);
				atomic_fetch_add(&side->peeked, m);
			}
		}
		if (pipefd)
			n = recv_splice(fd, pipefd, buf, len);
		else if (discard)
			n = recv(fd, NULL, len, MSG_TRUNC);
		else
			n = recv(fd, buf, len, 0);
		if (n == 0) {
			atomic_fetch_add(&side->eofs, 1);
			break;
		}
		if (n < 0) {
			if (errno == EINTR || is_shortage(errno))
				continue;
			if (is_reset(errno))
				atomic_fetch_add(&side->resets, 1);
			else
				fail(side, "recv at %llu: %s",
				     (unsigned long long)pos, strerror(errno));
			return -1;
		}
		if (discard)
			atomic_fetch_add(&side->truncated, n);
		else if (opt.verify)
			check(side, buf, n, key, pos);
		pos += n;
		done += n;
		atomic_fetch_add(&side->received, n);
		atomic_fetch_add(&side->recvs, 1);
		if (opt.pause_us)
			usleep(opt.pause_us);
	}
	return done;
}

/* --- the two ends of one connection --- */

static size_t buffer_size(void)
{
	size_t most = opt.read_size;

	if (most < opt.write_size)
		most = opt.write_size;
	return most;
}

static void serve(int fd)
{
	int port = port_of(fd, 1), pipefd[2], *pipes = NULL;
	uint64_t in = key_of(port, 0), out = key_of(port, 1), i;
	uint8_t *buf = room(buffer_size());
	struct side *side = &shm->rx;
	int64_t got;

	tune(fd);
	if (opt.splice && !pipe(pipefd))
		pipes = pipefd;
	if (opt.hold_ms)
		usleep(opt.hold_ms * 1000);
	atomic_fetch_add(&side->conns, 1);
	if (opt.mode == BULK) {
		uint64_t want = opt.stop_after ? opt.stop_after : opt.bytes;

		if (port >= 0)
			got = recv_upto(side, fd, want, in, 0, buf, pipes);
		else	/* reset before it was accepted */
			got = -1;
		if (got >= 0 && !opt.stop_after) {
			act(side);
			if ((uint64_t)got == want && !opt.no_eof)
				got = recv_upto(side, fd, 1, in, want, buf, pipes);
			else if ((uint64_t)got < want && opt.tx_end != END_RST)
				fail(side, "end of data after %lld bytes of %llu",
				     (long long)got, (unsigned long long)want);
		}
		if (opt.linger_ms)
			usleep(opt.linger_ms * 1000);
	} else {
		for (i = 0; i < opt.count; i++) {
			if (recv_upto(side, fd, opt.req, in, i * opt.req, buf,
				      pipes) != (int64_t)opt.req)
				break;
			if (send_all(side, fd, opt.rsp, out, i * opt.rsp, buf,
				     NULL))
				break;
			atomic_fetch_add(&side->trips, 1);
		}
	}
	finish(side, fd, opt.rx_end);
	if (pipes) {
		close(pipefd[0]);
		close(pipefd[1]);
	}
	free(buf);
}

/* Connect; a shortage of memory or ports (injected, perhaps) is waited out. */
static int make_connection(struct side *side)
{
	struct sockaddr_storage ss;
	socklen_t len = address(&ss);
	double limit = now() + opt.timeout;
	int fd, err;

	for (;;) {
		fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0) {
			err = errno;
		} else {
			tune(fd);
			if (!connect(fd, (void *)&ss, len))
				return fd;
			err = errno;
			close(fd);
		}
		atomic_fetch_add(&side->refused, 1);
		if ((!is_shortage(err) && err != EAGAIN) || now() > limit) {
			fail(side, "connect: %s", strerror(err));
			return -1;
		}
		usleep(5000);
	}
}

static void *client_thread(void *unused)
{
	struct side *side = &shm->tx;
	struct zc zc = { 0 };
	uint64_t out, in, i;
	uint8_t *buf;
	double limit;
	int fd, one = 1;

	(void)unused;
	fd = make_connection(side);
	if (fd < 0)
		return NULL;
	atomic_fetch_add(&side->conns, 1);
	out = key_of(port_of(fd, 0), 0);
	in = key_of(port_of(fd, 0), 1);
	buf = room(buffer_size());
	if (opt.zerocopy) {
		zc.ring = room(opt.write_size * ZC_SLOTS);
		if (setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)))
			fail(side, "SO_ZEROCOPY: %s", strerror(errno));
	}
	if (opt.mode == BULK) {
		send_all(side, fd, opt.bytes, out, 0, buf,
			 opt.zerocopy ? &zc : NULL);
		limit = now() + opt.timeout;
		while (zc.done < zc.next && now() < limit)
			if (reap(side, &zc, fd, 20))
				break;
		if (zc.done < zc.next && !side->resets)
			fail(side, "%llu zerocopy notifications missing",
			     (unsigned long long)(zc.next - zc.done));
	} else {
		for (i = 0; i < opt.count; i++) {
			if (send_all(side, fd, opt.req, out, i * opt.req, buf,
				     NULL))
				break;
			if (recv_upto(side, fd, opt.rsp, in, i * opt.rsp, buf,
				      NULL) != (int64_t)opt.rsp)
				break;
			atomic_fetch_add(&side->trips, 1);
		}
	}
	finish(side, fd, opt.tx_end);
	free(buf);
	free(zc.ring);
	return NULL;
}

static _Atomic int serving;

static void *server_thread(void *arg)
{
	serve((int)(intptr_t)arg);
	atomic_fetch_sub(&serving, 1);
	return NULL;
}

static int server(void)
{
	struct side *side = &shm->rx;
	struct sockaddr_storage ss;
	socklen_t len = address(&ss);
	uint64_t accepted = 0;
	struct pollfd pfd;
	int one = 1, fd;
	pthread_t thread;

	if (enter(side, opt.rx_netns, opt.rx_cpu))
		return 1;
	pfd.fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	pfd.events = POLLIN;
	setsockopt(pfd.fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	tune(pfd.fd);
	if (bind(pfd.fd, (void *)&ss, len) || listen(pfd.fd, 1024)) {
		fail(side, "listen on %s: %s", opt.addr, strerror(errno));
		return 1;
	}
	shm->listening = 1;
	for (;;) {
		double last = 0;

		/*
		 * The client may be done while the handshake of its last
		 * connections is still to be finished at this end.
		 */
		while (poll(&pfd, 1, 10) <= 0) {
			if (!shm->client_done)
				continue;
			if (!last)
				last = now() + 2;
			if (accepted >= shm->tx.conns || now() > last)
				goto out;
		}
		fd = accept4(pfd.fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			continue;
		accepted++;
		atomic_fetch_add(&serving, 1);
		if (start_thread(&thread, server_thread, (void *)(intptr_t)fd)) {
			fail(side, "thread: %s", strerror(errno));
			return 1;
		}
		pthread_detach(thread);
	}
out:
	while (serving)
		usleep(2000);
	return 0;
}

static int client(void)
{
	pthread_t threads[opt.conns];
	long round;
	int i;

	if (enter(&shm->tx, opt.tx_netns, opt.tx_cpu))
		return 1;
	for (round = 0; !opt.rounds || round < opt.rounds; round++) {
		if (shm->stop || shm->tx.error_set || shm->rx.error_set)
			break;
		if (opt.conns == 1) {
			client_thread(NULL);
			continue;
		}
		for (i = 0; i < opt.conns; i++)
			if (start_thread(&threads[i], client_thread, NULL)) {
				fail(&shm->tx, "thread: %s", strerror(errno));
				break;
			}
		while (i--)
			pthread_join(threads[i], NULL);
	}
	return 0;
}

/* --- options, supervision, report --- */

static uint64_t amount(const char *text)
{
	char *end;
	uint64_t n = strtoull(text, &end, 0);

	switch (*end) {
	case 'G':
		n <<= 10;
		/* fall through */
	case 'M':
		n <<= 10;
		/* fall through */
	case 'K':
		n <<= 10;
		end++;
		break;
	}
	if (*end || end == text) {
		fprintf(stderr, "tcpflow: not a number: %s\n", text);
		exit(2);
	}
	return n;
}

static enum end ending(const char *text)
{
	static const char *const names[] = { "close", "rst", "shutdown", "exit" };

	for (int i = 0; i < 4; i++)
		if (!strcmp(text, names[i]))
			return i;
	fprintf(stderr, "tcpflow: no such ending: %s\n", text);
	exit(2);
}

enum {
	OPT_MODE = 1, OPT_ADDR, OPT_PORT, OPT_TXNS, OPT_RXNS, OPT_TXCPU, OPT_RXCPU, OPT_CONNS,
	OPT_ROUNDS, OPT_BYTES, OPT_COUNT, OPT_REQ, OPT_RSP, OPT_WRITE, OPT_READ, OPT_SNDBUF,
	OPT_RCVBUF, OPT_NODELAY, OPT_NOVERIFY, OPT_PEEK, OPT_TRUNC, OPT_ZC, OPT_SPLICE,
	OPT_STOP, OPT_RXEND, OPT_TXEND, OPT_HOLD, OPT_PAUSE, OPT_LINGER, OPT_SEED, OPT_TIMEOUT,
	OPT_CORRUPT, OPT_FAIL, OPT_SNAP, OPT_ACT, OPT_ACTMS, OPT_UNLINK,
	OPT_NOEOF,
};

static const struct option options[] = {
	{ "mode", 1, NULL, OPT_MODE },		{ "addr", 1, NULL, OPT_ADDR },
	{ "port", 1, NULL, OPT_PORT },		{ "tx-netns", 1, NULL, OPT_TXNS },
	{ "rx-netns", 1, NULL, OPT_RXNS },	{ "tx-cpu", 1, NULL, OPT_TXCPU },
	{ "rx-cpu", 1, NULL, OPT_RXCPU },		{ "conns", 1, NULL, OPT_CONNS },
	{ "rounds", 1, NULL, OPT_ROUNDS },	{ "bytes", 1, NULL, OPT_BYTES },
	{ "count", 1, NULL, OPT_COUNT },		{ "req", 1, NULL, OPT_REQ },
	{ "rsp", 1, NULL, OPT_RSP },		{ "write", 1, NULL, OPT_WRITE },
	{ "read", 1, NULL, OPT_READ },		{ "sndbuf", 1, NULL, OPT_SNDBUF },
	{ "rcvbuf", 1, NULL, OPT_RCVBUF },	{ "nodelay", 0, NULL, OPT_NODELAY },
	{ "no-verify", 0, NULL, OPT_NOVERIFY },	{ "peek", 0, NULL, OPT_PEEK },
	{ "trunc", 1, NULL, OPT_TRUNC },		{ "zerocopy", 0, NULL, OPT_ZC },
	{ "splice", 0, NULL, OPT_SPLICE },	{ "stop-after", 1, NULL, OPT_STOP },
	{ "rx-end", 1, NULL, OPT_RXEND },		{ "tx-end", 1, NULL, OPT_TXEND },
	{ "hold-ms", 1, NULL, OPT_HOLD },		{ "pause-us", 1, NULL, OPT_PAUSE },
	{ "linger-ms", 1, NULL, OPT_LINGER },	{ "seed", 1, NULL, OPT_SEED },
	{ "timeout", 1, NULL, OPT_TIMEOUT },	{ "corrupt", 1, NULL, OPT_CORRUPT },
	{ "make-it-fail", 0, NULL, OPT_FAIL },	{ "snap", 1, NULL, OPT_SNAP },
	{ "act", 1, NULL, OPT_ACT },		{ "act-ms", 1, NULL, OPT_ACTMS },
	{ "unlink", 0, NULL, OPT_UNLINK },	{ "no-eof", 0, NULL, OPT_NOEOF },
	{ NULL, 0, NULL, 0 },
};

static void parse(int argc, char **argv)
{
	struct sockaddr_storage ss;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case OPT_MODE:
			if (strcmp(optarg, "bulk") && strcmp(optarg, "rr")) {
				fprintf(stderr, "tcpflow: no such mode: %s\n", optarg);
				exit(2);
			}
			opt.mode = strcmp(optarg, "rr") ? BULK : RR;
			break;
		case OPT_ADDR: opt.addr = optarg; break;
		case OPT_PORT: opt.port = amount(optarg); break;
		case OPT_TXNS: opt.tx_netns = optarg; break;
		case OPT_RXNS: opt.rx_netns = optarg; break;
		case OPT_TXCPU: opt.tx_cpu = amount(optarg); break;
		case OPT_RXCPU: opt.rx_cpu = amount(optarg); break;
		case OPT_CONNS: opt.conns = amount(optarg); break;
		case OPT_ROUNDS: opt.rounds = amount(optarg); break;
		case OPT_BYTES: opt.bytes = amount(optarg); break;
		case OPT_COUNT: opt.count = amount(optarg); break;
		case OPT_REQ: opt.req = amount(optarg); break;
		case OPT_RSP: opt.rsp = amount(optarg); break;
		case OPT_WRITE: opt.write_size = amount(optarg); break;
		case OPT_READ: opt.read_size = amount(optarg); break;
		case OPT_SNDBUF: opt.sndbuf = amount(optarg); break;
		case OPT_RCVBUF: opt.rcvbuf = amount(optarg); break;
		case OPT_NODELAY: opt.nodelay = true; break;
		case OPT_NOVERIFY: opt.verify = false; break;
		case OPT_PEEK: opt.peek = true; break;
		case OPT_TRUNC: opt.trunc = amount(optarg); break;
		case OPT_ZC: opt.zerocopy = true; break;
		case OPT_SPLICE: opt.splice = true; break;
		case OPT_STOP: opt.stop_after = amount(optarg); break;
		case OPT_RXEND: opt.rx_end = ending(optarg); break;
		case OPT_TXEND: opt.tx_end = ending(optarg); break;
		case OPT_HOLD: opt.hold_ms = amount(optarg); break;
		case OPT_PAUSE: opt.pause_us = amount(optarg); break;
		case OPT_LINGER: opt.linger_ms = amount(optarg); break;
		case OPT_SEED: opt.seed = amount(optarg); break;
		case OPT_CORRUPT: opt.corrupt = amount(optarg); break;
		case OPT_SNAP: opt.snap = optarg; break;
		case OPT_ACT:
			opt.act_file = strsep(&optarg, "=");
			opt.act_text = optarg ? optarg : "";
			break;
		case OPT_ACTMS: opt.act_ms = amount(optarg); break;
		case OPT_UNLINK: opt.unlink = true; break;
		case OPT_NOEOF: opt.no_eof = true; break;
		case OPT_FAIL: opt.make_it_fail = true; break;
		case OPT_TIMEOUT: opt.timeout = amount(optarg); break;
		default: exit(2);
		}
	}
	if (optind != argc || !address(&ss) || opt.conns < 1 ||
	    !opt.write_size || !opt.read_size) {
		fprintf(stderr, "tcpflow: bad address, sizes or a stray word\n");
		exit(2);
	}
}

static void report_side(const char *name, struct side *s)
{
#define N(field) (unsigned long long)s->field
	printf("\"%s\": {\"sent\": %llu, \"received\": %llu, \"sends\": %llu, "
	       "\"recvs\": %llu, \"conns\": %llu, \"eofs\": %llu, "
	       "\"resets\": %llu, \"refused\": %llu, \"mismatches\": %llu, "
	       "\"first_mismatch\": %llu, \"trips\": %llu, "
	       "\"truncated\": %llu, \"peeked\": %llu, \"zc_sends\": %llu, "
	       "\"zc_done\": %llu, \"zc_copied\": %llu, \"partial\": %llu, "
	       "\"error\": \"%s\"}, ",
	       name, N(sent), N(received), N(sends), N(recvs), N(conns),
	       N(eofs), N(resets), N(refused), N(mismatches),
	       N(first_mismatch), N(trips), N(truncated), N(peeked),
	       N(zc_sends), N(zc_done), N(zc_copied), N(partial), s->error);
#undef N
}

static void report_snap(const char *name, const char *c)
{
	printf("\"%s\": \"", name);
	for (; *c; c++) {
		if (*c == '\n')
			fputs("\\n", stdout);
		else
			putchar(*c == '"' || *c == '\\' || *c < ' ' ? ' ' : *c);
	}
	printf("\", ");
}

static void on_stop(int sig)
{
	(void)sig;
	shm->stop = 1;
}

static pid_t spawn(int (*body)(void))
{
	pid_t pid = fork();

	if (!pid) {
		signal(SIGTERM, SIG_IGN);	/* their parent tells them to stop */
		signal(SIGINT, SIG_IGN);
		signal(SIGPIPE, SIG_IGN);
		_exit(body());
	}
	return pid;
}

/* Wait for @pid until @limit; returns its status, or -1 when it was ended. */
static int join(pid_t pid, double limit)
{
	int status;

	for (;;) {
		pid_t got = waitpid(pid, &status, WNOHANG);

		if (got == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
		if (now() > limit) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			return -1;
		}
		usleep(2000);
	}
}

int main(int argc, char **argv)
{
	struct sigaction act = { .sa_handler = on_stop };
	double start, limit;
	pid_t rx, tx;
	int a, b;

	parse(argc, argv);
	shm = mmap(NULL, sizeof(*shm), PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shm == MAP_FAILED)
		return 2;
	if (opt.act_file) {
		act_fd = open(opt.act_file, O_WRONLY | O_CLOEXEC);
		if (act_fd < 0) {
			perror(opt.act_file);
			return 2;
		}
	}
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGINT, &act, NULL);
	start = now();
	limit = start + opt.timeout;
	rx = spawn(server);
	while (!shm->listening && !shm->rx.error_set && now() < limit)
		usleep(1000);
	tx = shm->listening ? spawn(client) : 0;
	a = tx ? join(tx, limit) : 1;
	shm->client_done = 1;
	b = join(rx, a < 0 ? now() + 1 : limit);
	if (opt.unlink) {
		unlink_netns(opt.tx_netns);
		unlink_netns(opt.rx_netns);
	}
	snap(&shm->rx, ENDED);

	printf("{");
	if (opt.snap) {
		report_snap("all_read", shm->snaps[ALL_READ]);
		report_snap("acted", shm->snaps[ACTED]);
		report_snap("ended", shm->snaps[ENDED]);
	}
	report_side("tx", &shm->tx);
	report_side("rx", &shm->rx);
	printf("\"timeout\": %s, \"seconds\": %.6f}\n",
	       a < 0 || b < 0 ? "true" : "false", now() - start);
	if (a < 0 || b < 0)
		return 3;
	return a || b || shm->tx.error_set || shm->rx.error_set ||
	       shm->tx.mismatches || shm->rx.mismatches;
}
