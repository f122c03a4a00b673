"""KUnit results, read by the kernel tree's own tools/testing/kunit/kunit.py.

The tool runs as a subprocess and leaves its results as JSON: groups with
``name``, ``test_cases`` (each ``name`` and ``status``) and ``sub_groups``.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from harness import process
from harness.errors import HarnessError

#: Seconds that reading a log may take.
PARSE_TIMEOUT = 60.0

#: Where the tool is in a kernel tree.
TOOL = Path("tools/testing/kunit/kunit.py")

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class KunitError(HarnessError):
    """KUnit's results cannot be had."""


class KunitToolFailed(KunitError):
    """The tree's kunit.py is not there, or itself failed."""


class SuiteMissing(KunitError):
    """A suite that should have run is not among the results."""


class Status(Enum):
    """How a test case ended; ``ERROR`` stands for a crash, or results that break off."""

    PASS = "PASS"
    FAIL = "FAIL"
    SKIP = "SKIP"
    ERROR = "ERROR"


@dataclass(frozen=True)
class Case:
    """One test case.

    Attributes:
        suite: the suite's name; names of suites within suites are joined by dots.
        name: the case's own name.
    """

    suite: str
    name: str
    status: Status


@dataclass(frozen=True)
class Report:
    """The results of one boot.

    Attributes:
        cases: in the order in which they ran.
        output: what kunit.py printed, for people: it has the log of failed cases.
        returncode: its exit status; 0 if all passed.
    """

    cases: tuple[Case, ...]
    output: str = field(repr=False)
    returncode: int

    @property
    def suites(self) -> dict[str, tuple[Case, ...]]:
        """The cases of each suite, by its name."""
        found: dict[str, tuple[Case, ...]] = {}
        for case in self.cases:
            found[case.suite] = (*found.get(case.suite, ()), case)
        return found

    @property
    def failed(self) -> tuple[Case, ...]:
        """The cases that failed or crashed."""
        return tuple(c for c in self.cases if c.status in (Status.FAIL, Status.ERROR))

    @property
    def passed(self) -> bool:
        """Every case passed or was skipped, at least one passed, and kunit.py agrees."""
        some = any(case.status is Status.PASS for case in self.cases)
        return some and not self.failed and self.returncode == 0


def parse(tree: Path, log: Path | str, *, suites: Sequence[str] = ()) -> Report:
    """Return the KUnit results that a kernel log holds.

    Args:
        tree: a kernel tree, whose tool is used.
        log: the kernel's log, or the file that holds it.
        suites: names of suites that must have run.

    Raises:
        KunitToolFailed: the tool is not there, does not know ``parse``, or failed.
        SuiteMissing: a suite in ``suites`` is not in the log.
    """
    with tempfile.TemporaryDirectory(prefix="kunit-") as scratch:
        source = Path(scratch) / "kernel.log"
        text = log if isinstance(log, str) else log.read_text(errors="replace")
        # The tool reads with the locale's encoding and cannot do with anything else.
        source.write_bytes(text.encode("ascii", errors="replace"))
        return _run(tree, ["parse"], Path(scratch), [str(source)], PARSE_TIMEOUT, suites, None)


def run_uml(
    tree: Path,
    options: Mapping[str, str],
    build_dir: Path,
    *,
    jobs: int,
    timeout: float,
    suites: Sequence[str] = (),
    log: Path | None = None,
) -> Report:
    """Build the tree for User Mode Linux with ``options`` and run its KUnit tests.

    Args:
        options: what to configure, by name without ``CONFIG_``; KUNIT is added.
        build_dir: the object directory, outside of every other build's.
        timeout: seconds for all of it, the build included.

    Raises:
        KunitToolFailed: it did not build or did not run.
        SuiteMissing: as :func:`parse`.
    """
    build_dir.mkdir(parents=True, exist_ok=True)
    wanted = {"KUNIT": "y", **options}
    text = "".join(f"CONFIG_{name}={value}\n" for name, value in wanted.items())
    (build_dir / ".kunitconfig").write_text(text)
    with tempfile.TemporaryDirectory(prefix="kunit-") as scratch:
        words = ["run", f"--build_dir={build_dir}", f"--jobs={jobs}"]
        return _run(tree, words, Path(scratch), [], timeout, suites, log)


def _run(
    tree: Path,
    words: Sequence[str],
    scratch: Path,
    files: Sequence[str],
    timeout: float,
    suites: Sequence[str],
    log: Path | None,
) -> Report:
    tool = tree / TOOL
    if not tool.is_file():
        raise KunitToolFailed(f"{tree} has no {TOOL}")
    results = scratch / "results.json"
    done = process.run(
        [sys.executable, tool, *words, f"--json={results}", *files],
        cwd=tree,
        # Not a byte into the tree: it must stay as git knows it.
        env={"PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8", "PYTHONPATH": None},
        timeout=timeout,
        what=f"kunit.py {words[0]}",
        check=False,
        log=log,
    )
    output = _COLOUR.sub("", done.output)
    try:
        cases = tuple(_cases(json.loads(results.read_text()), ()))
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise KunitToolFailed(
            f"kunit.py {words[0]} ended with status {done.returncode} and left no results: {err}",
            tail=process.tail(output),
            log=log,
        ) from err
    if done.returncode not in (0, 1):
        raise KunitToolFailed(
            f"kunit.py {words[0]} ended with status {done.returncode}",
            tail=process.tail(output),
            log=log,
        )
    report = Report(cases, output, done.returncode)
    missing = [name for name in suites if name not in report.suites]
    if missing:
        ran = ", ".join(report.suites) or "none"
        raise SuiteMissing(
            f"KUnit suite {', '.join(missing)} did not run; those that did: {ran}",
            tail=process.tail(output),
            hint="is its option in the configuration, and did the kernel boot to the end?",
        )
    return report


def _cases(group: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[Case]:
    """Yield the cases of a group and of all groups in it; the outermost has no name of use."""
    for case in group.get("test_cases", ()):
        yield Case(".".join(above), case["name"], Status(case["status"]))
    for inner in group.get("sub_groups", ()):
        yield from _cases(inner, (*above, inner["name"]))
