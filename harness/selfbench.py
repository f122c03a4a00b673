"""Measure the harness itself: how long a person waits, and how much disk it takes."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import build, git, kconfig, paths, process, progress
from harness.bases import Base
from harness.build import Builder, Kernel
from harness.errors import HarnessError

#: Seconds that anything measured here may take before it is given up.
LIMIT = 7200.0

#: The file that is changed to see how long a change takes.
CHANGED = Path("net/core/skbuff.c")

#: Seconds between two looks at how much disk is used.
DISK_POLL = 5.0


@dataclass(frozen=True)
class Result:
    """One figure and what it should be.

    Attributes:
        what: what was measured.
        value: in ``unit``.
        target: at most this much; None if there is no target.
        note: what else a reader must know.
    """

    what: str
    value: float
    unit: str
    target: float | None = None
    note: str = ""

    @property
    def ok(self) -> bool:
        """The figure keeps its target, if it has one."""
        return self.target is None or self.value <= self.target


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table."""
    lines = ["| what | measured | target | kept | note |", "|---|---|---|---|---|"]
    for result in results:
        target = "" if result.target is None else f"{result.target:g} {result.unit}"
        kept = "" if result.target is None else ("yes" if result.ok else "**no**")
        value = f"{result.value:.2f}" if result.value < 10 else f"{result.value:.0f}"
        lines.append(
            f"| {result.what} | {value} {result.unit} | {target} | {kept} | {result.note} |"
        )
    return "\n".join(lines)


def command(name: str, *arguments: str, env: Mapping[str, str | None] | None = None) -> float:
    """Run one of scripts/ to its end and return the seconds it took.

    Raises:
        CommandFailed, CommandTimeout: it did not succeed.
    """
    done = process.run(
        [paths.ROOT / "scripts" / name, *arguments],
        timeout=LIMIT,
        what=f"scripts/{name} {' '.join(arguments)}".rstrip(),
        env=env,
    )
    return done.seconds


def nothing_to_do(base: Base) -> Result:
    """Measure apply-and-build where everything is done already."""
    command("apply-and-build", base.name)
    seconds = statistics.median(command("apply-and-build", base.name) for _ in range(3))
    return Result("apply-and-build, nothing to do", seconds, "s", 5.0, "median of 3")


def one_change(base: Base) -> Result:
    """Measure from one changed .c file in net/core to the booted kernel."""
    kernel = build.build(base, steps=progress.Steps(quiet=True))
    with changed(kernel.tree.path / CHANGED):
        seconds = command("apply-and-build", base.name)
    # Back to the kernel that was there; the compiler cache has its objects.
    build.build(base, steps=progress.Steps(quiet=True))
    return Result("one changed .c file to the booted kernel", seconds, "s", 60.0, str(CHANGED))


@contextmanager
def changed(path: Path) -> Iterator[None]:
    """Change a C file so that it must be compiled while the body runs; then put it back.

    Raises:
        HarnessError: it has changes of somebody's own.
    """
    tree = path.parent
    if git.read(tree, "status", "--porcelain", "--", path.name):
        raise HarnessError(
            f"{path} has uncommitted changes", hint="commit them, then measure again"
        )
    before = path.read_bytes()
    mark = f'\nstatic const char skbhome_bench[] __used = "{time.time_ns()}";\n'
    try:
        path.write_bytes(before + mark.encode())
        yield
    finally:
        path.write_bytes(before)


def first_command(kernel: Kernel, log_dir: Path, *, times: int = 3) -> Result:
    """Measure from starting QEMU to the end of the first command in the guest."""
    from harness.vm import VmOptions, boot  # noqa: PLC0415 - only this needs a guest

    taken = []
    for _ in range(times):
        started = time.monotonic()
        with boot(kernel, VmOptions(), log_dir=log_dir) as vm:
            vm.run(["true"], timeout=60)
            taken.append(time.monotonic() - started)
            note = f"median of {times}, {vm.cpus} CPUs, {vm.accel}"
    return Result("boot to the first command", statistics.median(taken), "s", 8.0, note)


def host_tests() -> Result:
    """Measure the tests that need no kernel."""
    return Result("host tests", command("test", "-m", "host", "-q"), "s", 20.0)


def disk(base: Base) -> Result:
    """Look at how much disk everything for one base takes now."""
    mib = used_mib([paths.trees() / base.name, *_shared()])
    note = "trees, objects, downloads, compiler cache and Python environment, now"
    return Result(f"disk for {base.name}", mib / 1024, "GiB", 6.0, note)


def _shared() -> list[Path]:
    root = paths.build_root()
    return [paths.downloads(), paths.ccache(), root / "venv"]


def used_mib(where: Sequence[Path]) -> int:
    """Return how much disk the directories take together, in MiB."""
    there = [path for path in where if path.exists()]
    if not there:
        return 0
    done = process.run(["du", "-smc", *there], timeout=300, check=False, split_stderr=True)
    return int(done.output.splitlines()[-1].split()[0])


def cold(base: Base, *, scratch: Path | None = None) -> list[Result]:
    """Measure from nothing to the booted kernel, then the baseline, and the disk both take.

    Packages that are installed already stay installed.

    Args:
        scratch: where to build; a directory beside the usual one unless given.
    """
    parent = scratch or paths.build_root().parent
    with tempfile.TemporaryDirectory(prefix="skbhome-cold-", dir=parent) as where:
        env: dict[str, str | None] = {"SKBHOME_BUILD": where, "SKBHOME_RUN_DIR": None}
        with _peak(Path(where)) as peak:
            patched = command("apply-and-build", base.name, env=env)
            baseline = command("apply-and-build", base.name, "--baseline", env=env)
        return [
            Result("fresh machine to the booted, patched kernel", patched, "s", 600.0),
            Result("then the baseline", baseline, "s"),
            Result(f"peak disk for {base.name}, both", peak() / 1024, "GiB", 6.0),
        ]


@contextmanager
def _peak(where: Path) -> Iterator[Callable[[], int]]:
    """Yield a function that returns the most that ``where`` has taken so far, in MiB."""
    most = 0
    stop = threading.Event()

    def watch() -> None:
        nonlocal most
        while not stop.wait(DISK_POLL):
            with contextlib.suppress(HarnessError, ValueError, IndexError):
                most = max(most, used_mib([where]))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: most
    finally:
        stop.set()
        thread.join()
        most = max(most, used_mib([where]))


def configurations(base: Base) -> list[Result]:
    """Measure what compiling costs in CPU time: our default, and virtme-ng's own.

    Both from the unpatched tree, without compiler cache, one after the other.
    """
    kernel = build.build(base, baseline=True, steps=progress.Steps(quiet=True))
    tree = kernel.tree.path
    with tempfile.TemporaryDirectory(prefix="build-bench-", dir=tree) as lean:
        builder = Builder(kernel.tree, kernel.flavour)
        kconfig.configure(tree, Path(lean), builder.fragments, base=base.name)
        ours = _compile(tree, Path(lean), f"KCFLAGS={build.LINES}", env=builder.environment())
    with tempfile.TemporaryDirectory(prefix="build-bench-", dir=tree) as full:
        process.run(
            ["virtme-configkernel", "--defconfig", f"O={full}"],
            cwd=tree,
            timeout=300,
            what="virtme-configkernel",
        )
        theirs = _compile(tree, Path(full), env=builder.environment())
    note = f"{base.name} {kernel.tree.source.version}, user and system"
    return [
        Result("CPU time of the default flavour", ours / 60, "min", None, note),
        Result("CPU time of virtme-ng's default", theirs / 60, "min", None, note),
        Result("ratio", ours / theirs, "", 0.4),
    ]


def _compile(tree: Path, build_dir: Path, *variables: str, env: Mapping[str, str | None]) -> float:
    """Build a bzImage, with make's variables if given, and return the seconds of CPU it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process.run(
        [
            *("make", "-C", tree, f"O={build_dir}", f"-j{build.jobs()}"),
            *("LOCALVERSION=", *variables, "bzImage"),
        ],
        timeout=LIMIT,
        what=f"compiling in {build_dir}",
        env=env,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def machine() -> dict[str, object]:
    """Return what the figures depend on."""
    model = ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "compiler": build.compiler(),
        "python": sys.version.split()[0],
        "ccache": shutil.which("ccache") is not None,
    }
