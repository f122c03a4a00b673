// SPDX-License-Identifier: GPL-2.0-only
/*
 * wire: a tap with the kernel's vhost-net at its other side, and here a
 * virtio-net driver: split rings, one descriptor for each frame with its
 * 12-byte header, VIRTIO_F_VERSION_1, nothing else negotiated.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "wire.h"

#define RING_SIZE	256
#define PAGE		4096
#define RING_BYTES	(4 * PAGE)	/* vring_size(256, 4096) is 10246 */
#define HDRLEN		sizeof(struct virtio_net_hdr_mrg_rxbuf)
#define SLOT		(17 * PAGE)	/* of one frame: HEADROOM, then it */
#define SEND_PATIENCE	10.0

_Static_assert(BUF_SIZE <= SLOT, "a frame does not fit into its slot");
_Static_assert(HDRLEN <= HEADROOM, "no room for the header");

enum { RX, TX };

struct ring {
	struct vring vring;
	uint8_t *slots;			/* descriptor i owns slots + i * SLOT */
	uint16_t avail, used;		/* how far we are in each of them */
	int kick, call;
	pthread_mutex_t lock;		/* of TX, which has many writers */
	uint16_t idle[RING_SIZE];	/* TX: descriptors that are ours */
	unsigned int idles;
};

struct vhost {
	int fd;
	struct ring ring[2];
};

/* --- rings --- */

static uint8_t *slot(struct ring *r, unsigned int id)
{
	return r->slots + (size_t)id * SLOT;
}

/* Hand descriptor @id with room for or content of @len bytes to the kernel. */
static void publish(struct ring *r, unsigned int id, uint32_t len, uint16_t flags)
{
	struct vring_desc *desc = &r->vring.desc[id];

	desc->addr = (uintptr_t)(slot(r, id) + HEADROOM - HDRLEN);
	desc->len = len;
	desc->flags = flags;
	desc->next = 0;
	r->vring.avail->ring[r->avail++ % RING_SIZE] = id;
	/* The entry is seen before the index that covers it. */
	__atomic_store_n(&r->vring.avail->idx, r->avail, __ATOMIC_RELEASE);
}

static void kick(struct ring *r)
{
	uint64_t one = 1;

	/* The index is seen before we look whether anybody wants to know. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(&r->vring.used->flags, __ATOMIC_RELAXED) &
	    VRING_USED_F_NO_NOTIFY)
		return;
	if (write(r->kick, &one, sizeof(one)) < 0 && errno != EAGAIN)
		failed("kick: %s", strerror(errno));
}

/* Take the next descriptor that the kernel is done with. */
static bool take_used(struct ring *r, struct vring_used_elem *elem)
{
	if (__atomic_load_n(&r->vring.used->idx, __ATOMIC_ACQUIRE) == r->used)
		return false;
	*elem = r->vring.used->ring[r->used++ % RING_SIZE];
	if (elem->id >= RING_SIZE) {
		failed("the kernel returned descriptor %u", elem->id);
		return false;
	}
	return true;
}

static void drain_call(struct ring *r)
{
	uint64_t count;

	if (read(r->call, &count, sizeof(count)) < 0)
		return;		/* nothing was in it */
}

/* --- frames --- */

static int vhost_recv(struct queue *q, struct frame *f)
{
	struct ring *r = &q->vhost->ring[RX];
	struct vring_used_elem elem;

	if (!take_used(r, &elem))
		return -EAGAIN;
	f->id = elem.id;
	f->data = slot(r, elem.id) + HEADROOM;
	if (elem.len < HDRLEN || elem.len > HDRLEN + MAX_FRAME) {
		publish(r, elem.id, HDRLEN + MAX_FRAME, VRING_DESC_F_WRITE);
		kick(r);
		return -EBADMSG;
	}
	f->len = elem.len - HDRLEN;
	memcpy(&f->vnet, f->data - HDRLEN, sizeof(f->vnet));
	return 0;
}

static void vhost_release(struct queue *q, struct frame *f)
{
	struct ring *r = &q->vhost->ring[RX];

	publish(r, f->id, HDRLEN + MAX_FRAME, VRING_DESC_F_WRITE);
	kick(r);
}

static int vhost_wait(struct queue *q)
{
	struct ring *r = &q->vhost->ring[RX];
	uint64_t count;
	int err;

	/* Whatever is signalled after this, take_used() has yet to look at. */
	if (opt.blocking)
		return read(r->call, &count, sizeof(count)) < 0 ? -errno : 0;
	err = wait_readable(r->call);
	if (!err)
		drain_call(r);
	return err;
}

static void reclaim(struct ring *r)
{
	struct vring_used_elem elem;

	while (r->idles < RING_SIZE && take_used(r, &elem))
		r->idle[r->idles++] = elem.id;
}

/* The ring is full: ask to be called, and wait until it is not. */
static int wait_for_idle(struct ring *r)
{
	double limit = now() + SEND_PATIENCE;
	int err = 0;

	__atomic_store_n(&r->vring.avail->flags, 0, __ATOMIC_RELAXED);
	for (;;) {
		/* The wish is seen before we look for the last time. */
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		reclaim(r);
		if (r->idles)
			break;
		if (stopping || now() > limit) {
			err = stopping ? -EAGAIN : -ETIMEDOUT;
			break;
		}
		kick(r);
		wait_readable(r->call);
		drain_call(r);
	}
	__atomic_store_n(&r->vring.avail->flags, VRING_AVAIL_F_NO_INTERRUPT,
			 __ATOMIC_RELAXED);
	return err;
}

static int vhost_send(struct queue *q, struct frame *f)
{
	struct ring *r = &q->vhost->ring[TX];
	struct virtio_net_hdr_mrg_rxbuf hdr = { .hdr = f->vnet };
	unsigned int id;
	int err = 0;

	if (f->len > MAX_FRAME)
		return -EMSGSIZE;
	pthread_mutex_lock(&r->lock);
	reclaim(r);
	if (!r->idles)
		err = wait_for_idle(r);
	if (!err) {
		id = r->idle[--r->idles];
		memcpy(slot(r, id) + HEADROOM - HDRLEN, &hdr, HDRLEN);
		memcpy(slot(r, id) + HEADROOM, f->data, f->len);
		publish(r, id, HDRLEN + f->len, 0);
		kick(r);
	}
	pthread_mutex_unlock(&r->lock);
	return err;
}

const struct ops vhost_ops = {
	.recv = vhost_recv,
	.release = vhost_release,
	.wait = vhost_wait,
	.send = vhost_send,
};

/* --- the worker, a thread of the kernel or (since 6.4) of this process --- */

static bool comm_is(const char *dir, const char *id, const char *comm)
{
	char path[300], text[32] = "";
	FILE *file;
	bool same;

	snprintf(path, sizeof(path), "%s/%s/comm", dir, id);
	file = fopen(path, "re");
	if (!file)
		return false;
	same = fgets(text, sizeof(text), file) &&
	       !strncmp(text, comm, strlen(comm)) && text[strlen(comm)] == '\n';
	fclose(file);
	return same;
}

static bool is_known(pid_t pid)
{
	for (int e = 0; e < 2; e++)
		for (int i = 0; i < opt.end[e].queues; i++)
			if (opt.end[e].queue[i].worker == pid)
				return true;
	return false;
}

static pid_t find_in(const char *dir, const char *comm)
{
	struct dirent *entry;
	pid_t found = 0;
	DIR *list;

	list = opendir(dir);
	if (!list)
		return 0;
	while (!found && (entry = readdir(list)))
		if (isdigit(entry->d_name[0]) &&
		    comm_is(dir, entry->d_name, comm) &&
		    !is_known(atoi(entry->d_name)))
			found = atoi(entry->d_name);
	closedir(list);
	return found;
}

/* All workers have the same name: the new one is that which nobody knew. */
static pid_t find_worker(void)
{
	char comm[32];
	pid_t found;

	snprintf(comm, sizeof(comm), "vhost-%d", getpid());
	/* A thread gets its name shortly after it was made. */
	for (int i = 0; i < 200; i++) {
		found = find_in("/proc/self/task", comm);
		if (!found)
			found = find_in("/proc", comm);
		if (found)
			return found;
		pause_ms(5);
	}
	return 0;
}

int vhost_pin(struct end *end, const int *cpus, int count, int *next)
{
	cpu_set_t set;

	for (int i = 0; i < end->queues; i++) {
		int cpu = cpus[(*next)++ % count];

		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		if (!end->queue[i].worker) {
			failed("vhost's thread is not to be found");
			return -1;
		}
		if (sched_setaffinity(end->queue[i].worker, sizeof(set), &set)) {
			failed("vhost's thread on CPU %d: %s", cpu, strerror(errno));
			return -1;
		}
	}
	return 0;
}

/* --- set-up --- */

static int call(struct vhost *v, unsigned long request, const void *arg,
		const char *what)
{
	if (!ioctl(v->fd, request, arg))
		return 0;
	failed("vhost-net: %s: %s", what, strerror(errno));
	return -1;
}

#define CALL(v, request, arg) call(v, request, arg, #request)

static int set_up_ring(struct queue *q, int index, uint8_t *memory)
{
	struct vhost *v = q->vhost;
	struct ring *r = &v->ring[index];
	struct vhost_vring_state num = { .index = index, .num = RING_SIZE };
	struct vhost_vring_state base = { .index = index };
	struct vhost_vring_file file = { .index = index };
	struct vhost_vring_addr addr = { .index = index };

	pthread_mutex_init(&r->lock, NULL);
	vring_init(&r->vring, RING_SIZE, memory, PAGE);
	r->slots = memory + RING_BYTES;
	/* A ring that is waited for with read() has an eventfd that waits. */
	r->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->call = eventfd(0, EFD_CLOEXEC |
			     (opt.blocking && index == RX ? 0 : EFD_NONBLOCK));
	if (r->kick < 0 || r->call < 0) {
		failed("eventfd: %s", strerror(errno));
		return -1;
	}
	for (unsigned int i = 0; i < RING_SIZE; i++) {
		if (index == RX)
			publish(r, i, HDRLEN + MAX_FRAME, VRING_DESC_F_WRITE);
		else
			r->idle[r->idles++] = RING_SIZE - 1 - i;
	}
	if (index == TX)
		r->vring.avail->flags = VRING_AVAIL_F_NO_INTERRUPT;

	addr.desc_user_addr = (uintptr_t)r->vring.desc;
	addr.avail_user_addr = (uintptr_t)r->vring.avail;
	addr.used_user_addr = (uintptr_t)r->vring.used;
	if (CALL(v, VHOST_SET_VRING_NUM, &num) ||
	    CALL(v, VHOST_SET_VRING_BASE, &base) ||
	    CALL(v, VHOST_SET_VRING_ADDR, &addr))
		return -1;
	file.fd = r->kick;
	if (CALL(v, VHOST_SET_VRING_KICK, &file))
		return -1;
	file.fd = r->call;
	return CALL(v, VHOST_SET_VRING_CALL, &file);
}

static int set_up(struct queue *q)
{
	const size_t each = RING_BYTES + (size_t)RING_SIZE * SLOT;
	struct vhost *v = q->vhost;
	struct {
		struct vhost_memory head;
		struct vhost_memory_region region;
	} table = { .head.nregions = 1 };
	uint64_t offered, wanted = 1ull << VIRTIO_F_VERSION_1;
	uint8_t *memory;

	v->fd = open("/dev/vhost-net", O_RDWR | O_CLOEXEC);
	if (v->fd < 0) {
		failed("/dev/vhost-net: %s", strerror(errno));
		return -1;
	}
	memory = mmap(NULL, 2 * each, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED) {
		failed("memory for rings: %s", strerror(errno));
		return -1;
	}
	/* What the rings call a physical address is simply ours. */
	table.region.guest_phys_addr = (uintptr_t)memory;
	table.region.userspace_addr = (uintptr_t)memory;
	table.region.memory_size = 2 * each;
	if (CALL(v, VHOST_SET_OWNER, NULL) ||
	    CALL(v, VHOST_GET_FEATURES, &offered))
		return -1;
	q->worker = find_worker();
	if (!(offered & wanted)) {
		failed("vhost-net does not know VIRTIO_F_VERSION_1");
		return -1;
	}
	if (CALL(v, VHOST_SET_FEATURES, &wanted) ||
	    CALL(v, VHOST_SET_MEM_TABLE, &table) ||
	    set_up_ring(q, RX, memory) || set_up_ring(q, TX, memory + each))
		return -1;
	for (unsigned int i = 0; i < 2; i++) {
		struct vhost_vring_file backend = { .index = i, .fd = q->fd };

		if (CALL(v, VHOST_NET_SET_BACKEND, &backend))
			return -1;
	}
	return 0;
}

/* Called where the process's other threads are: worker's name has our pid. */
int vhost_open(struct end *end)
{
	_Static_assert(RING_SIZE * 16 + 6 + 2 * RING_SIZE + PAGE +
		       6 + 8 * RING_SIZE <= RING_BYTES, "a ring needs more room");

	if (chardev_open(end))
		return -1;
	for (int i = 0; i < end->queues; i++) {
		end->queue[i].vhost = calloc(1, sizeof(struct vhost));
		if (!end->queue[i].vhost) {
			failed("no memory");
			return -1;
		}
		if (set_up(&end->queue[i]))
			return -1;
	}
	return 0;
}
