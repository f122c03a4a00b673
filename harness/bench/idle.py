"""Workload 7: what 10,000 idle connections hold after traffic, and for how long skbs wait."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness import counters
from harness.bench import arms, counts, networks, statistics
from harness.bench.counts import Window
from harness.bench.guests import CPUS, Guest
from harness.bench.measure import LoadFailed, arguments
from harness.bench.networks import Network
from harness.bench.workloads import Case

#: Seconds that the connections are looked at after the traffic, and how often.
SECONDS, LOOKS = 1.5, 30

#: Seconds after which no skb waits, as documented; an emulated CPU may be late by as much.
DOCUMENTED, LATE = 0.2, 0.3

#: Bytes that one skb may pin at most here: its structure, and data of up to a page's size.
SKB_BYTES = 256 + 4096

_CACHES = (*counts.SKB_CACHES, *counts.DATA_CACHES)

CASE = Case(
    7,
    "idle",
    "each carries 1,000 bytes once",
    Network("veth", rps=1),
    {"mode": "idle", "size": 1000, "tx-cpu": 0, "rx-cpu": 1},
    "received",
    "packets/s",
    ("off", "rx", "tx", "rx+tx", "defer", "defer+tx", "threads", "limit-0", "limit-256"),
    note="Looked at before there is a connection, when all are open, and from the moment on at "
    "which all data was read.",
)


def run(guest: Guest, path: networks.Path, connections: int) -> dict[str, Any]:
    """Open connections, have each carry one message, and look at what they hold.

    Returns:
        ``opened`` and ``after``: bytes in buffers when all are open, and at the last look;
        ``waiting``: (seconds, skbs on lists) for each look after the traffic;
        ``total_kib``: how much less memory is free at the last look than before them.

    Raises:
        LoadFailed: the program failed.
    """
    argv = arguments(CASE, path, flows=connections, seconds=SECONDS, looks=LOOKS)
    files = [f"/sys/kernel/slab/{cache}/{name}" for cache in _CACHES for name in _SIZES]
    files += ["/proc/meminfo", *([counts.DEFER] if guest.kind not in arms.BASELINES else [])]
    for name in files:
        argv += ["--file", name]
    guest.sh("echo 3 > /proc/sys/vm/drop_caches")
    done = guest.vm.run(argv, timeout=100, check=False)
    if done.returncode != 0:
        raise LoadFailed(f"idle: load ended with {done.returncode}: {done.stderr.strip()}")
    return evaluate(counts.window(json.loads(done.stdout)))


_SIZES = ("objects", "object_size")


def _held(found: Window, look: int) -> int:
    """Return the bytes of objects in use in the buffers' caches at one look."""
    total = 0
    for cache in _CACHES:
        objects = found.text(f"/sys/kernel/slab/{cache}/objects", look)
        size = found.text(f"/sys/kernel/slab/{cache}/object_size", look)
        total += counters.parse_slab_objects(objects) * int(size)
    return total


def _free(text: str) -> int:
    for line in text.splitlines():
        if line.startswith("MemFree:"):
            return int(line.split()[1])
    raise counters.BadCounter("/proc/meminfo has no MemFree")


def evaluate(found: Window) -> dict[str, Any]:
    """Return what :func:`run` returns, from the program's report."""
    waiting = []
    if counts.DEFER in found.raw["files"]:
        looks = found.raw["looks"]
        start = float(looks[2]["at"])
        for at in range(2, len(looks)):
            stat = counters.parse_defer_stat(found.text(counts.DEFER, at))
            waiting.append((round(float(looks[at]["at"]) - start, 4), stat.queued))
    return {
        "opened": _held(found, 1),
        "after": _held(found, -1),
        "at_once": _held(found, 2),
        "waiting": waiting,
        "total_kib": _free(found.text("/proc/meminfo", 0)) - _free(found.text("/proc/meminfo", -1)),
        "connections_received": found.own("received"),
    }


def stranded_after(waiting: Sequence[Sequence[float]]) -> float | None:
    """Return the first moment from which on no skb waits, 0 if none ever did; None if some do.

    A moment at which skbs were still seen is not after it.
    """
    found = 0.0
    for at, (_seconds, count) in enumerate(waiting):
        if count > 0:
            if at + 1 == len(waiting):
                return None
            found = float(waiting[at + 1][0])
    return found


def summary(known: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return what the report and the bars need of all arms' runs.

    Args:
        known: arm to what :func:`run` returned, each time.
    """
    base = known.get(arms.REFERENCE)
    slack = _slack(known)
    rows: dict[str, dict[str, Any]] = {}
    for arm, runs in known.items():
        if not runs:
            continue
        limit = arms.BY_NAME[arm].settings.get("net/core/skb_defer_max", 0)
        moments = [stranded_after(each["waiting"]) for each in runs]
        after = statistics.median([each["after"] for each in runs])
        reference = statistics.median([each["after"] for each in base]) if base else after
        rows[arm] = {
            "after_bytes": after,
            "at_once_bytes": statistics.median([each["at_once"] for each in runs]),
            "opened_bytes": statistics.median([each["opened"] for each in runs]),
            "more_bytes": after - reference,
            "bound_bytes": CPUS * limit * SKB_BYTES + slack,
            "most_waiting": max(
                (int(count) for each in runs for _at, count in each["waiting"]), default=0
            ),
            "stranded_after": None if None in moments else max((m or 0.0) for m in moments),
            "total_kib": statistics.median([each["total_kib"] for each in runs]),
            "runs": len(runs),
        }
    return {
        "connections": max(
            (int(each.get("connections", 0)) for runs in known.values() for each in runs), default=0
        ),
        "allowed_seconds": DOCUMENTED + LATE,
        "slack_bytes": slack,
        "arms": rows,
    }


#: Bytes that differ at least between two runs of the same arm: objects of slabs that CPUs have
#: for themselves count as used.
SLACK = 512 << 10


def _slack(known: Mapping[str, Sequence[Mapping[str, Any]]]) -> float:
    """Return by how much runs differ that have nothing on lists, as far as was seen."""
    held = [each["after"] for arm in (arms.REFERENCE, "limit-0") for each in known.get(arm, ())]
    return max(SLACK, max(held, default=0) - min(held, default=0))
