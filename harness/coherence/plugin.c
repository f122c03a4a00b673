// SPDX-License-Identifier: GPL-2.0-only
/*
 * A QEMU plugin that counts, for a guest on emulated CPUs, the instructions of
 * its kernel, its memory accesses, and those that would have needed another
 * CPU's cache (see directory.h), by vCPU and instruction.
 *
 * Outside of what the guest has marked (marks.h) it looks only at code that
 * is translated, once, for marks. FOLLOW and LEAVE make QEMU forget all
 * translations, so that code with calls to here exists in between alone.
 *
 * Arguments: out=DIR (that exists); what=lines|instructions; user=on, to
 * follow user space as well; nodes=0.0.1.1, the NUMA node of each vCPU.
 * DIR/section-N.bin is what the N-th section counted, whole once it is
 * there; DIR/events says what marks came.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "directory.h"
#include "qemu.h"
#include "x86.h"

PLUGIN_EXPORT int qemu_plugin_version = 1;

#define FORMAT		1

/*
 * QEMU's addresses of guest memory: at most twice the guest's size (where
 * NUMA nodes are memory regions of their own), and what devices have.
 * All tables are this large in name only: the host gives memory where used.
 */
#define MAX_PHYS	(24ull << 30)
#define MAX_LINES	(MAX_PHYS >> LINE_SHIFT)
#define MAX_SITES	(1u << 20)
#define SITE_SLOTS	(MAX_SITES * 2)
#define MOVE_SLOTS	(1u << 20)
#define MOVE_PROBES	64

/* A place in the code: an instruction, or a block of them, that is counted. */
enum kind { ACCESS, BLOCK, REPEAT };

struct site {
	uint64_t pc;
	uint32_t insns;
	uint32_t kind;
};

/* Of an ACCESS: as named. Of a BLOCK or REPEAT: times run, in the first. */
enum slot { LOADS, STORES, TRANSFERS, SLOTS = TRANSFERS + OUTCOMES - READ_LOCAL };

struct tally {
	uint64_t slot[SLOTS];
};

/* A line that was needed at @site and that @writer, a site as well, wrote last. */
struct move {
	uint32_t line, site, writer;
	uint32_t count, base;
	uint32_t pad;
	uint64_t vaddr;
};

/* One thread of QEMU's each; nobody else writes it, except @base and while all rest. */
struct vcpu {
	struct tally *tally, *base;
	struct move *moves;
	uint64_t lost_moves;		/* found no room in @moves */
	uint64_t unplaced;		/* accesses beyond MAX_PHYS */
};

struct header {
	char magic[8];
	uint32_t format, section, vcpus, what;
	uint64_t tallies, moves, lost_moves, unplaced, lost_sites;
};

struct tally_record {
	uint64_t pc;
	uint32_t vcpu, kind, insns, pad;
	uint64_t slot[SLOTS];
};

struct move_record {
	uint64_t phys, vaddr, pc, writer;
	uint32_t vcpu, count;
};

static struct line *lines;
static struct vcpu vcpus[MAX_VCPUS];
static unsigned int nr_vcpus;
static struct topology topology;

static struct site *sites;		/* [0] stands for all that have no room */
static uint32_t *site_slots;
static uint32_t nr_sites = 1;
static uint64_t lost_sites;
static pthread_mutex_t sites_lock = PTHREAD_MUTEX_INITIALIZER;

static bool with_lines = true, with_user;
static const char *out = ".";
static qemu_plugin_id_t self;

static pthread_mutex_t marks_lock = PTHREAD_MUTEX_INITIALIZER;
static bool following, wanted;
static unsigned int section;
static _Atomic bool counting;

static void event(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void event(const char *fmt, ...)
{
	char path[4096];
	va_list ap;
	FILE *file;

	snprintf(path, sizeof(path), "%s/events", out);
	file = fopen(path, "ae");
	if (!file)
		return;
	va_start(ap, fmt);
	vfprintf(file, fmt, ap);
	va_end(ap);
	fputc('\n', file);
	fclose(file);
}

static void *reserve(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

static uint64_t mix(uint64_t x)
{
	x *= 0x9e3779b97f4a7c15ull;
	return x ^ x >> 29;
}

/* --- sites --- */

static uint32_t find_site(uint64_t pc, uint32_t insns, uint32_t kind)
{
	uint32_t at = mix(pc + ((uint64_t)insns << 48)) >> 20, id;

	pthread_mutex_lock(&sites_lock);
	for (;; at++) {
		uint32_t *slot = &site_slots[at % SITE_SLOTS];

		id = *slot;
		if (id && (sites[id].pc != pc || sites[id].insns != insns))
			continue;
		if (id)
			break;
		if (nr_sites == MAX_SITES) {
			lost_sites++;
			break;
		}
		id = nr_sites++;
		sites[id] = (struct site){ pc, insns, kind };
		*slot = id;
		break;
	}
	pthread_mutex_unlock(&sites_lock);
	return id;
}

/* --- counting; all of it on the vCPU's own thread --- */

static void on_block(unsigned int cpu, void *udata)
{
	if (atomic_load_explicit(&counting, memory_order_relaxed))
		vcpus[cpu].tally[(uintptr_t)udata].slot[0]++;
}

static void count_move(struct vcpu *vcpu, uint32_t line, uint32_t site, uint32_t writer,
		       uint64_t vaddr)
{
	uint32_t at = mix((uint64_t)line << 32 ^ (uint64_t)writer << 20 ^ site) >> 20;

	for (int probe = 0; probe < MOVE_PROBES; probe++, at++) {
		struct move *move = &vcpu->moves[at % MOVE_SLOTS];

		if (!move->count)
			*move = (struct move){ .line = line, .site = site, .writer = writer };
		else if (move->line != line || move->site != site || move->writer != writer)
			continue;
		move->vaddr = vaddr;
		move->count++;
		return;
	}
	vcpu->lost_moves++;
}

static void access_line(unsigned int cpu, bool store, uint64_t phys, uint64_t vaddr, uint32_t site)
{
	struct vcpu *vcpu = &vcpus[cpu];
	enum outcome outcome;
	struct line *line;
	uint32_t writer;

	if (phys >= MAX_PHYS) {
		vcpu->unplaced++;
		return;
	}
	line = &lines[phys >> LINE_SHIFT];
	writer = atomic_load_explicit(&line->writer, memory_order_relaxed);
	if (store) {
		outcome = line_write(line, cpu, &topology);
		if (writer != site)
			atomic_store_explicit(&line->writer, site, memory_order_relaxed);
	} else {
		outcome = line_read(line, cpu, &topology);
	}
	if (!is_transfer(outcome) || !atomic_load_explicit(&counting, memory_order_relaxed))
		return;
	vcpu->tally[site].slot[TRANSFERS + outcome - READ_LOCAL]++;
	count_move(vcpu, phys >> LINE_SHIFT, site, writer, vaddr);
}

static void on_access(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t vaddr, void *udata)
{
	const uint64_t size = 1ull << qemu_plugin_mem_size_shift(info);
	const bool store = qemu_plugin_mem_is_store(info);
	uint64_t last = vaddr + size - 1, phys;
	uint32_t site = (uintptr_t)udata;
	struct qemu_plugin_hwaddr *hw;

	if (atomic_load_explicit(&counting, memory_order_relaxed))
		vcpus[cpu].tally[site].slot[store ? STORES : LOADS]++;
	hw = qemu_plugin_get_hwaddr(info, vaddr);
	if (!hw || qemu_plugin_hwaddr_is_io(hw))
		return;
	phys = qemu_plugin_hwaddr_phys_addr(hw);
	access_line(cpu, store, phys, vaddr, site);
	if (vaddr >> LINE_SHIFT == last >> LINE_SHIFT)
		return;
	/* The second line of an unaligned access; pages lie anywhere. */
	if (vaddr >> 12 != last >> 12) {
		hw = qemu_plugin_get_hwaddr(info, last);
		if (!hw || qemu_plugin_hwaddr_is_io(hw))
			return;
		phys = qemu_plugin_hwaddr_phys_addr(hw);
	} else {
		phys += size - 1;
	}
	access_line(cpu, store, phys, last & ~(uint64_t)(LINE_SIZE - 1), site);
}

/* --- sections --- */

static bool grown(const struct vcpu *vcpu, uint32_t id)
{
	return memcmp(&vcpu->tally[id], &vcpu->base[id], sizeof(struct tally));
}

/* Note where all counts stand. Memory that nobody has written stays so. */
static void begin_section(void)
{
	for (unsigned int cpu = 0; cpu < nr_vcpus; cpu++) {
		struct vcpu *vcpu = &vcpus[cpu];

		for (uint32_t id = 0; id < nr_sites; id++)
			if (grown(vcpu, id))
				vcpu->base[id] = vcpu->tally[id];
		for (uint32_t at = 0; with_lines && at < MOVE_SLOTS; at++)
			if (vcpu->moves[at].base != vcpu->moves[at].count)
				vcpu->moves[at].base = vcpu->moves[at].count;
	}
}

static uint64_t write_tallies(FILE *file, unsigned int cpu)
{
	const struct vcpu *vcpu = &vcpus[cpu];
	uint64_t written = 0;

	for (uint32_t id = 0; id < nr_sites; id++) {
		struct tally_record record = {
			.pc = sites[id].pc,
			.vcpu = cpu,
			.kind = sites[id].kind,
			.insns = sites[id].insns,
		};

		if (!grown(vcpu, id))
			continue;
		for (int slot = 0; slot < SLOTS; slot++)
			record.slot[slot] = vcpu->tally[id].slot[slot] -
					    vcpu->base[id].slot[slot];
		fwrite(&record, sizeof(record), 1, file);
		written++;
	}
	return written;
}

static uint64_t write_moves(FILE *file, unsigned int cpu)
{
	uint64_t written = 0;

	for (uint32_t at = 0; with_lines && at < MOVE_SLOTS; at++) {
		const struct move *move = &vcpus[cpu].moves[at];
		struct move_record record = {
			.phys = (uint64_t)move->line << LINE_SHIFT,
			.vaddr = move->vaddr,
			.pc = sites[move->site].pc,
			.writer = sites[move->writer].pc,
			.vcpu = cpu,
			.count = move->count - move->base,
		};

		if (!record.count)
			continue;
		fwrite(&record, sizeof(record), 1, file);
		written++;
	}
	return written;
}

static int write_section(void)
{
	struct header header = {
		.magic = "SKBLINES",
		.format = FORMAT,
		.section = section,
		.vcpus = nr_vcpus,
		.what = with_lines,
		.lost_sites = lost_sites,
	};
	char part[4096], path[4096];
	int err = 0;
	FILE *file;

	snprintf(part, sizeof(part), "%s/.section-%u.part", out, section);
	snprintf(path, sizeof(path), "%s/section-%u.bin", out, section);
	file = fopen(part, "we");
	if (!file)
		return errno;
	fwrite(&header, sizeof(header), 1, file);
	for (unsigned int cpu = 0; cpu < nr_vcpus; cpu++)
		header.tallies += write_tallies(file, cpu);
	for (unsigned int cpu = 0; cpu < nr_vcpus; cpu++) {
		header.moves += write_moves(file, cpu);
		header.lost_moves += vcpus[cpu].lost_moves;
		header.unplaced += vcpus[cpu].unplaced;
	}
	rewind(file);
	fwrite(&header, sizeof(header), 1, file);
	if (ferror(file))
		err = EIO;
	if (fclose(file) && !err)
		err = errno;
	if (!err && rename(part, path))
		err = errno;
	return err;
}

/* --- marks and translation --- */

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);

/*
 * The same bug of QEMU's: what it has noted of an access that is under way
 * would outlive the code that it belongs to. These two are no part of the
 * interface, but there where they are needed.
 */
void *qemu_get_cpu(int index) __attribute__((weak));
void qemu_plugin_disable_mem_helpers(void *cpu) __attribute__((weak));

static void end_accesses(qemu_plugin_id_t id)
{
	(void)id;
	if (!qemu_get_cpu || !qemu_plugin_disable_mem_helpers)
		return;
	for (unsigned int index = 0; index < nr_vcpus; index++) {
		void *cpu = qemu_get_cpu(index);

		if (cpu)
			qemu_plugin_disable_mem_helpers(cpu);
	}
}

static void forget(void *at, size_t size)
{
	madvise(at, size, MADV_DONTNEED);
}

/* No vCPU runs meanwhile. */
static void switched(qemu_plugin_id_t id)
{
	following = wanted;
	end_accesses(id);
	qemu_plugin_register_flush_cb(id, end_accesses);
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	for (unsigned int cpu = 0; cpu < nr_vcpus; cpu++) {
		struct vcpu *vcpu = &vcpus[cpu];

		forget(vcpu->tally, MAX_SITES * sizeof(struct tally));
		forget(vcpu->base, MAX_SITES * sizeof(struct tally));
		forget(vcpu->moves, MOVE_SLOTS * sizeof(struct move));
		vcpu->lost_moves = 0;
		vcpu->unplaced = 0;
	}
	forget(lines, MAX_LINES * sizeof(struct line));
	event(following ? "following" : "left");
}

static void on_mark(unsigned int cpu, void *udata)
{
	int err;

	(void)cpu;
	pthread_mutex_lock(&marks_lock);
	switch ((uintptr_t)udata) {
	case MARK_FOLLOW:
	case MARK_LEAVE:
		atomic_store(&counting, false);
		wanted = (uintptr_t)udata == MARK_FOLLOW;
		qemu_plugin_reset(self, switched);
		break;
	case MARK_START:
		if (!following || atomic_load(&counting)) {
			event("refused start: %s", following ? "in a section" : "not following");
			break;
		}
		section++;
		begin_section();
		event("start %u", section);
		atomic_store(&counting, true);
		break;
	case MARK_STOP:
		if (!atomic_load(&counting)) {
			event("refused stop: not in a section");
			break;
		}
		atomic_store(&counting, false);
		err = write_section();
		if (err)
			event("failed %u: %s", section, strerror(err));
		else
			event("stop %u", section);
		break;
	}
	pthread_mutex_unlock(&marks_lock);
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	const size_t count = qemu_plugin_tb_n_insns(tb);
	struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, 0);
	const uint64_t start = qemu_plugin_insn_vaddr(insn);
	const bool followed = following && (with_user || start >> 63);
	uint32_t kind = BLOCK;
	uintptr_t site;

	(void)id;
	for (size_t at = 0; at < count; at++) {
		const uint8_t *code;
		uintptr_t mark;
		size_t size;

		insn = qemu_plugin_tb_get_insn(tb, at);
		code = qemu_plugin_insn_data(insn);
		size = qemu_plugin_insn_size(insn);
		mark = mark_of(code, size);
		if (mark)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_mark,
							       QEMU_PLUGIN_CB_NO_REGS,
							       (void *)mark);
		if (!followed)
			continue;
		/* Its first round is part of the block before. */
		if (count == 1 && is_repeated(code, size))
			kind = REPEAT;
		if (!with_lines || is_system(code, size))
			continue;
		site = find_site(qemu_plugin_insn_vaddr(insn), 0, ACCESS);
		qemu_plugin_register_vcpu_mem_cb(insn, on_access, QEMU_PLUGIN_CB_NO_REGS,
						 QEMU_PLUGIN_MEM_RW, (void *)site);
	}
	if (followed) {
		site = find_site(start, count, kind);
		qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, QEMU_PLUGIN_CB_NO_REGS,
						     (void *)site);
	}
}

/* --- the beginning --- */

static int set_nodes(const char *list)
{
	unsigned int node[MAX_VCPUS] = { 0 };
	unsigned int given = 0;

	while (*list) {
		char *end;

		if (given == MAX_VCPUS)
			return -1;
		node[given++] = strtoul(list, &end, 10);
		if (end == list || (*end && *end != '.'))
			return -1;
		list = *end ? end + 1 : end;
	}
	if (given && given != nr_vcpus)
		return -1;
	for (unsigned int cpu = 0; cpu < nr_vcpus; cpu++)
		for (unsigned int other = 0; other < nr_vcpus; other++)
			if (node[cpu] == node[other])
				topology.node_of[cpu] |= 1u << other;
	return 0;
}

static int set_option(char *option, const char **nodes)
{
	char *value = strchr(option, '=');

	if (!value)
		return -1;
	*value++ = '\0';
	if (!strcmp(option, "out"))
		out = value;
	else if (!strcmp(option, "nodes"))
		*nodes = value;
	else if (!strcmp(option, "user") && (!strcmp(value, "on") || !strcmp(value, "off")))
		with_user = !strcmp(value, "on");
	else if (!strcmp(option, "what") && !strcmp(value, "lines"))
		with_lines = true;
	else if (!strcmp(option, "what") && !strcmp(value, "instructions"))
		with_lines = false;
	else
		return -1;
	return 0;
}

static bool make_tables(void)
{
	lines = reserve(MAX_LINES * sizeof(struct line));
	sites = reserve(MAX_SITES * sizeof(struct site));
	site_slots = reserve(SITE_SLOTS * sizeof(*site_slots));
	for (unsigned int cpu = 0; cpu < nr_vcpus; cpu++) {
		struct vcpu *vcpu = &vcpus[cpu];

		vcpu->tally = reserve(MAX_SITES * sizeof(struct tally));
		vcpu->base = reserve(MAX_SITES * sizeof(struct tally));
		vcpu->moves = reserve(MOVE_SLOTS * sizeof(struct move));
		if (!vcpu->tally || !vcpu->base || !vcpu->moves)
			return false;
	}
	return lines && sites && site_slots;
}

PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
				      char **argv)
{
	const char *nodes = "";

	if (!info->system_emulation || strcmp(info->target_name, "x86_64")) {
		fprintf(stderr, "coherence: this counts whole x86_64 guests\n");
		return 1;
	}
	nr_vcpus = info->max_vcpus;
	if (nr_vcpus > MAX_VCPUS) {
		fprintf(stderr, "coherence: %u CPUs, %u are possible\n", nr_vcpus, MAX_VCPUS);
		return 1;
	}
	for (int at = 0; at < argc; at++) {
		if (set_option(argv[at], &nodes)) {
			fprintf(stderr, "coherence: wrong argument %s\n", argv[at]);
			return 1;
		}
	}
	if (set_nodes(nodes)) {
		fprintf(stderr, "coherence: nodes=%s is not a node for each of %u CPUs\n", nodes,
			nr_vcpus);
		return 1;
	}
	if (!make_tables()) {
		fprintf(stderr, "coherence: no address space for the tables\n");
		return 1;
	}
	self = id;
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	event("loaded");
	return 0;
}
