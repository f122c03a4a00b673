"""What came of the tests of a stage, one by one, so that it goes on at the test where it was ended.

tests/known.py writes down what came of a test as soon as it is known. A test that passed counts
for as long as its file, what tests share, the patches and the kernels are the same: one that
failed, or a file that changed, costs no more than that. A stage has passed when all of its tests
have. What failed once and passed later is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import paths, stamp
from harness.bases import Base
from harness.errors import HarnessError
from harness.proof import evidence, inputs
from harness.proof.results import Result, Verdict, plain
from harness.proof.stages import Stage

#: What tests/known.py reads and writes in the directory of a run.
KNOWN, NEW, RACES_BEFORE = "known.json", "outcomes.jsonl", "races-before.txt"

#: What tests/racecheck.py leaves there: the races that the baseline has.
_RACES = "races-baseline.txt"

#: Figures that these words have in common share a row.
_ROW = ("test", "metric", "unit", "flavour", "cpus", "accel")

_ARMS = ("baseline", "patched")

#: What is between the two functions of a race.
_SIDES = " / "


@dataclass
class Outcomes:
    """What is known of the tests of one stage.

    Attributes:
        inputs: file of tests -> digest of all that decides how its tests end.
        passed: node ID -> seconds.
        failed: node ID -> why, of the last time, if it has not passed since.
        unsteady: what failed and passed later, a line each.
        figures: what they measured (tests/conftest.py), with both kernels' in a row.
        races: those that the baseline has, as text.
        notes: what a reader must know: accelerators, seeds.
        kernels: what they ran on, as :func:`harness.proof.inputs.kernels` gives it.
    """

    inputs: dict[str, str] = field(default_factory=dict)
    passed: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unsteady: list[str] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    races: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    kernels: list[dict[str, Any]] = field(default_factory=list)

    def tell(self, here: Path) -> None:
        """Write for tests/known.py what need not be run again, and for whom this is left to."""
        words = {"passed": sorted(self.passed), "inputs": self.inputs}
        stamp.write_atomic(here / KNOWN, json.dumps(words))
        stamp.write_atomic(here / RACES_BEFORE, "".join(f"{race}\n" for race in self.races))

    def adopt(
        self,
        here: Path,
        now: Mapping[str, str],
        series: str,
        there: Sequence[Mapping[str, Any]],
    ) -> None:
        """Take over what a run has written down.

        Args:
            now: the digests of the files of tests; of a file that changed while the run was at
                it nothing counts.
            series: the digest of the patches that its patched kernels must have.
            there: the kernels that are there; of others nothing counts.
        """
        lines = _lines(here / NEW)
        # What makes a kernel complain may have been an earlier test in the same guest.
        suspect = {line["guest"] for line in lines if line.get("final") and line.get("guest")}
        for line in lines:
            name, kernel = line["test"], line["kernel"]
            file = name.partition("::")[0]
            if file not in now or now[file] != self.inputs.get(file):
                continue
            if line["outcome"] != "passed" or line.get("guest") in suspect:
                self._not_passed(name, line)
            elif _counts(kernel, series, there):
                self._ran_on(_facts_of(kernel))
                self._passed(name, line)
        for row in _rows(here / "report.json"):
            arms = [arm for arm, each in row["kernel"].items() if _counts(each, series, there)]
            self._measured({**row, **{arm: None for arm in _ARMS if arm not in arms}})
        with suppress(ValueError, KeyError, TypeError):  # It may not be there, or not whole.
            self.note(*evidence.told(json.loads(_text(here / "session.json"))))
        text = _text(here / _RACES).splitlines()
        found = (each.partition("#")[0].strip() for each in text)
        self.races = sorted({*self.races, *(race for race in found if _SIDES in race)})

    def adopt_left(self, here: Path, series: str, there: Sequence[Mapping[str, Any]]) -> None:
        """Take over what a run has written down that was killed before it could do this.

        It does no harm if the run did.
        """
        try:
            then = dict(json.loads((here / KNOWN).read_text())["inputs"])
            if then.items() & self.inputs.items():
                self.adopt(here, then, series, there)
        except (OSError, ValueError, KeyError, TypeError, HarnessError):
            return  # What cannot be read says nothing.

    def _passed(self, name: str, line: Mapping[str, Any]) -> None:
        why = self.failed.pop(name, "")
        if why:
            self.unsteady.append(f"{name} failed in an earlier run: {why}")
        self.passed[name] = line["seconds"]

    def _not_passed(self, name: str, line: Mapping[str, Any]) -> None:
        """Take note of a failure, of a test left out, or of one that must be run again."""
        self.passed.pop(name, None)
        if line["outcome"] == "failed":
            self.failed[name] = plain(line["why"])

    def _ran_on(self, kernel: dict[str, Any]) -> None:
        if inputs.contradicted(self.kernels, [kernel]):
            # What an earlier kernel passed says nothing about this one.
            self.passed, self.figures, self.races, self.kernels = {}, [], [], []
        if kernel not in self.kernels:
            self.kernels.append(kernel)

    def _measured(self, row: Mapping[str, Any]) -> None:
        for known in self.figures:
            if all(known[word] == row[word] for word in _ROW):
                known.update({arm: row[arm] for arm in _ARMS if row[arm] is not None})
                return
        self.figures.append({word: row[word] for word in (*_ROW, *_ARMS)})

    def told(self, result: Result) -> Result:
        """Remember what a run said of itself; return its result with what others said."""
        self.note(result.notes, result.unsteady)
        if self.failed and result.verdict is Verdict.PASSED:
            result = result.failed(f"failed before and not passed since: {', '.join(self.failed)}")
        details = {**result.details, "figures": self.figures} if self.figures else result.details
        return replace(
            result,
            counts={**result.counts, "not steady": len(self.unsteady)},
            unsteady=tuple(self.unsteady),
            notes=tuple(self.notes),
            details=details,
        )

    def note(self, notes: Iterable[str], unsteady: Iterable[str]) -> None:
        """Remember what was said of a run."""
        self.notes += [each for each in notes if each not in self.notes]
        self.unsteady += [each for each in unsteady if each not in self.unsteady]


def load(base: Base, stage: Stage, own: Path) -> Outcomes:
    """Return what counts as things are now, from this machine's file or the repository's.

    Args:
        own: this machine's file.

    Raises:
        SeriesError: patches/BASE is not a proper series.
    """
    now = inputs.files(base, stage)
    found = Outcomes(inputs=now)
    # What failed here has not passed, whatever another machine says.
    for file in (own, kept(base, stage)):
        facts = _facts(file)
        there = [*found.kernels, *inputs.kernels(base, stage)]
        if facts is None or inputs.contradicted(facts.kernels, there):
            continue
        same = {name for name, digest in facts.inputs.items() if now.get(name) == digest}
        if not same:
            continue

        def of(name: str, same: set[str] = same) -> bool:
            file, colons, _ = name.partition("::")
            return file in same or not colons

        found.passed |= {
            name: took
            for name, took in facts.passed.items()
            if of(name) and name not in found.passed and name not in found.failed
        }
        found.failed |= {
            name: why
            for name, why in facts.failed.items()
            if of(name) and name not in found.passed and name not in found.failed
        }
        for each in facts.kernels:
            found.kernels += [each] if each not in found.kernels else []
        newer, found.figures = found.figures, []
        for row in (*facts.figures, *newer):
            found._measured(row)
        found.races = sorted({*found.races, *facts.races})
        found.note(facts.notes, (each for each in facts.unsteady if of(each)))
    return found


def tried(here: Path) -> set[str]:
    """Return the node IDs of the tests that a run has tried."""
    return {line["test"] for line in _lines(here / NEW)}


def save(file: Path, found: Outcomes) -> None:
    """Keep it, a test a line, so that two of them can be compared."""
    words = json.dumps(vars(found), indent=1, sort_keys=True)
    stamp.write_atomic(file, words + "\n")


def kept(base: Base, stage: Stage) -> Path:
    """Return where the repository keeps what came of a stage's tests."""
    return paths.ROOT / "docs" / f"proof-{base.name}" / f"{stage.name}.json"


def _facts(file: Path) -> Outcomes | None:
    try:
        return Outcomes(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _lines(file: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a file that may have been cut off."""
    found = []
    for line in _text(file).splitlines(True):
        try:
            found += [json.loads(line)] if line.endswith("}\n") else []
        except ValueError:
            continue
    return found


def _counts(kernel: Mapping[str, Any], series: str, there: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether what was seen on a kernel says something of the one that is there."""
    if not kernel or (kernel["arm"] == "patched" and kernel["series"] != series):
        return False
    return not inputs.contradicted([_facts_of(kernel)], there)


def _facts_of(kernel: Mapping[str, Any]) -> dict[str, Any]:
    return {word: str(kernel[word]) for word in ("flavour", "arm", *inputs.FACTS)}


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(_text(file) or "[]"))
    except ValueError as err:
        raise HarnessError(f"{file.name} cannot be read: {err}", log=file) from err
