"""A benchmark of one base from its kernels to its report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import build, guesttools, paths, progress, stamp
from harness.bases import Base
from harness.bench import (
    arms,
    environment,
    figures,
    frozen,
    idle,
    lines,
    model,
    networks,
    report,
    samples,
    scaling,
    workloads,
)
from harness.bench.guests import Guests
from harness.bench.measure import LoadFailed
from harness.bench.runner import Effort, OutOfTime, Runner
from harness.bench.samples import Samples
from harness.bench.workloads import Case
from harness.errors import HarnessError
from harness.proof.results import plain
from harness.vm import GuestBootFailed, GuestCommandFailed, GuestCommandTimeout, GuestError

#: What a run consists of: timed and traced runs of workloads 1 to 6, workload 7, simulations of
#: cache lines, and those of workload 2 on guests of more CPUs.
PARTS = ("runs", "idle", "lines", "scaling")

#: Rounds that all cases get first: fewer say nothing, and A B B A needs pairs of pairs.
_FIRST = 4

#: A run goes on with new guests so often. What ended one is not tried again in the others.
_GUESTS = 6

#: Names of workload 7.
_IDLE = ("7", "idle")


@dataclass(frozen=True)
class Size:
    """How much a run measures.

    Attributes:
        rounds: timed rounds of each case.
        traced: skbs are followed, and events counted.
        idle_rounds, idle: of workload 7, and its connections.
        lines: cache-line transfers are simulated.
        arms: of a case's, these alone; all if it is empty.
    """

    name: str
    rounds: int
    traced: bool
    idle_rounds: int
    idle: int
    lines: bool
    arms: tuple[str, ...] = ()

    def cases(self) -> list[Case]:
        """Return the cases of this size."""
        found = workloads.all_cases()
        return [self._fewer(case) for case in found if case.quick or not self.arms]

    def _fewer(self, case: Case) -> Case:
        if not self.arms:
            return case
        return dataclasses.replace(
            case, arms=tuple(each for each in case.arms if each in self.arms)
        )


QUICK = Size(
    "quick",
    rounds=2,
    traced=True,
    idle_rounds=0,
    idle=0,
    lines=False,
    arms=("off", "off-again", "defer", "threads"),
)
FULL = Size("full", rounds=6, traced=True, idle_rounds=2, idle=workloads.IDLE, lines=True)


class Study:
    """What is measured of one base, and where that is kept.

    Attributes:
        where: the directory of samples and of the report.
        stem: what the report is called that is kept in ``docs/``.
    """

    def __init__(
        self,
        base: Base,
        size: Size,
        log_dir: Path,
        *,
        flavour: str | None = None,
        keep_kernels: bool = False,
    ) -> None:
        """Build both kernels, as far as they are not there.

        Args:
            flavour: of the kernels; the base's own unless given, and then a study of its own.
            keep_kernels: take the kernels that the first such run has copied
                (:mod:`harness.bench.frozen`).

        Raises:
            HarnessError: a kernel cannot be built.
        """
        self.base = base
        self.size = size
        self._tried: set[tuple[str, str]] = set()
        self.log_dir = log_dir
        own = "" if flavour in (None, base.flavour) else f"-{flavour}"
        self.where = samples.directory(base.name) / f"{size.name}{own}"
        self.stem = f"bench-{base.name}{own}"
        copies = samples.directory(base.name) / f"kernels{own}"
        if keep_kernels and copies.is_dir():
            self.kernels = frozen.load(copies)
        else:
            quiet = progress.Steps(quiet=True)
            self.kernels = {
                baseline: build.build(base, flavour=flavour, baseline=baseline, steps=quiet)
                for baseline in (True, False)
            }
            if keep_kernels:
                frozen.freeze(self.kernels, copies)
                self.kernels = frozen.load(copies)
        for tool in ("load", "wire", "ringdump"):
            guesttools.tool(tool)
        self.environment = environment.describe(self.kernels)
        facts = {
            ("baseline" if baseline else "patched"): {
                **kernel.describe(),
                "image": stamp.digest([kernel.image]),
            }
            for baseline, kernel in self.kernels.items()
        }
        host = " ".join(str(self.environment[each]) for each in ("accelerator", "host", "guests"))
        everything = [*size.cases(), idle.CASE]
        self.keys = {case.name: samples.key(case, facts, host) for case in everything}

    def chosen(self, only: Sequence[str]) -> list[Case]:
        """Return the cases that were asked for: by name, by their beginning, or by a number."""
        cases = self.size.cases()
        if not only:
            return cases
        return [case for case in cases if any(_matches(case, each) for each in only)]

    def run(
        self, only: Sequence[str], *, minutes: float | None, parts: Collection[str] = PARTS
    ) -> bool:
        """Measure what is missing; tell whether all of it is there.

        Args:
            only: cases, as :meth:`chosen` takes them.
            minutes: how long it may take; what is missing then is for the next run.
            parts: of :data:`PARTS`; two runs of different ones do not disturb each other's files.

        Raises:
            HarnessError: a guest does not come up, or again and again one is gone.
        """
        deadline = None if minutes is None else time.monotonic() + 60 * minutes
        attempt = 0
        while True:
            attempt += 1
            log_dir = self.log_dir if attempt == 1 else self.log_dir / f"again-{attempt}"
            try:
                self._run(only, deadline, parts, log_dir)
                return True
            except OutOfTime:
                return False
            except GuestBootFailed:
                raise
            except GuestError as err:
                if attempt == _GUESTS:
                    raise
                progress.say(f"{err.what}\nlogs: {log_dir}\ngoing on with new guests")

    def _run(
        self, only: Sequence[str], deadline: float | None, parts: Collection[str], log_dir: Path
    ) -> None:
        def in_time() -> None:
            if deadline is not None and time.monotonic() > deadline:
                raise OutOfTime

        cases = self.chosen(only)
        with Guests(self.kernels, log_dir) as booted:
            if "runs" in parts:
                runner = Runner(booted, self.where, self.keys, deadline=deadline, tried=self._tried)
                # All cases get some rounds before any gets more.
                for rounds in (min(_FIRST, self.size.rounds), self.size.rounds):
                    runner.run(cases, Effort(rounds, self.size.traced))
            if "idle" in parts and (not only or any(each in _IDLE for each in only)):
                self._idle(booted, in_time)
        if "lines" in parts and self.size.lines:
            lines.simulate(self.kernels, cases, self.lines_of, self._keep_lines, log_dir, in_time)
        if "scaling" in parts and self.size.lines and any(c.workload == 2 for c in cases):
            scaling.run(self.kernels, self._scaling_file(), self._scaling_key(), log_dir, in_time)

    # --- simulations

    def lines_of(self, case: Case) -> dict[str, Any]:
        """Return what was simulated of a case, by arm."""
        found = stamp.read(self.where / "lines" / f"{case.name}.json")
        known = found is not None and found[0] == self._lines_key(case)
        return dict(found[1]) if found is not None and known else {}

    def _keep_lines(self, case: Case, known: Mapping[str, Any]) -> None:
        stamp.write(self.where / "lines" / f"{case.name}.json", self._lines_key(case), known)

    def _lines_key(self, case: Case) -> str:
        return stamp.digest([self.keys[case.name], *lines.inputs()])

    def _scaling_file(self) -> Path:
        return self.where / "samples" / "scaling.json"

    def _scaling_key(self) -> str:
        return stamp.digest([self.keys.get("flows-128", ""), repr(scaling.case(4))])

    # --- workload 7

    def idle_runs(self) -> dict[str, list[dict[str, Any]]]:
        """Return what is known of workload 7, by arm."""
        found = stamp.read(self._idle_file())
        key = f"{self.keys[idle.CASE.name]} {self.size.idle}"
        return {} if found is None or found[0] != key else dict(found[1])

    def _idle_file(self) -> Path:
        return self.where / "samples" / "idle.json"

    def _idle(self, booted: Guests, in_time: Callable[[], None]) -> None:
        known = self.idle_runs()
        key = f"{self.keys[idle.CASE.name]} {self.size.idle}"
        chosen = [each for each in idle.CASE.arms if not self.size.arms or each in self.size.arms]
        for round_ in range(self.size.idle_rounds):
            names = chosen if round_ % 2 == 0 else chosen[::-1]
            for name in names:
                if len(known.get(name, [])) > round_:
                    continue
                in_time()
                arm = arms.BY_NAME[name]
                guest = booted.get(arm.kind)
                guest.apply(arm)
                try:
                    with networks.network(guest, idle.CASE.network) as path:
                        done = idle.run(guest, path, self.size.idle)
                except (LoadFailed, GuestCommandFailed, GuestCommandTimeout) as err:
                    progress.say(f"idle, {name}: {err.what}")
                    continue
                done["connections"] = self.size.idle
                known.setdefault(name, []).append(done)
                stamp.write(self._idle_file(), key, known)
                progress.say(f"idle, {name}: {len(known[name])} of {self.size.idle_rounds}")

    # --- the report

    def facts(self) -> dict[str, Any]:
        """Return all that is known, for the report."""
        cases = self.size.cases()
        known = {case.name: self._known(case) for case in cases}
        return report.facts(
            base=self.base.name,
            environment=self.environment,
            series=environment.of_series(self.base, self.kernels[False]),
            cases=cases,
            known=known,
            idle_runs=self.idle_runs(),
            profiles=lines.profiles(known, cases),
            model=model.predict(scaling.known(self._scaling_file(), self._scaling_key())),
            effort={
                "size": self.size.name,
                "rounds of each arm": max((len(each.rounds) for each in known.values()), default=0),
            },
            notes=_notes(self.stem),
        )

    def _known(self, case: Case) -> Samples:
        path = self.where / "samples" / f"{case.name}.json"
        found = samples.load(path, self.keys[case.name])
        figures.add_full(found)
        # A report is for others, who have no use for where things are on this machine.
        found.failures = [plain(each) for each in found.failures]
        for traced in found.traced.values():
            if "failed" in traced:
                traced["failed"] = plain(traced["failed"])
        simulated = self.lines_of(case)
        found.lines = {arm: lines.with_derived(case, each) for arm, each in simulated.items()}
        return found

    def write(self, facts: Mapping[str, Any], directory: Path, stem: str) -> list[Path]:
        """Write the report as Markdown, JSON and plots, and return the files."""
        from harness.bench import plots  # noqa: PLC0415 - takes a second to load

        directory.mkdir(parents=True, exist_ok=True)
        drawn = plots.draw(facts, directory, stem)
        text = report.as_markdown(facts, [(path.name, what) for path, what in drawn])
        files = [directory / f"{stem}.json", directory / f"{stem}.md"]
        stamp.write_atomic(files[0], report.as_json(facts))
        stamp.write_atomic(files[1], text)
        return [*files, *(path for path, _ in drawn)]


def _notes(stem: str) -> str:
    """Return what a person has found out about the figures: docs/bench-BASE.notes.md."""
    path = paths.ROOT / "docs" / f"{stem}.notes.md"
    return path.read_text() if path.is_file() else ""


def _matches(case: Case, wanted: str) -> bool:
    return case.name == wanted or case.name.startswith(f"{wanted}-") or str(case.workload) == wanted


def check(only: Sequence[str]) -> None:
    """See that every name stands for a case.

    Raises:
        UsageError: one does not; the message lists those that do.
    """
    names = [case.name for case in workloads.all_cases()]
    for wanted in only:
        if wanted in _IDLE:
            continue
        if not any(_matches(case, wanted) for case in workloads.all_cases()):
            raise _unknown(wanted, names)


def _unknown(wanted: str, names: Sequence[str]) -> HarnessError:
    from harness.errors import UsageError  # noqa: PLC0415

    return UsageError(f"no case {wanted!r}", hint=f"a number from 1 to 7, or: {', '.join(names)}")
