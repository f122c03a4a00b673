// SPDX-License-Identifier: GPL-2.0-only
/*
 * Drive harness/coherence/directory.h: each line of standard input is
 *
 *   r CPU LINE		a read; prints its outcome
 *   w CPU LINE		a write
 *   nodes MASK...	the CPUs of each CPU's NUMA node
 *   race LINES		two threads, CPUs 0 and 1, read so many lines that
 *			CPU 2 has written, each of them at the same time;
 *			prints the transfers of either, and of how many lines
 *			the directory then knows all three holders
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "directory.h"

static const char *const names[OUTCOMES] = {
	"hit", "cold", "read_local", "read_remote", "write_local", "write_remote",
	"upgrade_local", "upgrade_remote",
};

static struct line lines[16];
static struct topology topology;
static struct line *raced;
static unsigned long count, transfers[2];
static _Atomic unsigned long reached[2];

static void *reader(void *arg)
{
	unsigned int me = (unsigned long *)arg - transfers;

	for (unsigned long i = 0; i < count; i++) {
		atomic_store(&reached[me], i + 1);
		for (int spin = 1; atomic_load(&reached[!me]) <= i; spin++)
			if (spin % 1000 == 0)
				sched_yield();
		transfers[me] += is_transfer(line_read(&raced[i], me, &topology));
	}
	return NULL;
}

static void race(void)
{
	unsigned long known = 0;
	pthread_t threads[2];

	raced = calloc(count, sizeof(*raced));
	if (!raced)
		exit(2);
	for (unsigned long i = 0; i < count; i++)
		line_write(&raced[i], 2, &topology);
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, reader, &transfers[i]);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	for (unsigned long i = 0; i < count; i++)
		known += raced[i].holders == 7;
	printf("%lu %lu %lu\n", transfers[0], transfers[1], known);
	free(raced);
}

int main(void)
{
	char text[1024];

	for (int i = 0; i < MAX_VCPUS; i++)
		topology.node_of[i] = ~0u;
	while (fgets(text, sizeof(text), stdin)) {
		unsigned int cpu, line;
		char what, *at;

		if (sscanf(text, "race %lu", &count) == 1) {
			race();
		} else if (!strncmp(text, "nodes ", 6)) {
			at = text + 6;
			for (int i = 0; i < MAX_VCPUS && *at != '\n'; i++)
				topology.node_of[i] = strtoul(at, &at, 16);
		} else if (sscanf(text, "%c %u %u", &what, &cpu, &line) == 3) {
			puts(names[(what == 'w' ? line_write : line_read)(&lines[line], cpu,
									  &topology)]);
		} else {
			return 2;
		}
	}
	return 0;
}
