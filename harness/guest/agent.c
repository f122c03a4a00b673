// SPDX-License-Identifier: GPL-2.0-only
/*
 * Process 1 of the guest: mounts what a system needs, then runs commands for
 * the harness and reports on them over one virtio port.
 *
 * virtme-ng's own init spends most of a boot in systemd-tmpfiles and udev, and
 * an interpreter would spend as much again on starting: on an emulated CPU, and
 * more so on a kernel with KASAN, every page that is read counts. So this is one
 * small static program. The mounts are those that virtme-ng makes, from the same
 * kernel arguments (they arrive as environment variables), so the options of
 * virtme-run keep their meaning.
 *
 * One thread, one epoll loop; nothing blocks but the loop, so that a question
 * whether the guest is alive is always answered. Files are read and written by
 * forked children. The frames are described in harness/vm/wire.py.
 *
 * With "--connect FD" it serves that socket and leaves the system alone (for
 * the tests of the harness, which have no guest).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <pty.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORT_NAME "org.skbhome.agent"

/* As in wire.py. */
#define MAGIC 0xa7
#define HEADER 10
#define LIMIT (1 << 16)

enum {
	PING = 1,
	START = 2,
	STDIN = 3,
	SIGNAL = 4,
	RESIZE = 5,
	POWEROFF = 6,
	MARK = 7,
	HELLO = 16,
	PONG = 17,
	STARTED = 18,
	STDOUT = 19,
	STDERR = 20,
	EXIT = 21,
	CREDIT = 22,
	FAILED = 23,
};

/* Flags of a START frame. */
#define WANT_STDIN 1
#define WANT_TTY 2

/* Seconds to wait, once a command has ended, for what its children still write. */
#define LINGER 0.25

/* Bytes queued for the harness past which commands' output is not read. */
#define HIGH_WATER (1 << 20)

/* Most that is read of an ended command's output in one go. */
#define LAST_WORDS (4 << 20)

struct buffer {
	char *data;
	size_t start, end, size;
};

struct command;

/* What an event is about. */
struct source {
	enum { FROM_PORT, FROM_OUTPUT, TO_STDIN, TO_NOBODY } what;
	int fd;
	uint8_t kind;
	struct command *command;
};

struct command {
	struct command *next;
	uint32_t channel;
	pid_t pid;
	struct source out[2], in;
	struct buffer pending;
	bool in_registered, in_ends, tty, done;
	int status;
	double deadline;
};

static int port = -1, poller = -1;
static bool host_test, heard, paused;
static uint32_t port_events;
static struct source port_source;
static struct buffer incoming, outgoing;
static struct command *commands;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void say(const char *format, ...)
{
	char text[512];
	int fd, length;
	va_list args;

	length = snprintf(text, sizeof(text), "<6>skbhome-init: ");
	va_start(args, format);
	length += vsnprintf(text + length, sizeof(text) - length - 1, format, args);
	va_end(args);
	if (length > (int)sizeof(text) - 2)
		length = sizeof(text) - 2;
	text[length++] = '\n';
	fd = host_test ? -1 : open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	if (write(fd < 0 ? 2 : fd, text, length) < 0) {
		/* There is nobody left to tell. */
	}
	if (fd >= 0)
		close(fd);
}

/* The end of the system; what went wrong is in the log. */
static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...)
{
	char text[384];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	say("%s", text);
	if (host_test)
		_exit(1);
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

/* Buffers. */

static void put(struct buffer *buffer, const void *data, size_t length)
{
	if (buffer->start == buffer->end)
		buffer->start = buffer->end = 0;
	if (buffer->size - buffer->end < length) {
		memmove(buffer->data, buffer->data + buffer->start, buffer->end - buffer->start);
		buffer->end -= buffer->start;
		buffer->start = 0;
	}
	if (buffer->size - buffer->end < length) {
		buffer->size = (buffer->end + length) * 2;
		buffer->data = realloc(buffer->data, buffer->size);
		if (!buffer->data)
			die("out of memory for %zu bytes", buffer->size);
	}
	if (length)
		memcpy(buffer->data + buffer->end, data, length);
	buffer->end += length;
}

static size_t filled(const struct buffer *buffer)
{
	return buffer->end - buffer->start;
}

static void send_frame(uint8_t kind, uint32_t channel, const void *payload, uint32_t length)
{
	uint32_t words[2] = { htonl(channel), htonl(length) };
	uint8_t head[2] = { MAGIC, kind };

	put(&outgoing, head, sizeof(head));
	put(&outgoing, words, sizeof(words));
	put(&outgoing, payload, length);
}

static void send_number(uint8_t kind, uint32_t channel, int32_t value)
{
	uint32_t word = htonl(value);

	send_frame(kind, channel, &word, sizeof(word));
}

static uint32_t get_number(const char *payload, uint32_t length)
{
	uint32_t word;

	if (length < sizeof(word))
		return 0;
	memcpy(&word, payload, sizeof(word));
	return ntohl(word);
}

static uint16_t get_short(const char *payload)
{
	uint16_t word;

	memcpy(&word, payload, sizeof(word));
	return ntohs(word);
}

/* Events. */

static void watch(struct source *source, int operation, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = source };

	if (epoll_ctl(poller, operation, source->fd, &event))
		die("epoll: %s", strerror(errno));
}

static void forget(struct source *source)
{
	if (source->fd < 0)
		return;
	watch(source, EPOLL_CTL_DEL, 0);
	close(source->fd);
	source->fd = -1;
}

static bool again(void)
{
	return errno == EAGAIN || errno == EINTR;
}

/* Commands: the child's side. */

static int copy_out(const char *path)
{
	static char data[LIMIT];
	int fd = open(path, O_RDONLY);
	ssize_t got, done;
	char *at;

	while (fd >= 0 && (got = read(fd, data, sizeof(data))) > 0) {
		for (at = data; got > 0; at += done, got -= done) {
			done = write(1, at, got);
			if (done < 0)
				return 1;
		}
	}
	if (fd < 0 || got < 0) {
		dprintf(2, "%s: %s\n", path, strerror(errno));
		return 1;
	}
	return 0;
}

/* All of it in one call: files under /proc and /sys take a value per write. */
static int copy_in(const char *path)
{
	static char data[LIMIT];
	struct buffer whole = {};
	ssize_t got, done;
	int fd;

	while ((got = read(0, data, sizeof(data))) > 0)
		put(&whole, data, got);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	while (fd >= 0 && filled(&whole)) {
		done = write(fd, whole.data + whole.start, filled(&whole));
		if (done < 0)
			break;
		whole.start += done;
	}
	if (fd < 0 || filled(&whole) || close(fd)) {
		dprintf(2, "%s: %s\n", path, strerror(errno));
		return 1;
	}
	return 0;
}

static void __attribute__((noreturn))
become(char mode, const int fds[3], bool tty, const char *cwd, char **argv, char **env)
{
	sigset_t none;
	int i;

	setsid();
	if (host_test)
		/* No machine is switched off here that would take it along. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (i = 0; i < 3; i++)
		dup2(fds[i], i);
	if (tty)
		ioctl(0, TIOCSCTTY, 0);
	signal(SIGCHLD, SIG_DFL);
	signal(SIGPIPE, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (mode != 'x')
		/* No exec() closes them: the other end of its own input, for one. */
		for (i = 3; i < 1024; i++)
			close(i);
	if (mode == 'r')
		_exit(copy_out(argv[0]));
	if (mode == 'w')
		_exit(copy_in(argv[0]));
	if (chdir(cwd)) {
		dprintf(2, "%s: %s\n", cwd, strerror(errno));
		_exit(126);
	}
	environ = env;
	execvp(argv[0], argv);
	i = errno == ENOENT ? 127 : 126;
	dprintf(2, "%s: %s\n", argv[0], strerror(errno));
	_exit(i);
}

/* Commands: this side. */

static void fail(uint32_t channel, const char *what)
{
	char text[128];
	int length = snprintf(text, sizeof(text), "%s: %s", what, strerror(errno));

	send_frame(FAILED, channel, text, length);
}

/*
 * START: mode ('x' run, 'r' read a file, 'w' write one), flags, rows, columns,
 * number of arguments, number of variables, then working directory, arguments
 * and variables, each ended by a zero byte.
 */
static void start(uint32_t channel, const char *payload, uint32_t length)
{
	int in[2] = { -1, -1 }, out[2] = { -1, -1 }, err[2] = { -1, -1 }, fds[3], i, count;
	const char *at = payload + 10, *end = payload + length;
	char **words, mode = payload[0];
	struct command *command;
	struct winsize size = {};
	int argc, envc;
	bool tty;

	if (length < 11 || end[-1]) {
		errno = EINVAL;
		fail(channel, "start");
		return;
	}
	tty = payload[1] & WANT_TTY;
	size.ws_row = get_short(payload + 2);
	size.ws_col = get_short(payload + 4);
	argc = get_short(payload + 6);
	envc = get_short(payload + 8);
	words = calloc(argc + envc + 3, sizeof(*words));
	command = calloc(1, sizeof(*command));
	if (!words || !command)
		die("out of memory for a command");
	/* words: cwd, arguments, NULL, variables, NULL */
	for (i = count = 0; at < end && count < 1 + argc + envc; at += strlen(at) + 1, count++) {
		words[i++] = (char *)at;
		if (count == argc)
			words[i++] = NULL;
	}
	if (count != 1 + argc + envc || !argc) {
		errno = EINVAL;
		goto failed;
	}
	if (tty) {
		/* The terminal is both: out[0] is read from, in[1] written to. */
		if (openpty(&out[0], &out[1], NULL, NULL, &size))
			goto failed;
		fcntl(out[0], F_SETFD, FD_CLOEXEC);
		fcntl(out[1], F_SETFD, FD_CLOEXEC);
		in[1] = fcntl(out[0], F_DUPFD_CLOEXEC, 3);
		if (in[1] < 0)
			goto failed;
		fds[0] = fds[1] = fds[2] = out[1];
	} else {
		if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
			goto failed;
		if (payload[1] & WANT_STDIN) {
			if (pipe2(in, O_CLOEXEC))
				goto failed;
		} else {
			in[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
			if (in[0] < 0)
				goto failed;
		}
		fds[0] = in[0];
		fds[1] = out[1];
		fds[2] = err[1];
	}
	command->pid = fork();
	if (command->pid < 0)
		goto failed;
	if (!command->pid)
		become(mode, fds, tty, *words[0] ? words[0] : "/", words + 1, words + argc + 2);
	close(fds[0]);
	close(fds[1]);
	if (!tty)
		close(fds[2]);
	free(words);

	command->channel = channel;
	command->tty = tty;
	command->out[0] = (struct source){ FROM_OUTPUT, out[0], STDOUT, command };
	command->out[1] = (struct source){ FROM_OUTPUT, err[0], STDERR, command };
	command->in = (struct source){ TO_STDIN, in[1], 0, command };
	for (i = 0; i < 2; i++) {
		if (command->out[i].fd < 0)
			continue;
		fcntl(command->out[i].fd, F_SETFL, O_NONBLOCK);
		watch(&command->out[i], EPOLL_CTL_ADD, paused ? 0 : EPOLLIN);
	}
	if (in[1] >= 0)
		fcntl(in[1], F_SETFL, O_NONBLOCK);
	command->next = commands;
	commands = command;
	send_number(STARTED, channel, command->pid);
	return;

failed:
	fail(channel, "start");
	for (i = 0; i < 2; i++) {
		if (in[i] >= 0)
			close(in[i]);
		if (out[i] >= 0)
			close(out[i]);
		if (err[i] >= 0)
			close(err[i]);
	}
	free(words);
	free(command);
}

static struct command *find(uint32_t channel)
{
	struct command *command;

	for (command = commands; command; command = command->next)
		if (command->channel == channel)
			return command;
	return NULL;
}

static void close_stdin(struct command *command)
{
	/* A terminal has no end of file of its own: type the key that makes one. */
	if (command->in.fd >= 0 && command->tty && !command->done && write(command->in.fd, "\4", 1) < 0)
		say("cannot end a terminal's input");
	if (command->in_registered)
		forget(&command->in);
	else if (command->in.fd >= 0)
		close(command->in.fd);
	command->in.fd = -1;
	command->in_registered = false;
}

static void feed_stdin(struct command *command)
{
	struct buffer *pending = &command->pending;
	size_t taken = 0;
	bool gone = false;
	ssize_t done;

	while (filled(pending)) {
		done = command->in.fd < 0 ? -1
			: write(command->in.fd, pending->data + pending->start, filled(pending));
		if (done < 0 && command->in.fd >= 0 && again())
			break;
		if (done < 0) {
			/* The command does not read (any more). */
			done = filled(pending);
			gone = true;
		}
		pending->start += done;
		taken += done;
	}
	if (taken)
		send_number(CREDIT, command->channel, taken);
	if (gone || (command->in_ends && !filled(pending))) {
		close_stdin(command);
	} else if (!filled(pending) == command->in_registered) {
		command->in_registered = !command->in_registered;
		watch(&command->in, command->in_registered ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, EPOLLOUT);
	}
}

/* Send what an output has; false at its end, for now or for good. */
static bool read_output(struct source *source)
{
	static char data[LIMIT];
	ssize_t got = read(source->fd, data, sizeof(data));

	if (got > 0) {
		send_frame(source->kind, source->command->channel, data, got);
		return true;
	}
	/* A terminal ends with EIO. */
	if (!got || !again())
		forget(source);
	return false;
}

/* The command's children hold its output: let them write into the void. */
static void leave_behind(struct source *source)
{
	struct source *orphan = malloc(sizeof(*orphan));

	if (!orphan)
		die("out of memory");
	*orphan = (struct source){ TO_NOBODY, source->fd, 0, NULL };
	watch(orphan, EPOLL_CTL_MOD, EPOLLIN);
	source->fd = -1;
}

static void drop_output(struct source *source)
{
	static char data[LIMIT];
	ssize_t got = read(source->fd, data, sizeof(data));

	if (got > 0 || (got < 0 && again()))
		return;
	forget(source);
	free(source);
}

static void finish(struct command *command)
{
	size_t before = filled(&outgoing);
	int i;

	for (i = 0; i < 2; i++) {
		while (command->out[i].fd >= 0 && filled(&outgoing) - before < LAST_WORDS &&
		       read_output(&command->out[i]))
			;
		if (command->out[i].fd >= 0)
			leave_behind(&command->out[i]);
	}
	close_stdin(command);
	send_number(EXIT, command->channel, command->status);
	free(command->pending.data);
	free(command);
}

static void finish_ended(void)
{
	struct command **link = &commands, *command;

	while ((command = *link)) {
		bool open = command->out[0].fd >= 0 || command->out[1].fd >= 0;

		if (command->done && (!open || now() >= command->deadline)) {
			*link = command->next;
			finish(command);
		} else {
			link = &command->next;
		}
	}
}

static void reap(void)
{
	struct command *command;
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (command = commands; command; command = command->next) {
			if (command->pid != pid || command->done)
				continue;
			command->done = true;
			command->status = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
			command->deadline = now() + LINGER;
			break;
		}
	}
}

/* The connection. */

static void mark(const char *text, uint32_t length)
{
	int fd = host_test ? 1 : open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	char line[256];

	if (length > sizeof(line) - 8)
		length = sizeof(line) - 8;
	/* In one write: that makes it one line. */
	length = snprintf(line, sizeof(line), "%s%.*s\n", host_test ? "" : "<6>", (int)length, text);
	if (fd < 0 || write(fd, line, length) < 0)
		say("cannot mark the log: %s", strerror(errno));
	if (fd > 2)
		close(fd);
}

static void handle(uint8_t kind, uint32_t channel, const char *payload, uint32_t length)
{
	struct command *command;
	struct winsize size = {};

	switch (kind) {
	case PING:
		send_frame(PONG, channel, payload, length);
		return;
	case START:
		start(channel, payload, length);
		return;
	case MARK:
		mark(payload, length);
		return;
	case POWEROFF:
		die("asked to power off");
	}
	command = find(channel);
	if (!command) {
		/* It has ended; its input has nowhere to go. */
		if (kind == STDIN && length)
			send_number(CREDIT, channel, length);
		return;
	}
	switch (kind) {
	case STDIN:
		put(&command->pending, payload, length);
		if (!length)
			command->in_ends = true;
		feed_stdin(command);
		break;
	case SIGNAL:
		/* Before its setsid() the child leads no group yet. */
		if (!command->done && kill(-command->pid, get_number(payload, length)))
			kill(command->pid, get_number(payload, length));
		break;
	case RESIZE:
		if (!command->tty || command->out[0].fd < 0 || length < 4)
			break;
		size.ws_row = get_short(payload);
		size.ws_col = get_short(payload + 2);
		ioctl(command->out[0].fd, TIOCSWINSZ, &size);
		break;
	}
}

/* False once the harness is gone. */
static bool receive(void)
{
	static char data[LIMIT];
	ssize_t got = read(port, data, sizeof(data));
	uint32_t channel, length;
	char *at;

	if (got < 0 && again())
		return true;
	if (got <= 0) {
		/* QEMU says that its end is open a moment after the guest opens its own. */
		if (!heard && !host_test)
			usleep(1000);
		return !heard && !host_test;
	}
	heard = true;
	put(&incoming, data, got);
	while (filled(&incoming) >= HEADER) {
		at = incoming.data + incoming.start;
		channel = get_number(at + 2, 4);
		length = get_number(at + 6, 4);
		if ((uint8_t)at[0] != MAGIC || length > LIMIT)
			die("what came from the harness is not a frame");
		if (filled(&incoming) < HEADER + length)
			break;
		handle(at[1], channel, at + HEADER, length);
		incoming.start += HEADER + length;
	}
	return true;
}

static void flush_port(void)
{
	while (filled(&outgoing)) {
		size_t length = filled(&outgoing) < LIMIT / 2 ? filled(&outgoing) : LIMIT / 2;
		ssize_t done = write(port, outgoing.data + outgoing.start, length);

		if (done < 0)
			return;
		outgoing.start += done;
	}
}

static void set_events(void)
{
	uint32_t events = EPOLLIN | (filled(&outgoing) ? EPOLLOUT : 0);
	bool pause = filled(&outgoing) > HIGH_WATER;
	struct command *command;
	int i;

	if (events != port_events) {
		watch(&port_source, EPOLL_CTL_MOD, events);
		port_events = events;
	}
	if (pause == paused)
		return;
	paused = pause;
	for (command = commands; command; command = command->next)
		for (i = 0; i < 2; i++)
			if (command->out[i].fd >= 0)
				watch(&command->out[i], EPOLL_CTL_MOD, paused ? 0 : EPOLLIN);
}

static int next_deadline(void)
{
	struct command *command;
	double wait = -1, left;

	for (command = commands; command; command = command->next) {
		if (!command->done)
			continue;
		left = command->deadline - now();
		if (left < 0)
			left = 0;
		if (wait < 0 || left < wait)
			wait = left;
	}
	return wait < 0 ? -1 : (int)(wait * 1000) + 1;
}

static void on_child(int number)
{
	(void)number;
}

static void serve(double init_seconds)
{
	struct epoll_event events[32];
	struct utsname system;
	sigset_t child, none;
	struct source *source;
	char hello[256];
	int count, i;

	/* The signal is let in while waiting only, so that none is missed. */
	sigemptyset(&none);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	signal(SIGCHLD, on_child);
	signal(SIGPIPE, SIG_IGN);
	poller = epoll_create1(EPOLL_CLOEXEC);
	fcntl(port, F_SETFL, O_NONBLOCK);
	port_source = (struct source){ FROM_PORT, port, 0, NULL };
	watch(&port_source, EPOLL_CTL_ADD, port_events = EPOLLIN);
	uname(&system);
	count = snprintf(hello, sizeof(hello), "release=%s\nuptime=%.3f\ninit=%.3f\n",
			 system.release, now(), init_seconds);
	send_frame(HELLO, 0, hello, count);
	for (;;) {
		flush_port();
		set_events();
		count = epoll_pwait(poller, events, 32, next_deadline(), &none);
		for (i = 0; i < count; i++) {
			source = events[i].data.ptr;
			if (source->fd < 0)
				continue;
			switch (source->what) {
			case FROM_PORT:
				if (events[i].events & (EPOLLIN | EPOLLHUP) && !receive())
					return;
				break;
			case FROM_OUTPUT:
				if (!paused)
					read_output(source);
				else if (events[i].events & EPOLLHUP)
					/* Said whether asked for or not; do not spin. */
					usleep(1000);
				break;
			case TO_STDIN:
				feed_stdin(source->command);
				break;
			case TO_NOBODY:
				drop_output(source);
				break;
			}
		}
		reap();
		finish_ended();
	}
}

/* The system. */

static bool mount_at(const char *source, const char *target, const char *type,
		     unsigned long flags, const char *options)
{
	if (!mount(source, target, type, flags, options))
		return true;
	say("mount %s on %s: %s", type, target, strerror(errno));
	return false;
}

static void make_directories(const char *path)
{
	char part[PATH_MAX];
	const char *slash = path;

	while ((slash = strchr(slash + 1, '/'))) {
		snprintf(part, sizeof(part), "%.*s", (int)(slash - path), path);
		mkdir(part, 0755);
	}
	mkdir(path, 0755);
}

static bool exists(const char *path)
{
	return !access(path, F_OK);
}

static void mount_kernel_filesystems(void)
{
	static const char * const optional[][2] = {
		{ "/sys/kernel/config", "configfs" },
		{ "/sys/kernel/debug", "debugfs" },
		{ "/sys/kernel/tracing", "tracefs" },
		{ "/sys/kernel/security", "securityfs" },
		{ "/sys/fs/cgroup", "cgroup2" },
		{ "/sys/fs/bpf", "bpf" },
	};
	static const char * const links[][2] = {
		{ "/proc/self/fd", "/dev/fd" },
		{ "/proc/self/fd/0", "/dev/stdin" },
		{ "/proc/self/fd/1", "/dev/stdout" },
		{ "/proc/self/fd/2", "/dev/stderr" },
	};
	unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	size_t i;

	/* Without CONFIG_DEVTMPFS_MOUNT what is there is the host's. */
	if (mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755") && errno != EBUSY)
		say("mount devtmpfs: %s", strerror(errno));
	mount_at("proc", "/proc", "proc", safe, NULL);
	mount_at("sysfs", "/sys", "sysfs", safe, NULL);
	mount_at("run", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
	for (i = 0; i < sizeof(optional) / sizeof(*optional); i++)
		/* The directory is there if the kernel has the file system. */
		if (exists(optional[i][0]))
			mount_at(optional[i][1], optional[i][0], optional[i][1], safe, NULL);
	mkdir("/dev/pts", 0755);
	mkdir("/dev/shm", 0755);
	mount_at("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		 "gid=5,mode=620,ptmxmode=666");
	mount_at("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
	for (i = 0; i < sizeof(links) / sizeof(*links); i++)
		if (symlink(links[i][0], links[i][1]) && errno != EEXIST)
			say("symlink %s: %s", links[i][1], strerror(errno));
}

/* Writable covers over the host's directories; what is written is lost in the end. */
static void mount_overlays(void)
{
	static const char * const fresh[] = { "/var/log", "/var/tmp", "/var/cache" };
	char name[64], upper[64], work[64], options[PATH_MAX];
	const char *directory;
	struct stat status;
	size_t i;

	for (i = 0;; i++) {
		snprintf(name, sizeof(name), "virtme_rw_overlay%zu", i);
		directory = getenv(name);
		if (!directory)
			break;
		snprintf(upper, sizeof(upper), "/run/tmp/%zu/upper", i);
		snprintf(work, sizeof(work), "/run/tmp/%zu/work", i);
		make_directories(upper);
		make_directories(work);
		if (!stat(directory, &status))
			chmod(upper, status.st_mode & 07777);
		snprintf(options, sizeof(options), "lowerdir=%s,upperdir=%s,workdir=%s", directory,
			 upper, work);
		mount_at("overlay", directory, "overlay", 0, options);
	}
	/* The host's files are seen with the eyes of whoever started the guest. */
	if (!getenv("virtme_root_user"))
		mount_at("tmpfs", "/root", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700");
	for (i = 0; i < sizeof(fresh) / sizeof(*fresh); i++)
		if (exists(fresh[i]))
			mount_at("tmpfs", fresh[i], "tmpfs", 0,
				 strcmp(fresh[i], "/var/tmp") ? NULL : "mode=1777");
}

/* What the host shares for reading and writing. */
static void mount_shares(void)
{
	char name[64], tag[64], target[PATH_MAX];
	const char *path, *type, *mode;
	int i;

	for (i = 0;; i++) {
		snprintf(name, sizeof(name), "virtme_initmount%d", i);
		path = getenv(name);
		if (!path)
			return;
		snprintf(name, sizeof(name), "virtme_initmount%d_fstype", i);
		type = getenv(name) ? getenv(name) : "9p";
		snprintf(name, sizeof(name), "virtme_initmount%d_access", i);
		mode = getenv(name) ? getenv(name) : "rw";
		snprintf(tag, sizeof(tag), "virtme.initmount%d", i);
		snprintf(target, sizeof(target), "/%s", path + strspn(path, "/"));
		make_directories(target);
		if (!mount_at(tag, target, type, strcmp(mode, "ro") ? 0 : MS_RDONLY,
			      strcmp(type, "9p") ? NULL
			      : "version=9p2000.L,trans=virtio,access=any,msize=524288"))
			die("cannot mount %s", target);
	}
}

/* The host's modules of the same version are not this kernel's. */
static void hide_modules(void)
{
	char path[PATH_MAX];
	struct utsname system;

	uname(&system);
	snprintf(path, sizeof(path), "/lib/modules/%s", system.release);
	if (exists(path))
		mount_at("none", path, "tmpfs", MS_RDONLY, "mode=0000");
}

static void configure(void)
{
	static const struct {
		int resource;
		rlim_t value;
	} limits[] = {
		{ RLIMIT_NOFILE, 1 << 20 },
		{ RLIMIT_MEMLOCK, RLIM_INFINITY },
		{ RLIMIT_NPROC, RLIM_INFINITY },
		{ RLIMIT_CORE, 0 },
	};
	const char *name = getenv("virtme_hostname");
	struct ifreq request = { .ifr_name = "lo" };
	struct rlimit limit;
	size_t i;
	int sock;

	umask(022);
	if (!name)
		name = "skbhome";
	if (sethostname(name, strlen(name)))
		say("hostname: %s", strerror(errno));
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0 || ioctl(sock, SIOCGIFFLAGS, &request))
		say("no loopback interface: %s", strerror(errno));
	request.ifr_flags |= IFF_UP;
	if (sock >= 0 && ioctl(sock, SIOCSIFFLAGS, &request))
		say("lo: %s", strerror(errno));
	if (sock >= 0)
		close(sock);
	for (i = 0; i < sizeof(limits) / sizeof(*limits); i++) {
		limit.rlim_cur = limit.rlim_max = limits[i].value;
		if (setrlimit(limits[i].resource, &limit))
			say("limit %d: %s", limits[i].resource, strerror(errno));
	}
}

/* The device of the agent's port; no udev is needed for that. */
static int open_port(void)
{
	static const char ports[] = "/sys/class/virtio-ports";
	char path[PATH_MAX], name[64];
	struct dirent *entry;
	int tries, fd, got;
	DIR *directory;

	for (tries = 0; tries < 500; tries++) {
		directory = opendir(ports);
		while (directory && (entry = readdir(directory))) {
			snprintf(path, sizeof(path), "%s/%s/name", ports, entry->d_name);
			fd = open(path, O_RDONLY | O_CLOEXEC);
			if (fd < 0)
				continue;
			got = read(fd, name, sizeof(name) - 1);
			close(fd);
			name[got > 0 ? got : 0] = 0;
			name[strcspn(name, "\n")] = 0;
			if (strcmp(name, PORT_NAME))
				continue;
			snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
			fd = open(path, O_RDWR | O_CLOEXEC);
			if (fd >= 0) {
				closedir(directory);
				return fd;
			}
		}
		if (directory)
			closedir(directory);
		usleep(10000);
	}
	die("no virtio port " PORT_NAME ": is CONFIG_VIRTIO_CONSOLE set?");
}

int main(int argc, char **argv)
{
	double started = now();
	int fd;

	if (argc == 3 && !strcmp(argv[1], "--connect")) {
		host_test = true;
		port = atoi(argv[2]);
		fcntl(port, F_SETFD, FD_CLOEXEC);
		serve(0);
		return 0;
	}
	if (getpid() != 1) {
		fprintf(stderr, "this is process 1 of a guest, or takes --connect FD\n");
		return 2;
	}
	mount_kernel_filesystems();
	/* Numbers 0 to 2 are the console, if the kernel could open it. */
	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd < 3);
	close(fd);
	configure();
	mount_overlays();
	hide_modules();
	mount_shares();
	port = open_port();
	say("ready, %.2f s after the kernel", now() - started);
	serve(now() - started);
	die("the harness is gone");
}
