"""One command in the guest, seen from the host."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.vm import wire
from harness.vm.errors import GuestCommandTimeout, GuestError

if TYPE_CHECKING:
    from harness.vm.vm import Vm

#: Seconds that a command gets to end after SIGTERM, and again after SIGKILL.
GRACE = 5.0


@dataclass(frozen=True)
class GuestResult:
    """What a command in the guest left behind.

    Attributes:
        returncode: the exit status; a signal's number, negated, if it died of one.
        stdout, stderr: what it wrote, decoded (bytes that are not UTF-8 replaced).
        seconds: wall-clock time on the host, start and end messages included.
        stdout_bytes, stderr_bytes: what it wrote, exactly.
    """

    returncode: int
    stdout: str
    stderr: str
    seconds: float
    stdout_bytes: bytes = field(default=b"", repr=False)
    stderr_bytes: bytes = field(default=b"", repr=False)


class GuestProcess:
    """A command that runs, or ran, in the guest."""

    def __init__(
        self,
        vm: Vm,
        channel: int,
        name: str,
        *,
        on_output: Callable[[int, bytes], None] | None = None,
    ) -> None:
        self._vm = vm
        self.name = name
        self._channel = channel
        self._on_output = on_output
        self._started = time.monotonic()
        self._out = bytearray()
        self._err = bytearray()
        self._stdin = bytearray()
        self._stdin_ends = False
        self._stdin_closed = False
        self._window = wire.WINDOW
        self.pid: int | None = None
        self.returncode: int | None = None
        self.failed: str | None = None
        self.seconds = 0.0

    # Frames; called by the machine's thread with its lock held.

    def handle(self, kind: int, payload: bytes) -> None:
        """Take a frame of this command's channel."""
        if kind == wire.STDOUT or kind == wire.STDERR:
            if self._on_output is not None:
                self._on_output(1 if kind == wire.STDOUT else 2, payload)
            elif kind == wire.STDOUT:
                self._out += payload
            else:
                self._err += payload
        elif kind == wire.STARTED:
            self.pid = wire.number(payload)
        elif kind == wire.CREDIT:
            self._window += wire.number(payload)
            self._push()
        elif kind == wire.EXIT:
            self.returncode = wire.number(payload)
            self.seconds = time.monotonic() - self._started
            if self._on_output is not None:
                self._on_output(0, b"")
        elif kind == wire.FAILED:
            self.failed = payload.decode(errors="replace")
            self._err += payload + b"\n"
            self.returncode = 127

    # What it has done so far.

    @property
    def stdout(self) -> str:
        """What it has written to its standard output so far."""
        with self._vm.changed:
            return self._out.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """What it has written to its standard error so far."""
        with self._vm.changed:
            return self._err.decode(errors="replace")

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs.

        Raises:
            GuestError: the guest is gone, and the command with it.
        """
        with self._vm.changed:
            if self.returncode is None:
                self._vm.check()
            return self.returncode

    def result(self) -> GuestResult:
        """Return what it left behind; only once it has ended."""
        with self._vm.changed:
            assert self.returncode is not None
            return GuestResult(
                self.returncode,
                self._out.decode(errors="replace"),
                self._err.decode(errors="replace"),
                self.seconds,
                bytes(self._out),
                bytes(self._err),
            )

    # What can be done to it.

    def write(self, data: bytes) -> None:
        """Give it standard input (only if started with ``stdin=True``). Does not block."""
        with self._vm.changed:
            self._stdin += data
            self._push()

    @property
    def unwritten(self) -> int:
        """Bytes of standard input that have not left for the guest yet."""
        with self._vm.changed:
            return len(self._stdin)

    def close_stdin(self) -> None:
        """Let its standard input end after what was written."""
        with self._vm.changed:
            self._stdin_ends = True
            self._push()

    def _push(self) -> None:
        while self._stdin and self._window > 0:
            piece = bytes(self._stdin[: min(wire.LIMIT, self._window)])
            del self._stdin[: len(piece)]
            self._window -= len(piece)
            self._vm.send(wire.STDIN, self._channel, piece)
        if self._stdin_ends and not self._stdin and not self._stdin_closed:
            self._stdin_closed = True
            self._vm.send(wire.STDIN, self._channel, b"")

    def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal a new size."""
        self._vm.send(wire.RESIZE, self._channel, wire.of_size(rows, columns))

    def kill(self, sig: int = signal.SIGTERM) -> None:
        """Send a signal to the command and all it started in its session's first group."""
        if self.returncode is None:
            self._vm.send(wire.SIGNAL, self._channel, wire.of_number(int(sig)))

    def wait(self, timeout: float) -> GuestResult:
        """Wait for the end of the command.

        Raises:
            GuestCommandTimeout: it has not ended in time; it was killed.
            GuestPanic, GuestHang, GuestGone: the guest failed meanwhile.
        """
        if self._wait(timeout):
            return self.result()
        self._vm.prove_alive()
        if self.returncode is not None:  # it ended while the guest was being asked
            return self.result()
        end = "killed"
        for sig in (signal.SIGTERM, signal.SIGKILL):
            self.kill(sig)
            if self._wait(GRACE):
                break
        else:
            end = "SIGKILL did not end it either"
            self._vm.show_blocked()
        raise GuestCommandTimeout(
            f"{self.name}: not done after {timeout:.0f} s in a guest that answers; {end}",
            log=self._vm.console_log,
            tail=self._tail(),
        )

    def _wait(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        with self._vm.changed:
            while self.returncode is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._vm.check()
                self._vm.changed.wait(min(left, 1.0))
        return True

    def _tail(self) -> str:
        with self._vm.changed:
            written = (self._out[-2000:] + self._err[-2000:]).decode(errors="replace")
        console = self._vm.console.tail(15)
        return f"{written}\n-- console --\n{console}" if written else console


__all__ = ["GuestError", "GuestProcess", "GuestResult"]
