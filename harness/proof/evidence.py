"""Reads what a stage has left behind. What is missing, or cannot be read, is never a pass."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import kunit, process
from harness.errors import HarnessError
from harness.kunit import Status
from harness.proof.results import Result, Verdict, plain
from harness.proof.stages import COVERAGE, Kind, Stage

#: Option of the kernel's, and the KUnit suite that must have run where it is set.
SUITES = {"CONFIG_SKB_DEFER_KUNIT_TEST": "skb_defer"}

#: What pytest's status says if there was no test to run.
_NO_TESTS = 5


@dataclass(frozen=True)
class Ended:
    """How a stage's command ended.

    Attributes:
        status: its exit status.
        output: what it wrote to stdout.
        tail: the end of its log.
        here: the directory of its files.
        series: the digest of the series that its kernels must have.
        earlier: tests that passed in an earlier run and were left out.
    """

    status: int
    output: str
    tail: str
    here: Path
    series: str
    earlier: int = 0


def read(stage: Stage, ended: Ended) -> Result:
    """Return the verdict on a stage, with counts and what failed."""
    try:
        return _READERS[stage.kind](ended)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ET.ParseError) as err:
        if ended.status != 0:
            return Result(Verdict.FAILED, _why(ended))
        return Result(Verdict.FAILED, f"it left no result that can be read: {plain(_words(err))}")


def _why(ended: Ended) -> str:
    last = plain(ended.tail.strip())
    return f"it ended with status {ended.status}" + (f": {_last(last)}" if last else "")


def _last(text: str) -> str:
    """Return the line of a log's end that says most: an error, if there is one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("error: ")), lines[-1])


def _words(err: Exception) -> str:
    return f"{type(err).__name__}: {err}" if isinstance(err, KeyError) else str(err)


def _verdict(good: bool) -> Verdict:
    return Verdict.PASSED if good else Verdict.FAILED


# --- the series, its prefixes, the mutants ----------------------------------


def _check(ended: Ended) -> Result:
    facts = json.loads((ended.here / "series.json").read_text())
    rows = facts["patches"]
    failures = [f"series: {rule}" for rule in facts.get("series", ())]
    for row in rows:
        said = [*row["broken"], *(f"{each['kind']}: {each['text']}" for each in row["checkpatch"])]
        failures += [f"{row['patch']}: {each}" for each in said]
    good = ended.status == 0 and bool(facts["ok"])
    counts = {"patches": len(rows), "with findings": sum(not row["ok"] for row in rows)}
    return _listed(ended, good, counts, failures)


def _prefixes(ended: Ended) -> Result:
    rows = json.loads((ended.here / "prefixes.json").read_text())["prefixes"]
    failures = [f"{row['patch']}: {row['verdict']}" for row in rows if row["verdict"] != "ok"]
    counts = {"passed": len(rows) - len(failures), "failed": len(failures)}
    if not rows and ended.status == 0:
        return Result(Verdict.NOT_APPLICABLE, "the series is empty")
    return _listed(ended, ended.status == 0 and not failures, counts, failures)


def _mutants(ended: Ended) -> Result:
    rows = json.loads((ended.here / "mutants.json").read_text())
    if not rows and ended.status == 0:
        return Result(Verdict.NOT_APPLICABLE, "there are no mutants of this series")
    alive = [row for row in rows if row["verdict"] != "killed"]
    survived = sum(row["verdict"] == "survived" for row in alive)
    counts = {
        "killed": len(rows) - len(alive),
        "survived": survived,
        "not tried": len(alive) - survived,
    }
    failures = [f"{row['name']} ({row['bug']}): {row['verdict']} {row['how']}" for row in alive]
    made = _listed(ended, ended.status == 0 and not alive, counts, failures)
    return replace(made, details={"mutants": [_plain(row) for row in rows]})


def _listed(ended: Ended, good: bool, counts: Mapping[str, int], failures: Sequence[str]) -> Result:
    why = "" if good or failures else _why(ended)
    found = tuple(plain(each).strip() for each in failures)
    return Result(_verdict(good), why, counts, failures=found)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain(each) if isinstance(each, str) else each for name, each in row.items()}


# --- kernels ------------------------------------------------------------------


def _kernel(ended: Ended) -> Result:
    if ended.status != 0:
        return Result(Verdict.FAILED, _why(ended))
    facts = json.loads(ended.output)
    if facts["series"] != ended.series:
        return Result(Verdict.FAILED, _OTHER)
    config = Path(facts["config"]).read_text().splitlines()
    suites = [suite for option, suite in SUITES.items() if f"{option}=y" in config]
    if not suites:
        return Result(Verdict.PASSED, counts={}, notes=("no KUnit tests in this configuration",))
    try:
        found = kunit.parse(Path(facts["source_tree"]), Path(facts["console"]), suites=suites)
    except HarnessError as err:
        return Result(Verdict.FAILED, plain(err.what))
    cases = [case for suite in suites for case in found.suites[suite]]
    counts = {
        "passed": sum(case.status is Status.PASS for case in cases),
        "failed": sum(case.status in (Status.FAIL, Status.ERROR) for case in cases),
        "skipped": sum(case.status is Status.SKIP for case in cases),
    }
    failures = tuple(f"{case.suite}.{case.name}: {case.status.value}" for case in found.failed)
    why = "" if found.passed or failures else "no KUnit test passed"
    return Result(_verdict(found.passed), why, counts, failures=failures)


_OTHER = (
    "the kernel was not made from the patches alone: the tree has changes of its own "
    "(scripts/refresh-series makes them patches)"
)


# --- pytest -------------------------------------------------------------------


def _tests(ended: Ended) -> Result:
    if ended.status == _NO_TESTS:
        if ended.earlier:
            return Result(Verdict.PASSED, counts={"passed": ended.earlier})
        return Result(Verdict.NOT_APPLICABLE, "there is no such test")
    made = _junit(ended)
    session = json.loads((ended.here / "session.json").read_text())
    notes, unsteady = told(session)
    made = replace(
        made,
        counts={**made.counts, "not steady": len(unsteady)},
        unsteady=unsteady,
        notes=notes,
        details=_figures(ended.here / "report.json"),
    )
    for kernel in session["kernels"]:
        if kernel.get("arm") == "patched" and kernel["series"] != ended.series:
            return made.failed(_OTHER)
    return made


def told(session: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what a run of tests says of itself (session.json): notes, and what was not steady.

    Raises:
        KeyError, TypeError: it is not such a file.
    """
    notes = [f"guests under {', '.join(session['accel'])}"] if session["accel"] else []
    if session["seed"] is not None:
        notes.append(f"seed {session['seed']}")
    return tuple(notes), tuple(plain(each) for each in session["not_steady"])


def _host(ended: Ended) -> Result:
    made = _junit(ended)
    total = json.loads((ended.here / "coverage.json").read_text())
    percent = float(total["totals"]["percent_covered"])
    rest = [
        {
            "file": name,
            "percent": round(float(each["summary"]["percent_covered"]), 1),
            "missing": _ranges(each["missing_lines"]),
        }
        for name, each in sorted(total["files"].items())
        if each["missing_lines"]
    ]
    made = replace(
        made,
        notes=(f"{percent:.1f} % of the lines of harness/",),
        details={"coverage": {"percent": round(percent, 1), "rest": rest}},
    )
    if percent < COVERAGE:
        return made.failed(f"{percent:.1f} % of the lines were reached, {COVERAGE:.0f} % should be")
    return made


def _junit(ended: Ended) -> Result:
    """Return the counts of a JUnit report, with failures and what was skipped."""
    failures, skipped = [], []
    passed = ended.earlier
    for case in ET.parse(ended.here / "junit.xml").getroot().iter("testcase"):
        module = (case.get("classname") or "").replace(".", "/")
        name = f"{module}.py::{case.get('name')}"
        bad = [each for kind in ("failure", "error") for each in case.iter(kind)]
        left_out = case.find("skipped")
        if bad:
            again = [
                f" (again: {each.get('value')})"
                for each in case.iter("property")
                if each.get("name") == "again"
            ]
            failures.append(f"{name}: {_said(bad[0])}{''.join(again[:1])}")
        elif left_out is not None:
            skipped.append(f"{name}: {left_out.get('message') or 'no reason given'}")
        else:
            passed += 1
    counts = {"passed": passed, "failed": len(failures), "skipped": len(skipped)}
    good = ended.status == 0 and passed > 0 and not failures
    why = ""
    if not good and not failures:
        why = "no test passed" if ended.status == 0 else _why(ended)
    return Result(
        _verdict(good),
        why,
        counts,
        failures=tuple(plain(each) for each in failures),
        skipped=tuple(plain(each) for each in skipped),
    )


def _said(element: ET.Element) -> str:
    """Return the first line of a failure; of a complaint of the kernel's also what it is."""
    text = f"{element.get('message') or ''}\n{element.text or ''}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("the kernel complained"):
        return f"{lines[0]} {lines[1]}"
    return lines[0] if lines else element.tag


def _figures(path: Path) -> dict[str, Any]:
    """Return the figures that the tests measured, if they measured any."""
    if not path.is_file():
        return {}
    names = ("test", "metric", "baseline", "patched", "unit", "flavour", "cpus", "accel")
    rows = json.loads(path.read_text())
    return {"figures": [{name: row[name] for name in names} for row in rows]}


def _ranges(lines: Sequence[int]) -> str:
    """Return line numbers for people: ``3-5, 9``."""
    found: list[list[int]] = []
    for line in lines:
        if found and line == found[-1][1] + 1:
            found[-1][1] = line
        else:
            found.append([line, line])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


_READERS = {
    Kind.CHECK: _check,
    Kind.HOST: _host,
    Kind.KERNEL: _kernel,
    Kind.TESTS: _tests,
    Kind.PREFIXES: _prefixes,
    Kind.MUTANTS: _mutants,
}

#: Lines of a log's end that are looked at.
TAIL = 15


def tail(log: Path) -> str:
    """Return the end of a log."""
    try:
        return process.tail(log.read_text(errors="replace"), TAIL)
    except OSError:
        return ""
