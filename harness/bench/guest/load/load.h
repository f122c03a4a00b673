/* SPDX-License-Identifier: GPL-2.0-only */
/* load: what its parts share. */
#ifndef LOAD_H
#define LOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define MAX_CPUS	64
#define MAX_THREADS	64
#define MAX_LISTENERS	64

enum mode { STREAM, RR, UDP, IDLE };

struct cpus {
	int n, cpu[MAX_CPUS];
};

extern struct options {
	enum mode mode;
	const char *addr;
	int port;
	const char *tx_netns, *rx_netns;
	const char *tx_dev, *rx_dev;	/* for groups */
	struct cpus tx_cpus, rx_cpus, burn, cyclic;
	int flows, tx_threads, rx_threads, listeners;
	int size, mss, rcvbuf, sndbuf;
	bool no_receiver;
	long gap_us, burst;
	double warm, seconds, rest;
	int looks;
	int timeout;
} opt;

/* Durations in ns: 32 buckets to an octave, so within 3 % of the truth. */
#define SUB	32
#define BUCKETS	(60 * SUB)

struct histogram {
	_Atomic uint32_t bucket[BUCKETS];
	_Atomic uint64_t slowest;
};

struct side {
	_Atomic uint64_t bytes, packets, errors;
};

extern struct side tx_side, rx_side;
extern struct histogram latency, wakeup;

extern _Atomic bool stopping;		/* every thread ends */
extern _Atomic bool measuring;		/* latencies count */
extern _Atomic int ready;		/* threads that have what they need */

/* main.c */
void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
uint64_t now_ns(void);
void note(struct histogram *to, uint64_t ns);
void enter(const char *netns);
void spawn(void *(*body)(void *), int index, const struct cpus *cpus, bool fifo);
void pause_ns(uint64_t ns);

/* tcp.c */
int tcp_start(void);		/* returns how many threads will become ready */
void idle_traffic(void);

/* udp.c */
int udp_start(void);

/* meter.c */
void meter_file(const char *name);
void meter_event(const char *name);
void meter_begin_command(const char *text);
void meter_end_command(const char *text);
void meter_open(void);
void meter_look(void);		/* one reading of everything */
void meter_begin(void);
void meter_end(void);
void meter_close(void);		/* all traffic has ended */
void meter_report(FILE *to);

#endif
