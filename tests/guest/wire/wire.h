/* SPDX-License-Identifier: GPL-2.0-only */
/* wire - what its parts know of each other; wire.c says what it is for. */
#ifndef WIRE_H
#define WIRE_H

#include <linux/virtio_net.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MAX_QUEUES	16
#define MAX_ERRNO	256

/* A frame of the greatest size, and in front of it room for a vnet header. */
#define HEADROOM	16
#define MAX_FRAME	(65536 + 64)
#define BUF_SIZE	(HEADROOM + MAX_FRAME)

enum kind { TUN, TAP, MACVTAP, IPVTAP, VHOST, SINK };

struct end;
struct vhost;

/*
 * @data has HEADROOM writable bytes before it: whoever sends the frame puts
 * the header there that its own device wants.
 */
struct frame {
	uint8_t *data;
	size_t len;
	struct virtio_net_hdr vnet;
	unsigned int id;		/* the ring's name for it */
};

struct queue {
	struct end *end;
	int index;
	int fd;				/* of the character device */
	struct vhost *vhost;
	pid_t worker;			/* vhost's thread for this queue */
	uint8_t *buf;			/* BUF_SIZE bytes, to read into */
	pthread_t thread;
	bool running;
	_Atomic uint64_t frames_read, bytes_read;
	_Atomic uint64_t frames_written, bytes_written;
};

/* How frames get in and out. Functions return 0 or a negative errno. */
struct ops {
	/* -EAGAIN: nothing there, wait() */
	int (*recv)(struct queue *q, struct frame *f);
	/* the frame that recv() returned is no longer needed */
	void (*release)(struct queue *q, struct frame *f);
	int (*wait)(struct queue *q);
	int (*send)(struct queue *q, struct frame *f);
};

struct end {
	const char *label;		/* "a" or "b" */
	enum kind kind;
	const struct ops *ops;
	struct end *peer;

	/* as it was asked for */
	char *name, *netns;
	char *addr4, *addr6, *mac;
	int queues, mtu, txqlen;
	bool vnet_hdr, napi, frags, tso, move;
	enum kind backend;		/* of vhost: TAP or MACVTAP */

	size_t hdrlen;			/* vnet header of its device, 0: none */
	struct queue queue[MAX_QUEUES];
	_Atomic uint64_t read_errors[MAX_ERRNO], write_errors[MAX_ERRNO];
	_Atomic int gone;		/* queues whose device went away */
};

extern struct options {
	struct end end[2];
	bool blocking, scattered;	/* blocking read, readv */
} opt;

extern _Atomic int stopping;

/* wire.c */
void failed(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
double now(void);
void pause_ms(int ms);
bool is_ethernet(const struct end *end);

/* spec.c */
extern const char *const kind_names[];
extern const char spec_help[];
int parse_spec(struct end *end, char *spec);

/* chardev.c */
extern const struct ops chardev_ops;
int chardev_open(struct end *end);
int chardev_attach(struct queue *q, bool attach);
int chardev_send(struct queue *q, struct frame *f);
int wait_readable(int fd);

/* vhost.c */
extern const struct ops vhost_ops;
int vhost_open(struct end *end);
int vhost_pin(struct end *end, const int *cpus, int count, int *next);

/* sink.c */
void sink_frame(struct queue *from, const struct frame *f);
uint64_t sink_checked(void);
uint64_t sink_bad(void);
void sink_report(void);

#endif
