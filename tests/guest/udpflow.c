// SPDX-License-Identifier: GPL-2.0-only
/*
 * udpflow - UDP packets of a known number, with every byte checked.
 *
 * One call runs senders and a receiver, or one of the two: each end is a
 * process of its own, in a network namespace if asked, with threads pinned to
 * CPUs. Every flow is a connected socket of the sender. Work is sized by
 * packets (--count), by time (--seconds), or goes on until SIGTERM (--count 0).
 *
 * A packet is a header (see struct head) and bytes that follow from flow,
 * sequence number and offset. Nothing keeps UDP from losing packets: --window
 * bounds what is on its way, so that no queue overflows and loss means loss.
 *
 * Prints one JSON object and exits with 0 when everything that was asked for
 * happened (packets may be lost), 1 when an error or wrong data was seen, 2 on
 * bad usage, 3 when the time limit passed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/errqueue.h>
#include <netinet/udp.h>
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
#include <sys/prctl.h>
#include <sys/resource.h>
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
#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define MAGIC		0x736b6268
#define MAX_DATAGRAM	65535
#define MAX_SEGMENTS	64	/* of one send: UDP_MAX_SEGMENTS of v5.10 */
#define MAX_FLOWS	4096
#define MAX_THREADS	64
#define MAX_ERRNO	134
#define SEEN		65536	/* how far back a duplicate is told from a late packet */
#define ZC_SLOTS	64
#define POLL_MS		50	/* how often a receiver without packets looks up */
#define ANSWER_MS	1000	/* how long an answer is waited for */
#define STALL		1.0	/* seconds until what is in flight counts as lost */
#define DRAIN		1.0	/* seconds without a packet after the last was sent */
#define DRAIN_STOPPED	0.2	/* the same when told to stop */
#define DRAIN_WINDOW	10.0	/* the same with a window: nothing should be lost, only late */

struct head {
	uint32_t magic, flow;
	uint64_t seq;
};

enum mode { ONEWAY, RR };
enum fragment { AS_IT_IS, FRAGMENT, DONT_FRAGMENT };

struct cpus {
	int n, cpu[MAX_THREADS];
};

static struct {
	enum mode mode;
	const char *addr;
	int port;
	const char *tx_netns, *rx_netns;
	struct cpus tx_cpus, rx_cpus;
	int flows, threads, rx_threads;
	size_t size;
	bool size_given;
	uint64_t count;		/* packets of each flow; 0: until SIGTERM */
	bool count_given;
	double seconds;
	uint64_t burst, gap_us, window;
	bool no_receiver, receive_only;
	int sndbuf, rcvbuf;
	bool zerocopy, gro;
	const char *bind_dev;
	enum fragment fragment;
	size_t gso;
	uint64_t corrupt;	/* this packet of flow 0 is sent wrong */
	int timeout;
} opt = {
	.addr = "127.0.0.1", .port = 7778, .flows = 1, .threads = 1,
	.rx_threads = 1, .size = 400, .count = 1000, .burst = 1,
	.corrupt = UINT64_MAX, .timeout = 60,
};

/* What one end did; in memory that both ends and their parent share. */
struct side {
	_Atomic uint64_t packets, bytes, calls, errors[MAX_ERRNO];
	_Atomic uint64_t voluntary, involuntary;
	_Atomic int error_set;
	char error[200];
};

struct flow {
	_Atomic uint64_t sent;		/* written by the sender */
	_Atomic uint64_t arrived;	/* different ones; by the receiver */
	pthread_mutex_t lock;		/* among the receiver's threads */
	uint64_t next;			/* the highest number seen, and one */
	uint64_t seen[SEEN / 64];
};

/* Buckets of durations in ns: 32 to an octave, so within 2% of the truth. */
#define SUB	32
#define BUCKETS	(60 * SUB)

static struct shared {
	struct side tx, rx;
	_Atomic uint64_t reordered, duplicates, corrupt, drops, batches;
	_Atomic uint64_t arrived;	/* of all flows */
	_Atomic uint64_t answers, unanswered, late, wrong;
	_Atomic uint64_t stalls, zc_sends, zc_done, zc_copied;
	_Atomic uint64_t latency[BUCKETS], slowest;
	_Atomic int listening, tx_done, stop, timed_out;
	_Atomic double tx_start, tx_end, rx_first, rx_last, stopped;
	struct flow flows[];
} *shm;

static double limit;		/* when everything has to be over */

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

static double clock_of(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static double now(void)
{
	return clock_of(CLOCK_MONOTONIC);
}

/* The time of the last tick: cheap enough for every packet, on any machine. */
static double about_now(void)
{
	return clock_of(CLOCK_MONOTONIC_COARSE);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static void count_error(struct side *side, int err)
{
	atomic_fetch_add(&side->errors[err > 0 && err < MAX_ERRNO ? err : 0], 1);
}

/* --- the data: a function of flow, sequence number and offset --- */

static uint8_t ramp[MAX_DATAGRAM + 256];

static const uint8_t *body(uint32_t flow, uint64_t seq)
{
	return ramp + ((flow * 131 + seq * 17 + sizeof(struct head)) & 0xff);
}

/* How many datagrams one send makes, and how long the one with number @seq is. */
static uint64_t per_send(void)
{
	return opt.gso ? (opt.size + opt.gso - 1) / opt.gso : 1;
}

static size_t length_of(uint64_t seq)
{
	uint64_t n = per_send();

	if (n == 1)
		return opt.size;
	return seq % n == n - 1 ? opt.size - (n - 1) * opt.gso : opt.gso;
}

static size_t fill(uint8_t *buf, uint32_t flow, uint64_t seq)
{
	struct head head = { .magic = MAGIC, .flow = flow, .seq = seq };
	size_t len = length_of(seq);

	memcpy(buf, &head, sizeof(head));
	memcpy(buf + sizeof(head), body(flow, seq), len - sizeof(head));
	if (flow == 0 && seq == opt.corrupt)
		buf[len - 1] ^= 1;
	return len;
}

static bool body_is_right(const uint8_t *buf, size_t len, struct head *head)
{
	if ((!opt.receive_only || opt.size_given) && len != length_of(head->seq))
		return false;
	return !memcmp(buf + sizeof(*head), body(head->flow, head->seq),
		       len - sizeof(*head));
}

/* --- threads, processes and sockets --- */

static int pin(struct side *side, const struct cpus *cpus, int thread)
{
	cpu_set_t set;
	int cpu;

	if (!cpus->n)
		return 0;
	cpu = cpus->cpu[thread % cpus->n];
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (!sched_setaffinity(0, sizeof(set), &set))
		return 0;
	fail(side, "CPU %d: %s", cpu, strerror(errno));
	return -1;
}

/* Add the calling thread's context switches since @start, or set @start. */
static void switches(struct side *side, struct rusage *start, bool begin)
{
	struct rusage end;

	if (begin) {
		getrusage(RUSAGE_THREAD, start);
		return;
	}
	getrusage(RUSAGE_THREAD, &end);
	atomic_fetch_add(&side->voluntary, end.ru_nvcsw - start->ru_nvcsw);
	atomic_fetch_add(&side->involuntary, end.ru_nivcsw - start->ru_nivcsw);
}

static int enter(struct side *side, const char *netns)
{
	char path[128];
	int fd;

	if (!netns)
		return 0;
	snprintf(path, sizeof(path), "/run/netns/%s", netns);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET)) {
		fail(side, "netns %s: %s", netns, strerror(errno));
		return -1;
	}
	close(fd);
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

static int set(struct side *side, int fd, int level, int name, int value,
	       const char *what)
{
	if (!setsockopt(fd, level, name, &value, sizeof(value)))
		return 0;
	fail(side, "%s: %s", what, strerror(errno));
	return -1;
}

/* A socket that fails to be what was asked for is closed: returns -1 then. */
static int open_socket(struct side *side, int family)
{
	struct timeval wait = { .tv_usec = POLL_MS * 1000 };
	int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int bad = 0, how;

	if (fd < 0) {
		fail(side, "socket: %s", strerror(errno));
		return -1;
	}
	/* As much as is asked for, if we may; what the sysctl allows, if not. */
	if (opt.sndbuf && setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &opt.sndbuf, sizeof(int)))
		bad |= set(side, fd, SOL_SOCKET, SO_SNDBUF, opt.sndbuf, "SO_SNDBUF");
	if (opt.rcvbuf && setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &opt.rcvbuf, sizeof(int)))
		bad |= set(side, fd, SOL_SOCKET, SO_RCVBUF, opt.rcvbuf, "SO_RCVBUF");
	if (opt.bind_dev && (side == &shm->tx || opt.receive_only) &&
	    setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, opt.bind_dev, strlen(opt.bind_dev) + 1)) {
		fail(side, "device %s: %s", opt.bind_dev, strerror(errno));
		bad = -1;
	}
	if (opt.fragment && family == AF_INET) {
		how = opt.fragment == FRAGMENT ? IP_PMTUDISC_DONT : IP_PMTUDISC_DO;
		bad |= set(side, fd, IPPROTO_IP, IP_MTU_DISCOVER, how, "IP_MTU_DISCOVER");
	} else if (opt.fragment) {
		how = opt.fragment == FRAGMENT ? IPV6_PMTUDISC_DONT : IPV6_PMTUDISC_DO;
		bad |= set(side, fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, how, "IPV6_MTU_DISCOVER");
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	if (bad) {
		close(fd);
		return -1;
	}
	return fd;
}

/* --- sending --- */

struct zc {
	uint8_t *ring;
	uint64_t next, done;		/* ids handed out, ids completed */
	bool busy[ZC_SLOTS];
};

struct sender {
	int fd;
	uint32_t flow;
	uint64_t next;			/* sequence number */
	int64_t written_off;		/* sent, and no longer waited for */
	bool over;
	struct zc zc;
};

static int reap(struct sender *s, int wait_ms)
{
	struct pollfd pfd = { .fd = s->fd };
	struct sock_extended_err *err;
	struct zc *zc = &s->zc;
	struct cmsghdr *cmsg;
	struct msghdr msg;
	char control[256];
	uint64_t id;

	if (wait_ms && poll(&pfd, 1, wait_ms) < 0 && errno != EINTR)
		return -1;
	for (;;) {
		memset(&msg, 0, sizeof(msg));
		msg.msg_control = control;
		msg.msg_controllen = sizeof(control);
		if (recvmsg(s->fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -1;
		for (cmsg = CMSG_FIRSTHDR(&msg); cmsg;
		     cmsg = CMSG_NXTHDR(&msg, cmsg)) {
			err = (void *)CMSG_DATA(cmsg);
			if (err->ee_origin != SO_EE_ORIGIN_ZEROCOPY)
				continue;
			for (id = err->ee_info; id <= err->ee_data; id++) {
				zc->busy[id % ZC_SLOTS] = false;
				zc->done++;
				atomic_fetch_add(&shm->zc_done, 1);
				if (err->ee_code & SO_EE_CODE_ZEROCOPY_COPIED)
					atomic_fetch_add(&shm->zc_copied, 1);
			}
		}
	}
}

/* Told to stop, out of time, or done: looked at before every packet. */
static bool sender_is_over(void)
{
	double t = about_now();

	if (t > limit) {
		shm->timed_out = 1;
		return true;
	}
	return shm->stop || (opt.seconds && t - shm->tx_start >= opt.seconds);
}

/* Sleep, but not past the end. */
static void nap(uint64_t us)
{
	while (us > 20000 && !sender_is_over()) {
		usleep(20000);
		us -= 20000;
	}
	if (us && us <= 20000)
		usleep(us);
}

static uint64_t next_burst(const struct sender *s)
{
	uint64_t n = per_send();

	if (opt.count && opt.count - s->next < n)
		n = opt.count - s->next;
	return n;
}

/* Errors that pass, or that belong to a packet sent before. */
static bool may_pass(int err)
{
	switch (err) {
	case EINTR:
	case EAGAIN:
	case ENOBUFS:
	case ENOMEM:
	case EPERM:
	case ECONNREFUSED:
	case ENETDOWN:
	case ENETUNREACH:
	case EHOSTUNREACH:
		return true;
	}
	return false;
}

/* One send; returns how many datagrams it made, 0 when it has to be repeated. */
static uint64_t send_next(struct sender *s, uint8_t *buf)
{
	uint64_t n = next_burst(s), i;
	size_t slot = s->zc.next % ZC_SLOTS, len = 0;
	struct side *side = &shm->tx;
	ssize_t got;

	if (opt.zerocopy) {
		/* The kernel reads the buffer until it says that it is done. */
		if (s->zc.busy[slot])
			reap(s, 5);
		if (s->zc.busy[slot])
			return 0;
		buf = s->zc.ring + slot * opt.size;
	}
	for (i = 0; i < n; i++)
		len += fill(buf + len, s->flow, s->next + i);
	got = send(s->fd, buf, len, opt.zerocopy ? MSG_ZEROCOPY : 0);
	if (got < 0) {
		int err = errno;

		count_error(side, err);
		if (opt.zerocopy && err == ENOBUFS) {
			reap(s, 5);
		} else if (!may_pass(err)) {
			fail(side, "send %llu of flow %u: %s",
			     (unsigned long long)s->next, s->flow, strerror(err));
			s->over = true;
		} else if (err != ECONNREFUSED && err != EAGAIN) {
			usleep(1000);
		}
		return 0;
	}
	if ((size_t)got != len) {
		fail(side, "sent %zd bytes of %zu", got, len);
		s->over = true;
	}
	if (opt.zerocopy) {
		s->zc.busy[slot] = true;
		s->zc.next++;
		atomic_fetch_add(&shm->zc_sends, 1);
		reap(s, 0);
	}
	s->next += n;
	atomic_fetch_add(&shm->flows[s->flow].sent, n);
	atomic_fetch_add(&side->packets, n);
	atomic_fetch_add(&side->bytes, len);
	atomic_fetch_add(&side->calls, 1);
	return n;
}

static void note_latency(uint64_t ns)
{
	uint64_t most = shm->slowest;
	int shift = 0;

	while (ns >> shift >= 2 * SUB)
		shift++;
	atomic_fetch_add(&shm->latency[shift * SUB + (ns >> shift)], 1);
	while (ns > most && !atomic_compare_exchange_weak(&shm->slowest, &most, ns))
		;
}

/* The duration, in us, that the fraction @part of all did not exceed. */
static double percentile(double part, uint64_t samples)
{
	uint64_t rank = part * samples, sum = 0, ns;
	int i, shift;

	if (rank < part * samples)
		rank++;
	for (i = 0; i < BUCKETS; i++) {
		sum += shm->latency[i];
		if (sum < rank || !sum)
			continue;
		shift = i < 2 * SUB ? 0 : i / SUB - 1;
		if (shift)
			ns = (i % SUB + SUB + 0.5) * (1ull << shift);
		else
			ns = i;
		return (ns < shm->slowest ? ns : shm->slowest) / 1e3;
	}
	return 0;
}

/* Wait for the answer to the packet before s->next, sent at @start. */
static void await_answer(struct sender *s, uint8_t *buf, uint64_t start)
{
	double until = now() + ANSWER_MS / 1e3;
	struct head head;
	ssize_t n;

	for (;;) {
		n = recv(s->fd, buf, MAX_DATAGRAM, 0);
		if (n < 0) {
			if ((errno == EAGAIN || errno == EINTR) && now() < until)
				continue;
			if (errno != EAGAIN && errno != EINTR)
				count_error(&shm->tx, errno);
			atomic_fetch_add(&shm->unanswered, 1);
			return;
		}
		memcpy(&head, buf, sizeof(head));
		if ((size_t)n < sizeof(head) || head.magic != MAGIC ||
		    head.flow != s->flow || head.seq >= s->next ||
		    !body_is_right(buf, n, &head)) {
			atomic_fetch_add(&shm->wrong, 1);
			continue;
		}
		if (head.seq + 1 < s->next) {
			atomic_fetch_add(&shm->late, 1);
			continue;
		}
		note_latency(now_ns() - start);
		atomic_fetch_add(&shm->answers, 1);
		return;
	}
}

static int64_t in_flight(const struct sender *s)
{
	return (int64_t)s->next - (int64_t)shm->flows[s->flow].arrived -
	       s->written_off;
}

static bool window_is_open(const struct sender *s)
{
	return !opt.window || opt.mode == RR ||
	       in_flight(s) + (int64_t)next_burst(s) <= (int64_t)opt.window;
}

static int open_sender(struct sender *s, int flow)
{
	struct side *side = &shm->tx;
	struct sockaddr_storage ss;
	socklen_t len = address(&ss);
	int bad = 0;

	memset(s, 0, sizeof(*s));
	s->flow = flow;
	s->fd = open_socket(side, ss.ss_family);
	if (s->fd < 0)
		return -1;
	if (opt.gso)
		bad |= set(side, s->fd, SOL_UDP, UDP_SEGMENT, opt.gso, "UDP_SEGMENT");
	if (opt.zerocopy) {
		bad |= set(side, s->fd, SOL_SOCKET, SO_ZEROCOPY, 1, "SO_ZEROCOPY");
		s->zc.ring = malloc(opt.size * ZC_SLOTS);
	}
	if (connect(s->fd, (void *)&ss, len)) {
		fail(side, "connect: %s", strerror(errno));
		bad = -1;
	}
	if (opt.zerocopy && !s->zc.ring) {
		fail(side, "no memory");
		bad = -1;
	}
	return bad;
}

static void close_sender(struct sender *s, double until)
{
	while (s->zc.done < s->zc.next && now() < until)
		if (reap(s, 20))
			break;
	if (s->zc.done < s->zc.next)
		fail(&shm->tx, "%llu zerocopy notifications missing",
		     (unsigned long long)(s->zc.next - s->zc.done));
	close(s->fd);
	free(s->zc.ring);
}

static pthread_barrier_t all_open;

/* Send, flow by flow in turn, until all have sent what they should. */
static void run_senders(struct sender *mine, int n, uint8_t *buf)
{
	uint64_t sent, in_burst = 0, progress, start = 0;
	double since = about_now();
	int i, live;

	do {
		live = 0;
		progress = 0;
		for (i = 0; i < n; i++) {
			struct sender *s = &mine[i];

			if (s->over)
				continue;
			if (sender_is_over())
				return;
			live++;
			if (!window_is_open(s))
				continue;
			if (opt.mode == RR)
				start = now_ns();
			sent = send_next(s, buf);
			if (sent && opt.mode == RR)
				await_answer(s, buf, start);
			if (opt.count && s->next >= opt.count)
				s->over = true;
			progress += sent;
			in_burst += sent;
			if (opt.gap_us && in_burst >= opt.burst) {
				in_burst = 0;
				nap(opt.gap_us);
			}
		}
		if (progress) {
			since = about_now();
		} else if (live) {
			usleep(50);
			if (about_now() - since < STALL)
				continue;
			/* What is on its way for so long is lost: go on without. */
			since = about_now();
			for (i = 0; i < n; i++)
				if (!mine[i].over && !window_is_open(&mine[i])) {
					mine[i].written_off += in_flight(&mine[i]);
					atomic_fetch_add(&shm->stalls, 1);
				}
		}
	} while (live);
}

static void *sender_thread(void *arg)
{
	int me = (intptr_t)arg, n = 0, flow, bad;
	struct sender *mine = calloc(opt.flows, sizeof(*mine));
	uint8_t *buf = malloc(MAX_DATAGRAM);
	struct rusage start;
	double until;

	bad = pin(&shm->tx, &opt.tx_cpus, me);
	if (!mine || !buf) {
		fail(&shm->tx, "no memory");
		bad = -1;
	}
	for (flow = me; !bad && flow < opt.flows; flow += opt.threads)
		bad = open_sender(&mine[n++], flow);
	if (pthread_barrier_wait(&all_open) == PTHREAD_BARRIER_SERIAL_THREAD)
		shm->tx_start = now();
	pthread_barrier_wait(&all_open);
	switches(&shm->tx, &start, true);
	if (!bad)
		run_senders(mine, n, buf);
	switches(&shm->tx, &start, false);
	pthread_barrier_wait(&all_open);
	if (!me)
		shm->tx_end = now();
	until = now() + 5 < limit + 2 ? now() + 5 : limit + 2;
	while (n--)
		close_sender(&mine[n], until);
	free(mine);
	free(buf);
	return NULL;
}

static int run_threads(struct side *side, int n, void *(*body)(void *))
{
	pthread_t threads[MAX_THREADS];
	int i, err;

	for (i = 0; i < n; i++) {
		err = pthread_create(&threads[i], NULL, body, (void *)(intptr_t)i);
		if (err) {
			fail(side, "thread: %s", strerror(err));
			return 1;	/* and the process ends, with all threads */
		}
	}
	while (i--)
		pthread_join(threads[i], NULL);
	return 0;
}

static int sender(void)
{
	if (enter(&shm->tx, opt.tx_netns))
		return 1;
	pthread_barrier_init(&all_open, NULL, opt.threads);
	return run_threads(&shm->tx, opt.threads, sender_thread);
}

/* --- receiving --- */

static int rx_fds[MAX_THREADS];

static void note_arrival(struct flow *f, uint64_t seq)
{
	uint64_t bit = 1ull << (seq % 64), *word = &f->seen[seq / 64 % (SEEN / 64)];
	uint64_t i;

	pthread_mutex_lock(&f->lock);
	if (seq < f->next && f->next - seq <= SEEN && (*word & bit)) {
		atomic_fetch_add(&shm->duplicates, 1);
		goto out;
	}
	if (seq < f->next) {
		/* Too late to be told from a duplicate, or a late one. */
		atomic_fetch_add(&shm->reordered, 1);
		if (f->next - seq <= SEEN)
			*word |= bit;
	} else {
		if (seq - f->next >= SEEN)
			memset(f->seen, 0, sizeof(f->seen));
		else
			for (i = f->next; i < seq; i++)
				f->seen[i / 64 % (SEEN / 64)] &= ~(1ull << (i % 64));
		*word |= bit;
		f->next = seq + 1;
	}
	atomic_fetch_add(&f->arrived, 1);
	atomic_fetch_add(&shm->arrived, 1);
out:
	pthread_mutex_unlock(&f->lock);
}

/* Returns whether the datagram is one that can be answered. */
static bool take(const uint8_t *buf, size_t len)
{
	struct side *side = &shm->rx;
	struct head head;

	atomic_fetch_add(&side->packets, 1);
	atomic_fetch_add(&side->bytes, len);
	if (len < sizeof(head))
		goto corrupt;
	memcpy(&head, buf, sizeof(head));
	if (head.magic != MAGIC || head.flow >= (uint32_t)opt.flows)
		goto corrupt;
	/* A send is counted after it was made. */
	if (!opt.receive_only &&
	    head.seq >= shm->flows[head.flow].sent + MAX_SEGMENTS)
		goto corrupt;
	if (!body_is_right(buf, len, &head))
		atomic_fetch_add(&shm->corrupt, 1);
	note_arrival(&shm->flows[head.flow], head.seq);
	return true;
corrupt:
	atomic_fetch_add(&shm->corrupt, 1);
	return false;
}

static size_t segment_size(struct msghdr *msg, size_t whole)
{
	struct cmsghdr *cmsg;
	int size = 0;

	for (cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg))
		if (cmsg->cmsg_level == SOL_UDP && cmsg->cmsg_type == UDP_GRO)
			memcpy(&size, CMSG_DATA(cmsg), sizeof(size));
	return size > 0 ? (size_t)size : whole;
}

static bool all_arrived(void)
{
	if (opt.receive_only)
		return opt.count_given && opt.count &&
		       shm->arrived >= opt.count * opt.flows;
	return shm->tx_done && shm->arrived >= shm->tx.packets;
}

static bool receiver_is_over(void)
{
	double t = about_now(), last, patience;

	if (all_arrived())
		return true;
	if (opt.receive_only) {
		if (t > limit)
			shm->timed_out = 1;
		if (opt.seconds && shm->rx_first && t - shm->rx_first > opt.seconds)
			return true;
		return t > limit || (shm->stop && t - shm->stopped > DRAIN_STOPPED);
	}
	if (!shm->tx_done)
		return false;	/* the sender's end is bounded */
	last = shm->tx_end > shm->rx_last ? shm->tx_end : shm->rx_last;
	patience = opt.window ? DRAIN_WINDOW : DRAIN;
	if (shm->stop || shm->timed_out)
		patience = DRAIN_STOPPED;
	return t - last > patience || t > limit + 3;
}

static void *receiver_thread(void *arg)
{
	int me = (intptr_t)arg, fd = rx_fds[me];
	uint32_t memory[16] = { 0 };
	socklen_t memory_len = sizeof(memory);
	struct sockaddr_storage from;
	struct side *side = &shm->rx;
	uint8_t *buf = malloc(MAX_DATAGRAM + 1);
	struct rusage start;
	char control[128];
	struct iovec iov = { .iov_base = buf, .iov_len = MAX_DATAGRAM + 1 };
	struct msghdr msg;
	size_t size, pos, len;
	double none = 0;
	ssize_t n;

	if (!buf)
		fail(side, "no memory");
	if (pin(side, &opt.rx_cpus, me) || !buf)
		goto out;
	switches(side, &start, true);
	for (;;) {
		memset(&msg, 0, sizeof(msg));
		msg.msg_name = &from;
		msg.msg_namelen = sizeof(from);
		msg.msg_iov = &iov;
		msg.msg_iovlen = 1;
		msg.msg_control = control;
		msg.msg_controllen = sizeof(control);
		n = recvmsg(fd, &msg, 0);
		if (n < 0) {
			if (errno != EAGAIN && errno != EINTR) {
				count_error(side, errno);
				if (!may_pass(errno)) {
					fail(side, "recv: %s", strerror(errno));
					break;
				}
			}
			if (receiver_is_over())
				break;
			continue;
		}
		shm->rx_last = about_now();
		atomic_compare_exchange_strong(&shm->rx_first, &none, shm->rx_last);
		none = 0;
		atomic_fetch_add(&side->calls, 1);
		size = segment_size(&msg, n);
		if (size < (size_t)n)
			atomic_fetch_add(&shm->batches, 1);
		pos = 0;
		do {
			len = n - pos < size ? n - pos : size;
			if (take(buf + pos, len) && opt.mode == RR &&
			    sendto(fd, buf + pos, len, 0, (void *)&from,
				   msg.msg_namelen) < 0)
				count_error(side, errno);
			pos += len;
		} while (pos < (size_t)n);
		if ((shm->tx_done || opt.receive_only) && receiver_is_over())
			break;
	}
	switches(side, &start, false);
	if (!getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &memory_len))
		atomic_fetch_add(&shm->drops, memory[8]);	/* SK_MEMINFO_DROPS */
out:
	close(fd);
	free(buf);
	return NULL;
}

static int receiver(void)
{
	struct side *side = &shm->rx;
	struct sockaddr_storage ss;
	socklen_t len = address(&ss);
	int i;

	if (enter(side, opt.rx_netns))
		return 1;
	for (i = 0; i < opt.flows; i++)
		pthread_mutex_init(&shm->flows[i].lock, NULL);
	for (i = 0; i < opt.rx_threads; i++) {
		rx_fds[i] = open_socket(side, ss.ss_family);
		if (rx_fds[i] < 0)
			return 1;
		if (opt.rx_threads > 1 &&
		    set(side, rx_fds[i], SOL_SOCKET, SO_REUSEPORT, 1, "SO_REUSEPORT"))
			return 1;
		if (opt.gro && set(side, rx_fds[i], SOL_UDP, UDP_GRO, 1, "UDP_GRO"))
			return 1;
		if (bind(rx_fds[i], (void *)&ss, len)) {
			fail(side, "bind to %s: %s", opt.addr, strerror(errno));
			return 1;
		}
	}
	/* All of them, or a flow would be steered to another one midway. */
	shm->listening = 1;
	return run_threads(side, opt.rx_threads, receiver_thread);
}

/* --- options, supervision, report --- */

static void bad_usage(const char *what, const char *text)
{
	fprintf(stderr, "udpflow: %s%s%s\n", what, *text ? ": " : "", text);
	exit(2);
}

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
	if (*end || end == text)
		bad_usage("not a number", text);
	return n;
}

static double duration(const char *text)
{
	char *end;
	double n = strtod(text, &end);

	if (*end || end == text || !(n > 0))
		bad_usage("not a time", text);
	return n;
}

/* "0,2-3" */
static struct cpus cpu_list(const char *text)
{
	struct cpus list = { 0 };
	const char *at = text;
	long first, last;
	char *end;

	do {
		first = last = strtol(at, &end, 10);
		if (end == at || first < 0)
			bad_usage("not a list of CPUs", text);
		if (*end == '-') {
			at = end + 1;
			last = strtol(at, &end, 10);
			if (end == at || last < first)
				bad_usage("not a list of CPUs", text);
		}
		for (; first <= last && list.n < MAX_THREADS; first++)
			list.cpu[list.n++] = first;
		at = end + 1;
	} while (*end == ',');
	if (*end)
		bad_usage("not a list of CPUs", text);
	return list;
}

enum {
	OPT_MODE = 1, OPT_ADDR, OPT_PORT, OPT_TXNS, OPT_RXNS, OPT_TXCPU, OPT_RXCPU, OPT_FLOWS,
	OPT_THREADS, OPT_RXTHREADS, OPT_SIZE, OPT_COUNT, OPT_SECONDS, OPT_BURST, OPT_GAP,
	OPT_WINDOW, OPT_NORX, OPT_RXONLY, OPT_SNDBUF, OPT_RCVBUF, OPT_ZC, OPT_DEV, OPT_FRAG,
	OPT_DONTFRAG, OPT_GSO, OPT_GRO, OPT_CORRUPT, OPT_TIMEOUT,
};

static const struct option options[] = {
	{ "mode", 1, NULL, OPT_MODE },		{ "addr", 1, NULL, OPT_ADDR },
	{ "port", 1, NULL, OPT_PORT },		{ "tx-netns", 1, NULL, OPT_TXNS },
	{ "rx-netns", 1, NULL, OPT_RXNS },	{ "tx-cpu", 1, NULL, OPT_TXCPU },
	{ "rx-cpu", 1, NULL, OPT_RXCPU },		{ "flows", 1, NULL, OPT_FLOWS },
	{ "threads", 1, NULL, OPT_THREADS },	{ "rx-threads", 1, NULL, OPT_RXTHREADS },
	{ "size", 1, NULL, OPT_SIZE },		{ "count", 1, NULL, OPT_COUNT },
	{ "seconds", 1, NULL, OPT_SECONDS },	{ "burst", 1, NULL, OPT_BURST },
	{ "gap-us", 1, NULL, OPT_GAP },		{ "window", 1, NULL, OPT_WINDOW },
	{ "no-receiver", 0, NULL, OPT_NORX },	{ "receive-only", 0, NULL, OPT_RXONLY },
	{ "sndbuf", 1, NULL, OPT_SNDBUF },	{ "rcvbuf", 1, NULL, OPT_RCVBUF },
	{ "zerocopy", 0, NULL, OPT_ZC },		{ "bind-dev", 1, NULL, OPT_DEV },
	{ "fragment", 0, NULL, OPT_FRAG },	{ "dont-fragment", 0, NULL, OPT_DONTFRAG },
	{ "gso", 1, NULL, OPT_GSO },		{ "gro", 0, NULL, OPT_GRO },
	{ "corrupt", 1, NULL, OPT_CORRUPT },	{ "timeout", 1, NULL, OPT_TIMEOUT },
	{ NULL, 0, NULL, 0 },
};

/* What does not fit together, or not into a packet. */
static void check_options(void)
{
	struct sockaddr_storage ss;
	size_t most;

	if (!address(&ss))
		bad_usage("not an address", opt.addr);
	/* An IPv6 packet's length does not count its header, an IPv4 packet's does. */
	most = ss.ss_family == AF_INET ? 65535 - 20 - 8 : 65535 - 8;
	if (opt.size < sizeof(struct head) || opt.size > most)
		bad_usage("--size does not fit", "");
	if (opt.gso && (opt.gso < sizeof(struct head) || opt.gso > opt.size ||
			(opt.size % opt.gso && opt.size % opt.gso < sizeof(struct head)) ||
			per_send() > MAX_SEGMENTS || opt.mode == RR))
		bad_usage("--gso does not fit --size or --mode", "");
	if (opt.flows < 1 || opt.flows > MAX_FLOWS)
		bad_usage("--flows out of range", "");
	if (opt.threads < 1 || opt.threads > MAX_THREADS ||
	    opt.rx_threads < 1 || opt.rx_threads > MAX_THREADS)
		bad_usage("--threads out of range", "");
	if (opt.threads > opt.flows)
		opt.threads = opt.flows;
	if (opt.no_receiver && opt.receive_only)
		bad_usage("neither a sender nor a receiver", "");
	if (opt.window && (opt.window < per_send() || opt.no_receiver || opt.receive_only))
		bad_usage("--window needs both ends, and room for one send", "");
	if (opt.timeout < 1)
		bad_usage("--timeout out of range", "");
	/* Time decides, unless a number does as well. */
	if (opt.seconds && !opt.count_given)
		opt.count = 0;
}

static void parse(int argc, char **argv)
{
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case OPT_MODE:
			if (strcmp(optarg, "oneway") && strcmp(optarg, "rr"))
				bad_usage("no such mode", optarg);
			opt.mode = strcmp(optarg, "rr") ? ONEWAY : RR;
			break;
		case OPT_ADDR: opt.addr = optarg; break;
		case OPT_PORT: opt.port = amount(optarg); break;
		case OPT_TXNS: opt.tx_netns = optarg; break;
		case OPT_RXNS: opt.rx_netns = optarg; break;
		case OPT_TXCPU: opt.tx_cpus = cpu_list(optarg); break;
		case OPT_RXCPU: opt.rx_cpus = cpu_list(optarg); break;
		case OPT_FLOWS: opt.flows = amount(optarg); break;
		case OPT_THREADS: opt.threads = amount(optarg); break;
		case OPT_RXTHREADS: opt.rx_threads = amount(optarg); break;
		case OPT_SIZE:
			opt.size = amount(optarg);
			opt.size_given = true;
			break;
		case OPT_COUNT:
			opt.count = amount(optarg);
			opt.count_given = true;
			break;
		case OPT_SECONDS: opt.seconds = duration(optarg); break;
		case OPT_BURST: opt.burst = amount(optarg); break;
		case OPT_GAP: opt.gap_us = amount(optarg); break;
		case OPT_WINDOW: opt.window = amount(optarg); break;
		case OPT_NORX: opt.no_receiver = true; break;
		case OPT_RXONLY: opt.receive_only = true; break;
		case OPT_SNDBUF: opt.sndbuf = amount(optarg); break;
		case OPT_RCVBUF: opt.rcvbuf = amount(optarg); break;
		case OPT_ZC: opt.zerocopy = true; break;
		case OPT_DEV: opt.bind_dev = optarg; break;
		case OPT_FRAG: opt.fragment = FRAGMENT; break;
		case OPT_DONTFRAG: opt.fragment = DONT_FRAGMENT; break;
		case OPT_GSO: opt.gso = amount(optarg); break;
		case OPT_GRO: opt.gro = true; break;
		case OPT_CORRUPT: opt.corrupt = amount(optarg); break;
		case OPT_TIMEOUT: opt.timeout = amount(optarg); break;
		default: exit(2);
		}
	}
	if (optind != argc)
		bad_usage("a stray word", argv[optind]);
	check_options();
}

static void report_errors(struct side *side)
{
	static const struct {
		int number;
		const char *name;
	} names[] = {
#define E(name) { name, #name }
		E(EAGAIN), E(ECONNREFUSED), E(EHOSTUNREACH), E(EINTR),
		E(EINVAL), E(EIO), E(EMSGSIZE), E(ENETDOWN), E(ENETUNREACH),
		E(ENOBUFS), E(ENODEV), E(ENOMEM), E(ENXIO), E(EPERM),
#undef E
	};
	const char *comma = "";
	char number[16];

	printf("\"errors\": {");
	for (int i = 0; i < MAX_ERRNO; i++) {
		const char *name = number;

		if (!side->errors[i])
			continue;
		snprintf(number, sizeof(number), "%d", i);
		for (size_t j = 0; j < sizeof(names) / sizeof(*names); j++)
			if (names[j].number == i)
				name = names[j].name;
		printf("%s\"%s\": %llu", comma, name, (unsigned long long)side->errors[i]);
		comma = ", ";
	}
	printf("}, \"voluntary\": %llu, \"involuntary\": %llu, \"error\": \"%s\"}, ",
	       (unsigned long long)side->voluntary,
	       (unsigned long long)side->involuntary, side->error);
}

/* Packets that did not come; without a sender here, those that others overtook. */
static uint64_t lost(void)
{
	uint64_t sum = 0;

	if (opt.no_receiver)
		return 0;
	for (int i = 0; i < opt.flows; i++) {
		struct flow *f = &shm->flows[i];
		uint64_t sent = opt.receive_only ? f->next : f->sent;

		if (sent > f->arrived)
			sum += sent - f->arrived;
	}
	return sum;
}

static void report(void)
{
	struct side *tx = &shm->tx, *rx = &shm->rx;
	double start = opt.receive_only ? shm->rx_first : shm->tx_start;
	double end = shm->tx_end > shm->rx_last ? shm->tx_end : shm->rx_last;
	double seconds = start && end > start ? end - start : 0;
	uint64_t packets = opt.no_receiver ? tx->packets : rx->packets;

#define N(what) (unsigned long long)(what)
	printf("{\"tx\": {\"sent\": %llu, \"bytes\": %llu, \"sends\": %llu, "
	       "\"answers\": %llu, \"unanswered\": %llu, \"late\": %llu, "
	       "\"wrong\": %llu, \"stalls\": %llu, \"zc_sends\": %llu, "
	       "\"zc_done\": %llu, \"zc_copied\": %llu, ",
	       N(tx->packets), N(tx->bytes), N(tx->calls), N(shm->answers),
	       N(shm->unanswered), N(shm->late), N(shm->wrong), N(shm->stalls),
	       N(shm->zc_sends), N(shm->zc_done), N(shm->zc_copied));
	report_errors(tx);
	printf("\"rx\": {\"received\": %llu, \"bytes\": %llu, \"recvs\": %llu, "
	       "\"reordered\": %llu, \"duplicates\": %llu, \"corrupt\": %llu, "
	       "\"lost\": %llu, \"drops\": %llu, \"batches\": %llu, ",
	       N(rx->packets), N(rx->bytes), N(rx->calls), N(shm->reordered),
	       N(shm->duplicates), N(shm->corrupt), N(lost()), N(shm->drops),
	       N(shm->batches));
	report_errors(rx);
	if (opt.mode == RR && !opt.receive_only)
		printf("\"latency\": {\"p50\": %.2f, \"p99\": %.2f, \"p99.9\": %.2f, "
		       "\"max\": %.2f, \"samples\": %llu}, ",
		       percentile(0.5, shm->answers), percentile(0.99, shm->answers),
		       percentile(0.999, shm->answers), shm->slowest / 1e3,
		       N(shm->answers));
	else
		printf("\"latency\": null, ");
#undef N
	printf("\"seconds\": %.6f, \"pps\": %.1f, \"timeout\": %s}\n", seconds,
	       seconds ? packets / seconds : 0, shm->timed_out ? "true" : "false");
}

static void on_stop(int sig)
{
	(void)sig;
	if (!shm->stop)
		shm->stopped = now();
	shm->stop = 1;
}

static pid_t spawn(int (*body)(void))
{
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGTERM, SIG_IGN);	/* their parent tells them to stop */
		signal(SIGINT, SIG_IGN);
		_exit(body());
	}
	return pid;
}

/* Wait for @pid until @until; returns its status, or -1 when it was ended. */
static int join(pid_t pid, double until)
{
	int status;

	for (;;) {
		pid_t got = waitpid(pid, &status, WNOHANG);

		if (got == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
		if (now() > until) {
			shm->timed_out = 1;
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
	pid_t rx = 0, tx = 0;
	int a = 0, b = 0;

	parse(argc, argv);
	for (size_t i = 0; i < sizeof(ramp); i++)
		ramp[i] = i;
	shm = mmap(NULL, sizeof(*shm) + opt.flows * sizeof(*shm->flows),
		   PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shm == MAP_FAILED)
		return 2;
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGINT, &act, NULL);
	limit = now() + opt.timeout;
	if (!opt.no_receiver) {
		rx = spawn(receiver);
		while (!shm->listening && !shm->rx.error_set && now() < limit)
			usleep(1000);
		if (opt.receive_only && shm->listening)
			fprintf(stderr, "udpflow: receiving\n");
	}
	if (!opt.receive_only && (opt.no_receiver || shm->listening)) {
		tx = spawn(sender);
		/* Zerocopy notifications have two seconds more. */
		a = join(tx, limit + 3);
		if (a < 0)
			shm->tx_end = now();
		shm->tx_done = 1;
	}
	if (rx)
		b = join(rx, limit + 4);
	report();
	if (shm->timed_out)
		return 3;
	return a || b || shm->tx.error_set || shm->rx.error_set ||
	       shm->corrupt || shm->wrong;
}
