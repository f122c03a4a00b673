// SPDX-License-Identifier: GPL-2.0-only
/*
 * wire: frames that end here. A UDP payload that starts with
 *
 *	u32 0x736b6268 ("skbh"), u32 flow, u64 seq
 *
 * (in the byte order that the magic number tells) goes on with
 * (flow * 131 + seq * 17 + offset) & 0xff from offset 16 to its end, and is
 * checked. So is one of pktgen, as flow 0: u32 0xbe9be955, u32 seq, 8 bytes of
 * time, and zeros. Any other frame is counted and forgotten.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <stdio.h>
#include <string.h>

#include "wire.h"

#define MAGIC		0x736b6268u
#define PKTGEN_MAGIC	0xbe9be955u
#define PATTERN_HEADER	16
#define MAX_FLOWS	4096

static struct {
	pthread_mutex_t lock;
	uint64_t checked, bad, other, no_room;
	struct flow {
		uint32_t id;
		uint64_t received, bytes, first, highest;
		uint64_t reordered, repeated, corrupt;
	} flow[MAX_FLOWS];
} sink = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* Bytes that count up: the pattern of every flow is in it somewhere. */
static uint8_t counting[256 + 65536];
static const uint8_t zeros[65536];
static pthread_once_t counting_once = PTHREAD_ONCE_INIT;

static void count_up(void)
{
	for (size_t i = 0; i < sizeof(counting); i++)
		counting[i] = i;
}

static uint16_t get16(const uint8_t *p)
{
	return p[0] << 8 | p[1];
}

/* Find the UDP payload; returns NULL if this is something else. */
static const uint8_t *udp_payload(const struct frame *f, bool ethernet,
				  size_t *len, bool *truncated)
{
	const uint8_t *p = f->data, *end = p + f->len;
	size_t datagram;

	if (ethernet) {
		if (end - p < 14)
			return NULL;
		switch (get16(p + 12)) {
		case 0x0800:
		case 0x86dd:
			break;
		default:
			return NULL;
		}
		p += 14;
	}
	if (end - p < 20)
		return NULL;
	switch (p[0] >> 4) {
	case 4:
		/* Neither a fragment nor anything but UDP. */
		if (p[9] != 17 || (get16(p + 6) & 0x3fff))
			return NULL;
		p += (p[0] & 15) * 4;
		break;
	case 6:
		if (end - p < 40 || p[6] != 17)
			return NULL;
		p += 40;
		break;
	default:
		return NULL;
	}
	if (end - p < 8)
		return NULL;
	datagram = get16(p + 4);
	if (datagram < 8)
		return NULL;
	p += 8;
	*len = datagram - 8;
	*truncated = (size_t)(end - p) < *len;
	if (*truncated)
		*len = end - p;
	return p;
}

/* A place of its own for each flow, at its number if nobody else is there. */
static struct flow *find_flow(uint32_t id)
{
	struct flow *flow;

	for (uint32_t i = 0; i < MAX_FLOWS; i++) {
		flow = &sink.flow[(id + i) % MAX_FLOWS];
		if (!flow->received)
			flow->id = id;
		if (flow->id == id)
			return flow;
	}
	return NULL;
}

void sink_frame(struct queue *from, const struct frame *f)
{
	const uint8_t *payload, *pattern;
	uint32_t magic = 0, id = 0;
	bool truncated, wrong;
	struct flow *flow;
	uint64_t seq = 0;
	size_t len = 0;

	pthread_once(&counting_once, count_up);
	payload = udp_payload(f, is_ethernet(from->end), &len, &truncated);
	if (payload && len >= PATTERN_HEADER) {
		memcpy(&magic, payload, 4);
		memcpy(&id, payload + 4, 4);
		memcpy(&seq, payload + 8, 8);
	}
	if (magic == htobe32(MAGIC)) {
		id = be32toh(id);
		seq = be64toh(seq);
	} else if (magic == htole32(MAGIC)) {
		id = le32toh(id);
		seq = le64toh(seq);
	} else if (magic == htobe32(PKTGEN_MAGIC)) {
		seq = be32toh(id);
		id = 0;
	} else {
		pthread_mutex_lock(&sink.lock);
		sink.other++;
		pthread_mutex_unlock(&sink.lock);
		return;
	}
	pattern = counting + (uint8_t)(id * 131 + seq * 17 + PATTERN_HEADER);
	if (magic == htobe32(PKTGEN_MAGIC))
		pattern = zeros;
	wrong = truncated ||
		memcmp(payload + PATTERN_HEADER, pattern, len - PATTERN_HEADER);

	pthread_mutex_lock(&sink.lock);
	sink.checked++;
	sink.bad += wrong;
	flow = find_flow(id);
	if (flow) {
		flow->corrupt += wrong;
		flow->bytes += len;
		if (flow->received++) {
			flow->reordered += seq < flow->highest;
			flow->repeated += seq == flow->highest;
		} else {
			flow->first = seq;
		}
		if (seq > flow->highest)
			flow->highest = seq;
	} else {
		sink.no_room++;
	}
	pthread_mutex_unlock(&sink.lock);
}

uint64_t sink_checked(void)
{
	uint64_t n;

	pthread_mutex_lock(&sink.lock);
	n = sink.checked;
	pthread_mutex_unlock(&sink.lock);
	return n;
}

uint64_t sink_bad(void)
{
	return sink.bad;
}

void sink_report(void)
{
#define N(value) (unsigned long long)(value)
	const char *comma = "";

	printf("\"checked\": %llu, \"bad\": %llu, \"other\": %llu, "
	       "\"uncounted\": %llu, \"flows\": {",
	       N(sink.checked), N(sink.bad), N(sink.other), N(sink.no_room));
	for (int i = 0; i < MAX_FLOWS; i++) {
		struct flow *flow = &sink.flow[i];

		if (!flow->received)
			continue;
		printf("%s\"%u\": {\"received\": %llu, \"bytes\": %llu, "
		       "\"first\": %llu, \"highest\": %llu, \"reordered\": %llu, "
		       "\"repeated\": %llu, \"corrupt\": %llu}",
		       comma, flow->id, N(flow->received), N(flow->bytes),
		       N(flow->first), N(flow->highest), N(flow->reordered),
		       N(flow->repeated), N(flow->corrupt));
		comma = ", ";
	}
	printf("}");
#undef N
}
