// SPDX-License-Identifier: GPL-2.0-only
/*
 * lineturns ROUNDS ACCESS... - access lines of memory on one CPU after another.
 *
 * An access is CPU:WHAT:LINE. WHAT is us or ul, a store or a load of this
 * program's own; ks or kl, of the kernel's (getcpu() into the line, and
 * futex() on a value that is not there); or kn, a system call that does not
 * exist. It is one thread that goes from CPU to CPU, so the accesses come in
 * order, and nothing else knows the lines. All of it is done once before it
 * is counted (mark.h), ROUNDS times. Prints the address of line 0.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../mark/mark.h"

#define LINE		64
#define LINES		32
#define MAX_ACCESSES	64
#define NO_SYSCALL	400		/* in the table, and used by no 64-bit program */

struct access {
	int cpu, line;
	char mode, what;
};

static struct access accesses[MAX_ACCESSES];
static int count;
static unsigned char *lines;

static void go_to(int cpu)
{
	static int now = -1;
	cpu_set_t set;

	if (cpu == now)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set)) {
		perror("sched_setaffinity");
		exit(1);
	}
	now = cpu;
}

static void carry_out(const struct access *access)
{
	volatile uint32_t *at = (void *)(lines + access->line * LINE);

	go_to(access->cpu);
	if (access->mode == 'u' && access->what == 's')
		*at = access->cpu;
	else if (access->mode == 'u')
		(void)*at;
	else if (access->what == 's')
		syscall(SYS_getcpu, at, NULL, NULL);
	else if (access->what == 'l')
		syscall(SYS_futex, at, FUTEX_WAIT_PRIVATE, 0xffffffff, NULL, NULL, 0);
	else
		syscall(NO_SYSCALL);
}

static void one_round(void)
{
	for (int i = 0; i < count; i++)
		carry_out(&accesses[i]);
}

int main(int argc, char **argv)
{
	int rounds;

	if (argc < 3 || argc - 2 > MAX_ACCESSES) {
		fprintf(stderr, "lineturns ROUNDS CPU:WHAT:LINE...\n");
		return 2;
	}
	rounds = atoi(argv[1]);
	for (int i = 2; i < argc; i++) {
		struct access *access = &accesses[count++];

		if (sscanf(argv[i], "%d:%c%c:%d", &access->cpu, &access->mode, &access->what,
			   &access->line) != 4 ||
		    !strchr("uk", access->mode) || !strchr("sln", access->what) ||
		    access->line < 0 || access->line >= LINES) {
			fprintf(stderr, "not an access: %s\n", argv[i]);
			return 2;
		}
	}
	lines = mmap(NULL, LINES * LINE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (lines == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	one_round();
	mark_start();
	for (int i = 0; i < rounds; i++)
		one_round();
	mark_stop();
	printf("%p\n", (void *)lines);
	return 0;
}
