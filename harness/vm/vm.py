"""A booted guest and what can be done in it."""

from __future__ import annotations

import contextlib
import shlex
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from types import TracebackType

from harness import process
from harness.console import Console, decode
from harness.vm import autopsy, relay, wire
from harness.vm.errors import (
    GuestCommandFailed,
    GuestError,
    GuestGone,
    GuestHang,
    GuestPanic,
)
from harness.vm.guestprocess import GuestProcess, GuestResult
from harness.vm.machine import Machine
from harness.vm.options import KernelImage, VmOptions

#: The environment of every command, unless it brings its own values.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "TMPDIR": "/tmp",
}

#: Seconds a panicking kernel gets to finish its report.
PANIC_GRACE = 5.0

#: Seconds a guest gets to answer a question put to it because a command is late.
ANSWER_GRACE = 20.0


class Vm:
    """A booted guest. Use it as a context manager; :func:`harness.vm.boot` makes it.

    Attributes:
        accel: ``"kvm"`` or ``"tcg"``.
        boot_seconds: from the start of QEMU to the agent's first word.
        release: the kernel's release, as ``uname -r`` has it.
    """

    def __init__(
        self, machine: Machine, kernel: KernelImage, options: VmOptions, *, accel: str
    ) -> None:
        self._machine = machine
        self.kernel = kernel
        self.options = options
        self.accel = accel
        self.boot_seconds = 0.0
        self.release = ""
        self.changed = machine.changed
        self._channels: dict[int, GuestProcess] = {}
        self._next_channel = 1
        self._marks = 0
        #: What a person should know about how it came up, e.g. a boot tried twice.
        self.notes: list[str] = []
        self._hung: str | None = None
        self._where = ""
        machine.on_frame = self._on_frame
        machine.console.attach(flush=self.flush_console, decode=self.decode)

    # What it is.

    @property
    def cpus(self) -> int:
        """Number of CPUs it was started with."""
        return self.options.cpus

    @property
    def console(self) -> Console:
        """The kernel's log so far."""
        return self._machine.console

    @property
    def console_log(self) -> Path:
        """The file that holds all of the kernel's log."""
        return self._machine.console.log

    @property
    def alive(self) -> bool:
        """Whether commands can still be run; does not ask the guest."""
        with self.changed:
            return self._failure() is None

    # Its end.

    def __enter__(self) -> Vm:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End QEMU and its children. Safe at any time, more than once."""
        self._machine.close()

    # Commands.

    def interactive(self) -> int:
        """Give the terminal of this process to a shell in the guest; return its status.

        Raises:
            GuestPanic, GuestHang, GuestGone: the guest failed meanwhile.
        """
        return relay.shell(self)

    def run(
        self,
        argv: str | Sequence[str | PurePath],
        *,
        timeout: float,
        check: bool = True,
        cwd: str | PurePath | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
    ) -> GuestResult:
        """Run a command as root and wait for its end.

        Args:
            argv: the command; a string is given to ``bash -c``.
            timeout: seconds.
            check: raise :class:`GuestCommandFailed` unless the status is 0.
            cwd: working directory; ``/`` unless given.
            env: variables added to the guest's environment.
            stdin: bytes for its standard input; /dev/null unless given.

        Raises:
            GuestCommandFailed: the status was not 0 (and ``check``).
            GuestCommandTimeout: not done in time though the guest answers.
            GuestPanic, GuestHang, GuestGone: the guest failed meanwhile.
        """
        command = self.start(argv, cwd=cwd, env=env, stdin=stdin is not None)
        try:
            if stdin is not None:
                command.write(stdin)
                command.close_stdin()
            result = command.wait(timeout)
        except BaseException:
            command.kill(signal.SIGKILL)
            raise
        if check and result.returncode != 0:
            raise GuestCommandFailed(
                f"{command.name}: {_status_text(result.returncode)} in the guest",
                returncode=result.returncode,
                stdout=result.stdout,
                stderr=result.stderr,
                log=self.console_log,
                tail=process.tail(result.stdout + result.stderr) or self.console.tail(10),
            )
        return result

    def start(
        self,
        argv: str | Sequence[str | PurePath],
        *,
        cwd: str | PurePath | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bool = False,
        tty: tuple[int, int] | None = None,
        on_output: Callable[[int, bytes], None] | None = None,
    ) -> GuestProcess:
        """Start a command and return at once; several may run at the same time.

        Args:
            stdin: the command gets a pipe that :meth:`GuestProcess.write` feeds.
            tty: (rows, columns): the command gets a terminal instead of pipes.
            on_output: called with (1 or 2, bytes) for what the command writes,
                which is then not kept; runs in the guest's own thread, must not block.
        """
        words = ["bash", "-c", argv] if isinstance(argv, str) else [str(word) for word in argv]
        payload = wire.start(
            words,
            cwd="/" if cwd is None else str(cwd),
            env={**ENVIRONMENT, **(env or {})},
            stdin=stdin,
            tty=tty,
        )
        name = argv if isinstance(argv, str) else shlex.join(words)
        name = name.strip().splitlines()[0] if name.strip() else "an empty command"
        return self._start(payload, name[:100], on_output)

    def _start(
        self,
        payload: bytes,
        name: str,
        on_output: Callable[[int, bytes], None] | None = None,
    ) -> GuestProcess:
        with self.changed:
            self.check()
            channel = self._next_channel
            self._next_channel += 1
            command = GuestProcess(self, channel, name, on_output=on_output)
            self._channels[channel] = command
            self.send(wire.START, channel, payload)
        return command

    def read_file(self, path: str | PurePath, *, timeout: float = 30.0) -> str:
        """Return the contents of a file in the guest (/proc and /sys included).

        Raises:
            GuestCommandFailed: it cannot be read.
        """
        return self._file(wire.READ, path, f"reading {path}", b"", timeout).stdout

    def write_file(self, path: str | PurePath, text: str | bytes, *, timeout: float = 30.0) -> None:
        """Put ``text`` into a file in the guest, in one write (/proc and /sys included).

        Raises:
            GuestCommandFailed: it cannot be written.
        """
        data = text.encode() if isinstance(text, str) else text
        self._file(wire.WRITE, path, f"writing {path}", data, timeout)

    def _file(
        self, mode: bytes, path: str | PurePath, name: str, data: bytes, timeout: float
    ) -> GuestResult:
        command = self._start(wire.start([str(path)], mode=mode, stdin=True), name)
        command.write(data)
        command.close_stdin()
        result = command.wait(timeout)
        if result.returncode != 0:
            raise GuestCommandFailed(
                f"{name}: {result.stderr.strip().rpartition(': ')[2]}",
                returncode=result.returncode,
                stdout=result.stdout,
                stderr=result.stderr,
                log=self.console_log,
            )
        return result

    def read_memory(self, address: int, size: int, *, timeout: float = 10.0) -> bytes | None:
        """Return memory of the guest's by the kernel's virtual address, asking QEMU.

        None if nothing is mapped there or QEMU does not answer. The guest goes on meanwhile.
        """
        with tempfile.TemporaryDirectory(prefix="skbhome-memory-") as directory:
            path = Path(directory) / "memory"
            self._machine.monitor(f'memsave {address:#x} {size} "{path}"', timeout=timeout)
            with contextlib.suppress(OSError):
                data = path.read_bytes()
                return data if len(data) == size else None
        return None

    def flush_console(self, *, timeout: float = 20.0) -> bool:
        """Wait until everything that the kernel has logged so far has been read.

        Puts a line of its own into the log and waits for it. False if it did
        not come in time or the guest is gone.
        """
        with self.changed:
            if self._failure() is not None:
                return False
            self._marks += 1
            text = f"skbhome: mark {self._marks}"
            self.send(wire.MARK, 0, text.encode())
        return self.console.wait_for(f"{text}\n".encode(), timeout=timeout)

    def show_blocked(self, *, timeout: float = 10.0) -> None:
        """Put the stacks of blocked tasks into the kernel log, if the kernel can."""
        with contextlib.suppress(GuestError):
            self.write_file("/proc/sysrq-trigger", "w", timeout=timeout)
            self.flush_console(timeout=timeout)

    def decode(self, text: str) -> tuple[str | None, str]:
        """Return a report with files and lines, or None and the reason why not."""
        build_dir = getattr(self.kernel, "build_dir", None)
        return decode.decode(text, vmlinux=self.kernel.vmlinux, build_dir=build_dir)

    # The connection; used by GuestProcess.

    def send(self, kind: int, channel: int = 0, payload: bytes = b"") -> None:
        """Queue a frame for the agent."""
        self._machine.send(kind, channel, payload)

    def hold(self, on: bool) -> None:
        """Stop (or go on) taking what commands write, for whoever has to pass it on."""
        self._machine.hold(on)

    def _on_frame(self, kind: int, channel: int, payload: bytes) -> None:
        command = self._channels.get(channel)
        if command is None:
            return
        command.handle(kind, payload)
        if command.returncode is not None:
            del self._channels[channel]

    def _failure(self) -> str | None:
        """Name what is wrong with the guest, or None; `changed` is held."""
        machine = self._machine
        if self._hung is not None:
            return "hang"  # whatever the questions put to it did to the guest
        if machine.ended or machine.lost is not None:
            return "gone"
        if self.console.panic is not None:
            return "panic"
        if machine.connected and machine.silent_for > self.options.hang_after:
            return "hang"
        return None

    def check(self) -> None:
        """Raise if the guest has failed. `changed` is held.

        Raises:
            GuestPanic, GuestHang, GuestGone.
        """
        failure = self._failure()
        if failure is None:
            return
        if failure == "hang":
            limit = self.options.hang_after
            raise self._hang(f"the guest gave no sign of life for {limit:.0f} s")
        machine = self._machine
        # A panic ends QEMU and the connection, in any order, after its report.
        deadline = time.monotonic() + PANIC_GRACE
        while not machine.ended and time.monotonic() < deadline:
            self.changed.wait(0.1)
        if self.console.panic is not None:
            raise GuestPanic(
                f"the kernel panicked: {self.console.panic}",
                log=self.console_log,
                tail=self.console.tail(40),
            )
        why = "QEMU ended" if machine.ended else machine.lost
        said = machine.stderr.strip()
        raise GuestGone(
            f"the guest is gone: {why}",
            log=self.console_log,
            tail=self.console.tail() + (f"\n-- QEMU --\n{said}" if said else ""),
        )

    def prove_alive(self) -> None:
        """Ask the guest for a sign of life.

        Raises:
            GuestHang: none came within 20 s. GuestPanic, GuestGone as usual.
        """
        with self.changed:
            asked = time.monotonic()
            self.send(wire.PING)
            while self._machine.last_heard < asked:
                self.check()
                if time.monotonic() - asked > ANSWER_GRACE:
                    raise self._hang(f"the guest did not answer within {ANSWER_GRACE:.0f} s")
                self.changed.wait(0.2)

    def _hang(self, what: str) -> GuestHang:
        """Make the error for a hang, having asked QEMU and the kernel where the CPUs are."""
        if self._hung is None:
            self._hung = what
            # Both are slow; frames and console must move meanwhile.
            self.changed.release()
            try:
                self._where = autopsy.examine(self._machine, self.kernel)
            finally:
                self.changed.acquire()
        tail = self.console.tail(40)
        return GuestHang(
            self._hung,
            log=self.console_log,
            tail=f"{tail}\n-- CPUs --\n{self._where}" if self._where else tail,
        )


def _status_text(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-returncode).name}"
    return f"killed by signal {-returncode}"
