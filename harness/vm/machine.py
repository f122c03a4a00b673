"""A running QEMU: its process group, console, agent connection and monitor.

One thread per guest moves the bytes; everything else looks at the state under
:attr:`Machine.changed`. The guest's console is the pseudo-terminal that pexpect
gives to ``virtme-run``. If this process is killed outright, the kernel hangs
that terminal up, and the hang-up ends virtme-run and QEMU.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import selectors
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pexpect

from harness.console import Console
from harness.errors import HarnessError
from harness.vm import wire

#: Handles one frame from the agent; called with `Machine.changed` held.
FrameHandler = Callable[[int, int, bytes], None]

#: What virtme-run says about a standard error that it cannot open, which is as it should be.
_EXPECTED = re.compile(r"^WARNING: unable to write kernel messages.*\n", re.MULTILINE)

#: Seconds without a frame after which the agent is asked for a sign of life.
QUIET = 10.0


class Machine:
    """QEMU under virtme-run, from :meth:`start` until :meth:`close`.

    Attributes:
        changed: guards the attributes below and is notified when they change.
        ended: virtme-run and QEMU have closed the console.
        connected: the agent has said hello.
        hello: what it said.
        lost: why the agent's connection is gone, once it is.
        last_heard: time.monotonic() of the last frame.
        stderr: what virtme-run and QEMU themselves had to say.
    """

    def __init__(self, log_dir: Path) -> None:
        log_dir.mkdir(parents=True, exist_ok=True)
        self.console = Console(log_dir / "console.log")
        self.qemu_log = log_dir / "qemu.log"
        self.changed = threading.Condition()
        self.ended = False
        self.connected = False
        self.hello: dict[str, str] = {}
        self.lost: str | None = None
        self.last_heard = time.monotonic()
        self.stderr = ""
        self.on_frame: FrameHandler = lambda *_: None
        name = f"skbhome-{os.getpid()}-{secrets.token_hex(8)}"
        self.agent_socket = f"{name}-agent"
        self.monitor_socket = f"{name}-monitor"
        self._stderr_socket = f"{name}-stderr"
        self._child: pexpect.spawn | None = None
        self._closing = False
        self._held = False
        self._asked = 0.0
        self._agent: socket.socket | None = None
        self._monitor: socket.socket | None = None
        self._unpacker = wire.Unpacker()
        self._out = bytearray()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._serve, name="guest", daemon=True)

    # Life and death.

    def start(self, argv: Sequence[str]) -> None:
        """Start ``argv``, whose standard output is the console.

        Raises:
            HarnessError: the command is not there.
        """
        for name, kind in (
            (self.agent_socket, "agent"),
            (self.monitor_socket, "monitor"),
            (self._stderr_socket, "stderr"),
        ):
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._selector.register(listener, selectors.EVENT_READ, ("listen", kind))
            # Abstract: there is no file that could be left behind.
            listener.bind(b"\0" + name.encode())
            listener.listen(1)
        self._selector.register(self._wake, selectors.EVENT_READ, ("wake", ""))
        stderr_name = b"\0" + self._stderr_socket.encode()

        def in_child() -> None:
            # virtme-run gives the kernel a second console on its standard error
            # if that can be opened by name. A socket cannot: the kernel keeps its
            # one console, and QEMU's own messages stay apart from it.
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.connect(stderr_name)
                os.dup2(sock.fileno(), 2)

        try:
            self._child = pexpect.spawn(
                argv[0],
                list(argv[1:]),
                cwd="/",
                env={**os.environ, "PYTHONUNBUFFERED": "1", "TERM": "dumb"},
                echo=False,
                preexec_fn=in_child,
                timeout=None,
            )
        except (pexpect.ExceptionPexpect, OSError) as err:
            raise HarnessError(f"cannot start {argv[0]}: {err}") from err
        self._selector.register(self._child.child_fd, selectors.EVENT_READ, ("console", ""))
        self._thread.start()

    @property
    def pid(self) -> int:
        """The process group of virtme-run and QEMU; 0 before the start."""
        return 0 if self._child is None else int(self._child.pid)

    def close(self) -> None:
        """End QEMU and everything it started. Safe at any time, more than once."""
        self._kill()
        self._closing = True
        self._unlock()
        with contextlib.suppress(OSError, ValueError):
            os.eventfd_write(self._wake, 1)
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=10)
        if self._child is not None:
            self._reap()
        if not self._thread.is_alive():
            self._release()
        self.console.close()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def _unlock(self) -> None:
        """Give back what an interruption left this thread with, or ours never ends.

        A KeyboardInterrupt may come when `changed` has been acquired and the `with`
        that would release it has not begun.
        """
        with contextlib.suppress(RuntimeError):  # not, or no longer, this thread's
            while True:
                self.changed.release()

    def _kill(self) -> None:
        if self._child is not None and self._child.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Wait (briefly) until nothing of the process group is left."""
        child = self._child
        assert child is not None
        pid = int(child.pid)
        deadline = time.monotonic() + 5
        reaped = False
        while time.monotonic() < deadline:
            try:
                reaped = reaped or os.waitpid(pid, os.WNOHANG)[0] == pid
            except ChildProcessError:
                reaped = True
            if reaped and not _group_alive(pid):
                break
            self._kill()
            time.sleep(0.005)
        # Reaped: the number may belong to somebody else from now on.
        child.pid = 0
        child.ptyproc.terminated = True
        self._child = None
        with contextlib.suppress(OSError):
            os.close(child.child_fd)
        child.ptyproc.fd = child.child_fd = -1
        child.closed = child.ptyproc.closed = True

    def _release(self) -> None:
        for key in list(self._selector.get_map() or {}):
            entry = self._selector.get_map()[key]
            if isinstance(entry.fileobj, socket.socket):
                entry.fileobj.close()
        self._selector.close()
        for sock in (self._agent, self._monitor):
            if sock is not None:
                sock.close()
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    # Talking.

    def send(self, kind: int, channel: int = 0, payload: bytes = b"") -> None:
        """Queue a frame for the agent. Never blocks."""
        with self.changed:
            self._out += wire.pack(kind, channel, payload)
        with contextlib.suppress(OSError, ValueError):
            os.eventfd_write(self._wake, 1)

    def hold(self, on: bool) -> None:
        """Stop (or go on) reading what the agent sends; the guest's commands then wait."""
        with self.changed:
            if self._held == on:
                return
            self._held = on
            self.last_heard = time.monotonic()
        with contextlib.suppress(OSError, ValueError):
            os.eventfd_write(self._wake, 1)

    @property
    def silent_for(self) -> float:
        """Seconds since the agent was last heard, as far as anybody listened."""
        return 0.0 if self._held else time.monotonic() - self.last_heard

    def monitor(self, command: str, *, timeout: float = 5.0) -> str | None:
        """Give QEMU's human monitor a command; None if it did not answer in time."""
        sock = self._monitor
        if sock is None:
            return None
        deadline = time.monotonic() + timeout
        request = {
            "execute": "human-monitor-command",
            "arguments": {"command-line": command},
            "id": command,
        }
        data = b""
        try:
            sock.settimeout(timeout)
            sock.sendall(json.dumps({"execute": "qmp_capabilities"}).encode())
            sock.sendall(json.dumps(request).encode())
            while time.monotonic() < deadline:
                sock.settimeout(max(deadline - time.monotonic(), 0.01))
                chunk = sock.recv(1 << 16)
                if not chunk:
                    return None
                data += chunk
                *lines, data = data.split(b"\n")
                for line in lines:
                    answer = json.loads(line)
                    if answer.get("id") == command:
                        found = answer.get("return")
                        return found if isinstance(found, str) else None
        except (OSError, ValueError):
            return None
        return None

    # The thread.

    def _serve(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except Exception as err:  # a bug here must not leave waiters waiting
            with self.changed:
                self.lost = f"the harness lost the guest: {err!r}"
                self.changed.notify_all()
            raise

    def _turn(self) -> None:
        self._want_write()
        for key, mask in self._selector.select(1.0):
            known = self._selector.get_map().get(key.fd)
            if known is None or known.fileobj is not key.fileobj:
                continue  # what came before it in this round has closed it
            what, kind = key.data
            if what == "wake":
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            elif what == "listen":
                assert isinstance(key.fileobj, socket.socket)
                self._accept(key.fileobj, kind)
            elif what == "console":
                self._read_console()
            elif what == "stderr":
                assert isinstance(key.fileobj, socket.socket)
                self._read_stderr(key.fileobj)
            elif what == "agent":
                if mask & selectors.EVENT_READ:
                    self._read_agent()
                if mask & selectors.EVENT_WRITE and self._agent is not None:
                    self._write_agent()
        self._ask()

    def _accept(self, listener: socket.socket, kind: str) -> None:
        connection, _ = listener.accept()
        credentials = connection.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
        )
        _, uid, _ = struct.unpack("3i", credentials)
        if uid != os.geteuid():
            connection.close()  # anybody may connect to an abstract name
            return
        self._selector.unregister(listener)
        listener.close()
        if kind == "monitor":
            self._monitor = connection
            return
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, (kind, ""))
        if kind == "agent":
            self._agent = connection

    def _read_console(self) -> None:
        child = self._child
        if child is None:
            return
        try:
            data = child.read_nonblocking(1 << 16, timeout=0)
        except pexpect.TIMEOUT:
            return
        except (pexpect.EOF, OSError):
            self._selector.unregister(child.child_fd)
            self.console.close()
            self._read_leftovers()
            with self.changed:
                self.ended = True
                self.changed.notify_all()
            return
        self.console.feed(data)
        with self.changed:
            self.changed.notify_all()

    def _read_leftovers(self) -> None:
        """Take what QEMU said last before saying that it has ended."""
        for key in list(self._selector.get_map().values()):
            if key.data[0] == "listen" and key.data[1] == "stderr":
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.setblocking(False)
                with contextlib.suppress(OSError):
                    self._accept(key.fileobj, "stderr")
        for key in list(self._selector.get_map().values()):
            if key.data[0] == "stderr":
                assert isinstance(key.fileobj, socket.socket)
                while self._read_stderr(key.fileobj):
                    pass
        while self._agent is not None and self._read_agent():
            pass

    def _read_stderr(self, sock: socket.socket) -> bool:
        try:
            data = sock.recv(1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(sock)
            sock.close()
            return False
        with self.qemu_log.open("ab") as out:
            out.write(data)
        with self.changed:
            text = self.stderr + data.decode(errors="replace")
            self.stderr = _EXPECTED.sub("", text)[-16384:]
            self.changed.notify_all()
        return True

    def _read_agent(self) -> bool:
        sock = self._agent
        if sock is None:
            return False
        try:
            data = sock.recv(1 << 18)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._lose("the connection to the agent closed")
            return False
        try:
            frames = self._unpacker.feed(data)
        except wire.WireError as err:
            self._lose(f"the agent sent {err}")
            return False
        with self.changed:
            self.last_heard = time.monotonic()
            for kind, channel, payload in frames:
                if kind == wire.HELLO:
                    lines = payload.decode(errors="replace").splitlines()
                    self.hello = dict(line.split("=", 1) for line in lines if "=" in line)
                    self.connected = True
                elif kind != wire.PONG:
                    self.on_frame(kind, channel, payload)
            self.changed.notify_all()
        return True

    def _lose(self, why: str) -> None:
        assert self._agent is not None
        with contextlib.suppress(KeyError):
            self._selector.unregister(self._agent)
        self._agent.close()
        self._agent = None
        with self.changed:
            self.lost = why
            self.changed.notify_all()

    def _want_write(self) -> None:
        if self._agent is None:
            return
        with self.changed:
            waiting = bool(self._out) and self.connected
            held = self._held
        mask = (0 if held else selectors.EVENT_READ) | (selectors.EVENT_WRITE if waiting else 0)
        known = self._selector.get_map().get(self._agent)
        if not mask or known is None:
            # A selector cannot hold what it is not to wait for.
            if known is not None:
                self._selector.unregister(self._agent)
            if mask:
                self._selector.register(self._agent, mask, ("agent", ""))
            return
        if self._selector.get_key(self._agent).events != mask:
            self._selector.modify(self._agent, mask, ("agent", ""))

    def _write_agent(self) -> None:
        assert self._agent is not None
        with self.changed:
            try:
                done = self._agent.send(self._out[: 1 << 16])
            except BlockingIOError:
                return
            except OSError:
                return  # reading will say why
            del self._out[:done]

    def _ask(self) -> None:
        """Ask a quiet agent for a sign of life; a busy one gives it unasked."""
        now = time.monotonic()
        if self.connected and self.silent_for > QUIET and now - self._asked > QUIET:
            self._asked = now
            self.send(wire.PING)


def _group_alive(pgid: int) -> bool:
    """Tell whether a process of the group still runs (one that nobody reaped does not)."""
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            # pid (comm) state ppid pgrp; the name may hold anything, ")" included.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == pgid and fields[0] not in "ZX":
                return True
    return False
