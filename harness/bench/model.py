"""What counted events would cost on many CPUs: a closed queueing network. Not a measurement.

N CPUs carry packets. For each packet a CPU computes and moves cache lines by itself (a delay,
during which others are not in the way), and takes the lock of a zone of pages now and then (a
queue: one CPU at a time holds a lock, and there is one for each NUMA node). Exact mean value
analysis gives how many packets that makes; see Lazowska et al., Quantitative System Performance.

How often a packet needs each comes from counts on guests of a few CPUs, extrapolated with
``a + b (1 - 1/N)``: what is freed, or written, on a CPU that is drawn among N is elsewhere with
the probability ``1 - 1/N``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

#: CPUs for which the model says something, and those of the seed's machine.
PREDICTED = (64, 128, 320, 640)

#: What the seed saw on 640 CPUs: 110 instead of 55 Gbit/s.
SEED = 2.0


@dataclass(frozen=True)
class Costs:
    """What the model assumes of a machine, in ns.

    Attributes:
        instruction: an instruction that finds what it needs in its own cache.
        near, far: a line from a cache of the same node, of another.
        hold: a zone's lock is held for a taking (up to some dozens of pages in bulk).
        nodes: NUMA nodes, each with a lock.
    """

    instruction: float = 0.25
    near: float = 50.0
    far: float = 130.0
    hold: float = 500.0
    nodes: int = 2


@dataclass(frozen=True)
class Demand:
    """What one packet needs.

    Attributes:
        delay: ns that a CPU spends by itself.
        lock: ns that it holds a zone's lock.
    """

    delay: float
    lock: float


def fit(cpus: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Return (a, b) of ``a + b (1 - 1/N)``, by least squares; neither below 0.

    With one point, b is 0.
    """
    y = np.asarray(values, dtype=float)
    if len(y) < 2:
        return max(0.0, float(y.mean())), 0.0
    x = 1 - 1 / np.asarray(cpus, dtype=float)
    matrix = np.column_stack([np.ones_like(x), x])
    (a, b), *_ = np.linalg.lstsq(matrix, y, rcond=None)
    if b < 0:
        return max(0.0, float(y.mean())), 0.0
    if a < 0:
        return 0.0, float((x @ y) / (x @ x))
    return float(a), float(b)


def at(coefficients: tuple[float, float], cpus: float) -> float:
    """Return what was fitted, for a number of CPUs."""
    a, b = coefficients
    return a + b * (1 - 1 / cpus)


def throughput(demand: Demand, cpus: int, nodes: int) -> float:
    """Return packets per ns of a closed network: ``cpus`` customers, a delay, ``nodes`` queues.

    Exact mean value analysis; every queue gets the same part of ``demand.lock``.
    """
    each = demand.lock / nodes
    queue = 0.0
    found = 0.0
    for customers in range(1, cpus + 1):
        response = each * (1 + queue)
        found = customers / (demand.delay + nodes * response)
        queue = found * response
    return found


def demand(row: Mapping[str, tuple[float, float]], cpus: int, costs: Costs) -> Demand:
    """Return what a packet needs on a machine of that many CPUs.

    Args:
        row: ``zone``, ``transfers``, ``remote``, ``instructions``: what :func:`fit` returned.
    """
    far = at(row["remote"], cpus)
    near = max(0.0, at(row["transfers"], cpus) - far)
    delay = at(row["instructions"], cpus) * costs.instruction
    delay += near * costs.near + far * costs.far
    # Whoever takes a contended lock fetches its line, and the counters beside it, from afar.
    return Demand(delay, at(row["zone"], cpus) * (costs.hold + costs.far))


_COUNTS = ("zone", "transfers", "remote", "instructions")

#: One assumption at a time is changed to see how much hangs on it.
VARIED: Mapping[str, Sequence[float]] = {
    "hold": (100.0, 500.0, 2000.0),
    "far": (80.0, 130.0, 300.0),
    "instruction": (0.15, 0.25, 0.5),
}


def _changed(costs: Costs, name: str, value: float) -> Costs:
    return Costs(**{**asdict(costs), name: value})


def predict(counted: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the model's part of the report; empty if too little was counted.

    Args:
        counted: what :mod:`harness.bench.scaling` counted.
    """
    rows: dict[str, dict[str, tuple[float, float]]] = {}
    used: dict[str, list[int]] = {}
    for arm in ("off", "defer"):
        mine = sorted((r for r in counted.values() if r["arm"] == arm), key=lambda r: r["cpus"])
        if len(mine) < 2:
            return {}
        used[arm] = [row["cpus"] for row in mine]
        rows[arm] = {
            name: fit([row["cpus"] for row in mine], [row[name] for row in mine])
            for name in _COUNTS
        }
    costs = Costs()

    def speed(arm: str, cpus: int, of: Costs) -> float:
        return throughput(demand(rows[arm], cpus, of), cpus, of.nodes)

    table = []
    for cpus in PREDICTED:
        off, defer = (speed(arm, cpus, costs) for arm in ("off", "defer"))
        ratios = [
            speed("defer", cpus, changed) / speed("off", cpus, changed)
            for name, values in VARIED.items()
            for changed in (_changed(costs, name, value) for value in values)
        ]
        table.append(
            [
                str(cpus),
                f"{1e3 * off:.0f}",
                f"{1e3 * defer:.0f}",
                f"{defer / off:.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
            ]
        )
    ticks = [4, 8, 16, 32, *PREDICTED]
    grid = sorted({*ticks, 24, 48, 96, 192, 256, 480})
    curves = []
    for name in ("hold", "far"):
        for value in VARIED[name]:
            changed = _changed(costs, name, value)
            ratio = [speed("defer", c, changed) / speed("off", c, changed) for c in grid]
            curves.append(
                {
                    "arm": "defer" if name == "hold" else "threads",
                    "label": f"{_NAMES[name]} {value:g} ns",
                    "style": {0: ":", 1: "-", 2: "--"}[list(VARIED[name]).index(value)],
                    "cpus": grid,
                    "speed": [round(each, 4) for each in ratio],
                }
            )
    final = {arm: speed(arm, PREDICTED[-1], costs) for arm in rows}
    seen = final["defer"] / final["off"]
    return {
        "text": [
            f"Counts from guests of {', '.join(map(str, used['off']))} CPUs and two NUMA nodes, "
            "put into a closed queueing network (a delay for what a CPU does by itself, a queue "
            f"for each zone's lock). For 640 CPUs it says {seen:.2f} times the baseline's packets; "
            f"the seed saw {SEED:.0f} times (55 to 110 Gbit/s). The last column is the range when "
            "one assumption at a time is changed as below.",
        ],
        "head": [
            "CPUs",
            "off, packets/us",
            "defer, packets/us",
            "defer / off",
            "with other assumptions",
        ],
        "rows": table,
        "assumptions": [
            f"An instruction takes {costs.instruction} ns, a line from the same node "
            f"{costs.near:g} ns, from another {costs.far:g} ns; a zone's lock is held for "
            f"{costs.hold:g} ns and a line's way; two zones. Changed to: "
            + "; ".join(
                f"{_NAMES[name]} {', '.join(f'{v:g}' for v in values)} ns"
                for name, values in VARIED.items()
            )
            + ".",
            "How often a packet needs each is extrapolated with a + b (1 - 1/N) from the guests.",
            "Caches are endless, and lines are moved without waiting for each other; only the "
            "zone's lock is waited for. The locks of the slab allocator's nodes are not: the model "
            "knows them only as lines that move.",
            *(
                f"{arm}: "
                + ", ".join(f"{name} {a:.3g} + {b:.3g} (1 - 1/N)" for name, (a, b) in row.items())
                for arm, row in rows.items()
            ),
        ],
        "unit": "packets with the series / without",
        "ticks": ticks,
        "curves": curves,
        "counted": dict(counted),
        "ratio_at_640": seen,
    }


_NAMES = {"hold": "lock held", "far": "line from afar", "instruction": "instruction"}
