"""Connect a command in the guest to this process's own standard streams."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from types import FrameType
from typing import TYPE_CHECKING

from harness.vm.errors import GuestCommandTimeout

if TYPE_CHECKING:
    from harness.vm.vm import Vm

#: Bytes of output waiting for a slow reader past which the guest has to wait, and below which
#: it may go on.
HIGH, LOW = 8 << 20, 1 << 20

#: Bytes of standard input read ahead of the guest.
AHEAD = 1 << 18

#: Without the person's own start-up files: the guest sees their home, can't write there,
#: and what such a file starts may then wait for a lock until it gives up.
SHELL = ("bash", "--norc")

#: The key that ends an interactive session: Ctrl-].
ESCAPE = b"\x1d"


def window_size(fd: int) -> tuple[int, int]:
    """Return (rows, columns) of a terminal."""
    with contextlib.suppress(OSError):
        rows, columns, _, _ = struct.unpack(
            "HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        )
        if rows and columns:
            return rows, columns
    return 24, 80


def run(
    vm: Vm,
    argv: str | Sequence[str | PurePath],
    *,
    cwd: str | PurePath | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> int:
    """Run a command with this process's standard input, output and error; return its status.

    Bytes pass unchanged. Ctrl-C raises KeyboardInterrupt here.

    Raises:
        GuestCommandTimeout: not done in time; it was killed.
        GuestPanic, GuestHang, GuestGone: the guest failed meanwhile.
    """
    return _Relay(vm).run(argv, cwd=cwd, env=env, timeout=timeout, terminal=None)


def shell(
    vm: Vm,
    argv: Sequence[str] = SHELL,
    *,
    cwd: str | PurePath | None = None,
    env: Mapping[str, str] | None = None,
) -> int:
    """Run a command on a terminal in the guest that this process's terminal becomes.

    Every key goes to the guest, but Ctrl-] ends the session.

    Raises:
        GuestPanic, GuestHang, GuestGone: the guest failed meanwhile.
    """
    terminal = sys.stdin.fileno()
    with _raw(terminal):
        return _Relay(vm).run(argv, cwd=cwd, env=env, timeout=None, terminal=terminal)


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class _Relay:
    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._output: deque[tuple[int, bytes]] = deque()
        self._waiting = 0
        self._resized = False

    def run(
        self,
        argv: str | Sequence[str | PurePath],
        *,
        cwd: str | PurePath | None,
        env: Mapping[str, str] | None,
        timeout: float | None,
        terminal: int | None,
    ) -> int:
        sys.stdout.flush()
        deadline = None if timeout is None else time.monotonic() + timeout
        previous = None
        if terminal is not None:
            previous = signal.signal(signal.SIGWINCH, self._on_resize)
        command = self._vm.start(
            argv,
            cwd=cwd,
            env=env,
            stdin=True,
            tty=None if terminal is None else window_size(terminal),
            on_output=self._on_output,
        )
        stdin: int | None = sys.stdin.fileno() if sys.stdin is not None else None
        try:
            while True:
                self._write()
                status = command.poll()
                if status is not None and not self._output:
                    return status
                if deadline is not None and time.monotonic() > deadline:
                    self._vm.prove_alive()
                    raise GuestCommandTimeout(
                        f"{command.name}: not done after {timeout:.0f} s in a guest that answers",
                        log=self._vm.console_log,
                        tail=self._vm.console.tail(15),
                    )
                if self._resized and terminal is not None:
                    self._resized = False
                    command.resize(*window_size(terminal))
                reading = stdin is not None and status is None and command.unwritten < AHEAD
                if not self._ready(stdin if reading else None):
                    continue
                assert stdin is not None
                data = _read(stdin)
                if terminal is not None and ESCAPE in data:
                    return 0
                if data:
                    command.write(data)
                else:
                    command.close_stdin()
                    stdin = None
        finally:
            command.kill(signal.SIGKILL)
            self._vm.hold(False)
            if previous is not None:
                signal.signal(signal.SIGWINCH, previous)
            os.close(self._wake)
            self._wake = -1

    def _ready(self, stdin: int | None) -> bool:
        """Wait a moment for input, output or the command's end; true if there is input."""
        fds = [self._wake] if stdin is None else [self._wake, stdin]
        # A signal handler (a new window size) does not interrupt the wait: keep it short.
        readable, _, _ = select.select(fds, [], [], 0.25)
        if self._wake in readable:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        return stdin is not None and stdin in readable

    def _on_output(self, stream: int, data: bytes) -> None:
        # In the guest's thread: only take note.
        if stream:
            self._output.append((stream, data))
            self._waiting += len(data)
            if self._waiting > HIGH:
                self._vm.hold(True)
        if self._wake >= 0:
            with contextlib.suppress(OSError):
                os.eventfd_write(self._wake, 1)

    def _on_resize(self, _signum: int, _frame: FrameType | None) -> None:
        self._resized = True

    def _write(self) -> None:
        while self._output:
            stream, data = self._output.popleft()
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(stream, rest) :]
            with self._vm.changed:
                self._waiting -= len(data)
                if self._waiting < LOW:
                    self._vm.hold(False)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except OSError:
        return b""  # the terminal has hung up
