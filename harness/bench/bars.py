"""The bars that a series is held to, each judged by the figures and by nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from harness.bench import figures
from harness.bench.figures import Figure, Table
from harness.bench.statistics import Verdict
from harness.bench.workloads import Case

#: The arms that a user of the series runs; the bars are about them.
USED = ("defer", "defer+tx", "threads")

#: Arms of the series with the lists on, and off: what must not be slower.
SERIES = (*USED, "limit-0", "limit-16", "limit-256")


class Kept(Enum):
    """How a bar was met."""

    KEPT = "kept"
    #: What was measured keeps it; some cases were not measured.
    PARTLY = "kept as far as measured"
    MISSED = "MISSED"
    #: Too little was measured to tell: never kept.
    UNKNOWN = "not shown"


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        what: what is asked for.
        measured: what was seen, in words and figures.
        misses: each figure that misses it.
        note: what a reader must know to judge it.
    """

    what: str
    kept: Kept
    measured: str
    misses: tuple[str, ...] = ()
    note: str = ""

    def describe(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {**asdict(self), "kept": self.kept.value, "misses": list(self.misses)}


def _name(figure: Figure, digits: int = 2) -> str:
    ratio = f"{figure.ratio:.{digits}f}" if figure.ratio is not None else "?"
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f" ({figure.low:.{digits}f} to {figure.high:.{digits}f})"
    return f"{figure.case}, {figure.arm}: {ratio}{interval}"


def _judge(any_figure: bool, misses: Sequence[str], whole: bool = True) -> Kept:
    if misses:
        return Kept.MISSED
    if not any_figure:
        return Kept.UNKNOWN
    return Kept.KEPT if whole else Kept.PARTLY


def _whole(measured: Sequence[Figure], wanted: Sequence[Case]) -> bool:
    """Tell whether there is a figure of every case that a bar is about."""
    return {case.name for case in wanted} <= {each.case for each in measured}


def _far(measured: Sequence[Figure], wanted: Sequence[Case]) -> str:
    """Say how many of the cases were measured, if it is not all."""
    done = {case.name for case in wanted} & {each.case for each in measured}
    return "" if len(done) == len(wanted) else f" ({len(done)} of {len(wanted)} cases measured)"


def _enough(among: Sequence[Figure]) -> bool:
    """Tell whether there are figures, all of enough rounds to say something."""
    return bool(among) and all(each.verdict != Verdict.UNKNOWN.value for each in among)


def reads(table: Table, cases: Mapping[str, Case]) -> Bar:
    """Judge: of what was read, at most 1 % is freed away from home, in workloads 1 to 5."""
    metric = f"{figures.TRACED}read skbs freed elsewhere, %"
    mine = [
        each
        for each in table.with_metric(metric, *USED)
        if each.workload <= 5 and cases[each.case].reads
    ]
    wanted = [case for case in cases.values() if case.workload <= 5 and case.reads]
    bad = [each for each in mine if each.value > 1]
    base = [each.value for each in table.with_metric(metric, "off") if each.workload <= 5]
    worst = max((each.value for each in mine), default=0.0)
    full = [each for each in table.with_metric(figures.FULL, "defer") if each.workload <= 5]
    told = f"{len(mine) - len(bad)} of {len(mine)} kept; the worst is {worst:.1f} %"
    if base:
        told += f" (baseline: {min(base):.1f} to {max(base):.1f} %)"
    return Bar(
        "Of the skbs that were read, at most 1 % is freed on another CPU than their own, "
        "in workloads 1 to 5",
        _judge(bool(mine), [each.case for each in bad], _whole(mine, wanted)),
        told + _far(mine, wanted) if mine else "not measured",
        tuple(f"{each.case}, {each.arm}: {each.value:.1f} %" for each in bad),
        "From traced runs, which slow the CPU that allocates more than the one that reads. In the "
        "timed runs, found their list full: "
        + (", ".join(f"{each.case}, {each.arm}: {each.value:.1f} %" for each in full) or "unknown")
        + ". Reads by UDP sockets are not traced; the series leaves them as they are.",
    )


def transfers(table: Table, cases: Sequence[Case]) -> Bar:
    """Judge: line transfers per packet, at most 0.7 in 1, 2 and 5, nowhere above 1.02."""
    mine = [
        each for each in table.with_metric(figures.TRANSFERS, *SERIES) if each.ratio is not None
    ]
    bad = [
        each
        for each in mine
        if each.ratio is not None
        and (
            each.ratio > 1.02
            or (each.workload in (1, 2, 5) and each.arm in USED and each.ratio > 0.7)
        )
    ]
    told = ", ".join(_name(each) for each in mine if each.arm in USED) or "not measured"
    wanted = [case for case in cases if case.lines]
    beside = ", ".join(
        _name(each) for each in table.with_metric(figures.BESIDE, *USED) if each.ratio is not None
    )
    return Bar(
        "Simulated cache-line transfers per packet: at most 0.7 of the baseline's in workloads "
        "1, 2 and 5, nowhere more than 1.02",
        _judge(bool(mine), [each.case for each in bad], _whole(mine, wanted)),
        told + _far(mine, wanted),
        tuple(_name(each) for each in bad),
        f"Without the lines of the payload that a copy moves: {beside}." if beside else "",
    )


def throughput(table: Table, cases: Sequence[Case]) -> Bar:
    """Judge: never below 0.98, and above 1.05 in at least two workloads."""
    mine = [each for each in table.with_metric("throughput", *SERIES) if each.ratio is not None]
    low = [each for each in mine if each.ratio is not None and each.ratio < 0.98]
    sure = [each for each in low if figures.is_difference(each)]
    gains = [
        each
        for each in mine
        if each.ratio is not None and each.ratio > 1.05 and figures.is_difference(each)
    ]
    where = sorted({each.workload for each in gains})
    told = (
        f"{len(mine)} ratios: {len(low)} below 0.98, of which {len(sure)} are differences and not "
        f"the machine's spread; above 1.05 as a difference in "
        + (f"workloads {', '.join(map(str, where))}" if where else "no workload")
    )
    misses = [*(_name(each) for each in sure)]
    if _enough(mine) and len(where) < 2:
        misses.append(f"above 1.05 in {len(where)} workloads, not in two")
    return Bar(
        "The throughput's ratio is never below 0.98, and above 1.05 in at least two workloads",
        _judge(_enough(mine), misses, _whole(mine, cases)),
        told + _far(mine, cases) if mine else "not measured",
        tuple(misses),
        "Times under an emulator: no caches, so what the series saves hardly shows in them.",
    )


def udp(table: Table, cases: Sequence[Case]) -> Bar:
    """Judge: workload 5 at limit 64 is slower in no size and no direction."""
    mine = [
        each
        for each in table.with_metric("throughput", "defer")
        if each.workload == 5 and each.ratio is not None
    ]
    wanted = [case for case in cases if case.workload == 5]
    bad = [
        each
        for each in mine
        if each.ratio is not None and each.ratio < 1 and figures.is_difference(each)
    ]
    told = ", ".join(_name(each) for each in mine) or "not measured"
    return Bar(
        "Workload 5 at limit 64: slower in no size and no direction",
        _judge(_enough(mine), [each.case for each in bad], _whole(mine, wanted)),
        told + _far(mine, wanted),
        tuple(_name(each) for each in bad),
    )


def instructions(table: Table, cases: Sequence[Case]) -> Bar:
    """Judge: instructions per packet of both CPUs together, at most 1 % above the baseline's."""
    mine = [each for each in table.with_metric(figures.BOTH, *USED) if each.ratio is not None]
    bad = [each for each in mine if each.ratio is not None and each.ratio > 1.01]
    told = ", ".join(_name(each, 3) for each in mine) or "not measured"
    waited = ", ".join(
        _name(each, 3) for each in table.with_metric(figures.WORK, *USED) if each.ratio is not None
    )
    wanted = [case for case in cases if case.lines]
    return Bar(
        "Instructions per packet, on the sending and the receiving CPU together: at most 1 % above "
        "the baseline's",
        _judge(bool(mine), [each.case for each in bad], _whole(mine, wanted)),
        told + _far(mine, wanted),
        tuple(_name(each, 3) for each in bad),
        f"Without the loops in which the reading CPU waits for a lock: {waited}." if waited else "",
    )


def idle(found: Mapping[str, Any]) -> Bar:
    """Judge: idle sockets hold no more than the bound, and give it back in the documented time.

    Args:
        found: the summary of workload 7 (:func:`harness.bench.idle.summary`).
    """
    misses = []
    for arm, row in found.get("arms", {}).items():
        if arm not in SERIES:
            continue
        if row["more_bytes"] > row["bound_bytes"]:
            misses.append(
                f"{arm}: {row['more_bytes']:.0f} bytes above off/off, bound {row['bound_bytes']}"
            )
        if row["stranded_after"] is None or row["stranded_after"] > found["allowed_seconds"]:
            misses.append(f"{arm}: skbs wait longer than {found['allowed_seconds']} s")
    told = "; ".join(
        f"{arm}: {row['more_bytes'] / 1024:+.0f} KiB, the last skb waited less than "
        f"{row['stranded_after']} s"
        for arm, row in found.get("arms", {}).items()
        if arm in SERIES
    )
    return Bar(
        "Memory that 10,000 idle connections hold: at most CPUs x limit x size of an skb above "
        "off/off, and back to it within 200 ms",
        _judge(bool(told), misses),
        told or "not measured",
        tuple(misses),
    )


def judge(table: Table, cases: Sequence[Case], idle_summary: Mapping[str, Any]) -> tuple[Bar, ...]:
    """Return all bars, judged."""
    by_name = {case.name: case for case in cases}
    return (
        reads(table, by_name),
        transfers(table, cases),
        throughput(table, cases),
        udp(table, cases),
        idle(idle_summary),
        instructions(table, cases),
    )
