/* SPDX-License-Identifier: GPL-2.0-only */
/* What can be told of an x86_64 instruction from its bytes. */
#ifndef COHERENCE_X86_H
#define COHERENCE_X86_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "marks.h"

/* The number of a mark (marks.h), or 0. */
static inline uint32_t mark_of(const uint8_t *code, size_t size)
{
	static const uint8_t nop[4] = { 0x0f, 0x1f, 0x84, 0x00 };
	uint32_t number;

	if (size != 8 || memcmp(code, nop, sizeof(nop)))
		return 0;
	memcpy(&number, code + 4, sizeof(number));
	return number >= MARK_FOLLOW && number <= MARK_LEAVE ? number : 0;
}

/* Where an instruction's opcode is, behind its prefixes. */
static inline size_t opcode_at(const uint8_t *code, size_t size)
{
	size_t at;

	for (at = 0; at + 1 < size; at++) {
		switch (code[at]) {
		case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65:
		case 0x66: case 0x67: case 0xf0: case 0xf2: case 0xf3:
		case 0x40 ... 0x4f:
			continue;
		}
		break;
	}
	return at;
}

/* movs, cmps, stos, lods, scas, ins and outs with a prefix that repeats them. */
static inline bool is_repeated(const uint8_t *code, size_t size)
{
	size_t at = opcode_at(code, size);

	switch (code[at]) {
	case 0xa4 ... 0xa7:
	case 0xaa ... 0xaf:
	case 0x6c ... 0x6f:
		return memchr(code, 0xf2, at) || memchr(code, 0xf3, at);
	}
	return false;
}

/*
 * Instructions that change how the CPU runs, and so end a block. QEMU before
 * 8.0 goes on to say of them that they access memory, for whatever it does
 * between blocks, and even after it has forgotten them. What they access
 * themselves is a stack or a descriptor of their own CPU.
 */
static inline bool is_system(const uint8_t *code, size_t size)
{
	size_t at = opcode_at(code, size);
	uint8_t next = at + 1 < size ? code[at + 1] : 0;

	switch (code[at]) {
	case 0x07: case 0x17: case 0x1f:	/* pop of a segment */
	case 0x6c ... 0x6f:			/* ins, outs */
	case 0x8e:				/* mov to a segment */
	case 0x9a: case 0xea:			/* far call and jmp */
	case 0x9d:				/* popf */
	case 0xca ... 0xcf:			/* far ret, int, iret */
	case 0xe4 ... 0xe7: case 0xec ... 0xef:	/* in, out */
	case 0xf1: case 0xf4: case 0xfa: case 0xfb:
		return true;
	case 0xff:				/* far call and jmp */
		return (next >> 3 & 7) == 3 || (next >> 3 & 7) == 5;
	case 0x0f:
		break;
	default:
		return false;
	}
	switch (next) {
	case 0x00: case 0x01:			/* lldt, lgdt, invlpg, swapgs, ... */
	case 0x05 ... 0x09:			/* syscall, clts, sysret, invd, wbinvd */
	case 0x20 ... 0x23:			/* mov to and from control registers */
	case 0x30 ... 0x35:			/* wrmsr, ..., sysenter, sysexit */
	case 0xa1: case 0xa9:			/* pop of a segment */
	case 0xa2: case 0xaa: case 0xae:	/* cpuid, rsm; fxsave, fences, ... */
	case 0xb2: case 0xb4: case 0xb5:	/* load a segment */
		return true;
	}
	return false;
}

#endif
