// SPDX-License-Identifier: GPL-2.0-only
/*
 * tunfuzz: everything that a program can do to /dev/net/tun and to a macvtap's device, in an
 * order that a seed decides. All of it happens in a network namespace of its own, which ends
 * with the program. Whether the kernel minds is for its console to say; the program only says
 * how much of what it did was accepted.
 *
 * usage: tunfuzz SEED STEPS [TAP]
 *        TAP: /dev/tapN of a macvtap that exists already; it is used beside /dev/net/tun
 * prints: one line of JSON: steps, and for each kind of step how many were tried and accepted
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 8
#define NAMES 3
#define BIGGEST 70000

enum kind { OPEN, CLOSE, DUP, SETIFF, QUEUE, FEATURE, ADDRESS, UPDOWN, READ, WRITE, SEND, POLL,
	    KINDS };

static const char *const names[KINDS] = {
	"open", "close", "dup", "setiff", "queue", "feature", "address", "updown", "read", "write",
	"send", "poll",
};

static unsigned long tried[KINDS], accepted[KINDS];
static int files[FILES], control, raw;
static unsigned char *data;
static uint64_t state;
static const char *tap;

/* xorshift64*: the same sequence everywhere, whatever the C library. */
static uint64_t any(void)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 0x2545F4914F6CDD1DULL;
}

static unsigned int below(unsigned int n)
{
	return (any() >> 33) % n;
}

static int oneof(const int *values, unsigned int n)
{
	return values[below(n)];
}

#define ONEOF(...) \
	oneof((const int[]){ __VA_ARGS__ }, sizeof((int[]){ __VA_ARGS__ }) / sizeof(int))

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void name_of(struct ifreq *request)
{
	memset(request, 0, sizeof(*request));
	snprintf(request->ifr_name, sizeof(request->ifr_name), "fuzz%u", below(NAMES));
}

static int *slot(void)
{
	return &files[below(FILES)];
}

static int reopen(void)
{
	int *fd = slot();

	if (*fd >= 0)
		close(*fd);
	*fd = open(tap && !below(4) ? tap : "/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	return *fd;
}

static int shut(void)
{
	int *fd = slot(), result = *fd >= 0 ? close(*fd) : -1;

	*fd = -1;
	return result;
}

static int duplicate(void)
{
	int *from = slot(), *to = slot();

	if (from == to || *from < 0)
		return -1;
	if (*to >= 0)
		close(*to);
	*to = dup(*from);
	return *to;
}

static int setiff(void)
{
	struct ifreq request;

	name_of(&request);
	request.ifr_flags = ONEOF(IFF_TUN, IFF_TAP, IFF_TAP, IFF_TUN | IFF_TAP, 0);
	/* Not IFF_NAPI: with GRO, 5.10 takes back a socket's charge twice, with no patch at all. */
	if (below(2))
		request.ifr_flags |= IFF_NO_PI;
	if (below(2))
		request.ifr_flags |= IFF_VNET_HDR;
	if (!below(3))
		request.ifr_flags |= IFF_MULTI_QUEUE;
	if (!below(8))
		request.ifr_flags |= IFF_TUN_EXCL;
	return ioctl(*slot(), TUNSETIFF, &request);
}

static int queue(void)
{
	struct ifreq request;

	memset(&request, 0, sizeof(request));
	request.ifr_flags = ONEOF(IFF_ATTACH_QUEUE, IFF_DETACH_QUEUE, 0);
	return ioctl(*slot(), TUNSETQUEUE, &request);
}

static int feature(void)
{
	struct sock_filter instruction = BPF_STMT(BPF_RET | BPF_K, ONEOF(0, 1, 60, 0xffff));
	struct sock_fprog filter = { .len = below(8) ? 1 : 0, .filter = &instruction };
	int value = ONEOF(0, 1, 4, 10, 12, 20, 64, 256, 1 << 20, -1, -1000), fd = *slot();
	struct ifreq request;

	switch (below(14)) {
	case 0:
		return ioctl(fd, TUNSETOFFLOAD, below(64));
	case 1:
		return ioctl(fd, TUNSETVNETHDRSZ, &value);
	case 2:
		return ioctl(fd, TUNSETSNDBUF, &value);
	case 3:
		return ioctl(fd, TUNATTACHFILTER, &filter);
	case 4:
		return ioctl(fd, TUNDETACHFILTER, 0);
	case 5:
		return ioctl(fd, TUNSETCARRIER, &value);
	case 6:
		return ioctl(fd, TUNSETLINK, ONEOF(1, 512, 65534));
	case 7:
		return ioctl(fd, TUNSETVNETLE, &value);
	case 8:
		return ioctl(fd, TUNSETVNETBE, &value);
	case 9:
		return ioctl(fd, TUNSETNOCSUM, below(2));
	case 10:
		return ioctl(fd, TUNGETFEATURES, &value);
	case 11:
		return ioctl(fd, TUNGETIFF, &request);
	case 12:
		return ioctl(fd, TUNSETOWNER, below(2) ? 0 : -1);
	default:
		/* Any command at all but TUNSETDEBUG, which only fills the console. */
		value = below(256);
		return value == 201 ? -1 : ioctl(fd, _IOW('T', value, int), &value);
	}
}

static int address(void)
{
	struct ifreq request;

	name_of(&request);
	request.ifr_hwaddr.sa_family = ONEOF(1, 512, 65534);
	memcpy(request.ifr_hwaddr.sa_data, data, ETH_ALEN);
	return ioctl(*slot(), ONEOF(SIOCSIFHWADDR, SIOCGIFHWADDR, TUNGETVNETHDRSZ), &request);
}

static int updown(void)
{
	struct ifreq request;

	name_of(&request);
	switch (below(4)) {
	case 0:
		request.ifr_mtu = ONEOF(0, 68, 576, 1280, 1500, 9000, 65535, 70000);
		return ioctl(control, SIOCSIFMTU, &request);
	case 1:
		request.ifr_qlen = ONEOF(0, 1, 2, 500, 1000);
		return ioctl(control, SIOCSIFTXQLEN, &request);
	default:
		request.ifr_flags = below(3) ? IFF_UP | IFF_PROMISC : 0;
		return ioctl(control, SIOCSIFFLAGS, &request);
	}
}

/* Split a length among up to four pieces, some of them empty. */
static int pieces(struct iovec *vector, unsigned int length)
{
	unsigned int n = 1 + below(4), at = 0, i;

	for (i = 0; i < n; i++) {
		unsigned int part = i == n - 1 ? length - at : below(length - at + 1);

		vector[i].iov_base = data + at;
		vector[i].iov_len = part;
		at += part;
	}
	return n;
}

static unsigned int length(void)
{
	return below(3) ? below(200) : (unsigned int)ONEOF(0, 1, 9, 10, 13, 14, 59, 60, 64, 1499,
							   1500, 1514, 4096, 65535, BIGGEST);
}

static void frame(unsigned int at, unsigned int size)
{
	static const unsigned short types[] = { ETH_P_IP, ETH_P_IPV6, ETH_P_ARP, ETH_P_8021Q, 0 };
	unsigned short type = types[below(5)];
	unsigned int i;

	for (i = at; i < at + size && i < at + 200; i++)
		data[i] = any();
	if (size < 40 || !below(4))
		return;
	/* Something that is nearly right gets further than noise. */
	memset(data + at, below(2) ? 0xff : 2, ETH_ALEN);
	data[at + 12] = type >> 8;
	data[at + 13] = type;
	data[at + 14] = type == ETH_P_IPV6 ? 0x60 : 0x45;
	data[at + 16] = size >> 8;
	data[at + 17] = size;
	data[at + 23] = ONEOF(1, 6, 17, 47, 50, 255);
}

static int write_frame(void)
{
	struct virtio_net_hdr header = {
		.flags = below(4),
		.gso_type = ONEOF(0, 0, 1, 3, 4, 5, 0x81, 0xff),
		.hdr_len = below(3) ? 54 : any(),
		.gso_size = below(3) ? 1400 : any(),
		.csum_start = below(3) ? 34 : any(),
		.csum_offset = below(3) ? 16 : any(),
	};
	unsigned int size = length(), at = ONEOF(0, 4, 10, 12, 14);
	struct iovec vector[4];
	int n;

	if (below(3))
		memcpy(data, &header, sizeof(header));
	frame(at, size > at ? size - at : 0);
	n = pieces(vector, size);
	return writev(*slot(), vector, n);
}

static int read_frame(void)
{
	struct iovec vector[4];
	int n = pieces(vector, length());

	return readv(*slot(), vector, n);
}

static int send_frame(void)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_protocol = htobe16(ETH_P_ALL) };
	unsigned int size = 1 + below(1500), burst = 1 + below(16);
	struct ifreq request;
	int result = -1;

	name_of(&request);
	if (ioctl(control, SIOCGIFINDEX, &request))
		return -1;
	to.sll_ifindex = request.ifr_ifindex;
	to.sll_halen = ETH_ALEN;
	frame(0, size);
	while (burst--)
		result = sendto(raw, data, size, MSG_DONTWAIT, (void *)&to, sizeof(to));
	return result;
}

static int wait_for(void)
{
	struct pollfd set[FILES];
	int i;

	for (i = 0; i < FILES; i++)
		set[i] = (struct pollfd){ .fd = files[i], .events = POLLIN | POLLOUT };
	return poll(set, FILES, below(8) ? 0 : 1);
}

static int (*const steps[KINDS])(void) = {
	reopen, shut, duplicate, setiff, queue, feature, address, updown, read_frame, write_frame,
	send_frame, wait_for,
};

/* How often each kind is chosen: traffic most. */
static const unsigned char weights[KINDS] = { 4, 2, 1, 6, 4, 6, 2, 6, 24, 16, 24, 2 };

int main(int argc, char **argv)
{
	unsigned int total = 0, i;
	long count;

	if (argc < 3) {
		fprintf(stderr, "usage: tunfuzz SEED STEPS [TAP]\n");
		return 2;
	}
	state = strtoull(argv[1], NULL, 0) * 2 + 1;
	count = strtol(argv[2], NULL, 0);
	tap = argc > 3 ? argv[3] : NULL;
	for (i = 0; i < FILES; i++)
		files[i] = -1;
	if (unshare(CLONE_NEWNET))
		fail("unshare");
	control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	raw = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (control < 0 || raw < 0)
		fail("socket");
	data = mmap(NULL, BIGGEST + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (data == MAP_FAILED)
		fail("mmap");
	for (i = 0; i < KINDS; i++)
		total += weights[i];
	for (long step = 0; step < count; step++) {
		unsigned int pick = below(total), kind = 0;

		while (pick >= weights[kind])
			pick -= weights[kind++];
		tried[kind]++;
		if (steps[kind]() >= 0)
			accepted[kind]++;
	}
	printf("{\"steps\": %ld", count);
	for (i = 0; i < KINDS; i++)
		printf(", \"%s\": [%lu, %lu]", names[i], tried[i], accepted[i]);
	printf("}\n");
	return 0;
}
