// SPDX-License-Identifier: GPL-2.0-only
/*
 * Drive harness/coherence/directory.h: each line of standard input is
 *
 *   r CPU LINE		a read; prints its outcome
 *   w CPU LINE		a write
 *   nodes MASK...	the CPUs of each CPU's NUMA node
 *   race TIMES		two threads, CPUs 0 and 1, write line 0 so many times
 *			at once; prints the transfers that either counted
 */
#include <pthread.h>
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
static unsigned long times, transfers[2];
static pthread_barrier_t barrier;

static void *writer(void *arg)
{
	unsigned long *mine = arg;

	pthread_barrier_wait(&barrier);
	for (unsigned long i = 0; i < times; i++)
		*mine += is_transfer(line_write(&lines[0], mine - transfers, &topology));
	return NULL;
}

static void race(void)
{
	pthread_t threads[2];

	memset(lines, 0, sizeof(lines));
	line_write(&lines[0], 0, &topology);
	transfers[0] = transfers[1] = 0;
	pthread_barrier_init(&barrier, NULL, 2);
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, writer, &transfers[i]);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	printf("%lu %lu\n", transfers[0], transfers[1]);
}

int main(void)
{
	char text[1024];

	for (int i = 0; i < MAX_VCPUS; i++)
		topology.node_of[i] = ~0u;
	while (fgets(text, sizeof(text), stdin)) {
		unsigned int cpu, line;
		char what, *at;

		if (sscanf(text, "race %lu", &times) == 1) {
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
