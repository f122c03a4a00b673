// SPDX-License-Identifier: GPL-2.0-only
/*
 * load: readings of files, of trace events counted by perf, and of what this
 * program itself has sent and received.
 *
 * A file is PATH, or tx:PATH or rx:PATH as somebody in that namespace sees it.
 * An event is GROUP/NAME or GROUP/NAME:FILTER, counted on every CPU; nothing
 * is recorded, so that nothing can be lost.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../../../tests/guest/mark/mark.h"
#include "load.h"

#define MAX_FILES	128
#define MAX_EVENTS	48
#define MAX_LOOKS	256
#define ROOM		(24 << 10)

static struct file {
	const char *name, *path;
	int fd;
	char *text[MAX_LOOKS];
} files[MAX_FILES];
static int n_files;

static struct event {
	const char *name;
	char *filter;
	int fd[MAX_CPUS];
	uint64_t before[MAX_CPUS], after[MAX_CPUS];
} events[MAX_EVENTS];
static int n_events, cpus;

static struct reading {
	uint64_t ns, sent, sent_bytes, received, received_bytes;
} readings[MAX_LOOKS];
static int looks;

static const char *begin_command, *end_command;

void meter_file(const char *name)
{
	if (n_files == MAX_FILES)
		die("too many files");
	files[n_files].name = name;
	files[n_files].path = name;
	if (!strncmp(name, "tx:", 3) || !strncmp(name, "rx:", 3))
		files[n_files].path += 3;
	n_files++;
}

void meter_event(const char *name)
{
	if (n_events == MAX_EVENTS)
		die("too many events");
	events[n_events++].name = name;
}

void meter_begin_command(const char *text)
{
	begin_command = text;
}

void meter_end_command(const char *text)
{
	end_command = text;
}

/* A file of /proc/net belongs to the namespace of whoever opens it. */
static void *open_files(void *arg)
{
	const char *side = arg;

	enter(!strcmp(side, "tx:") ? opt.tx_netns :
	      !strcmp(side, "rx:") ? opt.rx_netns : NULL);
	for (int i = 0; i < n_files; i++) {
		struct file *f = &files[i];
		bool mine = *side ? !strncmp(f->name, side, 3) : f->path == f->name;

		if (!mine)
			continue;
		f->fd = open(f->path, O_RDONLY | O_CLOEXEC);
		if (f->fd < 0)
			die("%s: %s", f->name, strerror(errno));
	}
	return NULL;
}

static void open_event(struct event *e)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_TRACEPOINT, .size = sizeof(attr),
	};
	char path[256], name[128];
	char *colon;
	FILE *file;
	int id;

	snprintf(name, sizeof(name), "%s", e->name);
	colon = strchr(name, ':');
	if (colon) {
		*colon = 0;
		e->filter = strdup(colon + 1);
	}
	snprintf(path, sizeof(path), "/sys/kernel/tracing/events/%s/id", name);
	file = fopen(path, "re");
	if (!file || fscanf(file, "%d", &id) != 1)
		die("no such event: %s", name);
	fclose(file);
	attr.config = id;
	for (int cpu = 0; cpu < cpus; cpu++) {
		e->fd[cpu] = syscall(SYS_perf_event_open, &attr, -1, cpu, -1,
				     PERF_FLAG_FD_CLOEXEC);
		if (e->fd[cpu] < 0)
			die("counting %s: %s", name, strerror(errno));
		if (e->filter && ioctl(e->fd[cpu], PERF_EVENT_IOC_SET_FILTER, e->filter))
			die("filter %s: %s", e->name, strerror(errno));
	}
}

void meter_open(void)
{
	static const char *const sides[] = { "", "tx:", "rx:" };

	for (int i = 0; i < 3; i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, open_files, (void *)sides[i]))
			die("no thread");
		pthread_join(thread, NULL);
	}
	cpus = sysconf(_SC_NPROCESSORS_ONLN);
	if (cpus > MAX_CPUS)
		cpus = MAX_CPUS;
	for (int i = 0; i < n_events; i++)
		open_event(&events[i]);
}

static void read_events(bool after)
{
	for (int i = 0; i < n_events; i++)
		for (int cpu = 0; cpu < cpus; cpu++) {
			uint64_t count = 0;

			if (read(events[i].fd[cpu], &count, sizeof(count)) != sizeof(count))
				die("reading %s", events[i].name);
			if (after)
				events[i].after[cpu] = count;
			else
				events[i].before[cpu] = count;
		}
}

void meter_look(void)
{
	struct reading *r = &readings[looks];
	static char text[ROOM];

	if (looks == MAX_LOOKS)
		die("too many looks");
	r->ns = now_ns();
	r->sent = tx_side.packets;
	r->sent_bytes = tx_side.bytes;
	r->received = rx_side.packets;
	r->received_bytes = rx_side.bytes;
	for (int i = 0; i < n_files; i++) {
		size_t have = 0;
		ssize_t n;

		/* Some of these files end a read wherever a line of them ends. */
		while (have < sizeof(text) - 1 &&
		       (n = pread(files[i].fd, text + have, sizeof(text) - 1 - have,
				  have)) > 0)
			have += n;
		text[have] = 0;
		files[i].text[looks] = strdup(text);
	}
	looks++;
}

static void run(const char *command)
{
	if (command && system(command))
		die("failed: %s", command);
}

void meter_begin(void)
{
	run(begin_command);
	meter_look();
	read_events(false);
	mark_start();
}

void meter_end(void)
{
	mark_stop();
	/* In the order of the beginning: so every interval has the same length. */
	meter_look();
	read_events(true);
}

void meter_close(void)
{
	run(end_command);
}

static void quote(FILE *to, const char *c)
{
	putc('"', to);
	for (; *c; c++) {
		if (*c == '\n')
			fputs("\\n", to);
		else if (*c == '\t')
			fputs("\\t", to);
		else if (*c == '"' || *c == '\\')
			fprintf(to, "\\%c", *c);
		else if (*c >= ' ')
			putc(*c, to);
	}
	putc('"', to);
}

void meter_report(FILE *to)
{
	fprintf(to, "\"looks\": [");
	for (int i = 0; i < looks; i++) {
		const struct reading *r = &readings[i];

#define N(value) (unsigned long long)(value)
		fprintf(to, "%s{\"at\": %.6f, \"sent\": %llu, \"sent_bytes\": %llu, "
			"\"received\": %llu, \"received_bytes\": %llu}", i ? ", " : "",
			(r->ns - readings[0].ns) / 1e9, N(r->sent), N(r->sent_bytes),
			N(r->received), N(r->received_bytes));
	}
	fprintf(to, "], \"files\": {");
	for (int i = 0; i < n_files; i++) {
		fprintf(to, "%s", i ? ", " : "");
		quote(to, files[i].name);
		fprintf(to, ": [");
		for (int look = 0; look < looks; look++) {
			fprintf(to, "%s", look ? ", " : "");
			quote(to, files[i].text[look]);
		}
		fprintf(to, "]");
	}
	fprintf(to, "}, \"events\": {");
	for (int i = 0; i < n_events; i++) {
		fprintf(to, "%s", i ? ", " : "");
		quote(to, events[i].name);
		fprintf(to, ": [");
		for (int cpu = 0; cpu < cpus; cpu++)
			fprintf(to, "%s%llu", cpu ? ", " : "",
				N(events[i].after[cpu] - events[i].before[cpu]));
		fprintf(to, "]");
	}
#undef N
	fprintf(to, "}, ");
}
