// SPDX-License-Identifier: GPL-2.0-only
/*
 * conntrack NETNS: have connections tracked in a network namespace.
 *
 * They are where a rule looks at them: this makes a table of nftables, of both
 * IP versions, with a chain that no packet meets and a rule in it that loads
 * "ct state". It goes with the namespace. nft(8) is not needed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct {
	char data[2048];
	size_t len;
	int messages;
} batch;

static void die(const char *what)
{
	fprintf(stderr, "conntrack: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* All lengths are padded: only names have one that is not a multiple of 4. */
static size_t put(const void *data, size_t len)
{
	size_t at = batch.len;

	memcpy(batch.data + at, data, len);
	batch.len += NLMSG_ALIGN(len);
	return at;
}

static size_t begin(int type, int family, int flags)
{
	struct nlmsghdr nlh = {
		.nlmsg_type = type,
		.nlmsg_flags = NLM_F_REQUEST | flags,
		.nlmsg_seq = batch.messages++,
	};
	struct nfgenmsg gen = {
		.nfgen_family = family,
		/* Whose batch it is, in the messages around it. */
		.res_id = htons(NFNL_SUBSYS_NFTABLES),
	};
	size_t at = put(&nlh, sizeof(nlh));

	put(&gen, sizeof(gen));
	return at;
}

static void end(size_t at)
{
	struct nlmsghdr *nlh = (void *)(batch.data + at);

	nlh->nlmsg_len = batch.len - at;
}

static size_t attr(int type, const void *data, size_t len)
{
	struct nlattr nla = { NLA_HDRLEN + len, type };
	size_t at = put(&nla, sizeof(nla));

	if (len)
		put(data, len);
	return at;
}

static void text(int type, const char *value)
{
	attr(type, value, strlen(value) + 1);
}

static void number(int type, uint32_t value)
{
	value = htonl(value);
	attr(type, &value, sizeof(value));
}

static void close_nest(size_t at)
{
	struct nlattr *nla = (void *)(batch.data + at);

	nla->nla_len = batch.len - at;
}

static size_t nest(int type)
{
	return attr(NLA_F_NESTED | type, NULL, 0);
}

static size_t object(int type, int flags)
{
	return begin(NFNL_SUBSYS_NFTABLES << 8 | type, NFPROTO_INET, NLM_F_CREATE | flags);
}

static void fill(void)
{
	size_t at, list, element, data;

	end(begin(NFNL_MSG_BATCH_BEGIN, AF_UNSPEC, 0));

	at = object(NFT_MSG_NEWTABLE, 0);
	text(NFTA_TABLE_NAME, "skbhome");
	end(at);

	at = object(NFT_MSG_NEWCHAIN, 0);
	text(NFTA_CHAIN_TABLE, "skbhome");
	text(NFTA_CHAIN_NAME, "track");
	end(at);

	/* Whatever fails is answered; and this if nothing does. */
	at = object(NFT_MSG_NEWRULE, NLM_F_APPEND | NLM_F_ACK);
	text(NFTA_RULE_TABLE, "skbhome");
	text(NFTA_RULE_CHAIN, "track");
	list = nest(NFTA_RULE_EXPRESSIONS);
	element = nest(NFTA_LIST_ELEM);
	text(NFTA_EXPR_NAME, "ct");
	data = nest(NFTA_EXPR_DATA);
	number(NFTA_CT_DREG, NFT_REG_1);
	number(NFTA_CT_KEY, NFT_CT_STATE);
	close_nest(data);
	close_nest(element);
	close_nest(list);
	end(at);

	end(begin(NFNL_MSG_BATCH_END, AF_UNSPEC, 0));
}

int main(int argc, char **argv)
{
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	struct {
		struct nlmsghdr nlh;
		struct nlmsgerr err;
		char rest[4096];
	} answer;
	char path[128];
	int fd, sock;

	if (argc != 2) {
		fprintf(stderr, "conntrack NETNS\n");
		return 2;
	}
	snprintf(path, sizeof(path), "/run/netns/%s", argv[1]);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		die(argv[1]);
	fill();
	sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	if (sock < 0 ||
	    sendto(sock, batch.data, batch.len, 0, (void *)&kernel, sizeof(kernel)) < 0 ||
	    recv(sock, &answer, sizeof(answer), 0) < 0)
		die("netlink");
	errno = answer.nlh.nlmsg_type == NLMSG_ERROR ? -answer.err.error : EPROTO;
	if (errno)
		die("the rule");
	return 0;
}
