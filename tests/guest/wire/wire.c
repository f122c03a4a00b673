// SPDX-License-Identifier: GPL-2.0-only
/*
 * wire - a wire between two ends, each a network device whose other side is
 * a character device (tun, tap, macvtap, ipvtap) or vhost-net.
 *
 * What an end's device transmits is read there by a thread of each queue,
 * pinned if asked, and written to the other end; or checked and dropped, if
 * the other end is a sink. Traffic is somebody else's: this is the cable.
 *
 * Runs until SIGTERM or SIGINT, for --seconds, or until enough frames came;
 * --timeout bounds all of that. Prints one JSON object and exits with 0 when
 * nothing was wrong, 1 after an error or wrong data, 2 on bad usage, 3 when
 * the time limit passed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

#define MAX_CPUS 64

struct options opt = {
	.end = { { .label = "a" }, { .label = "b" } },
};

struct cpus {
	int count, cpu[MAX_CPUS];
};

static struct {
	struct cpus end[2], vhost;
	bool stall;
	double seconds;
	uint64_t frames, checked;
	int churn_ms, timeout;
	const char *ready;
} ask = { .timeout = 60 };

_Atomic int stopping;
static _Atomic int stalled, calm, running, churns;
static _Atomic uint64_t total;
static int enough_fd;			/* signalled when the main thread should look */

static pthread_mutex_t error_lock = PTHREAD_MUTEX_INITIALIZER;
static char error[300];

void failed(const char *fmt, ...)
{
	char text[sizeof(error)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (char *c = text; *c; c++)
		if (*c == '"' || *c == '\\' || *c < ' ')
			*c = *c == '\n' ? ' ' : '\'';
	/* The first error is the one that explains the others. */
	pthread_mutex_lock(&error_lock);
	if (!error[0])
		memcpy(error, text, sizeof(error));
	pthread_mutex_unlock(&error_lock);
	fprintf(stderr, "wire: %s\n", text);
}

double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* Shorter if a signal comes. */
void pause_ms(int ms)
{
	poll(NULL, 0, ms);
}

bool is_ethernet(const struct end *end)
{
	return end->kind != TUN;
}

/* --- forwarding --- */

static void look(void)
{
	uint64_t one = 1;

	if (write(enough_fd, &one, sizeof(one)) < 0)
		failed("eventfd: %s", strerror(errno));
}

static void count_error(_Atomic uint64_t *errors, int err)
{
	errors[-err < MAX_ERRNO ? -err : 0]++;
}

static void forward(struct queue *q, struct frame *f)
{
	struct end *peer = q->end->peer;
	struct queue *to;
	int err;

	if (peer->kind == SINK) {
		sink_frame(q, f);
		return;
	}
	to = &peer->queue[q->index % peer->queues];
	do {
		err = peer->ops->send(to, f);
	} while (err == -EINTR && !stopping);
	if (err) {
		count_error(peer->write_errors, err);
	} else {
		to->frames_written++;
		to->bytes_written += f->len;
	}
}

static void *reader(void *arg)
{
	struct queue *q = arg;
	struct end *end = q->end;
	struct frame f;
	int err;

	while (stalled && !stopping)
		pause_ms(100);
	while (!stopping) {
		err = end->ops->recv(q, &f);
		if (err == -EAGAIN)
			err = end->ops->wait(q);
		else if (!err) {
			q->frames_read++;
			q->bytes_read += f.len;
			forward(q, &f);
			end->ops->release(q, &f);
			if (++total == ask.frames ||
			    (ask.checked && end->peer->kind == SINK &&
			     sink_checked() >= ask.checked))
				look();
		}
		if (!err || err == -EINTR || err == -EAGAIN)
			continue;
		count_error(end->read_errors, err);
		if (err == -EBADFD || err == -EFAULT || err == -ENODEV) {
			/* The device was taken away from under us. */
			end->gone++;
			break;
		}
		pause_ms(1);
	}
	running--;
	look();
	return NULL;
}

static int start(struct end *end, const struct cpus *cpus)
{
	pthread_attr_t attr;
	cpu_set_t set;
	int err;

	for (int i = 0; i < end->queues && end->kind != SINK; i++) {
		struct queue *q = &end->queue[i];

		pthread_attr_init(&attr);
		if (cpus->count) {
			CPU_ZERO(&set);
			CPU_SET(cpus->cpu[i % cpus->count], &set);
			pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
		}
		running++;
		err = pthread_create(&q->thread, &attr, reader, q);
		pthread_attr_destroy(&attr);
		if (err) {
			running--;
			failed("a thread for --%s, perhaps no such CPU: %s",
			       end->label, strerror(err));
			return -1;
		}
		q->running = true;
	}
	return 0;
}

/* A thread may be just about to wait: tell it until it has heard. */
static void stop(struct end *end)
{
	struct timespec ts;

	for (int i = 0; i < end->queues; i++) {
		struct queue *q = &end->queue[i];

		while (q->running) {
			pthread_kill(q->thread, SIGUSR2);
			clock_gettime(CLOCK_REALTIME, &ts);
			ts.tv_nsec += 5 * 1000 * 1000;
			if (ts.tv_nsec >= 1000000000) {
				ts.tv_nsec -= 1000000000;
				ts.tv_sec++;
			}
			if (!pthread_timedjoin_np(q->thread, NULL, &ts))
				q->running = false;
		}
	}
}

/* --- churn: one queue at a time is away from its device --- */

static void *churn(void *unused)
{
	(void)unused;
	while (!stopping && !calm) {
		for (int i = 0; i < MAX_QUEUES; i++) {
			int err = 0, away = 0;

			for (int e = 0; e < 2 && !err; e++)
				if (opt.end[e].queues > 1 && i < opt.end[e].queues) {
					err = chardev_attach(&opt.end[e].queue[i], false);
					away++;
				}
			if (!away)
				break;
			if (!err)
				pause_ms(ask.churn_ms);
			for (int e = 0; e < 2 && !err; e++)
				if (opt.end[e].queues > 1 && i < opt.end[e].queues)
					err = chardev_attach(&opt.end[e].queue[i], true);
			if (err == -EBADFD || err == -EINVAL) {
				/* Without its device it cannot be done. */
				if (opt.end[0].gone || opt.end[1].gone)
					return NULL;
			}
			if (err) {
				failed("queue %d, away or back: %s", i, strerror(-err));
				return NULL;
			}
			churns++;
			if (stopping || calm)
				return NULL;
			pause_ms(ask.churn_ms);
		}
	}
	return NULL;
}

/* --- options --- */

static void usage(FILE *to)
{
	fprintf(to,
"wire --a SPEC --b SPEC [OPTION]...\n\n%s\n"
"Options:\n"
"  --a-cpu LIST, --b-cpu LIST   CPUs (1,3) of the threads that read there, one\n"
"                     a queue, from the start again if there are more queues\n"
"  --vhost-cpu LIST   the same for vhost's threads, those of --a first\n"
"  --how read|readv   how frames are read; readv: in small odd pieces\n"
"  --blocking         block in read() instead of poll()\n"
"  --stall            read nothing until SIGUSR1\n"
"  --churn MS         every MS milliseconds a queue leaves its device or\n"
"                     returns to it, in turn, until SIGUSR1 (ends with\n"
"                     queues=2 or more)\n"
"  --frames N         end when N frames were read, at both ends together\n"
"  --checked N        end when a sink has checked N frames\n"
"  --seconds S        end after that long (with status 0)\n"
"  --timeout S        end after that long (with status 3), 60\n"
"  --ready FILE       made when both ends are up (default: \"ready\" on stderr)\n",
		spec_help);
}

static int usage_error(const char *what, const char *which)
{
	fprintf(stderr, "wire: %s%s\n", what, which);
	exit(2);
}

static double number(const char *text)
{
	char *rest;
	double n = strtod(text, &rest);

	if (*rest || rest == text || n < 0)
		usage_error("not a number: ", text);
	return n;
}

static void cpu_list(struct cpus *cpus, char *text)
{
	char *word;

	cpus->count = 0;
	while ((word = strsep(&text, ","))) {
		if (cpus->count == MAX_CPUS)
			usage_error("too many CPUs", "");
		cpus->cpu[cpus->count] = number(word);
		if (cpus->cpu[cpus->count++] >= CPU_SETSIZE)
			usage_error("no such CPU: ", word);
	}
}

enum {
	OPT_A = 1, OPT_B, OPT_ACPU, OPT_BCPU, OPT_VCPU, OPT_HOW, OPT_BLOCKING, OPT_STALL,
	OPT_CHURN, OPT_FRAMES, OPT_CHECKED, OPT_SECONDS, OPT_TIMEOUT, OPT_READY, OPT_HELP,
};

static const struct option options[] = {
	{ "a", 1, NULL, OPT_A },		{ "b", 1, NULL, OPT_B },
	{ "a-cpu", 1, NULL, OPT_ACPU },		{ "b-cpu", 1, NULL, OPT_BCPU },
	{ "vhost-cpu", 1, NULL, OPT_VCPU },	{ "how", 1, NULL, OPT_HOW },
	{ "blocking", 0, NULL, OPT_BLOCKING },	{ "stall", 0, NULL, OPT_STALL },
	{ "churn", 1, NULL, OPT_CHURN },	{ "frames", 1, NULL, OPT_FRAMES },
	{ "checked", 1, NULL, OPT_CHECKED },	{ "seconds", 1, NULL, OPT_SECONDS },
	{ "timeout", 1, NULL, OPT_TIMEOUT },	{ "ready", 1, NULL, OPT_READY },
	{ "help", 0, NULL, OPT_HELP },		{ NULL, 0, NULL, 0 },
};

static void check_ends(void)
{
	struct end *a = &opt.end[0], *b = &opt.end[1];

	if (a->kind == SINK && b->kind == SINK)
		usage_error("one of the ends must be a device", "");
	for (struct end *end = a; end <= b; end++) {
		if (end->kind == SINK || end->peer->kind == SINK)
			continue;
		if (is_ethernet(end) != is_ethernet(end->peer))
			usage_error("tun carries IP, the other end Ethernet: "
				    "nothing would fit", "");
		if (end->tso && !end->peer->vnet_hdr)
			usage_error("tso needs vnet_hdr at the other end: --",
				    end->peer->label);
	}
	if (ask.churn_ms && a->queues < 2 && b->queues < 2)
		usage_error("--churn needs an end with queues=2 or more", "");
	if (ask.checked && a->kind != SINK && b->kind != SINK)
		usage_error("--checked needs a sink", "");
}

static void parse(int argc, char **argv)
{
	char *spec[2] = { NULL, NULL };
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case OPT_A: spec[0] = optarg; break;
		case OPT_B: spec[1] = optarg; break;
		case OPT_ACPU: cpu_list(&ask.end[0], optarg); break;
		case OPT_BCPU: cpu_list(&ask.end[1], optarg); break;
		case OPT_VCPU: cpu_list(&ask.vhost, optarg); break;
		case OPT_HOW:
			if (strcmp(optarg, "read") && strcmp(optarg, "readv"))
				usage_error("no such way to read: ", optarg);
			opt.scattered = !strcmp(optarg, "readv");
			break;
		case OPT_BLOCKING: opt.blocking = true; break;
		case OPT_STALL: ask.stall = true; break;
		case OPT_CHURN:
			ask.churn_ms = number(optarg);
			if (ask.churn_ms < 1)
				usage_error("not a time: ", optarg);
			break;
		case OPT_FRAMES: ask.frames = number(optarg); break;
		case OPT_CHECKED: ask.checked = number(optarg); break;
		case OPT_SECONDS: ask.seconds = number(optarg); break;
		case OPT_TIMEOUT: ask.timeout = number(optarg); break;
		case OPT_READY: ask.ready = optarg; break;
		case OPT_HELP: usage(stdout); exit(0);
		default: exit(2);
		}
	}
	if (optind != argc || !spec[0] || !spec[1] || ask.timeout < 1)
		usage_error("--a, --b or a positive --timeout is missing, "
			    "or a stray word is there; see --help", "");
	for (int e = 0; e < 2; e++) {
		opt.end[e].peer = &opt.end[!e];
		if (parse_spec(&opt.end[e], spec[e]))
			exit(2);
		for (int i = 0; i < MAX_QUEUES; i++) {
			opt.end[e].queue[i].end = &opt.end[e];
			opt.end[e].queue[i].index = i;
			opt.end[e].queue[i].fd = -1;
		}
	}
	check_ends();
}

/* --- report --- */

/* What a full or leaving queue says is no fault. */
static bool is_expected(int err)
{
	return err == ENOBUFS || err == EAGAIN || (err == EBUSY && ask.churn_ms);
}

static uint64_t report_errors(const char *name, _Atomic uint64_t *errors)
{
	uint64_t unexpected = 0;
	const char *comma = "";

	printf("\"%s\": {", name);
	for (int i = 0; i < MAX_ERRNO; i++) {
		if (!errors[i])
			continue;
		if (!is_expected(i))
			unexpected += errors[i];
		printf("%s\"%s\": %llu", comma, i ? strerrorname_np(i) : "other",
		       (unsigned long long)errors[i]);
		comma = ", ";
	}
	printf("}, ");
	return unexpected;
}

/* Returns whether errors were seen that should not be. */
static bool report_end(struct end *end)
{
	uint64_t fr = 0, br = 0, fw = 0, bw = 0, unexpected;

#define N(value) (unsigned long long)(value)
	printf("\"%s\": {\"kind\": \"%s\", ", end->label, kind_names[end->kind]);
	if (end->kind == SINK) {
		sink_report();
		printf("}, ");
		return false;
	}
	for (int i = 0; i < end->queues; i++) {
		fr += end->queue[i].frames_read;
		br += end->queue[i].bytes_read;
		fw += end->queue[i].frames_written;
		bw += end->queue[i].bytes_written;
	}
	printf("\"name\": \"%s\", \"frames_read\": %llu, \"bytes_read\": %llu, "
	       "\"frames_written\": %llu, \"bytes_written\": %llu, ",
	       end->name, N(fr), N(br), N(fw), N(bw));
	unexpected = report_errors("read_errors", end->read_errors);
	unexpected += report_errors("write_errors", end->write_errors);
	printf("\"gone\": %d, \"queues\": [", end->gone);
	for (int i = 0; i < end->queues; i++) {
		struct queue *q = &end->queue[i];

		printf("%s{\"read\": %llu, \"written\": %llu", i ? ", " : "",
		       N(q->frames_read), N(q->frames_written));
		if (end->kind == VHOST)
			printf(", \"worker\": %d", q->worker);
		printf("}");
	}
	printf("]}, ");
#undef N
	return unexpected;
}

/* --- from here to there --- */

static int bring_up(void)
{
	int next = 0;

	for (int e = 0; e < 2; e++) {
		struct end *end = &opt.end[e];

		if (end->kind == SINK)
			continue;
		end->ops = end->kind == VHOST ? &vhost_ops : &chardev_ops;
		if (end->kind == VHOST ? vhost_open(end) : chardev_open(end))
			return -1;
		if (end->kind == VHOST && ask.vhost.count &&
		    vhost_pin(end, ask.vhost.cpu, ask.vhost.count, &next))
			return -1;
	}
	stalled = ask.stall;
	for (int e = 0; e < 2; e++)
		if (start(&opt.end[e], &ask.end[e]))
			return -1;
	return 0;
}

static void say_ready(void)
{
	int fd;

	if (!ask.ready) {
		fprintf(stderr, "ready\n");
		return;
	}
	fd = open(ask.ready, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, "ready\n", 6) != 6)
		failed("%s: %s", ask.ready, strerror(errno));
	close(fd);
}

/* Wait for the end; returns what it was. */
static const char *supervise(int signals, double limit, double seconds_limit)
{
	struct pollfd pfd[2] = {
		{ .fd = signals, .events = POLLIN },
		{ .fd = enough_fd, .events = POLLIN },
	};
	struct signalfd_siginfo info;
	uint64_t count;
	double left;

	for (;;) {
		left = limit < seconds_limit ? limit : seconds_limit;
		left -= now();
		if (left <= 0)
			return limit < seconds_limit ? "timeout" : "seconds";
		poll(pfd, 2, left < 1000 ? left * 1000 + 1 : 1000000);
		if (pfd[0].revents && read(signals, &info, sizeof(info)) > 0) {
			if (info.ssi_signo != SIGUSR1)
				return "signal";
			stalled = 0;
			calm = 1;
			for (int e = 0; e < 2; e++)
				for (int i = 0; i < opt.end[e].queues; i++)
					if (opt.end[e].queue[i].running)
						pthread_kill(opt.end[e].queue[i].thread,
							     SIGUSR2);
		}
		if (!pfd[1].revents || read(enough_fd, &count, sizeof(count)) < 0)
			continue;
		if (ask.frames && total >= ask.frames)
			return "frames";
		if (ask.checked && sink_checked() >= ask.checked)
			return "checked";
		if (!running)
			return "gone";
	}
}

static void on_nudge(int sig)
{
	(void)sig;
}

int main(int argc, char **argv)
{
	struct sigaction nudge = { .sa_handler = on_nudge };
	double begun = now(), started, limit;
	const char *ended = "error";
	bool wrong = false;
	pthread_t churner;
	sigset_t set;
	int signals;

	parse(argc, argv);
	/* Signals wait for the main thread; this one interrupts the others. */
	sigaction(SIGUSR2, &nudge, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	enough_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	/* Should even bringing up or taking down get stuck. */
	alarm(ask.timeout + 10);
	limit = begun + ask.timeout;

	started = now();
	if (!bring_up()) {
		bool churning = false;

		if (ask.churn_ms) {
			int err = pthread_create(&churner, NULL, churn, NULL);

			churning = !err;
			if (err)
				failed("thread: %s", strerror(err));
		}
		say_ready();
		started = now();
		ended = supervise(signals, limit,
				  ask.seconds ? started + ask.seconds : limit + 1e9);
		stopping = 1;
		if (churning) {
			pthread_kill(churner, SIGUSR2);
			pthread_join(churner, NULL);
		}
	}
	stopping = 1;
	stop(&opt.end[0]);
	stop(&opt.end[1]);

	printf("{");
	wrong |= report_end(&opt.end[0]);
	wrong |= report_end(&opt.end[1]);
	printf("\"churns\": %d, \"ended\": \"%s\", \"error\": \"%s\", "
	       "\"seconds\": %.6f}\n", churns, ended, error, now() - started);
	if (!strcmp(ended, "timeout"))
		return 3;
	return wrong || error[0] || sink_bad();
}
