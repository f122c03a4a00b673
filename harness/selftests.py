"""The kernel tree's own selftests: which are run, how they are built, what they say.

A selftest is a script or a program below tools/testing/selftests. The parts that are
needed are copied below the build root, for the tree stays as git knows it, and compiled
there against the tree's own headers. What counts is the comparison of two kernels: see
:func:`regressions`.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from harness import lock, paths, process, stamp
from harness.errors import HarnessError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

_TABLE = Path(__file__).with_name("selftests.toml")

#: Where selftests are in a kernel tree.
DIRECTORY = Path("tools/testing/selftests")

#: The parts of it that are copied: those that scripts look for at paths relative to their own.
COPIED = ("net", "drivers/net/netdevsim", "kselftest.h", "kselftest_harness.h")

#: Where the sources of the headers for programs are in a kernel tree.
_UAPI = ("include/uapi", "arch/x86/include/uapi")

#: Seconds for making the headers, for compiling one program, and for copying.
HEADERS_TIMEOUT = 300.0
COMPILE_TIMEOUT = 60.0
_LOCK_TIMEOUT = 600.0

#: As the selftests' own Makefiles have it, without debug information.
_FLAGS = ("-O2", "-Wall")
_LIBRARIES = ("-pthread",)

#: What must not reach make from a person's own environment.
_FOREIGN = "ARCH CROSS_COMPILE KBUILD_OUTPUT MAKEFLAGS MAKELEVEL MFLAGS W C V LLVM"

#: Exit statuses with a meaning: kselftest's own for a skip; timeout(1)'s, and its SIGKILL's.
_SKIPPED = 4
_TIMED_OUT = (124, 137, -9)


class Result(Enum):
    """How a selftest, or one of its cases, ended."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Selftest:
    """One selftest of the list.

    Attributes:
        name: its path below tools/testing/selftests; what follows a ``#`` tells two
            entries for one test apart.
        why: what it has to do with the series, for people.
        limit: seconds for one run on the default flavour.
        arguments: given to it.
        interpreter: what runs it, if it is not to be run by itself.
        env: variables added to its environment.
        programs: what it runs, as paths below tools/testing/selftests without ``.c``.
        objects: BPF objects that it loads, the same way, with ``.o``.
        commands: programs of the machine that it cannot do without.
        options: configuration options of the kernel (without ``CONFIG_``), the same.
        tmpfs: it needs files without a name, which the guest's own /tmp cannot hold.
        first_net: it needs the first network namespace, for sysctls that only that has.
        unsteady: cases that time decides, or what the machine lacks: not compared.
        tries: how often it may be run until it passes: more than once if time decides.
        slow: left out unless asked for.
        bases: names of the bases whose tree it has been tried with.
    """

    name: str
    why: str
    limit: float
    bases: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    interpreter: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    tmpfs: bool = False
    first_net: bool = False
    unsteady: tuple[str, ...] = ()
    tries: int = 1
    slow: bool = False

    @property
    def path(self) -> str:
        """Where it is, below tools/testing/selftests; a program's source has ``.c`` as well."""
        return self.name.partition("#")[0]

    def argv(self) -> list[str]:
        """Return the command, for the directory that the test is in."""
        return [*self.interpreter, f"./{Path(self.path).name}", *self.arguments]


@dataclass(frozen=True)
class Outcome:
    """How one selftest ended on one kernel.

    Attributes:
        result: of the whole, by its exit status.
        cases: its parts, by name, as far as it says how each ended.
        output: what it wrote.
        seconds: wall-clock time, of the last run if there were several.
        runs: how often it was run.
    """

    result: Result
    cases: Mapping[str, Result]
    output: str = field(repr=False, default="")
    seconds: float = 0.0
    runs: int = 1

    def __str__(self) -> str:
        passed = sum(each is Result.PASS for each in self.cases.values())
        cases = f", {passed} of {len(self.cases)} cases" if self.cases else ""
        runs = f", run {self.runs}" if self.runs > 1 else ""
        return f"{self.result.value}{cases}, {self.seconds:.1f} s{runs}"


class CannotRun(HarnessError):
    """A selftest lacks something that only a person can provide."""


# --- the list ----------------------------------------------------------------


def parse(text: str) -> tuple[Selftest, ...]:
    """Return the selftests of a table in the format of selftests.toml, in its order.

    Raises:
        HarnessError: an entry has an unknown key or lacks one; it is named.
    """
    loaded = tomllib.loads(text)
    usual: list[str] = loaded.pop("bases", [])
    return tuple(_entry(name, {"bases": usual, **entry}) for name, entry in loaded.items())


def _entry(name: str, entry: dict[str, Any]) -> Selftest:
    known = Selftest.__dataclass_fields__.keys() - {"name"}
    unknown = sorted(entry.keys() - known)
    missing = sorted({"why", "limit"} - entry.keys())
    if unknown or missing:
        what = f"unknown: {', '.join(unknown)}" if unknown else f"missing: {', '.join(missing)}"
        raise HarnessError(f"selftest {name!r}: {what}")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
    }
    return Selftest(name=name, **values)


@cache
def _table() -> tuple[Selftest, ...]:
    return parse(_TABLE.read_text())


def listed(base: str) -> tuple[Selftest, ...]:
    """Return the selftests for the base called ``base``, in the order of the list."""
    return tuple(each for each in _table() if base in each.bases)


def get(name: str) -> Selftest:
    """Return the selftest called ``name``.

    Raises:
        UsageError: it is not in the list.
    """
    for each in _table():
        if each.name == name:
            return each
    raise UsageError(f"no selftest {name!r} in {_TABLE.name}")


def missing_commands(test: Selftest) -> list[str]:
    """Return the programs that the test needs and that this machine, so its guests, lacks."""
    # A person's PATH need not have the directories of the administrator.
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [name for name in test.commands if shutil.which(name, path=path) is None]


def missing_options(test: Selftest, config: str) -> list[str]:
    """Return the options that the test needs and that a ``.config``'s text does not set."""
    enabled = set(re.findall(r"^CONFIG_(\w+)=[ym]$", config, re.MULTILINE))
    return [f"CONFIG_{name}" for name in test.options if name not in enabled]


# --- building ------------------------------------------------------------------


def place(base: str) -> Path:
    """Return the directory of the base's copied and compiled selftests."""
    return paths.build_root() / "selftests" / base


def prepare(test: Selftest, tree: Path, base: str) -> Path:
    """Copy and compile what the test needs; return the directory to run it in.

    What is there and was made from the same sources is not made again. Kernels of one
    base run the same programs, as long as their trees have the same.

    Args:
        tree: the kernel's source; it is only read.
        base: the base's name, for the place of the results.

    Raises:
        CannotRun: the tree lacks the test, or a BPF object needs a compiler.
        CommandFailed, CommandTimeout: from make or the compiler; the log is named.
    """
    source = f"{test.path}.c" if test.path in test.programs else test.path
    if not (tree / DIRECTORY / source).is_file():
        raise CannotRun(f"this tree has no selftest {test.path}")
    top = place(base)
    purpose = f"building selftests of {base}"
    with lock.held(paths.locks() / f"selftests-{base}", purpose, timeout=_LOCK_TIMEOUT):
        copy = top / "tree"
        for part in COPIED:
            _copy(tree / DIRECTORY / part, copy / part)
        for name in test.objects:
            _bpf_object(tree / DIRECTORY, name, copy)
        if test.programs:
            headers = _headers(tree, top)
            for name in test.programs:
                _compile(copy, name, headers, top)
    return (copy / test.path).parent


def _copy(source: Path, target: Path) -> None:
    """Copy a file, or a directory with all below it, where the contents differ."""
    if source.is_dir():
        for each in sorted(source.iterdir()):
            _copy(each, target / each.name)
    elif source.is_file():
        data = source.read_bytes()
        if target.is_file() and target.read_bytes() == data:
            return
        stamp.write_atomic(target, data)
        # kselftest runs scripts whether or not they may be executed.
        target.chmod(0o755 if data.startswith(b"#!") else 0o644)


def _headers(tree: Path, top: Path) -> Path:
    """Make the tree's headers for programs and return their directory."""
    sources = sorted(path for part in _UAPI for path in (tree / part).rglob("*") if path.is_file())
    names = [str(path.relative_to(tree)) for path in sources]
    inputs = stamp.digest([*names, *sources])
    objects, mark = top / "headers", top / ".headers.stamp"
    if not (objects.is_dir() and stamp.fresh(mark, inputs)):
        mark.unlink(missing_ok=True)
        shutil.rmtree(objects, ignore_errors=True)
        objects.mkdir(parents=True)
        # Not headers_install, which does the same and then needs rsync.
        process.run(
            ["make", "-C", tree, f"O={objects}", "headers"],
            timeout=HEADERS_TIMEOUT,
            what="making the kernel's headers for selftests",
            env=dict.fromkeys(_FOREIGN.split()),
            log=top / "headers.log",
        )
        stamp.write(mark, inputs)
    return objects / "usr/include"


def _compile(copy: Path, name: str, headers: Path, top: Path) -> None:
    """Compile one program beside its source; it appears whole or not at all."""
    source, binary = copy / f"{name}.c", copy / name
    if not source.is_file():
        raise CannotRun(f"this tree has no selftest program {name}")
    compiler = os.environ.get("CC", "gcc")
    nearby = [*sorted(source.parent.glob("*.h")), *sorted(copy.glob("*.h"))]
    inputs = stamp.digest(
        [source, *nearby, (top / ".headers.stamp").read_bytes(), compiler, *_FLAGS, *_LIBRARIES]
    )
    mark = top / "stamps" / f"{name}.stamp"
    if binary.is_file() and stamp.fresh(mark, inputs):
        return
    mark.unlink(missing_ok=True)
    log = top / "logs" / f"{name}.log"
    log.unlink(missing_ok=True)
    part = binary.with_name(f".{binary.name}.part")
    # Static: every library that the guest opens is a round trip through the shared files.
    for linking in (["-static"], []):
        done = process.run(
            [compiler, *_FLAGS, *linking, "-I", headers, "-o", part, source, *_LIBRARIES],
            timeout=COMPILE_TIMEOUT,
            what=f"compiling the selftest {name}.c",
            log=log,
            check=not linking,
            hint="see the log; a missing header or library is a missing -dev package",
        )
        if done.returncode == 0:
            break
    part.replace(binary)
    stamp.write(mark, inputs)


# --- BPF objects -----------------------------------------------------------------

#: The only kind of BPF source that needs no compiler: a program that lets packets pass.
_PASSES = re.compile(
    r'SEC\("(?P<section>\w+)"\)\s*int (?P<function>\w+)\(struct xdp_md \*ctx\)\s*'
    r"\{\s*return XDP_PASS;\s*\}"
)

#: That program: r0 = XDP_PASS (2); exit.
_ASSEMBLY = """
	.section {section}, "ax", @progbits
	.globl {function}
	.type {function}, @function
{function}:
	.byte 0xb7, 0, 0, 0, 2, 0, 0, 0
	.byte 0x95, 0, 0, 0, 0, 0, 0, 0
	.size {function}, . - {function}
	.section license, "aw", @progbits
	.asciz "GPL"
"""

#: Where an ELF file says for which machine it is, and the number of BPF's.
_MACHINE, _BPF = slice(18, 20), (247).to_bytes(2, "little")


def _bpf_object(selftests: Path, name: str, copy: Path) -> None:
    """Make a BPF object whose program only lets packets pass.

    There need be no compiler for BPF: the assembler writes the two instructions and the
    ELF file around them, which then only has to say that it is for BPF.

    Raises:
        CannotRun: the program does more than that.
    """
    source = selftests / "bpf" / "progs" / Path(name).with_suffix(".c").name
    text = source.read_text() if source.is_file() else ""
    found = list(_PASSES.finditer(text))
    if len(found) != 1 or text.count("SEC(") != 2:
        raise CannotRun(f"{name} needs clang", hint="none: the harness does without clang")
    target = copy / name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    process.run(
        ["as", "--64", "-o", part, "-"],
        timeout=COMPILE_TIMEOUT,
        what=f"assembling {name}",
        stdin=_ASSEMBLY.format_map(found[0].groupdict()).encode(),
    )
    raw = bytearray(part.read_bytes())
    raw[_MACHINE] = _BPF
    part.unlink()
    stamp.write_atomic(target, bytes(raw))


# --- results ---------------------------------------------------------------------

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

_WORDS = {
    "ok": Result.PASS,
    "pass": Result.PASS,
    "passed": Result.PASS,
    "fail": Result.FAIL,
    "failed": Result.FAIL,
    "not ok": Result.FAIL,
    "skip": Result.SKIP,
    "xfail": Result.SKIP,
}

#: The ways in which selftests say how a case ended; each names `case` and `word`.
_CASES = (
    # TAP: "not ok 3 name", "ok 3 name # SKIP why"
    re.compile(r"^(?P<word>(?:not )?ok)\s+\d+\s+(?:- )?(?P<case>[^#\n]+?)(?P<skip>\s+# SKIP.*)?$"),
    # "TEST: name    [ OK ]"
    re.compile(r"^(?:\s*TEST: )?\s*(?P<case>\S.*?)\s*\[\s*(?P<word>OK|PASS|FAIL|SKIP|XFAIL)\s*\]"),
    # "PASS: name"
    re.compile(r"^(?P<word>PASS|FAIL|SKIP|XFAIL):\s+(?P<case>\S.*)$"),
    # " name      ok", of udpgro.sh
    re.compile(r"^ (?P<case>\S.*?)\s{2,}(?P<word>ok|failed)$"),
    # "PASS" and nothing else
    re.compile(r"^\[?(?P<word>PASS|OK|FAIL|SKIP)\]?$"),
)

#: What tells cases of one name apart.
_NUMBER = re.compile(r" \(\d+\)$")

#: What a case is called that has no name.
_NAMELESS = "verdict"


def result_of(returncode: int) -> Result:
    """Return what a selftest's exit status means."""
    if returncode == 0:
        return Result.PASS
    if returncode == _SKIPPED:
        return Result.SKIP
    return Result.TIMEOUT if returncode in _TIMED_OUT else Result.FAIL


def cases_of(output: str) -> dict[str, Result]:
    """Return how the cases ended that a selftest's output tells of.

    Of several cases with one name, the second is called "name (2)", and so on.
    """
    found: dict[str, Result] = {}
    seen: dict[str, int] = {}
    for line in _COLOUR.sub("", output).splitlines():
        match = next((match for each in _CASES if (match := each.match(line))), None)
        if match is None:
            continue
        parts = match.groupdict()
        name = " ".join(parts.get("case", _NAMELESS).split())
        seen[name] = seen.get(name, 0) + 1
        key = name if seen[name] == 1 else f"{name} ({seen[name]})"
        word = _WORDS[parts["word"].lower()]
        found[key] = Result.SKIP if parts.get("skip") else word
    return found


def outcome(returncode: int, output: str, seconds: float) -> Outcome:
    """Return how a run of a selftest ended, from what it left behind."""
    return Outcome(result_of(returncode), cases_of(output), output, seconds)


def best(runs: Sequence[Outcome]) -> Outcome:
    """Return the outcome of several runs: what passed in any of them has passed."""
    cases: dict[str, Result] = {}
    for run in runs:
        for name, result in run.cases.items():
            if cases.get(name) is not Result.PASS:
                cases[name] = result
    whole = next((run for run in runs if run.result is Result.PASS), runs[-1])
    return Outcome(whole.result, cases, whole.output, whole.seconds, len(runs))


def settled(test: Selftest, run: Outcome) -> bool:
    """Tell whether another run could not make it better: all that counts has passed."""
    return run.result is Result.PASS and not any(
        result is Result.FAIL and _NUMBER.sub("", name) not in test.unsteady
        for name, result in run.cases.items()
    )


def regressions(before: Outcome, after: Outcome, unsteady: Sequence[str] = ()) -> list[str]:
    """Return what passed on the baseline and does not on the patched kernel, for people.

    A case that is not told of any more has not passed: the test ended before it.

    Args:
        unsteady: names of cases that do not count, whichever of that name it is.
    """
    found = []
    if before.result is Result.PASS and after.result is not Result.PASS:
        found.append(f"the test as a whole: {after.result.value}")
    for name, result in before.cases.items():
        if result is not Result.PASS or _NUMBER.sub("", name) in unsteady:
            continue
        now = after.cases.get(name)
        if now is not Result.PASS:
            found.append(f"{name}: {now.value if now else 'not reached'}")
    return found
