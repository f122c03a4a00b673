"""What was measured of each case, kept as soon as it is there, for exactly what it speaks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness import guesttools, paths, stamp
from harness.bench import counts, measure
from harness.bench.arms import BY_NAME
from harness.bench.workloads import Case

#: Raised when what is measured, or how it is read, changes: earlier samples are void then.
_RECIPE = "2"

#: What tells one kernel from another.
_FACTS = ("release", "series", "config_sha256", "image")


@dataclass
class Samples:
    """All that is known of one case.

    Attributes:
        rounds: for each round, arm to metric to value.
        traced: arm to the values of its traced run, and what else that said.
        lines: arm to what the simulation counted; absent until it has.
        failures: what could not be measured, and why, in words.
    """

    rounds: list[dict[str, dict[str, float]]] = field(default_factory=list)
    traced: dict[str, dict[str, Any]] = field(default_factory=dict)
    lines: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def series(self, arm: str, metric: str) -> list[float | None]:
        """Return a metric of an arm, round by round; None where it is not known."""
        return [each.get(arm, {}).get(metric) for each in self.rounds]

    def metrics(self) -> list[str]:
        """Return the names of all metrics of the rounds, in order."""
        found: dict[str, None] = {}
        for each in self.rounds:
            for values in each.values():
                found.update(dict.fromkeys(values))
        return list(found)


def key(case: Case, kernels: Mapping[str, Any], machine: str) -> str:
    """Return a digest of all that decides what a case measures.

    Args:
        kernels: what the kernels say of themselves, by arm: :meth:`Kernel.describe`, and ``image``,
            a digest of what is booted.
        machine: what the guests run on: accelerator, CPUs of the host and of the guest.
    """
    programs = [
        *guesttools.sources("load"),
        *guesttools.sources("wire"),
        guesttools.script("nets"),
        guesttools.script("skbtrace"),
    ]
    words: list[str | bytes | Path] = [_RECIPE, repr(case), repr(sorted(case.load.items()))]
    words += [repr(sorted(BY_NAME[name].settings.items())) for name in case.arms]
    words += [repr(sorted(counts.EVENTS)), repr(sorted(counts.PROBES)), str(measure.TRACED)]
    for name, facts in sorted(kernels.items()):
        words += [name, *(str(facts[each]) for each in _FACTS)]
    return stamp.digest([*words, machine, *programs])


def directory(base: str) -> Path:
    """Return where the samples of a base are kept."""
    return paths.build_root() / "bench" / base


def save(path: Path, inputs: str, samples: Samples) -> None:
    """Keep samples that speak for what ``inputs`` is a digest of."""
    stamp.write(path, inputs, asdict(samples))


def load(path: Path, inputs: str) -> Samples:
    """Return the samples that were kept for exactly this digest; empty ones if there are none."""
    found = stamp.read(path)
    if found is None or found[0] != inputs:
        return Samples()
    try:
        return Samples(**found[1])
    except TypeError:
        return Samples()
