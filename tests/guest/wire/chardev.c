// SPDX-License-Identifier: GPL-2.0-only
/*
 * wire: devices whose other side is a character device: tun, tap, macvtap
 * and ipvtap. Also makes the tap that a vhost end is put on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "wire.h"

extern char **environ;

/* Pieces of a buffer for readv() and writev(): small, odd, never aligned. */
static const size_t pieces[] = { 7, 13, 33, 61, 127, 255, 511, 1021, 2047, 4093 };

#define PIECES (sizeof(pieces) / sizeof(pieces[0]))

/* IFF_NAPI_FRAGS: the headers in the first piece, no piece above a page. */
#define FRAG_FIRST	200
#define FRAG_SIZE	4096
#define FRAGS		17

/* --- frames --- */

static int scatter(struct iovec *iov, uint8_t *at, size_t len)
{
	unsigned int n;

	for (n = 0; n < PIECES && len > pieces[n]; n++) {
		iov[n] = (struct iovec){ at, pieces[n] };
		at += pieces[n];
		len -= pieces[n];
	}
	iov[n] = (struct iovec){ at, len };
	return n + 1;
}

static int chardev_recv(struct queue *q, struct frame *f)
{
	size_t hdrlen = q->end->hdrlen, len = MAX_FRAME + hdrlen;
	struct iovec iov[PIECES + 1];
	uint8_t *at;
	ssize_t n;

	f->data = q->buf + HEADROOM;
	at = f->data - hdrlen;
	if (opt.scattered)
		n = readv(q->fd, iov, scatter(iov, at, len));
	else
		n = read(q->fd, at, len);
	if (n < 0)
		return -errno;
	if ((size_t)n < hdrlen)
		return -EBADMSG;
	memset(&f->vnet, 0, sizeof(f->vnet));
	if (hdrlen)
		memcpy(&f->vnet, at, sizeof(f->vnet));
	f->len = n - hdrlen;
	return 0;
}

static void chardev_release(struct queue *q, struct frame *f)
{
	(void)q;
	(void)f;
}

int chardev_send(struct queue *q, struct frame *f)
{
	size_t hdrlen = q->end->hdrlen, len = f->len + hdrlen;
	uint8_t *at = f->data - hdrlen;
	struct iovec iov[FRAGS];
	int pieces = 0;
	ssize_t n;

	if (hdrlen) {
		memset(at, 0, hdrlen);
		memcpy(at, &f->vnet, sizeof(f->vnet));
	}
	if (q->end->frags) {
		/* The header counts as a part of the first piece. */
		size_t rest = len, most = FRAG_FIRST;

		while (rest && pieces < FRAGS) {
			size_t piece = rest < most ? rest : most;

			iov[pieces++] = (struct iovec){ at, piece };
			at += piece;
			rest -= piece;
			most = FRAG_SIZE;
		}
		if (rest)
			return -EMSGSIZE;
		n = writev(q->fd, iov, pieces);
	} else {
		n = write(q->fd, at, len);
	}
	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EIO;
}

int wait_readable(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	if (poll(&pfd, 1, 100) < 0)
		return -errno;
	/* Detached, or without a device: no reason to go round in circles. */
	if (pfd.revents && !(pfd.revents & POLLIN))
		pause_ms(1);
	return 0;
}

static int chardev_wait(struct queue *q)
{
	return wait_readable(q->fd);
}

const struct ops chardev_ops = {
	.recv = chardev_recv,
	.release = chardev_release,
	.wait = chardev_wait,
	.send = chardev_send,
};

/* --- making a device --- */

static bool is_made(const struct end *end)
{
	return end->backend == TUN || end->backend == TAP;
}

static int enter(const struct end *end)
{
	char path[128];
	int fd;

	if (!end->netns)
		return 0;
	snprintf(path, sizeof(path), "/run/netns/%s", end->netns);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET)) {
		failed("netns %s: %s", end->netns, strerror(errno));
		return -1;
	}
	close(fd);
	return 0;
}

/* Have ip(8) carry out @commands in the calling thread's namespace. */
static int ip_batch(const char *commands)
{
	char *const argv[] = { "ip", "-batch", "-", NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	int in, err, status;
	sigset_t none;
	pid_t pid;

	in = memfd_create("wire", MFD_CLOEXEC);
	if (in < 0 || write(in, commands, strlen(commands)) < 0 ||
	    lseek(in, 0, SEEK_SET)) {
		failed("commands for ip: %s", strerror(errno));
		return -1;
	}
	sigemptyset(&none);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, in, 0);
	posix_spawn_file_actions_adddup2(&files, 2, 1);
	err = posix_spawnp(&pid, "ip", &files, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	close(in);
	if (err) {
		failed("ip: %s", strerror(err));
		return -1;
	}
	if (waitpid(pid, &status, 0) != pid || status) {
		failed("ip could not carry out: %s", commands);
		return -1;
	}
	return 0;
}

static void add(char *to, size_t size, const char *fmt, ...)
{
	size_t have = strlen(to);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(to + have, size - have, fmt, ap);
	va_end(ap);
}

/* Addresses, and up it goes. */
static int configure(struct end *end)
{
	char text[1024] = "", path[128];
	int fd;

	if (is_made(end)) {
		/* No link-local address: nobody asked for those packets. */
		snprintf(path, sizeof(path),
			 "/proc/sys/net/ipv6/conf/%s/addr_gen_mode", end->name);
		fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd >= 0 && write(fd, "1", 1) < 0)
			perror(path);
		close(fd);
	} else {
		/* It gets what the other end wants, and has joined nothing. */
		add(text, sizeof(text), "link set dev %s allmulticast on\n",
		    end->name);
	}
	if (end->mac)
		add(text, sizeof(text), "link set dev %s address %s\n",
		    end->name, end->mac);
	if (end->mtu)
		add(text, sizeof(text), "link set dev %s mtu %d\n",
		    end->name, end->mtu);
	if (end->txqlen)
		add(text, sizeof(text), "link set dev %s txqueuelen %d\n",
		    end->name, end->txqlen);
	if (end->addr4)
		add(text, sizeof(text), "addr add %s dev %s\n",
		    end->addr4, end->name);
	if (end->addr6)
		add(text, sizeof(text), "addr add %s dev %s nodad\n",
		    end->addr6, end->name);
	add(text, sizeof(text), "link set dev %s up\n", end->name);
	return ip_batch(text);
}

static int open_mode(const struct end *end)
{
	/* vhost does its own reading, and never waits in it. */
	bool nonblock = end->kind == VHOST || !opt.blocking;

	return O_RDWR | O_CLOEXEC | (nonblock ? O_NONBLOCK : 0);
}

static short queue_flags(const struct end *end)
{
	short flags = IFF_NO_PI;

	flags |= end->backend == TUN ? IFF_TUN : IFF_TAP;
	if (end->queues > 1)
		flags |= IFF_MULTI_QUEUE;
	if (end->vnet_hdr)
		flags |= IFF_VNET_HDR;
	if (end->napi)
		flags |= IFF_NAPI;
	if (end->frags)
		flags |= IFF_NAPI_FRAGS;
	return flags;
}

/* Settle flags, header and offloads of the open q->fd; @name may be changed. */
static int set_up_queue(struct queue *q, char *name)
{
	struct end *end = q->end;
	unsigned int offload = end->tso ? TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 : 0;
	int hdrlen = end->hdrlen;
	struct ifreq ifr;

	memset(&ifr, 0, sizeof(ifr));
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	ifr.ifr_flags = queue_flags(end);
	if (ioctl(q->fd, TUNSETIFF, &ifr)) {
		failed("%s: TUNSETIFF: %s", end->name, strerror(errno));
		return -1;
	}
	snprintf(name, IFNAMSIZ, "%s", ifr.ifr_name);
	if (hdrlen && ioctl(q->fd, TUNSETVNETHDRSZ, &hdrlen)) {
		failed("%s: TUNSETVNETHDRSZ: %s", end->name, strerror(errno));
		return -1;
	}
	if (end->vnet_hdr && ioctl(q->fd, TUNSETOFFLOAD, offload)) {
		failed("%s: TUNSETOFFLOAD: %s", end->name, strerror(errno));
		return -1;
	}
	return 0;
}

static int make_device(struct end *end)
{
	char name[IFNAMSIZ], text[128];

	snprintf(name, sizeof(name), "%s", end->move ? "wire%d" : end->name);
	if (!end->move && enter(end))
		return -1;
	for (int i = 0; i < end->queues; i++) {
		struct queue *q = &end->queue[i];

		q->fd = open("/dev/net/tun", open_mode(end));
		if (q->fd < 0) {
			failed("/dev/net/tun: %s", strerror(errno));
			return -1;
		}
		if (set_up_queue(q, name))
			return -1;
	}
	if (end->move) {
		snprintf(text, sizeof(text), "link set dev %s netns %s name %s\n",
			 name, end->netns, end->name);
		if (ip_batch(text) || enter(end))
			return -1;
	}
	return 0;
}

/* The device number of a macvtap or ipvtap, from sysfs of this namespace. */
static int device_number(const struct end *end, dev_t *dev)
{
	static const char *const forms[] = {
		"/sys/class/net/%s/tap%u/dev",
		"/sys/class/net/%s/macvtap/tap%u/dev",
		"/sys/class/net/%s/ipvtap/tap%u/dev",
	};
	unsigned int index = if_nametoindex(end->name), major, minor;
	char path[128];
	FILE *file;
	int got;

	if (!index) {
		failed("%s: %s", end->name, strerror(errno));
		return -1;
	}
	for (unsigned int i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		snprintf(path, sizeof(path), forms[i], end->name, index);
		file = fopen(path, "re");
		if (!file)
			continue;
		got = fscanf(file, "%u:%u", &major, &minor);
		fclose(file);
		if (got == 2) {
			*dev = makedev(major, minor);
			return 0;
		}
	}
	failed("%s has no device number in sysfs: is it a %s?", end->name,
	       kind_names[end->backend]);
	return -1;
}

/*
 * /dev/tapN is named after the index of the interface, which another
 * namespace may use as well, and udev may not run. So: a node of our own,
 * in a mount namespace of this thread, which nobody else sees.
 */
static int open_device(struct end *end)
{
	char name[IFNAMSIZ];
	dev_t dev;

	if (enter(end))
		return -1;
	if (unshare(CLONE_NEWNS) ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("wire", "/sys", "sysfs", 0, NULL) ||
	    mount("wire", "/tmp", "tmpfs", 0, NULL)) {
		failed("mounts for %s: %s", end->name, strerror(errno));
		return -1;
	}
	if (device_number(end, &dev))
		return -1;
	if (mknod("/tmp/wire-tap", S_IFCHR | 0600, dev)) {
		failed("mknod for %s: %s", end->name, strerror(errno));
		return -1;
	}
	for (int i = 0; i < end->queues; i++) {
		struct queue *q = &end->queue[i];

		q->fd = open("/tmp/wire-tap", open_mode(end));
		if (q->fd < 0) {
			failed("queue %d of %s: %s", i, end->name, strerror(errno));
			return -1;
		}
		snprintf(name, sizeof(name), "%s", end->name);
		if (set_up_queue(q, name))
			return -1;
	}
	return 0;
}

static void *open_thread(void *arg)
{
	struct end *end = arg;
	int err;

	err = is_made(end) ? make_device(end) : open_device(end);
	if (!err)
		err = configure(end);
	return (void *)(intptr_t)err;
}

/*
 * In a thread that ends then: the namespaces that it enters are its own, and
 * those of all others stay as they are.
 */
int chardev_open(struct end *end)
{
	pthread_t thread;
	void *result;
	int err;

	end->hdrlen = 0;
	if (end->vnet_hdr)
		end->hdrlen = end->kind == VHOST ?
			sizeof(struct virtio_net_hdr_mrg_rxbuf) :
			sizeof(struct virtio_net_hdr);
	for (int i = 0; i < end->queues && end->kind != VHOST; i++) {
		end->queue[i].buf = malloc(BUF_SIZE);
		if (!end->queue[i].buf) {
			failed("no memory");
			return -1;
		}
	}
	err = pthread_create(&thread, NULL, open_thread, end);
	if (err) {
		failed("thread: %s", strerror(err));
		return -1;
	}
	pthread_join(thread, &result);
	return (intptr_t)result;
}

/* Take a queue away from its device, or give it back. */
int chardev_attach(struct queue *q, bool attach)
{
	struct ifreq ifr = { 0 };

	ifr.ifr_flags = attach ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
	return ioctl(q->fd, TUNSETQUEUE, &ifr) ? -errno : 0;
}
