/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a guest says to the plugin: an instruction that does nothing, on any
 * machine (an 8-byte NOP that names an address, which nothing reads), and
 * that the plugin knows by its bytes: 0f 1f 84 00, then the number below.
 */
#ifndef COHERENCE_MARKS_H
#define COHERENCE_MARKS_H

#define MARK_FOLLOW	0x534b4201	/* keep a directory from now on */
#define MARK_START	0x534b4202	/* a section begins: count */
#define MARK_STOP	0x534b4203	/* it ends: write what was counted */
#define MARK_LEAVE	0x534b4204	/* no directory any more */

#endif
