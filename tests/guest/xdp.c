// SPDX-License-Identifier: GPL-2.0-only
/*
 * xdp NETNS DEVICE pass|drop|off, or xdp NETNS DEVICE redirect TARGET
 *
 * Gives a device an XDP program that treats all frames alike, or takes it away.
 * The program goes with the device. Neither a compiler nor libbpf is needed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void die(const char *what)
{
	fprintf(stderr, "xdp: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void enter(const char *netns)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/run/netns/%s", netns);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		die(netns);
	close(fd);
}

static int index_of(const char *device)
{
	int index = if_nametoindex(device);

	if (!index)
		die(device);
	return index;
}

static int load(struct bpf_insn *insns, int count)
{
	static char log[4096];
	union bpf_attr attr;
	int fd;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_XDP;
	attr.insns = (uintptr_t)insns;
	attr.insn_cnt = count;
	attr.license = (uintptr_t)"GPL";
	attr.log_buf = (uintptr_t)log;
	attr.log_size = sizeof(log);
	attr.log_level = 1;
	fd = syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
	if (fd < 0) {
		fputs(log, stderr);
		die("the program");
	}
	return fd;
}

#define SET(reg, value) \
	{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = (reg), .imm = (value) }
#define CALL(helper)	{ .code = BPF_JMP | BPF_CALL, .imm = (helper) }
#define EXIT		{ .code = BPF_JMP | BPF_EXIT }

static int load_verdict(int verdict)
{
	struct bpf_insn insns[] = { SET(BPF_REG_0, verdict), EXIT };

	return load(insns, 2);
}

static int load_redirect(int target)
{
	struct bpf_insn insns[] = {
		SET(BPF_REG_1, target),
		SET(BPF_REG_2, 0),
		CALL(BPF_FUNC_redirect),
		EXIT,
	};

	return load(insns, 4);
}

/* Make @fd the program of a device, -1: none. */
static void attach(int index, int fd)
{
	struct {
		struct nlmsghdr nlh;
		struct ifinfomsg link;
		struct rtattr xdp;
		struct rtattr xdp_fd;
		int fd;
	} ask = {
		.nlh = {
			.nlmsg_len = sizeof(ask),
			.nlmsg_type = RTM_SETLINK,
			.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK,
		},
		.link = { .ifi_index = index },
		.xdp = { RTA_LENGTH(RTA_LENGTH(sizeof(int))), NLA_F_NESTED | IFLA_XDP },
		.xdp_fd = { RTA_LENGTH(sizeof(int)), IFLA_XDP_FD },
		.fd = fd,
	};
	struct {
		struct nlmsghdr nlh;
		struct nlmsgerr err;
		char rest[1024];
	} answer;
	int sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (sock < 0 || send(sock, &ask, sizeof(ask), 0) < 0 ||
	    recv(sock, &answer, sizeof(answer), 0) < 0)
		die("netlink");
	if (answer.nlh.nlmsg_type != NLMSG_ERROR)
		errno = EPROTO;
	else
		errno = -answer.err.error;
	if (errno)
		die("the device does not take the program");
}

int main(int argc, char **argv)
{
	const char *what = argc > 3 ? argv[3] : "";
	int fd = -1;

	if (argc != 4 + !strcmp(what, "redirect")) {
		fprintf(stderr, "xdp NETNS DEVICE pass|drop|off|redirect [TARGET]\n");
		return 2;
	}
	enter(argv[1]);
	if (!strcmp(what, "redirect"))
		fd = load_redirect(index_of(argv[4]));
	else if (!strcmp(what, "pass"))
		fd = load_verdict(XDP_PASS);
	else if (!strcmp(what, "drop"))
		fd = load_verdict(XDP_DROP);
	else if (strcmp(what, "off"))
		return 2;
	attach(index_of(argv[2]), fd);
	return 0;
}
