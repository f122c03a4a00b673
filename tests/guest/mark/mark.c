// SPDX-License-Identifier: GPL-2.0-only
/*
 * mark follow|start|stop|leave - say so to the plugin of harness/coherence.
 * mark run COMMAND [ARGUMENT]... - run a command, and have it counted.
 *
 * Exits as the command does; 2 on bad usage, 127 if it cannot be run.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mark.h"

static int run(char **argv)
{
	int status;
	pid_t pid;

	pid = fork();
	if (pid < 0) {
		perror("fork");
		return 127;
	}
	if (!pid) {
		mark_start();
		execvp(argv[0], argv);
		fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
		_exit(127);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	mark_stop();
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "run"))
		return run(argv + 2);
	if (argc != 2) {
		fprintf(stderr, "mark follow|start|stop|leave, or mark run COMMAND...\n");
		return 2;
	}
	if (!strcmp(argv[1], "follow"))
		mark_follow();
	else if (!strcmp(argv[1], "start"))
		mark_start();
	else if (!strcmp(argv[1], "stop"))
		mark_stop();
	else if (!strcmp(argv[1], "leave"))
		mark_leave();
	else
		return 2;
	return 0;
}
