// SPDX-License-Identifier: GPL-2.0-only
/*
 * ringdump TRACEFS EVENT... - print what the trace buffers hold, raw.
 *
 * One program in place of a handful per CPU: starting one is what takes time
 * in an emulated guest. Sections, each under a line "==> TITLE <==": "format
 * EVENT", "stats N" and "cpu N" (pages of trace_pipe_raw in base64) for each
 * CPU, and "missed" (kprobe_profile). Tracing must be off.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char path[512];

static int open_section(const char *title, int number, const char *name)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return -1;
	if (name)
		printf("\n==> %s %s <==\n", title, name);
	else if (number >= 0)
		printf("\n==> %s %d <==\n", title, number);
	else
		printf("\n==> %s <==\n", title);
	return fd;
}

static void copy(int fd)
{
	char buf[4096];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		fwrite(buf, 1, n, stdout);
	close(fd);
}

static void encode(const uint8_t *in, size_t len)
{
	static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
				  "abcdefghijklmnopqrstuvwxyz0123456789+/";
	char out[4];

	for (size_t i = 0; i < len; i += 3) {
		size_t left = len - i;
		uint32_t v = in[i] << 16 | (left > 1 ? in[i + 1] << 8 : 0) |
			     (left > 2 ? in[i + 2] : 0);

		out[0] = set[v >> 18];
		out[1] = set[v >> 12 & 63];
		out[2] = left > 1 ? set[v >> 6 & 63] : '=';
		out[3] = left > 2 ? set[v & 63] : '=';
		fwrite(out, 1, 4, stdout);
	}
}

/* A page comes whole, whatever it holds; three make a multiple of base64's unit. */
static void copy_pages(int fd)
{
	uint8_t pages[3 * 4096];
	size_t have = 0;
	ssize_t n;

	/* The end of the buffer is an error (EAGAIN), since it might grow. */
	while ((n = read(fd, pages + have, 4096)) > 0) {
		have += n;
		if (have == sizeof(pages)) {
			encode(pages, have);
			have = 0;
		}
	}
	encode(pages, have);
	putchar('\n');
	close(fd);
}

int main(int argc, char **argv)
{
	int fd;

	if (argc < 2) {
		fprintf(stderr, "ringdump TRACEFS EVENT...\n");
		return 2;
	}
	for (int i = 2; i < argc; i++) {
		snprintf(path, sizeof(path), "%s/events/%s/format", argv[1], argv[i]);
		fd = open_section("format", -1, argv[i]);
		if (fd >= 0)
			copy(fd);
	}
	for (int cpu = 0; cpu < 4096; cpu++) {
		snprintf(path, sizeof(path), "%s/per_cpu/cpu%d/stats", argv[1], cpu);
		fd = open_section("stats", cpu, NULL);
		if (fd < 0)
			break;
		copy(fd);
		snprintf(path, sizeof(path), "%s/per_cpu/cpu%d/trace_pipe_raw", argv[1], cpu);
		fd = open_section("cpu", cpu, NULL);
		if (fd >= 0)
			copy_pages(fd);
	}
	snprintf(path, sizeof(path), "%s/kprobe_profile", argv[1]);
	fd = open_section("missed", -1, NULL);
	if (fd >= 0)
		copy(fd);
	return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
