"""Runs what has not been measured yet, keeps it at once, and says how long the rest will take."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import progress
from harness.bench import arms, measure, networks, plan, samples
from harness.bench.arms import Arm
from harness.bench.figures import LOAD
from harness.bench.guests import Guest, Guests
from harness.bench.networks import Network
from harness.bench.samples import Samples
from harness.bench.workloads import Case
from harness.vm import GuestCommandFailed, GuestCommandTimeout, GuestError

#: Seconds that a run takes beside its window, as a first guess.
_BESIDE = 0.7

#: Seconds that a traced run takes, as a first guess.
_TRACED = 4.0


@dataclass(frozen=True)
class Effort:
    """How much is measured of a case.

    Attributes:
        rounds: timed rounds of all arms.
        traced: each arm is also followed once.
    """

    rounds: int
    traced: bool = True


class OutOfTime(Exception):
    """The time that the run was given is over; what was measured is kept."""


class Runner:
    """Measures cases in the guests of one base."""

    def __init__(
        self,
        guests: Guests,
        where: Path,
        keys: Mapping[str, str],
        *,
        deadline: float | None = None,
        tried: set[tuple[str, str]] | None = None,
    ) -> None:
        """Remember where samples are kept.

        Args:
            keys: case name to the digest that its samples speak for.
            deadline: a time of :func:`time.monotonic` after which nothing is begun.
            tried: cases and arms that were followed, whatever came of it, and are not followed
                once more; added to.
        """
        self._guests = guests
        self._where = where
        self._keys = keys
        self._deadline = deadline
        self._tried = set() if tried is None else tried
        self._events: dict[str, list[str]] = {}
        self._pace = 1.0
        self._line = progress.Line("bench")

    def known(self, case: Case) -> Samples:
        """Return what is known of a case."""
        return samples.load(self._file(case), self._keys[case.name])

    def run(self, cases: Sequence[Case], effort: Effort) -> None:
        """Measure what is missing of each case.

        Raises:
            OutOfTime: the deadline came; calling it again goes on.
            GuestError: a guest is gone.
        """
        todo = {case.name: self._guess(case, effort) for case in cases}
        for case in cases:
            if not todo[case.name]:
                continue
            rest = sum(todo.values())
            started, guess = time.monotonic(), todo.pop(case.name)
            self._case(case, effort, rest)
            took = time.monotonic() - started
            # What the first cases took beyond the guess, the others will take as well.
            self._pace = 0.5 * self._pace + 0.5 * self._pace * took / max(guess, 0.1)
            todo = {each.name: self._guess(each, effort) for each in cases if each.name in todo}
            left = progress.seconds(sum(todo.values()))
            progress.say(f"{case.name}: {progress.seconds(took)}; about {left} to go")

    def _guess(self, case: Case, effort: Effort) -> float:
        known = self.known(case)
        rounds = max(0, effort.rounds - len(known.rounds))
        window = float(case.load.get("seconds", case.window))  # type: ignore[arg-type]
        seconds = rounds * len(case.arms) * (window + _BESIDE)
        if effort.traced:
            seconds += _TRACED * len(self._to_follow(case, known))
        return self._pace * seconds

    def _to_follow(self, case: Case, known: Samples) -> set[str]:
        tried = {arm for name, arm in self._tried if name == case.name}
        return set(case.arms) & set(arms.FOLLOWED) - set(known.traced) - tried

    def _file(self, case: Case) -> Path:
        return self._where / "samples" / f"{case.name}.json"

    def _case(self, case: Case, effort: Effort, rest: float) -> None:
        known = self.known(case)
        known.failures.clear()
        chosen = [arms.BY_NAME[name] for name in case.arms]
        with ExitStack() as stack:
            paths = self._networks(stack, case.network, chosen)

            def one(arm: Arm, todo: Callable[[Guest, networks.Path], Any]) -> Any:
                self._in_time()
                guest = self._guests.get(arm.kind)
                guest.apply(arm)
                try:
                    return todo(guest, paths[arm.kind])
                except (measure.LoadFailed, GuestCommandFailed, GuestCommandTimeout) as err:
                    known.failures.append(f"{arm.name}: {err.what}")
                    return None

            while len(known.rounds) < effort.rounds:
                at = len(known.rounds)
                values: dict[str, dict[str, float]] = {}
                for name in plan.order(case.arms, at):
                    self._line.update(
                        f"{case.name}, round {at + 1} of {effort.rounds}, {name}; "
                        f"about {progress.seconds(rest)} to go"
                    )
                    done = one(arms.BY_NAME[name], lambda g, p: self._timed(g, case, p))
                    if done is not None:
                        values[name] = done
                known.rounds.append(values)
                samples.save(self._file(case), self._keys[case.name], known)
            for arm in chosen if effort.traced else ():
                if arm.name not in self._to_follow(case, known):
                    continue
                self._tried.add((case.name, arm.name))
                self._line.update(f"{case.name}, following skbs, {arm.name}")
                try:
                    done = one(arm, lambda g, p: self._followed(g, case, p))
                except GuestError as err:
                    # Not again: a guest that probes have ended once they may end twice.
                    known.traced[arm.name] = {"values": {}, "failed": err.what}
                    samples.save(self._file(case), self._keys[case.name], known)
                    raise
                if done is not None:
                    known.traced[arm.name] = done
                samples.save(self._file(case), self._keys[case.name], known)

    def _networks(
        self, stack: ExitStack, spec: Network, chosen: Sequence[Arm]
    ) -> dict[str, networks.Path]:
        kinds = dict.fromkeys(arm.kind for arm in chosen)
        return {
            kind: stack.enter_context(networks.network(self._guests.get(kind), spec))
            for kind in kinds
        }

    def _in_time(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise OutOfTime

    def _timed(self, guest: Guest, case: Case, path: networks.Path) -> dict[str, float]:
        values = measure.evaluate(case, path, measure.run(guest, case, path)).values
        # What else the machine had to do is what most of the spread comes from.
        return {**values, LOAD: os.getloadavg()[0]}

    def _followed(self, guest: Guest, case: Case, path: networks.Path) -> dict[str, Any]:
        if guest.kind not in self._events:
            self._events[guest.kind] = measure.define_probes(guest)
        found = measure.follow(guest, case, path, self._events[guest.kind])
        return {"values": found.values, "packets": found.packets, **found.extra}
