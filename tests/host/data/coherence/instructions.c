// SPDX-License-Identifier: GPL-2.0-only
/*
 * What harness/coherence/x86.h tells of instructions: a line of hexadecimal
 * bytes on standard input makes one of "mark N", "system", "repeated" or "-".
 */
#include <stdio.h>

#include "x86.h"

int main(void)
{
	char text[256];

	while (fgets(text, sizeof(text), stdin)) {
		uint8_t code[16] = { 0 };
		unsigned int byte;
		size_t size = 0;
		int used;

		for (char *at = text; size < 16 && sscanf(at, "%x%n", &byte, &used) == 1;
		     at += used)
			code[size++] = byte;
		if (mark_of(code, size))
			printf("mark %u\n", mark_of(code, size) & 0xff);
		else if (is_repeated(code, size))
			puts("repeated");
		else
			puts(is_system(code, size) ? "system" : "-");
	}
	return 0;
}
