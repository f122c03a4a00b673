"""Run external commands: bounded in time, logged whole, ended with all their children."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import CommandFailed, CommandTimeout

#: Seconds between SIGTERM and SIGKILL for a process group that is being ended.
GRACE = 5.0


@dataclass(frozen=True)
class Completed:
    """What a command left behind.

    Attributes:
        returncode: the exit status; a signal's number, negated, if it died of one.
        output: stdout and stderr, in the order written (stderr apart if asked for).
        stderr: stderr alone when it was kept apart, else empty.
        seconds: wall-clock time.
    """

    argv: tuple[str, ...]
    returncode: int
    output: str
    stderr: str
    seconds: float


class _HeldSignals:
    """Keeps signals that end this program waiting while it starts another one.

    An exception of a signal's handler inside Popen() would leave a process that nobody knows.
    What is started has the signals' usual effects: only handlers are exchanged.
    """

    def __init__(self) -> None:
        self._came: list[int] = []
        self._handlers: dict[int, Any] = {}
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            handler = signal.getsignal(signum)
            if callable(handler):
                self._handlers[signum] = handler
                signal.signal(signum, self._note)

    def _note(self, signum: int, _frame: object) -> None:
        self._came.append(signum)

    def release(self) -> None:
        """Let signals through again, also those that came meanwhile."""
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        for signum in self._came:
            signal.raise_signal(signum)


def end_group(proc: subprocess.Popen[bytes], *, grace: float = GRACE) -> None:
    """End the process group that ``proc`` leads: SIGTERM, a grace period, SIGKILL."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(proc.pid, sig)
        try:
            proc.wait(timeout=grace)
        except subprocess.TimeoutExpired:
            continue
        # The leader is gone; children that outlived it get the second signal.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(proc.pid, signal.SIGKILL)
        return


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    what: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    stdin: bytes | None = None,
    log: Path | None = None,
    check: bool = True,
    hint: str | None = None,
    split_stderr: bool = False,
    on_line: Callable[[str], None] | None = None,
    grace: float = GRACE,
) -> Completed:
    """Run ``argv`` to its end and return what it left behind.

    Args:
        timeout: seconds; past them the whole process group is ended.
        what: how to name the command in an error, e.g. ``"applying the series"``.
        env: variables added to (or replacing) the environment; None takes one out.
        stdin: bytes to feed; without it, standard input is /dev/null.
        log: file that receives the output as it comes, appended.
        check: raise :class:`CommandFailed` unless the status is 0.
        hint: what a person should do next if it fails.
        split_stderr: keep stderr apart in the result (the log has both).
        on_line: called with each whole line of output as it comes (progress).
        grace: seconds that it has to end what it has started itself, if it is ended.

    Raises:
        CommandFailed: the status was not 0 (and ``check``), or there is no such command.
        CommandTimeout: the limit passed.
    """
    words = tuple(str(word) for word in argv)
    name = what or " ".join(words[:3])
    merged = {**os.environ, **(env or {})}
    started = time.monotonic()
    held = _HeldSignals()
    try:
        proc = subprocess.Popen(
            words,
            cwd=cwd,
            env={key: value for key, value in merged.items() if value is not None},
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if split_stderr else subprocess.STDOUT,
            start_new_session=True,
        )
    except FileNotFoundError as err:
        held.release()
        raise CommandFailed(
            f"{name}: {err.filename} was not found", returncode=127, hint=hint
        ) from err
    except BaseException:
        held.release()
        raise
    try:
        held.release()
        out, err_text, timed_out = _pump(proc, stdin, started + timeout, log, on_line)
    except BaseException:
        end_group(proc, grace=grace)
        raise
    finally:
        for stream in (proc.stdin, proc.stdout, proc.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
    if timed_out:
        end_group(proc, grace=grace)
        raise CommandTimeout(
            f"{name}: not done after {timeout:.0f} s, ended", log=log, hint=hint, tail=tail(out)
        )
    done = Completed(words, proc.wait(), out, err_text, time.monotonic() - started)
    if check and done.returncode != 0:
        raise CommandFailed(
            f"{name}: exit status {done.returncode}",
            returncode=done.returncode,
            output=out + err_text,
            log=log,
            hint=hint,
            tail=tail(out + err_text),
        )
    return done


def tail(text: str, lines: int = 15) -> str:
    """Return the last ``lines`` lines of ``text``."""
    return "\n".join(text.splitlines()[-lines:])


def _pump(
    proc: subprocess.Popen[bytes],
    stdin: bytes | None,
    deadline: float,
    log: Path | None,
    on_line: Callable[[str], None] | None,
) -> tuple[str, str, bool]:
    """Move bytes until every pipe is closed or the deadline has passed."""
    kept: dict[str, list[bytes]] = {"out": [], "err": []}
    pending = b""
    to_write = memoryview(stdin or b"")
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        sink = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            sink = stack.enter_context(log.open("ab"))
        assert proc.stdout is not None
        selector.register(proc.stdout, selectors.EVENT_READ, "out")
        if proc.stderr is not None:
            selector.register(proc.stderr, selectors.EVENT_READ, "err")
        if proc.stdin is not None:
            selector.register(proc.stdin, selectors.EVENT_WRITE, "in")
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return _text(kept["out"]), _text(kept["err"]), True
            for key, _ in selector.select(min(left, 1.0)):
                if key.data == "in":
                    try:
                        to_write = to_write[os.write(key.fd, to_write[:65536]) :]
                    except BrokenPipeError:
                        to_write = memoryview(b"")
                    if not to_write:
                        selector.unregister(key.fileobj)
                        assert proc.stdin is not None
                        proc.stdin.close()
                    continue
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                    continue
                kept[key.data].append(chunk)
                if sink is not None:
                    sink.write(chunk)
                    sink.flush()
                if on_line is not None:
                    *whole, pending = (pending + chunk).split(b"\n")
                    for line in whole:
                        on_line(line.decode(errors="replace"))
    # The pipes are closed, but a daemonised child may still hold the leader up.
    try:
        proc.wait(timeout=max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        return _text(kept["out"]), _text(kept["err"]), True
    if on_line is not None and pending:
        on_line(pending.decode(errors="replace"))
    return _text(kept["out"]), _text(kept["err"]), False


def _text(chunks: list[bytes]) -> str:
    return b"".join(chunks).decode(errors="replace")
