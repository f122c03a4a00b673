/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A coherence directory: which CPUs hold a line of memory, and whether one of
 * them has changed it. MSI with caches of no limit: a line leaves a cache only
 * because another CPU writes it.
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

/*
 * @state: holders in the lower half; above them MODIFIED, and who wrote last,
 * which stays when others read. @writer: for the user, what wrote it last.
 */
struct line {
	_Atomic uint64_t state;
	_Atomic uint32_t writer;
};

#define HOLDERS		0xffffffffull
#define MODIFIED	(1ull << 32)
#define OWNER_SHIFT	33

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

/*
 * A read is remote if the copy comes from another node: that of the CPU that
 * has changed it, or else of any holder, one in the reader's node preferred.
 */
static inline enum outcome line_read(struct line *line, unsigned int cpu,
				     const struct topology *topology)
{
	uint64_t old = atomic_load_explicit(&line->state, memory_order_relaxed);
	const uint64_t me = 1ull << cpu;
	uint64_t holders;

	do {
		holders = old & HOLDERS;
		if (holders & me)
			return HIT;
	} while (!atomic_compare_exchange_weak_explicit(&line->state, &old,
			(old | me) & ~MODIFIED,
			memory_order_relaxed, memory_order_relaxed));
	if (!holders)
		return COLD;
	if (old & MODIFIED)
		holders &= 1ull << (old >> OWNER_SHIFT);
	return holders & topology->node_of[cpu] ? READ_LOCAL : READ_REMOTE;
}

/* A write is remote if there is a copy in another node that has to go. */
static inline enum outcome line_write(struct line *line, unsigned int cpu,
				      const struct topology *topology)
{
	uint64_t old = atomic_load_explicit(&line->state, memory_order_relaxed);
	const uint64_t me = 1ull << cpu;
	const uint64_t mine = (uint64_t)cpu << OWNER_SHIFT | MODIFIED | me;
	uint64_t others;
	bool remote;

	do {
		if (old == mine)
			return HIT;
	} while (!atomic_compare_exchange_weak_explicit(&line->state, &old, mine,
			memory_order_relaxed, memory_order_relaxed));
	others = old & HOLDERS & ~me;
	if (!others)
		return old & me ? HIT : COLD;
	remote = others & ~(uint64_t)topology->node_of[cpu];
	if (old & me)
		return remote ? UPGRADE_REMOTE : UPGRADE_LOCAL;
	return remote ? WRITE_REMOTE : WRITE_LOCAL;
}

#endif
