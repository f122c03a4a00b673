"""Read a kernel's counters: SLUB's, the defer lists', interrupts and softirqs.

Everything here works on text that was read in the guest; nothing touches the
machine. The formats are those of ``/sys/kernel/slab``, ``/proc/net/stat``,
``/proc/interrupts`` and ``/proc/softirqs``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import HarnessError


class BadCounter(HarnessError):
    """A counter file does not have the format it should have."""


# --- SLUB ------------------------------------------------------------------


@dataclass(frozen=True)
class SlabStat:
    """One SLUB_STATS counter: the sum, and the share of each CPU that has any."""

    total: int
    per_cpu: Mapping[int, int]

    def on(self, cpu: int) -> int:
        """Return the events counted on ``cpu``."""
        return self.per_cpu.get(cpu, 0)

    def __sub__(self, earlier: SlabStat) -> SlabStat:
        """Return the events between ``earlier`` and this reading."""
        cpus = sorted({*self.per_cpu, *earlier.per_cpu})
        return SlabStat(
            self.total - earlier.total, {cpu: self.on(cpu) - earlier.on(cpu) for cpu in cpus}
        )


def parse_slab_stat(text: str) -> SlabStat:
    """Parse ``848 C0=252 C1=596`` (CPUs without an event are left out by the kernel)."""
    total, *shares = text.split() or [""]
    try:
        per_cpu = {int(cpu[1:]): int(count) for cpu, count in (s.split("=") for s in shares)}
        return SlabStat(int(total), per_cpu)
    except ValueError as err:
        raise BadCounter(f"not a SLUB statistic: {text.strip()[:80]!r}") from err


def parse_slab_objects(text: str) -> int:
    """Parse ``32 N0=32`` (a cache's ``objects``) and return the sum over the nodes."""
    try:
        return int(text.split()[0])
    except (ValueError, IndexError) as err:
        raise BadCounter(f"not a SLUB object count: {text.strip()[:80]!r}") from err


# --- /proc/net/stat/skb_defer ----------------------------------------------

#: What can become of an skb that its reader has done with: the first columns of
#: ``/proc/net/stat/skb_defer``, and the verdicts of the tracepoint skb_defer_free.
DEFER_VERDICTS = (
    "deferred",
    "local",
    "disabled",
    "shared",
    "pfmemalloc",
    "zcopy",
    "fraglist",
    "offline",
    "full",
)

#: All columns, in the order of the file.
DEFER_COLUMNS = (
    *DEFER_VERDICTS,
    "kicks",
    "kick_failed",
    "aged",
    "flushes",
    "flushed",
    "taken",
    "batches",
    "batched",
    "woken",
)


@dataclass(frozen=True)
class DeferStat:
    """The defer lists' counters: one row per possible CPU."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]

    def total(self, column: str) -> int:
        """Return the sum of ``column`` over the rows."""
        index = self._index(column)
        return sum(row[index] for row in self.rows)

    def on(self, row: int, column: str) -> int:
        """Return ``column`` of the ``row``-th possible CPU."""
        return self.rows[row][self._index(column)]

    @property
    def queued(self) -> int:
        """Buffers that were put on a list and not yet taken off it."""
        return self.total("deferred") - self.total("flushed")

    def __sub__(self, earlier: DeferStat) -> dict[str, int]:
        """Return how much every column grew since ``earlier``, over all CPUs."""
        return {name: self.total(name) - earlier.total(name) for name in self.columns}

    def _index(self, column: str) -> int:
        try:
            return self.columns.index(column)
        except ValueError:
            raise BadCounter(
                f"no column {column!r} in skb_defer; it has {' '.join(self.columns)}"
            ) from None


def parse_defer_stat(text: str) -> DeferStat:
    """Parse the lnstat format: a line of names, then a line of hexadecimal numbers per CPU."""
    lines = text.splitlines()
    if len(lines) < 2:
        raise BadCounter("skb_defer has no line of numbers", tail=text)
    columns = tuple(lines[0].split())
    rows = []
    for line in lines[1:]:
        words = line.split()
        if len(words) != len(columns) or not all(re.fullmatch(r"[0-9a-f]{8,}", w) for w in words):
            raise BadCounter(f"skb_defer: {len(columns)} columns, but a line reads {line!r}")
        rows.append(tuple(int(word, 16) for word in words))
    return DeferStat(columns, tuple(rows))


# --- /proc/net/softnet_stat --------------------------------------------------

#: What columns of it count, from the first on; those in between are always 0 (since v4.7).
SOFTNET_COLUMNS = {
    "processed": 0,
    "dropped": 1,
    "time_squeeze": 2,
    "received_rps": 9,
    "flow_limit": 10,
}


def parse_softnet_stat(text: str) -> dict[str, int]:
    """Return the sums over all CPUs of what ``/proc/net/softnet_stat`` counts (hexadecimal)."""
    rows = [line.split() for line in text.splitlines()]
    if not rows or any(len(row) <= max(SOFTNET_COLUMNS.values()) for row in rows):
        raise BadCounter("softnet_stat lacks columns", tail=text)
    try:
        return {name: sum(int(row[at], 16) for row in rows) for name, at in SOFTNET_COLUMNS.items()}
    except ValueError as err:
        raise BadCounter(f"softnet_stat: {err}", tail=text) from None


# --- /proc/interrupts and /proc/softirqs -----------------------------------


def parse_per_cpu_table(text: str) -> dict[str, dict[int, int]]:
    """Parse ``/proc/interrupts`` or ``/proc/softirqs``.

    Returns:
        row name (``CAL``, ``NET_RX``) to CPU number to count. The columns carry
        the CPU numbers, since CPUs that are offline have none. Rows without a
        count per CPU (``ERR``) are kept with what they have.
    """
    lines = text.splitlines()
    cpus = [int(word[3:]) for word in lines[0].split() if re.fullmatch(r"CPU\d+", word)]
    if not cpus:
        raise BadCounter(f"no CPU columns in {lines[0]!r}")
    table: dict[str, dict[int, int]] = {}
    for line in lines[1:]:
        name, _, rest = line.partition(":")
        counts: list[int] = []
        for word in rest.split():
            if not word.isdigit() or len(counts) == len(cpus):
                break
            counts.append(int(word))
        table[name.strip()] = dict(zip(cpus, counts, strict=False))
    return table


# --- several files in one reading ------------------------------------------


def parse_bundle(text: str) -> dict[str, str]:
    """Split the output of ``tail -n +1 FILE FILE...`` (with headers) into its files.

    The header of each file is ``==> NAME <==``.
    """
    parts = re.split(r"(?:\A|\n)==> (.+) <==\n", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
