// SPDX-License-Identifier: GPL-2.0-only
/* wire: the description of an end, KIND:NAME@NETNS,OPTION... */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

const char *const kind_names[] = {
	[TUN] = "tun", [TAP] = "tap", [MACVTAP] = "macvtap",
	[IPVTAP] = "ipvtap", [VHOST] = "vhost", [SINK] = "sink",
};

const char spec_help[] =
"SPEC: KIND:NAME[@NETNS][,OPTION]... or sink\n"
"  tun, tap     a device that is made in NETNS (/run/netns/NETNS, default: own)\n"
"  vhost        the same, a tap with /dev/vhost-net at its other side\n"
"  macvtap, ipvtap\n"
"               a device that is there already\n"
"  sink         frames end here and are checked (see sink.c)\n"
"OPTION:\n"
"  queues=N     queues (1), a thread for each\n"
"  addr4=A/LEN  an address of the device\n"
"  addr6=A/LEN  the same, without duplicate address detection\n"
"  mtu=N  txqlen=N  mac=M\n"
"  vnet_hdr     frames carry a virtio-net header (vhost: always)\n"
"  tso          frames may be GSO packets without checksum; implies vnet_hdr,\n"
"               and the other end needs it as well\n"
"  napi         IFF_NAPI (tun, tap, vhost)\n"
"  frags        IFF_NAPI_FRAGS, written in pieces; implies napi (tap)\n"
"  move         made in the own namespace and moved to NETNS, which the open\n"
"               device then does not keep alive (tun, tap, vhost)\n"
"  backend=tap|macvtap|ipvtap\n"
"               what vhost is put on (tap); the others exist already\n";

static int bad(const struct end *end, const char *what)
{
	failed("--%s: %s", end->label, what);
	return -1;
}

static int number(const struct end *end, const char *text, int most, int *to)
{
	char *rest;
	long n;

	if (!text)
		return bad(end, "an option lacks its value");
	n = strtol(text, &rest, 10);
	if (*rest || rest == text || n < 1 || n > most)
		return bad(end, "a number is out of range");
	*to = n;
	return 0;
}

static int parse_kind(const char *name, enum kind *kind)
{
	for (*kind = TUN; *kind <= SINK; ++*kind)
		if (!strcmp(name, kind_names[*kind]))
			return 0;
	return -1;
}

/* What ends up in a command for ip(8) must be one word of it. */
static bool is_word(const char *text)
{
	return !text || (*text && *text != '-' && !strpbrk(text, " \t\n\"'\\#"));
}

static int parse_option(struct end *end, char *word)
{
	char *key = strsep(&word, "="), *value = word;

	if (!strcmp(key, "queues"))
		return number(end, value, MAX_QUEUES, &end->queues);
	if (!strcmp(key, "mtu"))
		return number(end, value, 65535, &end->mtu);
	if (!strcmp(key, "txqlen"))
		return number(end, value, 1 << 20, &end->txqlen);
	if (!strcmp(key, "addr4") && value) {
		end->addr4 = value;
	} else if (!strcmp(key, "addr6") && value) {
		end->addr6 = value;
	} else if (!strcmp(key, "mac") && value) {
		end->mac = value;
	} else if (!strcmp(key, "backend") && value) {
		if (end->kind != VHOST || parse_kind(value, &end->backend) ||
		    end->backend < TAP || end->backend > IPVTAP)
			return bad(end, "no such backend");
	} else if (!strcmp(key, "vnet_hdr") && !value) {
		end->vnet_hdr = true;
	} else if (!strcmp(key, "tso") && !value) {
		end->tso = end->vnet_hdr = true;
	} else if (!strcmp(key, "napi") && !value) {
		end->napi = true;
	} else if (!strcmp(key, "frags") && !value) {
		end->frags = end->napi = true;
	} else if (!strcmp(key, "move") && !value) {
		end->move = true;
	} else {
		failed("--%s: no such option: %s", end->label, key);
		return -1;
	}
	return 0;
}

int parse_spec(struct end *end, char *spec)
{
	char *kind, *name, *word, *rest = spec;
	bool exists;

	end->queues = 1;
	word = strsep(&rest, ",");
	kind = strsep(&word, ":");
	if (parse_kind(kind, &end->kind))
		return bad(end, "no such kind of end");
	end->backend = end->kind == VHOST ? TAP : end->kind;
	if (end->kind == SINK)
		return word || rest ? bad(end, "sink takes no options") : 0;
	if (!word)
		return bad(end, "the device's name is missing");
	name = strsep(&word, "@");
	end->name = name;
	end->netns = word;
	if (!is_word(name) || strlen(name) > 15 || !is_word(end->netns) ||
	    (end->netns && strchr(end->netns, '/')))
		return bad(end, "not a name");
	while ((word = strsep(&rest, ",")))
		if (parse_option(end, word))
			return -1;
	exists = end->backend != TUN && end->backend != TAP;
	if (!is_word(end->addr4) || !is_word(end->addr6) || !is_word(end->mac))
		return bad(end, "not an address");
	if (exists && (end->napi || end->move))
		return bad(end, "napi and move are for devices that wire makes");
	if (end->frags && end->kind != TAP)
		return bad(end, "frags is for tap");
	if (end->kind == VHOST)
		end->vnet_hdr = true;
	return 0;
}
