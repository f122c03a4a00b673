"""The program that is process 1 of every guest, compiled once on the host."""

from __future__ import annotations

import os
from pathlib import Path

from harness import guest, lock, paths, process, stamp
from harness.errors import CommandFailed

SOURCE = Path(guest.__file__).with_name("agent.c")

_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")
_TIMEOUT = 120.0


def program() -> Path:
    """Return the compiled agent; the guest sees it at the same path.

    Compiled again if its source or the compiler changed. Static where the C
    library allows it: every library that is loaded costs a boot time.

    Raises:
        CommandFailed: it does not compile.
    """
    found = paths.build_root() / "guest-agent" / "agent"
    mark = found.with_suffix(".json")
    compiler = os.environ.get("CC", "cc")
    inputs = stamp.digest([SOURCE, compiler, *_FLAGS])
    if found.is_file() and stamp.fresh(mark, inputs):
        return found
    with lock.held(paths.locks() / "guest-agent", "compiling the guest's agent", timeout=300):
        if not (found.is_file() and stamp.fresh(mark, inputs)):
            _compile(compiler, found)
            stamp.write(mark, inputs)
    return found


def _compile(compiler: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # A running guest may have the old one open: never write into it.
    fresh = target.with_name(f".agent.{os.getpid()}")
    try:
        try:
            _run([compiler, *_FLAGS, "-static", "-o", str(fresh), str(SOURCE), "-lutil"])
        except CommandFailed as err:
            if "cannot find -l" not in err.output:
                raise
            _run([compiler, *_FLAGS, "-o", str(fresh), str(SOURCE), "-lutil"])
        fresh.chmod(0o755)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def _run(argv: list[str]) -> None:
    process.run(
        argv,
        timeout=_TIMEOUT,
        what="compiling the guest's agent",
        hint="install a C compiler and the C library's headers (scripts/apply-and-build does it)",
    )
