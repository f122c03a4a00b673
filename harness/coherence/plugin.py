"""The plugin itself: compiled on demand, and the options with which QEMU loads it."""

from __future__ import annotations

import os
from pathlib import Path

from harness import lock, paths, process, stamp
from harness.coherence.errors import CoherenceError

HERE = Path(__file__).parent
SOURCE = HERE / "plugin.c"
HEADERS = (HERE / "directory.h", HERE / "marks.h", HERE / "qemu.h", HERE / "x86.h")

#: vCPUs that a line of the directory has room for.
MAX_VCPUS = 32

#: What can be counted: transfers and all else, or instructions alone, which is faster.
WHAT = ("lines", "instructions")

_FLAGS = (
    *("-std=gnu11", "-O2", "-g0", "-Wall", "-Wextra", "-Werror", "-pthread"),
    *("-shared", "-fPIC", "-fvisibility=hidden"),
)
_TIMEOUT = 120.0


def library() -> Path:
    """Return the compiled plugin, compiling it if its sources or the compiler changed.

    Its name says what it was made from: one that a running guest has loaded stays as it is.

    Raises:
        CommandFailed: it does not compile; the compiler's words are in the log.
    """
    compiler = os.environ.get("CC", "gcc")
    inputs = stamp.digest([SOURCE, *HEADERS, compiler, *_FLAGS])
    directory = paths.build_root() / "coherence"
    found = directory / f"plugin-{inputs[:16]}.so"
    if found.is_file():
        return found
    with lock.held(paths.locks() / "coherence", "compiling QEMU's plugin", timeout=2 * _TIMEOUT):
        if not found.is_file():
            directory.mkdir(parents=True, exist_ok=True)
            log = directory / "gcc.log"
            log.unlink(missing_ok=True)
            part = directory / f".{found.name}.part"
            process.run(
                [compiler, *_FLAGS, "-o", part, SOURCE],
                timeout=_TIMEOUT,
                what="compiling QEMU's plugin",
                log=log,
                hint="install gcc and the C library's headers (scripts/doctor says how)",
            )
            part.replace(found)
    return found


def arguments(
    plugin: Path, out: Path, *, what: str, user: bool, nodes: tuple[int, ...]
) -> tuple[str, ...]:
    """Return QEMU's arguments that load the plugin.

    Args:
        plugin: what :func:`library` returned.
        out: the directory that it writes to.
        what: one of :data:`WHAT`.
        user: follow user space as well.
        nodes: the NUMA node of each vCPU.

    Raises:
        CoherenceError: it cannot count that, or QEMU cannot be told that name.
    """
    if what not in WHAT:
        raise CoherenceError(f"nothing counts {what!r}; known: {', '.join(WHAT)}")
    if len(nodes) > MAX_VCPUS:
        raise CoherenceError(
            f"{len(nodes)} CPUs: transfers can be counted among {MAX_VCPUS}",
            hint="start the guest with fewer CPUs",
        )
    for path in (plugin, out):
        if "," in str(path) or "=" in str(path):
            raise CoherenceError(f"{path}: QEMU takes no comma or = in a plugin's file names")
    options = {
        "out": str(out),
        "what": what,
        "user": "on" if user else "off",
        "nodes": ".".join(str(node) for node in nodes),
    }
    return ("-plugin", ",".join([str(plugin), *(f"{k}={v}" for k, v in options.items())]))
