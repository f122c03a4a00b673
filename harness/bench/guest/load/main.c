// SPDX-License-Identifier: GPL-2.0-only
/*
 * load - traffic between two network namespaces, and a window of it measured.
 *
 * Every socket is made, the traffic starts, --warm seconds pass, counters are
 * read, --seconds later they are read again, and all ends. So neither a
 * program's start nor its end is in what was counted. A command may be run
 * before the window (--begin), and one when all is over (--end, --rest seconds
 * after the traffic). Prints one JSON object.
 *
 * The modes: stream (TCP, one way), rr (TCP, a request and its answer), udp
 * (one way; to a group if the address is one), idle (TCP connections that
 * carry --size bytes once, and are then looked at --looks times).
 *
 * Exits with 0, 1 after an error, 2 on bad usage, 3 when time ran out.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

struct options opt = {
	.addr = "127.0.0.1", .port = 7900, .tx_dev = "lo", .rx_dev = "lo", .flows = 1, .tx_threads = 1,
	.rx_threads = 1, .listeners = 1, .size = 400, .warm = 0.2,
	.seconds = 1, .burst = 1, .looks = 1, .timeout = 60,
};

struct side tx_side, rx_side;
struct histogram latency, wakeup;
_Atomic bool stopping, measuring;
_Atomic int ready;

static struct {
	pthread_t thread;
} threads[4 * MAX_THREADS];
static int spawned;

void die(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "load: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	_exit(1);
}

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

void pause_ns(uint64_t ns)
{
	struct timespec ts = { ns / 1000000000, ns % 1000000000 };

	nanosleep(&ts, NULL);
}

void note(struct histogram *to, uint64_t ns)
{
	uint64_t most;
	int shift = 0;

	if (!measuring)
		return;
	while (ns >> shift >= 2 * SUB)
		shift++;
	atomic_fetch_add_explicit(&to->bucket[shift * SUB + (ns >> shift)], 1,
				  memory_order_relaxed);
	most = to->slowest;
	while (ns > most && !atomic_compare_exchange_weak(&to->slowest, &most, ns))
		;
}

/* The duration, in us, that the fraction @part did not exceed. */
static double percentile(const struct histogram *of, double part, uint64_t samples)
{
	uint64_t rank = part * samples, sum = 0, ns;

	if (rank < part * samples)
		rank++;
	for (int i = 0; i < BUCKETS; i++) {
		int shift = i < 2 * SUB ? 0 : i / SUB - 1;

		sum += of->bucket[i];
		if (sum < rank || !sum)
			continue;
		ns = shift ? (i % SUB + SUB + 0.5) * (1ull << shift) : (unsigned int)i;
		return (ns < of->slowest ? ns : of->slowest) / 1e3;
	}
	return 0;
}

static void report_histogram(const char *name, const struct histogram *h)
{
	uint64_t samples = 0;

	for (int i = 0; i < BUCKETS; i++)
		samples += h->bucket[i];
	if (!samples) {
		printf("\"%s\": null, ", name);
		return;
	}
	printf("\"%s\": {\"samples\": %llu, \"p50\": %.3f, \"p99\": %.3f, "
	       "\"p99.9\": %.3f, \"max\": %.3f}, ", name,
	       (unsigned long long)samples, percentile(h, 0.5, samples),
	       percentile(h, 0.99, samples), percentile(h, 0.999, samples),
	       h->slowest / 1e3);
}

void enter(const char *netns)
{
	char path[128];
	int fd;

	if (!netns)
		return;
	snprintf(path, sizeof(path), "/run/netns/%s", netns);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, 0x40000000 /* CLONE_NEWNET */))
		die("netns %s: %s", netns, strerror(errno));
	close(fd);
}

void spawn(void *(*body)(void *), int index, const struct cpus *cpus, bool fifo)
{
	struct sched_param param = { .sched_priority = 50 };
	pthread_attr_t attr;
	cpu_set_t set;
	int err;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 256 << 10);
	if (cpus && cpus->n) {
		CPU_ZERO(&set);
		CPU_SET(cpus->cpu[index % cpus->n], &set);
		pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
	}
	if (fifo) {
		pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
		pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
		pthread_attr_setschedparam(&attr, &param);
	}
	err = pthread_create(&threads[spawned].thread, &attr, body,
			     (void *)(intptr_t)index);
	if (err)
		die("a thread, perhaps there is no such CPU: %s", strerror(err));
	spawned++;
}

/* --- what a CPU may have to do beside traffic --- */

static void *burn(void *unused)
{
	volatile uint64_t n = 0;

	(void)unused;
	while (!stopping)
		n++;
	return NULL;
}

/* Wakes every millisecond, before anything that is not as urgent. */
static void *cyclic(void *unused)
{
	struct timespec next;

	(void)unused;
	clock_gettime(CLOCK_MONOTONIC, &next);
	while (!stopping) {
		uint64_t wanted;

		next.tv_nsec += 1000000;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
		wanted = next.tv_sec * 1000000000ull + next.tv_nsec;
		note(&wakeup, now_ns() - wanted);
	}
	return NULL;
}

/* --- options --- */

static double number(const char *text)
{
	char *rest;
	double n = strtod(text, &rest);

	if (*rest || rest == text || n < 0) {
		fprintf(stderr, "load: not a number: %s\n", text);
		exit(2);
	}
	return n;
}

static void cpu_list(struct cpus *cpus, char *text)
{
	char *word;

	cpus->n = 0;
	while ((word = strsep(&text, ",")) && cpus->n < MAX_CPUS)
		cpus->cpu[cpus->n++] = number(word);
}

enum {
	OPT_MODE = 1, OPT_ADDR, OPT_PORT, OPT_TXNS, OPT_RXNS, OPT_TXCPU, OPT_RXCPU, OPT_FLOWS,
	OPT_TXTHREADS, OPT_RXTHREADS, OPT_LISTENERS, OPT_SIZE, OPT_MSS, OPT_RCVBUF, OPT_SNDBUF,
	OPT_NORX, OPT_GAP, OPT_BURST, OPT_WARM, OPT_SECONDS, OPT_REST, OPT_LOOKS, OPT_FILE,
	OPT_TXDEV, OPT_RXDEV, OPT_EVENT, OPT_BEGIN, OPT_END, OPT_BURN, OPT_CYCLIC, OPT_TIMEOUT,
};

static const struct option options[] = {
	{ "mode", 1, NULL, OPT_MODE },		{ "addr", 1, NULL, OPT_ADDR },
	{ "port", 1, NULL, OPT_PORT },		{ "tx-netns", 1, NULL, OPT_TXNS },
	{ "rx-netns", 1, NULL, OPT_RXNS },	{ "tx-cpu", 1, NULL, OPT_TXCPU },
	{ "rx-cpu", 1, NULL, OPT_RXCPU },		{ "flows", 1, NULL, OPT_FLOWS },
	{ "tx-threads", 1, NULL, OPT_TXTHREADS }, { "rx-threads", 1, NULL, OPT_RXTHREADS },
	{ "listeners", 1, NULL, OPT_LISTENERS },	{ "size", 1, NULL, OPT_SIZE },
	{ "mss", 1, NULL, OPT_MSS },		{ "rcvbuf", 1, NULL, OPT_RCVBUF },
	{ "sndbuf", 1, NULL, OPT_SNDBUF },	{ "no-receiver", 0, NULL, OPT_NORX },
	{ "gap-us", 1, NULL, OPT_GAP },		{ "burst", 1, NULL, OPT_BURST },
	{ "warm", 1, NULL, OPT_WARM },		{ "seconds", 1, NULL, OPT_SECONDS },
	{ "rest", 1, NULL, OPT_REST },		{ "looks", 1, NULL, OPT_LOOKS },
	{ "file", 1, NULL, OPT_FILE },		{ "event", 1, NULL, OPT_EVENT },
	{ "begin", 1, NULL, OPT_BEGIN },		{ "end", 1, NULL, OPT_END },
	{ "burn", 1, NULL, OPT_BURN },		{ "cyclic", 1, NULL, OPT_CYCLIC },
	{ "tx-dev", 1, NULL, OPT_TXDEV },		{ "rx-dev", 1, NULL, OPT_RXDEV },
	{ "timeout", 1, NULL, OPT_TIMEOUT },	{ NULL, 0, NULL, 0 },
};

static enum mode mode_of(const char *text)
{
	static const char *const names[] = { "stream", "rr", "udp", "idle" };

	for (int i = 0; i < 4; i++)
		if (!strcmp(text, names[i]))
			return i;
	fprintf(stderr, "load: no such mode: %s\n", text);
	exit(2);
}

static void parse(int argc, char **argv)
{
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case OPT_MODE: opt.mode = mode_of(optarg); break;
		case OPT_ADDR: opt.addr = optarg; break;
		case OPT_PORT: opt.port = number(optarg); break;
		case OPT_TXNS: opt.tx_netns = optarg; break;
		case OPT_RXNS: opt.rx_netns = optarg; break;
		case OPT_TXDEV: opt.tx_dev = optarg; break;
		case OPT_RXDEV: opt.rx_dev = optarg; break;
		case OPT_TXCPU: cpu_list(&opt.tx_cpus, optarg); break;
		case OPT_RXCPU: cpu_list(&opt.rx_cpus, optarg); break;
		case OPT_FLOWS: opt.flows = number(optarg); break;
		case OPT_TXTHREADS: opt.tx_threads = number(optarg); break;
		case OPT_RXTHREADS: opt.rx_threads = number(optarg); break;
		case OPT_LISTENERS: opt.listeners = number(optarg); break;
		case OPT_SIZE: opt.size = number(optarg); break;
		case OPT_MSS: opt.mss = number(optarg); break;
		case OPT_RCVBUF: opt.rcvbuf = number(optarg); break;
		case OPT_SNDBUF: opt.sndbuf = number(optarg); break;
		case OPT_NORX: opt.no_receiver = true; break;
		case OPT_GAP: opt.gap_us = number(optarg); break;
		case OPT_BURST: opt.burst = number(optarg); break;
		case OPT_WARM: opt.warm = number(optarg); break;
		case OPT_SECONDS: opt.seconds = number(optarg); break;
		case OPT_REST: opt.rest = number(optarg); break;
		case OPT_LOOKS: opt.looks = number(optarg); break;
		case OPT_FILE: meter_file(optarg); break;
		case OPT_EVENT: meter_event(optarg); break;
		case OPT_BEGIN: meter_begin_command(optarg); break;
		case OPT_END: meter_end_command(optarg); break;
		case OPT_BURN: cpu_list(&opt.burn, optarg); break;
		case OPT_CYCLIC: cpu_list(&opt.cyclic, optarg); break;
		case OPT_TIMEOUT: opt.timeout = number(optarg); break;
		default: exit(2);
		}
	}
	if (optind != argc || opt.flows < 1 || opt.size < 1 || opt.size > 65507 ||
	    opt.tx_threads < 1 || opt.tx_threads > MAX_THREADS ||
	    opt.rx_threads < 1 || opt.rx_threads > MAX_THREADS ||
	    opt.listeners < 1 || opt.listeners > MAX_LISTENERS) {
		fprintf(stderr, "load: a number is out of range, or a stray word\n");
		exit(2);
	}
	if (opt.tx_threads > opt.flows)
		opt.tx_threads = opt.flows;
}

static void out_of_time(int sig)
{
	(void)sig;
	_exit(3);
}

/* Sleep in pieces, so that a wrong thread is not waited for. */
static void rest(double seconds)
{
	if (seconds > 0)
		pause_ns(seconds * 1e9);
}

int main(int argc, char **argv)
{
	struct rlimit files = { 1 << 16, 1 << 16 };
	uint64_t began, ended = 0;
	int expected;

	parse(argc, argv);
	signal(SIGALRM, out_of_time);
	signal(SIGPIPE, SIG_IGN);
	alarm(opt.timeout);
	setrlimit(RLIMIT_NOFILE, &files);
	prctl(PR_SET_TIMERSLACK, 1000);
	meter_open();
	if (opt.mode == IDLE)
		meter_look();

	expected = opt.mode == UDP ? udp_start() : tcp_start();
	while (ready < expected)
		pause_ns(1000000);
	for (int i = 0; i < opt.burn.n; i++)
		spawn(burn, i, &opt.burn, false);
	for (int i = 0; i < opt.cyclic.n; i++)
		spawn(cyclic, i, &opt.cyclic, true);

	if (opt.mode == IDLE) {
		/* Looked at: with nothing there, open, and from the traffic's end on. */
		meter_look();
		idle_traffic();
		began = now_ns();
		for (int i = 0; i < opt.looks; i++) {
			meter_look();
			rest(opt.seconds / opt.looks);
		}
		ended = now_ns();
		stopping = true;
	} else {
		rest(opt.warm);
		meter_begin();
		began = now_ns();
		measuring = true;
		rest(opt.seconds);
		measuring = false;
		ended = now_ns();
		meter_end();
		stopping = true;
	}
	for (int i = 0; i < spawned; i++)
		pthread_join(threads[i].thread, NULL);
	rest(opt.rest);
	meter_close();

	printf("{\"slept\": %.6f, ", (ended - began) / 1e9);
	report_histogram("latency", &latency);
	report_histogram("wakeup", &wakeup);
	meter_report(stdout);
	printf("\"errors\": %llu}\n",
	       (unsigned long long)(tx_side.errors + rx_side.errors));
	fflush(stdout);
	/* Thousands of sockets are closed by whoever ends. */
	_exit(0);
}
