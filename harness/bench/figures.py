"""From samples to figures: one flat record for each workload, case, arm and metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.bench import arms, statistics
from harness.bench.samples import Samples
from harness.bench.statistics import Verdict
from harness.bench.workloads import Case

#: What a traced run's values are called beside those of timed runs with the same name.
TRACED = "traced: "

#: The load average of the host over a minute, when a run ended.
LOAD = "host load"

#: Of the skbs that their readers would have handed home, those that found the list full.
FULL = "found the list full, %"

#: Metrics of the simulation: cache-line transfers and instructions.
TRANSFERS, REMOTE = "line transfers per packet", "line transfers between nodes per packet"
#: Those that are not made by whoever copies or sums the payload, whose lines must move anyway.
BESIDE = "line transfers per packet, beside copies"
INSTRUCTIONS = "instructions per packet"
BOTH = "instructions per packet, sending and reading CPU"
#: The same without what the reading CPU does while it waits for a lock.
WORK = "instructions per packet, both CPUs, without the reader's waiting for locks"


@dataclass(frozen=True)
class Figure:
    """One figure and what it is compared with.

    Attributes:
        value: the median over the rounds; a count per 1,000 packets unless the unit says else.
        baseline: the same of the arm ``off``.
        ratio, low, high: paired over the rounds, with a 95 % confidence interval; of counts that
            were taken once, ``low`` and ``high`` are absent.
        verdict: what the ratio says next to the A/A spread; empty for counts.
    """

    workload: int
    case: str
    arm: str
    metric: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str = ""

    def describe(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def unit(case: Case, metric: str) -> str:
    """Return the unit of a metric."""
    if metric == "throughput":
        return case.rate
    if metric.endswith("%"):
        return "%"
    if metric == LOAD:
        return "processes"
    if metric.endswith(("p50", "p99", "p99.9")):
        return "us"
    if "per packet" in metric:
        return "per packet"
    return "per 1,000 packets"


def noise(known: Samples, metric: str = "throughput") -> float:
    """Return the A/A spread of a case: by which factor two equal arms differ; inf if unknown."""
    base = known.series(arms.REFERENCE, metric)
    return statistics.spread(statistics.paired(known.series(arms.AGAIN, metric), base))


def of_case(case: Case, known: Samples) -> list[Figure]:
    """Return the figures of one case, arm by arm."""
    return [
        *(figure for arm in case.arms for figure in _timed(case, known, arm)),
        *_once(case, known.traced, TRACED),
        *_once(case, known.lines, ""),
    ]


def add_full(known: Samples) -> None:
    """Add to each round which part of the skbs that were to go home found no room."""
    for each in known.rounds:
        for values in each.values():
            full, deferred = (values.get(f"lists: {name}") for name in ("full", "deferred"))
            if full is not None and deferred is not None and full + deferred > 0:
                values[FULL] = 100 * full / (full + deferred)


def _timed(case: Case, known: Samples, arm: str) -> list[Figure]:
    found = []
    for metric in known.metrics():
        values = known.series(arm, metric)
        there = [value for value in values if value is not None]
        if not there:
            continue
        base = known.series(arms.REFERENCE, metric)
        base_there = [value for value in base if value is not None]
        ratio = statistics.paired(values, base) if arm != arms.REFERENCE else None
        timed = metric == "throughput" or unit(case, metric) == "us"
        say = ""
        if timed and ratio is not None and arm != arms.AGAIN:
            say = statistics.verdict(ratio, noise(known, metric)).value
        found.append(
            Figure(
                case.workload,
                case.name,
                arm,
                metric,
                statistics.median(there),
                unit(case, metric),
                statistics.median(base_there) if base_there else None,
                ratio.value if ratio else None,
                ratio.low if ratio else None,
                ratio.high if ratio else None,
                say,
            )
        )
    return found


def _once(case: Case, by_arm: Mapping[str, Mapping[str, Any]], prefix: str) -> list[Figure]:
    """Return figures of what was counted once."""
    base = by_arm.get(arms.REFERENCE, {}).get("values", {})
    found = []
    for arm in case.arms:
        for metric, value in by_arm.get(arm, {}).get("values", {}).items():
            reference = base.get(metric)
            ratio = value / reference if reference else None
            found.append(
                Figure(
                    case.workload,
                    case.name,
                    arm,
                    prefix + metric,
                    value,
                    unit(case, metric),
                    reference,
                    ratio if arm != arms.REFERENCE else None,
                )
            )
    return found


class Table:
    """Figures that are looked up by case, arm and metric."""

    def __init__(self, figures: Sequence[Figure]) -> None:
        self.figures = figures
        self._by_name = {(each.case, each.arm, each.metric): each for each in figures}

    def get(self, case: str, arm: str, metric: str) -> Figure | None:
        """Return a figure, or None if it was not measured."""
        return self._by_name.get((case, arm, metric))

    def with_metric(self, metric: str, *among: str) -> list[Figure]:
        """Return all figures of a metric, of some arms or of all."""
        return [
            each
            for each in self.figures
            if each.metric == metric and (not among or each.arm in among)
        ]


def is_difference(figure: Figure) -> bool:
    """Tell whether a ratio is a difference, and not the machine's own spread."""
    return figure.verdict in (Verdict.MORE.value, Verdict.LESS.value)


def spread_percent(known: Samples) -> float | None:
    """Return the A/A spread of a case's throughput in percent, None if it is not known."""
    factor = noise(known)
    return None if math.isinf(factor) else 100 * (factor - 1)
