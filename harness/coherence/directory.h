/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A coherence directory: which CPUs hold a line of memory, in caches of no
 * limit: a line leaves one only because another CPU writes it. (MESI: who
 * alone holds a line may write it. Whether it did makes no difference here:
 * the next one to want the line needs that copy either way.)
 *
 * What counts as a transfer is an access that cannot go on without another
 * CPU's cache:
 *
 *   read     of a line that this CPU does not hold and another one does
 *   write    of such a line (the copy comes here and is gone there)
 *   upgrade  a write of a line that this CPU and another one hold (nothing
 *            comes here, but the other copies have to go)
 *
 * Nobody's copy is needed for the first access of all to a line (cold), nor
 * for what a holder reads, or its only holder writes.
 *
 * Each function may be called by several threads at a time.
 */
#ifndef COHERENCE_DIRECTORY_H
#define COHERENCE_DIRECTORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define LINE_SHIFT	6
#define LINE_SIZE	(1u << LINE_SHIFT)
#define MAX_VCPUS	32

/* @holders: a mask of CPUs. @writer: what wrote it last, for the user of this. */
struct line {
	_Atomic uint32_t holders, writer;
};

enum outcome {
	HIT,			/* no other CPU is asked */
	COLD,			/* nor is there one that could be */
	READ_LOCAL, READ_REMOTE,
	WRITE_LOCAL, WRITE_REMOTE,
	UPGRADE_LOCAL, UPGRADE_REMOTE,
	OUTCOMES
};

static inline bool is_transfer(enum outcome outcome)
{
	return outcome >= READ_LOCAL;
}

/* @node_of: by CPU, the mask of the CPUs in its NUMA node, itself included. */
struct topology {
	uint32_t node_of[MAX_VCPUS];
};

/* A read is remote if no CPU of the reader's node has a copy. */
static inline enum outcome line_read(struct line *line, unsigned int cpu,
				     const struct topology *topology)
{
	const uint32_t me = 1u << cpu;
	uint32_t old;

	/* Most accesses are hits: those write nothing. */
	if (atomic_load_explicit(&line->holders, memory_order_relaxed) & me)
		return HIT;
	old = atomic_fetch_or_explicit(&line->holders, me, memory_order_relaxed);
	if (!old)
		return COLD;
	return old & topology->node_of[cpu] ? READ_LOCAL : READ_REMOTE;
}

/* A write is remote if there is a copy in another node, which has to go. */
static inline enum outcome line_write(struct line *line, unsigned int cpu,
				      const struct topology *topology)
{
	const uint32_t me = 1u << cpu;
	uint32_t old, others;
	bool remote;

	if (atomic_load_explicit(&line->holders, memory_order_relaxed) == me)
		return HIT;
	old = atomic_exchange_explicit(&line->holders, me, memory_order_relaxed);
	others = old & ~me;
	if (!others)
		return COLD;
	remote = others & ~topology->node_of[cpu];
	if (old & me)
		return remote ? UPGRADE_REMOTE : UPGRADE_LOCAL;
	return remote ? WRITE_REMOTE : WRITE_LOCAL;
}

#endif
