"""Programs that run in the guest: C sources, compiled once on the host.

They are in tests/guest, and in harness/bench/guest.

A program is a file NAME.c, or a directory NAME whose C sources make one program.
The guest sees the host's file system, so a program built here runs there at
the same path. Static linking keeps the start short: every library that a
dynamic program opens is a round trip through the shared file system.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness import lock, paths, process, stamp
from harness.errors import CommandFailed, UsageError

SOURCES = paths.TESTS / "guest"

#: Where else there may be some.
MORE = (paths.ROOT / "harness" / "bench" / "guest",)

#: What any program may include to have itself counted.
_MARKS = (SOURCES / "mark" / "mark.h", paths.ROOT / "harness" / "coherence" / "marks.h")

_FLAGS = ("-std=gnu11", "-O2", "-g0", "-Wall", "-Wextra", "-Werror", "-pthread")
_TIMEOUT = 120.0


def output_dir() -> Path:
    """Return the directory of compiled programs."""
    return paths.build_root() / "guest-tools"


def sources(name: str) -> list[Path]:
    """Return the C sources of the program ``name``: NAME.c or NAME/*.c.

    Raises:
        UsageError: there are none; the message lists the known programs.
    """
    for top in (SOURCES, *MORE):
        single = top / f"{name}.c"
        found = [single] if single.is_file() else sorted((top / name).glob("*.c"))
        if found:
            return found
    names = {each.stem for top in (SOURCES, *MORE) for each in top.glob("*.c")}
    names |= {each.parent.name for top in (SOURCES, *MORE) for each in top.glob("*/*.c")}
    raise UsageError(f"no guest program {name!r}; known: {', '.join(sorted(names)) or 'none'}")


def script(name: str) -> Path:
    """Return a script of tests/guest, which the guest runs as it is.

    Raises:
        UsageError: there is no such script.
    """
    path = SOURCES / name
    if not path.is_file():
        raise UsageError(f"no guest script {name!r} in {SOURCES}")
    return path


def tool(name: str) -> Path:
    """Return the compiled program ``name``, compiling it if its sources changed.

    The result is reused as long as sources, headers beside them, compiler flags and
    compiler are the same. Linked statically where the C library allows it.

    Raises:
        UsageError: no such program.
        CommandFailed: it does not compile; the compiler's first lines are in ``tail``.
    """
    code = sources(name)
    compiler = os.environ.get("CC", "gcc")
    binary = output_dir() / name
    mark = output_dir() / f".{name}.stamp"
    inputs = stamp.digest([*code, *_headers(name), compiler, *_FLAGS])
    if binary.exists() and stamp.fresh(mark, inputs):
        return binary
    with lock.held(paths.locks() / "guest-tools", f"compiling {name}", timeout=_TIMEOUT * 2):
        if not (binary.exists() and stamp.fresh(mark, inputs)):
            mark.unlink(missing_ok=True)
            _compile(compiler, name, code, binary)
            stamp.write(mark, inputs, {"compiler": compiler})
    return binary


def _headers(name: str) -> list[Path]:
    """Return the headers that the program ``name`` has for itself, and those of marks."""
    own = sorted(each for top in (SOURCES, *MORE) for each in (top / name).glob("*.h"))
    return [*own, *_MARKS]


def _compile(compiler: str, name: str, code: list[Path], binary: Path) -> None:
    """Compile ``code``; ``binary`` appears whole or not at all."""
    binary.parent.mkdir(parents=True, exist_ok=True)
    part = binary.with_name(f".{binary.name}.part")
    failure: CommandFailed | None = None
    for linking in (("-static",), ()):
        try:
            process.run(
                [compiler, *_FLAGS, *linking, "-o", part, *code],
                timeout=_TIMEOUT,
                what=f"compiling {code[0].name if len(code) == 1 else name}",
                hint="install gcc and the C library's headers (scripts/doctor says how)",
            )
        except CommandFailed as err:
            # Without a static C library, a dynamic program does as well; the
            # second failure is the one that says what is wrong with the source.
            failure = err
            continue
        part.replace(binary)
        return
    assert failure is not None
    raise failure
