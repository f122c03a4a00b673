"""One holder at a time, across processes; the second one waits and says for whom."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import HarnessError


class LockTimeout(HarnessError):
    """Somebody else held the lock for longer than this run was ready to wait."""


@contextmanager
def held(path: Path, purpose: str, *, timeout: float = 3600.0, poll: float = 0.1) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` while the body runs.

    The kernel drops the lock when its holder dies, so a stale file never blocks.

    Args:
        purpose: what the holder does, shown to those who wait.
        timeout: seconds to wait for another holder; 0 refuses at once.

    Raises:
        LockTimeout: naming the holder's process id and purpose.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + timeout
        told = False
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = path.read_text(errors="replace").strip() or "an unnamed process"
                if time.monotonic() >= deadline:
                    raise LockTimeout(
                        f"{purpose}: {path.name} is held by {holder}",
                        hint="wait for that run to end, or end it, then try again",
                    ) from None
                if not told:
                    print(f"waiting for {holder}", file=sys.stderr, flush=True)
                    told = True
                time.sleep(poll)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} ({purpose})\n".encode(), 0)
        yield
    finally:
        os.close(fd)
