/* SPDX-License-Identifier: GPL-2.0-only */
/* Marks for the plugin of harness/coherence; without it they do nothing. */
#ifndef MARK_H
#define MARK_H

#include <sched.h>

#include "../../../harness/coherence/marks.h"

#define MARK(number) \
	__asm__ volatile(".byte 0x0f, 0x1f, 0x84, 0x00; .long %c0" : : "i"(number) : "memory")

/* In functions of their own: what a mark changes holds from the next block of code on. */
static __attribute__((noinline, unused)) void mark_start(void)
{
	MARK(MARK_START);
}

static __attribute__((noinline, unused)) void mark_stop(void)
{
	MARK(MARK_STOP);
}

static __attribute__((noinline, unused)) void mark_follow(void)
{
	MARK(MARK_FOLLOW);
	sched_yield();
}

static __attribute__((noinline, unused)) void mark_leave(void)
{
	MARK(MARK_LEAVE);
	sched_yield();
}

#endif
