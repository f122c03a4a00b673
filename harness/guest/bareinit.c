// SPDX-License-Identifier: GPL-2.0-only
/*
 * The only program of a guest that has nothing else: init of an initramfs, without a C library,
 * for 64 and for 32 bits. It says on the console which kernel runs, and ends the guest.
 */

#define SYS(number, a, b, c, d) call(number, (long)(a), (long)(b), (long)(c), (long)(d))

#ifdef __x86_64__
enum { WRITE = 1, SYNC = 162, UNAME = 63, REBOOT = 169 };

static long call(long number, long a, long b, long c, long d)
{
	register long fourth __asm__("r10") = d;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
			 : "rcx", "r11", "memory");
	return result;
}
#else
enum { WRITE = 4, SYNC = 36, UNAME = 122, REBOOT = 88 };

static long call(long number, long a, long b, long c, long d)
{
	long result;

	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d)
			 : "memory");
	return result;
}
#endif

/* struct new_utsname of the kernel's ABI: six fields of 65 bytes, the third is the release. */
static char names[6][65];

static void say(const char *text)
{
	unsigned long length = 0;

	while (text[length])
		length++;
	SYS(WRITE, 1, text, length, 0);
}

void _start(void)
{
	SYS(UNAME, names, 0, 0, 0);
	say("skbhome: init runs on ");
	say(names[2]);
	say("\n");
	SYS(SYNC, 0, 0, 0, 0);
	/* LINUX_REBOOT_CMD_RESTART: QEMU, told -no-reboot, ends. */
	SYS(REBOOT, 0xfee1dead, 672274793, 0x01234567, 0);
	for (;;)
		;
}
