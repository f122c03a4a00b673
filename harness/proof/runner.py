"""Runs the stages that must be run, keeps each result as soon as it is there, and reports."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import disk, lock, logs, paths, process, progress, series, stamp
from harness.bases import Base
from harness.errors import CommandTimeout, HarnessError
from harness.proof import evidence, inputs, outcomes, report, results
from harness.proof.results import Result, Verdict, plain
from harness.proof.stages import HERE, Kind, Stage

#: Seconds that a stage has to end its guests and builds before it is killed.
GRACE = 30.0

#: MiB that the logs of one stage may well take.
LOGS_MIB = 200

_LOG = "stage.log"


class Proof:
    """The stages of one base, what is known of each, and where that is kept.

    Attributes:
        known: a result for every stage, by its name; at first those of earlier runs.
    """

    def __init__(self, base: Base, stages: Sequence[Stage], machine: dict[str, Any]) -> None:
        """Read what earlier runs have left.

        Args:
            machine: what all results depend on, for the report.

        Raises:
            SeriesError: patches/BASE is not a proper series.
        """
        self.base = base
        self.stages = list(stages)
        self.machine = machine
        self.directory = paths.build_root() / "proof" / base.name
        self.series = series.code_digest(base.patches)
        #: What a kernel's stamp calls the series, messages included.
        self.whole = series.digest(base.patches)
        self.patches = len(series.read(base.patches))
        self.known = {stage.name: self._recall(stage) for stage in self.stages}

    def run(
        self,
        wanted: Sequence[Stage],
        told: Callable[[Stage, Result], None],
        *,
        again: Collection[str] = (),
    ) -> bool:
        """Run stages that have not passed as things are now; tell whether all is well then.

        A stage that fails does not keep the next one from being run. The report is written
        after each; ended at any point, it says what was and what was not run. Another run may
        have other stages done meanwhile: its results are in the report, too.

        Args:
            told: called with each result as soon as it is there.
            again: names of stages to run even if they have passed.

        Raises:
            LockTimeout: another run is at one of the stages.
        """
        self.write()
        mine = {stage.name for stage in wanted}
        for at, stage in enumerate(wanted, 1):
            before = self.known[stage.name]
            if before.verdict is not Verdict.PASSED or stage.name in again:
                started = time.monotonic()
                try:
                    # What has passed and is run all the same is run whole.
                    whole = before.verdict is Verdict.PASSED
                    place = f"{at} of {len(wanted)}"
                    self.known[stage.name] = self._run(stage, place, whole=whole)
                except BaseException:
                    after = progress.seconds(time.monotonic() - started)
                    self.known[stage.name] = Result(Verdict.NOT_RUN, f"interrupted after {after}")
                    raise
                finally:
                    self._look_again(mine)
                    self.write()
            told(stage, self.known[stage.name])
        return all(self.known[stage.name].ok for stage in wanted)

    def _look_again(self, mine: Collection[str]) -> None:
        for stage in self.stages:
            if stage.name not in mine:
                self.known[stage.name] = self._recall(stage)

    def write(self) -> None:
        """Write the report, as Markdown and as JSON."""
        facts = report.facts(self)
        stamp.write_atomic(self.directory / "report.json", report.as_json(facts))
        stamp.write_atomic(self.directory / "report.md", report.as_markdown(facts))

    def ended_here(self, stage: Stage) -> bool:
        """Tell whether the last run of a stage on this machine came to an end."""
        return self._file(stage).is_file()

    def _file(self, stage: Stage) -> Path:
        return self.directory / "results" / f"{stage.name}.json"

    def _recall(self, stage: Stage) -> Result:
        """Return the result of an earlier run, if nothing that it speaks for has changed."""
        idle = self._idle(stage)
        if idle:
            return Result(Verdict.NOT_APPLICABLE, idle)
        file = self._file(stage)
        try:
            key = inputs.key(self.base, stage)
        except HarnessError as err:
            return Result(Verdict.NOT_RUN, plain(err.what))
        # What the repository keeps may be of another machine, whose build/ is not here.
        found = results.load(file, key)
        if found is None and not self._failed_here(stage):
            found = results.from_report(kept(self.base), stage.name, key)
        if found is None and not file.exists():
            return Result(Verdict.NOT_RUN, "not run yet")
        if found is None or inputs.contradicted(
            [dict(each) for each in found.kernels], inputs.kernels(self.base, stage)
        ):
            return Result(Verdict.NOT_RUN, "something that it speaks for has changed since")
        return found

    def _failed_here(self, stage: Stage) -> bool:
        """Tell whether a test of it failed, as things are now, and has not passed since."""
        file = self.outcomes(stage)
        return file.is_file() and bool(outcomes.load(self.base, stage, file).failed)

    def _idle(self, stage: Stage) -> str:
        """Return why a stage can say nothing here, empty if it can."""
        for flavour in stage.flavours:
            if shutil.which(flavour.compiler) is None:
                return f"{flavour.compiler} is not installed"
        if not self.patches and stage.kind in (Kind.TESTS, Kind.PREFIXES, Kind.MUTANTS):
            return "the series is empty"
        mutants = paths.TESTS / "mutants" / self.base.name
        if stage.kind is Kind.MUTANTS and not any(mutants.glob("*.patch")):
            return "there are no mutants of this series"
        return ""

    def _run(self, stage: Stage, place: str, *, whole: bool) -> Result:
        idle = self._idle(stage)
        if idle:
            return Result(Verdict.NOT_APPLICABLE, idle)
        held = paths.locks() / f"proof-{self.base.name}-{stage.name}.lock"
        with lock.held(held, f"proving {self.base.name}, {stage.name}", timeout=0):
            return self._run_alone(stage, place, whole=whole)

    def _run_alone(self, stage: Stage, place: str, *, whole: bool) -> Result:
        file = self._file(stage)
        # A run that is killed leaves nothing that could be taken for its result.
        file.unlink(missing_ok=True)
        try:
            key = inputs.key(self.base, stage)
            if stage.kind is Kind.TESTS:
                result = self._tests(stage, place, whole=whole)
            else:
                result = self._command(stage, place, self._directory(stage))
            if inputs.key(self.base, stage) != key:
                result = result.failed("files that it speaks for changed while it ran")
        except HarnessError as err:
            return Result(Verdict.FAILED, plain(err.what), when=_now())
        result = replace(result, key=key, kernels=tuple(inputs.kernels(self.base, stage)))
        results.save(file, result)
        return result

    def _tests(self, stage: Stage, place: str, *, whole: bool) -> Result:
        """Run the tests that have not passed as things are now, and keep what comes of each."""
        file = self.outcomes(stage)
        known = outcomes.load(self.base, stage, file)
        there = inputs.kernels(self.base, stage)
        known.adopt_left(self.directory / stage.name, self.whole, there)
        outcomes.save(file, known)
        if whole:
            known = outcomes.Outcomes(inputs=known.inputs)
        here = self._directory(stage)
        known.tell(here)
        before = set(known.passed)
        try:
            result = self._command(
                stage, place, here, earlier=lambda: len(before - outcomes.tried(here))
            )
        except BaseException:
            # A run that was ended has got somewhere, too; why it was must not be lost.
            with suppress(HarnessError):
                self._adopt(stage, known, here)
            raise
        self._adopt(stage, known, here)
        gone = before - outcomes.tried(here) - known.passed.keys()
        if gone:
            result = result.failed(f"{len(gone)} tests had passed on another kernel")
        result = known.told(result)
        outcomes.save(file, known)
        return result

    def _adopt(self, stage: Stage, known: outcomes.Outcomes, here: Path) -> None:
        now = inputs.files(self.base, stage)
        known.adopt(here, now, self.whole, inputs.kernels(self.base, stage))
        outcomes.save(self.outcomes(stage), known)

    def outcomes(self, stage: Stage) -> Path:
        """Return the file of what came of a stage's tests on this machine."""
        return self.directory / "outcomes" / f"{stage.name}.json"

    def _directory(self, stage: Stage) -> Path:
        """Return the directory of a stage's files, empty."""
        here = self.directory / stage.name
        shutil.rmtree(here, ignore_errors=True)
        disk.need(here, LOGS_MIB, f"the stage {stage.name}")
        here.mkdir(parents=True)
        return here

    def _command(
        self, stage: Stage, place: str, here: Path, *, earlier: Callable[[], int] = lambda: 0
    ) -> Result:
        log = here / _LOG
        words = (*stage.argv, *stage.chance)
        program, *rest = (word.replace(HERE, str(here)) for word in words)
        line = progress.Line(f"{place}, {stage.name}")
        started = time.monotonic()

        def show(text: str) -> None:
            line.update(f"{progress.seconds(time.monotonic() - started)}  {text.strip()}")

        late = False
        status, output = 0, ""
        try:
            done = process.run(
                [paths.ROOT / "scripts" / program, *rest],
                timeout=stage.limit,
                what=stage.name,
                cwd=paths.ROOT,
                env={logs.VARIABLE: str(here), "COVERAGE_FILE": str(here / "coverage.data")},
                log=log,
                check=False,
                split_stderr=True,
                on_line=show,
                grace=GRACE,
            )
            status, output = done.returncode, done.output
        except CommandTimeout:
            late, status = True, -1
        finally:
            line.clear()
        seconds = time.monotonic() - started
        ended = evidence.Ended(status, output, evidence.tail(log), here, self.whole, earlier())
        result = evidence.read(stage, ended)
        if late:
            # What it has seen until then is told all the same.
            limit = progress.seconds(stage.limit)
            result = replace(result, verdict=Verdict.TIMED_OUT, why=f"not done after {limit}")
        where = log.relative_to(paths.build_root())
        return replace(result, seconds=round(seconds, 1), when=_now(), log=str(where))


def kept(base: Base, suffix: str = ".json") -> Path:
    """Return where the repository keeps a base's report."""
    return paths.ROOT / "docs" / f"proof-{base.name}{suffix}"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime())
