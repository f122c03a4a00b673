"""Do the tests see a bug? Kernels that each have one put back, and the tests that must fail.

A mutant is a patch on top of a series, ``tests/mutants/BASE/NAME.patch`` in ``git
format-patch`` form. Its subject names the bug, and each trailer ``Killed-by:`` holds pytest's
arguments for tests that must see it. It is killed if one of those fails by an assertion of
its own or by what the kernel complained of. That a test was not done in time, or that the
kernel did not even boot, kills nothing: it says that something is wrong, and not what.

A result is not found anew as long as kernel, tests and arguments are the same.
"""

from __future__ import annotations

import re
import shlex
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import lock, patchfile, paths, process, progress, stamp
from harness import series as all_series
from harness.bases import Base
from harness.build import Builder
from harness.errors import HarnessError, UsageError
from harness.flavours import Flavour
from harness.mutantresults import Results
from harness.prefixtree import PrefixTree
from harness.tree import Tree

#: Seconds that the tests of one mutant may take.
TESTS_TIMEOUT = 1800.0

#: Raised when what is done to a mutant changes: earlier results count for nothing then.
_RECIPE = "3"

#: What decides how a test ends, beside the test's own file: in tests/, files and directories.
_SHARED = ("conftest.py", "vm", "guest")

#: Which test modules a test module imports.
_IMPORTED = re.compile(r"^(?:from|import) (test_\w+)", re.MULTILINE)

#: How a report of pytest's begins if the test itself, or the kernel, says what is wrong.
#: That the kernel panicked, and nothing else, does not; nor does a fault while it boots.
_NAMED = re.compile(
    r'(failed on \w+ with ")?'
    r"(AssertionError|assert |Failed: (?!Timeout)|the kernel complained(?! \([^)]*\): PANIC: )|"
    r"\S+\.GuestBootFailed: the kernel panicked while booting: .*; before that it said "
    r"(?!OOPS|PAGE_FAULT|GENERAL_PROTECTION))"
)


@dataclass(frozen=True)
class Mutant:
    """One bug and who must find it.

    Attributes:
        path: the patch.
        bug: what it breaks.
        tests: pytest's arguments, one command line each.
    """

    path: Path
    bug: str
    tests: tuple[tuple[str, ...], ...]

    @property
    def name(self) -> str:
        """How it is called."""
        return self.path.stem


@dataclass(frozen=True)
class Verdict:
    """What came of one mutant.

    Attributes:
        name: the mutant's.
        bug: what it breaks.
        verdict: ``killed``, ``survived``, or what kept it from being tried.
        by: the test that saw it.
        how: the first line of what that test said.
        seconds: that the tests took.
        known: the result is of an earlier run.
    """

    name: str
    bug: str
    verdict: str
    by: str = ""
    how: str = ""
    seconds: float = 0.0
    known: bool = False

    @property
    def ok(self) -> bool:
        """A test saw the bug."""
        return self.verdict == "killed"


def directory(base: Base) -> Path:
    """Return where the mutants of a base's series are."""
    return paths.ROOT / "tests" / "mutants" / base.name


def read(base: Base, names: Sequence[str] = ()) -> list[Mutant]:
    """Return the mutants of a base, all or those named.

    Raises:
        UsageError: there is no such mutant, or one names no test.
    """
    there = {path.stem: path for path in sorted(directory(base).glob("*.patch"))}
    unknown = [name for name in names if name not in there]
    if unknown:
        raise UsageError(
            f"no mutant {', '.join(unknown)} of {base.name}", hint=f"known: {', '.join(there)}"
        )
    found = []
    for path in [there[name] for name in names] or there.values():
        patch = patchfile.read(path)
        tests = tuple(tuple(shlex.split(line)) for line in patch.trailers("Killed-by"))
        if not tests:
            raise UsageError(f"{path} names no test", hint="add a trailer Killed-by: to it")
        found.append(Mutant(path, patch.subject, tests))
    return found


def run(
    base: Base,
    flavour: Flavour,
    wanted: Sequence[Mutant],
    logs: Path,
    told: Callable[[Verdict], None],
    *,
    keep: bool = False,
) -> list[Verdict]:
    """Build each mutant and run its tests; go on whatever comes of it.

    The kernel without a bug runs all these tests first: what fails there, twice, says nothing.

    Args:
        told: called with each verdict as soon as it is known.
        keep: what is found goes to the repository's own file, too.

    Raises:
        SeriesError, SourceError: there is nothing to put a bug into.
        HarnessError: the tests fail without a bug.
        LockTimeout: somebody else uses the worktree.
    """
    purpose = f"trying the mutants of {base.name}"
    with lock.held(paths.locks() / f"mutants-{base.name}.lock", purpose, timeout=7200.0):
        lab = _Lab(base, flavour, logs, Results(base, keep=keep))
        lab.see_it_pass(list(dict.fromkeys(test for each in wanted for test in each.tests)))
        done = []
        for mutant in wanted:
            done.append(lab.try_one(mutant))
            told(done[-1])
        return done


class _Lab:
    """A worktree with the series, into which one bug after the other is put."""

    def __init__(self, base: Base, flavour: Flavour, logs: Path, results: Results) -> None:
        self.base = base
        self.results = results
        self.flavour = flavour
        self.logs = logs
        self.worktree = PrefixTree(base, "mutant")
        self.source = self.worktree.source()
        self.series = list(all_series.read(base.patches))

    def builder(self, patches: Sequence[Path]) -> Builder:
        digest = stamp.digest([patchfile.read(path).diff for path in patches])
        tree = Tree(self.base, "mutant", self.worktree.path, self.source, "", digest)
        return Builder(tree, self.flavour)

    def see_it_pass(self, tests: Sequence[tuple[str, ...]]) -> None:
        """Run the tests without a bug, those that did not pass yet.

        Raises:
            HarnessError: one of them fails twice, or cannot be run.
        """
        builder = self.builder(self.series)
        left = []
        for test in tests:
            key = _key(builder, [test])
            if self.results.find(shlex.join(test), key) is None:
                left.append((test, key))
        if not left:
            return
        commits, failure = self.worktree.commits(self.series)
        if failure is not None:
            raise failure
        self.worktree.checkout(commits[-1])
        image = builder.build(progress.Steps(quiet=True)).image
        for at, (test, key) in enumerate(left):
            for attempt in ("", "-again"):
                log = self.logs / "no-bug" / f"{at}{attempt}"
                status, failed = _pytest(test, image, self.flavour, log)
                if status == 0:
                    break
            else:
                raise HarnessError(
                    f"{shlex.join(test)} fails without a bug: what it says of one means nothing",
                    log=log / "pytest.log",
                    tail="\n".join(f"{name}: {how}" for name, how in failed),
                )
            self.results.store(shlex.join(test), key, {"verdict": "passes without a bug"})

    def try_one(self, mutant: Mutant) -> Verdict:
        """Return what came of a mutant, from an earlier run if nothing has changed."""
        patches = [*self.series, mutant.path]
        builder = self.builder(patches)
        key = _key(builder, mutant.tests)
        known = self.results.find(mutant.name, key)
        if known is not None:
            return Verdict(**{**known, "known": True})
        verdict = self._try(mutant, patches, builder)
        if verdict.verdict in ("killed", "survived"):
            self.results.store(mutant.name, key, asdict(verdict))
        return verdict

    def _try(self, mutant: Mutant, patches: list[Path], builder: Builder) -> Verdict:
        logs = self.logs / mutant.name
        commits, failure = self.worktree.commits(patches)
        if failure is not None:
            return Verdict(mutant.name, mutant.bug, f"not tried: {failure.what}")
        self.worktree.checkout(commits[-1])
        try:
            image = builder.build(progress.Steps(quiet=True)).image
        except HarnessError as err:
            return Verdict(mutant.name, mutant.bug, f"not tried: {err.what} (log: {err.log})")
        started = time.monotonic()
        told: list[str] = []
        for at, test in enumerate(mutant.tests):
            status, failed = _pytest(test, image, self.flavour, logs / str(at))
            seconds = round(time.monotonic() - started, 1)
            for name, how in failed:
                if _NAMED.match(how):
                    return Verdict(mutant.name, mutant.bug, "killed", name, how, seconds)
                told.append(f"{name}: {how}")
            if status != 0 and not failed:
                told.append(f"pytest ended with status {status} (log: {logs / str(at)})")
        how = "; ".join(told)
        return Verdict(mutant.name, mutant.bug, "survived", "", how, seconds)


def _key(builder: Builder, tests: Sequence[tuple[str, ...]]) -> str:
    """Return a digest of all that decides how the tests end, the same on any machine."""
    files: set[Path] = set()
    left = [paths.ROOT / word for test in tests for word in test if word.endswith(".py")]
    while left:
        file = left.pop()
        if file not in files:
            files.add(file)
            # Tests use what other tests define.
            names = _IMPORTED.findall(file.read_text())
            left += [file.with_name(f"{name}.py") for name in names]
    for name in _SHARED:
        top = paths.ROOT / "tests" / name
        found = [top] if top.is_file() else [path for path in top.rglob("*") if path.is_file()]
        files.update(path for path in found if not path.name.startswith("test_"))
    sources = sorted(path for path in files if "__pycache__" not in path.parts)
    return stamp.digest(
        [_RECIPE, builder.portable_inputs(), *(shlex.join(test) for test in tests), *sources]
    )


def _pytest(
    test: Sequence[str], image: Path, flavour: Flavour, logs: Path
) -> tuple[int, list[tuple[str, str]]]:
    """Run tests with a kernel, up to the first failure; its status, and (test, what it said)."""
    logs.mkdir(parents=True, exist_ok=True)
    junit = logs / "junit.xml"
    done = process.run(
        [
            *(sys.executable, "-m", "pytest", "-x", "-q", f"--junit-xml={junit}"),
            *("-m", "vm", "--once", "--flavour", flavour.name, "--kernel", f"patched={image}"),
            *test,
        ],
        timeout=TESTS_TIMEOUT,
        cwd=paths.ROOT,
        what=shlex.join(test),
        env={"SKBHOME_RUN_DIR": str(logs)},
        log=logs / "pytest.log",
        check=False,
    )
    return done.returncode, failures(junit.read_text()) if junit.exists() else []


def failures(junit: str) -> list[tuple[str, str]]:
    """Return the tests of a JUnit report that failed, each with the first line that says why.

    A kernel's complaint has its kind and title in place of that line's second half.
    """
    found = []
    for case in ET.fromstring(junit).iter("testcase"):
        for kind in ("failure", "error"):
            for element in case.iter(kind):
                message = element.get("message") or ""
                text = f"{message}\n{element.text or ''}".strip()
                lines = [line for line in text.splitlines() if line.strip()]
                how = lines[0] if lines else kind
                if how.startswith("the kernel complained") and len(lines) > 1:
                    how = f"{how} {lines[1]}"
                found.append((f"{case.get('classname')}::{case.get('name')}", how))
    return found


def report(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as a Markdown table."""
    lines = ["| mutant | verdict | by | seconds | what it said |", "|---|---|---|---|---|"]
    for each in verdicts:
        how = each.how.replace("|", "\\|")[:160]
        lines.append(
            f"| {each.name}: {each.bug} | {each.verdict} | {each.by} | {each.seconds:.0f} | {how} |"
        )
    return "\n".join(lines)


def describe(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return the verdicts in a form that JSON can hold."""
    return [asdict(each) for each in verdicts]
