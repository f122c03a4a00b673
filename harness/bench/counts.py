"""What ``load`` reads before and after its window, and what the readings say.

Everything here works on the program's JSON; nothing touches a machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import counters
from harness.counters import BadCounter

#: Caches of the structures, and those of the data behind them.
SKB_CACHES = ("skbuff_head_cache", "skbuff_fclone_cache")
DATA_CACHES = ("kmalloc-512", "kmalloc-1k", "kmalloc-2k", "kmalloc-4k", "kmalloc-8k")

_PATHS = ("alloc_fastpath", "alloc_slowpath", "free_fastpath", "free_slowpath")

DEFER = "/proc/net/stat/skb_defer"

#: Files that packets are counted with. They are read first, right after the clock.
PACKETS = ("tx:/proc/thread-self/net/dev", "rx:/proc/thread-self/net/snmp")

#: Files that a window's counts are from; the defer lists' one is the series' own.
FILES: tuple[str, ...] = (
    *PACKETS,
    *(
        f"/sys/kernel/slab/{cache}/{path}"
        for cache in (*SKB_CACHES, *DATA_CACHES)
        for path in _PATHS
    ),
    "/proc/interrupts",
    "/proc/softirqs",
    "/proc/net/softnet_stat",
    "/proc/stat",
    "/proc/vmstat",
)

#: Rows of /proc/interrupts, by what they are called here.
IPIS = {"CAL": "IPIs, function calls", "RES": "IPIs, reschedule", "TLB": "IPIs, TLB"}

#: Columns of the defer lists' counters that are reported.
LISTS = ("deferred", "local", "disabled", "full", "kicks", "aged", "flushes", "taken", "batches")


@dataclass(frozen=True)
class Window:
    """What was read around one window.

    Attributes:
        seconds: from the beginning of the first look to that of the last. All looks read in the
            same order, so that what one of them finds has grown in that time.
        raw: the program's report.
    """

    seconds: float
    raw: Mapping[str, Any]

    def text(self, name: str, look: int) -> str:
        """Return what a file read at one look, 0 being the first; negative: from the end."""
        return str(self.raw["files"][name][look])

    def own(self, name: str) -> int:
        """Return how much a counter of the program's own grew (``sent``, ``received`` ...)."""
        looks = self.raw["looks"]
        return int(looks[-1][name]) - int(looks[0][name])

    def grew(self, name: str, read: Callable[[str], float]) -> float:
        """Return by how much what ``read`` finds in a file has grown."""
        return read(self.text(name, -1)) - read(self.text(name, 0))


def window(report: Mapping[str, Any]) -> Window:
    """Return the window of a report.

    Raises:
        BadCounter: the report lacks what every report has.
    """
    try:
        looks = report["looks"]
        found = Window(float(looks[-1]["at"]) - float(looks[0]["at"]), report)
        if len(looks) < 2 or not isinstance(report["files"], dict):
            raise BadCounter("load has not read anything twice")
    except (KeyError, IndexError, TypeError, ValueError) as err:
        raise BadCounter(f"load's report lacks {err}") from None
    return found


def vmstat(name: str) -> Callable[[str], float]:
    """Return a reader of one line, or of all that begin with ``name`` if that ends in ``_``."""

    def read(text: str) -> float:
        rows = [line.split() for line in text.splitlines()]
        found = [
            int(row[1])
            for row in rows
            if len(row) == 2 and (row[0].startswith(name) if name.endswith("_") else row[0] == name)
        ]
        if not found:
            raise BadCounter(f"vmstat has no {name}")
        return float(sum(found))

    return read


def switches(text: str) -> float:
    """Return the context switches that /proc/stat counts."""
    for line in text.splitlines():
        if line.startswith("ctxt "):
            return float(line.split()[1])
    raise BadCounter("/proc/stat has no ctxt")


def snmp(group: str, name: str) -> Callable[[str], float]:
    """Return a reader of one counter of /proc/net/snmp, e.g. ``Ip``, ``InReceives``."""

    def read(text: str) -> float:
        rows = [line.split() for line in text.splitlines() if line.startswith(f"{group}:")]
        if len(rows) != 2 or name not in rows[0]:
            raise BadCounter(f"/proc/net/snmp has no {group} {name}")
        return float(rows[1][rows[0].index(name)])

    return read


#: Columns of /proc/net/dev.
_DEV = {"rx_packets": 1, "rx_dropped": 3, "tx_bytes": 8, "tx_packets": 9, "tx_dropped": 11}


def device(name: str, column: str) -> Callable[[str], float]:
    """Return a reader of one column of one device's line in /proc/net/dev."""

    def read(text: str) -> float:
        for line in text.splitlines():
            label, colon, rest = line.partition(":")
            if colon and label.strip() == name:
                return float(rest.split()[_DEV[column]])
        raise BadCounter(f"/proc/net/dev has no {name}")

    return read


def _row(name: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        return float(sum(counters.parse_per_cpu_table(text).get(name, {}).values()))

    return read


def _squeezed(text: str) -> float:
    return float(counters.parse_softnet_stat(text)["time_squeeze"])


def _slab(found: Window, caches: Sequence[str], path: str) -> float:
    return sum(
        found.grew(
            f"/sys/kernel/slab/{cache}/{path}", lambda text: counters.parse_slab_stat(text).total
        )
        for cache in caches
    )


def totals(found: Window) -> dict[str, float]:
    """Return how often everything happened that is counted in every window, by name."""
    counts = {
        "skb frees, slow path": _slab(found, SKB_CACHES, "free_slowpath"),
        "skb frees, fast path": _slab(found, SKB_CACHES, "free_fastpath"),
        "skb allocations, slow path": _slab(found, SKB_CACHES, "alloc_slowpath"),
        "data frees, slow path": _slab(found, DATA_CACHES, "free_slowpath"),
        "data allocations, slow path": _slab(found, DATA_CACHES, "alloc_slowpath"),
        "pages freed": found.grew("/proc/vmstat", vmstat("pgfree")),
        "context switches": found.grew("/proc/stat", switches),
        "NET_RX softirqs": found.grew("/proc/softirqs", _row("NET_RX")),
        "time_squeeze": found.grew("/proc/net/softnet_stat", _squeezed),
    }
    for row, name in IPIS.items():
        counts[name] = found.grew("/proc/interrupts", _row(row))
    if DEFER in found.raw["files"]:
        stat = [counters.parse_defer_stat(found.text(DEFER, at)) for at in (0, -1)]
        grown = stat[1] - stat[0]
        counts |= {f"lists: {name}": float(grown[name]) for name in LISTS if name in grown}
    return counts


#: Trace events that are counted (nothing is recorded), and what each is called here.
EVENTS: Mapping[str, str] = {
    "kmem/mm_page_free": "pages freed one by one",
    "kmem/mm_page_free:order > 0": "zone lock: free of several pages",
    "kmem/mm_page_alloc:order > 0": "zone lock: allocation of several pages",
    "kmem/mm_page_alloc_zone_locked:order == 0": "pages taken from a zone in bulk",
    "kmem/mm_page_pcpu_drain": "pages given back to a zone",
    "sched/sched_wakeup": "wake-ups",
    "sched/sched_switch": "context switches",
    "irq/softirq_entry:vec == 3": "NET_RX softirqs",
    "irq_vectors/call_function_single_entry": "IPIs, call_function_single",
    "irq_vectors/call_function_entry": "IPIs, call_function",
    "irq_vectors/reschedule_entry": "IPIs, reschedule",
}

#: Kernel functions that are counted with a probe, and what each is called here. None that a probe
#: itself may come by: the slow path of spinlocks, probed, has hung guests.
PROBES: Mapping[str, str] = {
    "free_pcppages_bulk": "zone lock: pages given back in bulk",
    "sk_stream_alloc_skb": "skbs that TCP asks for",
}

#: What together are the takings of a zone's lock, beside the pages that are taken in bulk: the
#: function that does that is a part of its caller, so that its calls are not to be seen.
ZONE_LOCK = (
    "zone lock: free of several pages",
    "zone lock: allocation of several pages",
    "zone lock: pages given back in bulk",
)
_BULK = EVENTS["kmem/mm_page_alloc_zone_locked:order == 0"]

#: The group that the probes are defined in.
GROUP = "bench"


def batch(zoneinfo: str) -> int:
    """Return how many pages a CPU takes from a zone at a time, from /proc/zoneinfo.

    Raises:
        BadCounter: it does not say.
    """
    found = [int(each) for each in re.findall(r"^\s+batch:\s+(\d+)$", zoneinfo, re.M)]
    if not found:
        raise BadCounter("/proc/zoneinfo names no batch")
    return max(found)


def events(found: Window, pages_at_once: int = 1) -> dict[str, float]:
    """Return how often the trace events happened, over all CPUs, by name.

    ``zone-lock takings`` sums those that are counted; without all of its parts it is left out.

    Args:
        pages_at_once: what :func:`batch` returned: so many pages are one taking of the lock.
    """
    raw = found.raw["events"]
    names = {**EVENTS, **{f"{GROUP}/{probe}": name for probe, name in PROBES.items()}}
    counts = {names[event]: float(sum(cpus)) for event, cpus in raw.items() if event in names}
    if all(part in counts for part in (*ZONE_LOCK, _BULK)):
        counts["zone-lock takings"] = sum(counts[part] for part in ZONE_LOCK)
        counts["zone-lock takings"] += counts[_BULK] / pages_at_once
    return counts


#: Files that tell how many pairs of skbs, as TCP uses them, were allocated.
PAIRS = tuple(
    f"/sys/kernel/slab/skbuff_fclone_cache/{path}" for path in ("alloc_fastpath", "alloc_slowpath")
)


def tx_cache_hits(found: Window) -> float | None:
    """Return which part, in percent, of the skbs that TCP asked for its cache had.

    TCP asks with ``sk_stream_alloc_skb``; what comes not from the cache is an allocation of
    skbuff_fclone_cache. None if it was not counted, or TCP asked for none.
    """
    asked = events(found).get(PROBES["sk_stream_alloc_skb"])
    if not asked:
        return None
    pairs = ("skbuff_fclone_cache",)
    allocated = _slab(found, pairs, "alloc_fastpath") + _slab(found, pairs, "alloc_slowpath")
    return 100 * max(0.0, 1 - allocated / asked)
