"""What a section counted: by vCPU, by function, and line by line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

from harness.coherence import dump
from harness.coherence.dump import Dump
from harness.coherence.errors import CoherenceError
from harness.symbols import Symbols

#: The kinds of transfers, in the order of the plugin's counters.
TRANSFERS = (
    "read_local",
    "read_remote",
    "write_local",
    "write_remote",
    "upgrade_local",
    "upgrade_remote",
)


@dataclass(frozen=True)
class Tally:
    """Counts of events.

    Attributes:
        instructions: executed; a string instruction that repeats itself counts once.
        repeats: its further rounds, each of which an emulated CPU executes by itself.
        loads, stores: accesses to memory; an atomic read-modify-write is one store.
        read_local, read_remote: reads of a line that only other CPUs held.
        write_local, write_remote: writes of such a line.
        upgrade_local, upgrade_remote: writes of a line that this CPU held with others.

    Local is what stays in the vCPU's NUMA node.
    """

    instructions: int = 0
    repeats: int = 0
    loads: int = 0
    stores: int = 0
    read_local: int = 0
    read_remote: int = 0
    write_local: int = 0
    write_remote: int = 0
    upgrade_local: int = 0
    upgrade_remote: int = 0

    @property
    def local(self) -> int:
        """Transfers within the vCPU's NUMA node."""
        return self.read_local + self.write_local + self.upgrade_local

    @property
    def remote(self) -> int:
        """Transfers between NUMA nodes."""
        return self.read_remote + self.write_remote + self.upgrade_remote

    @property
    def transfers(self) -> int:
        """All transfers."""
        return self.local + self.remote

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Tally) -> Tally:
        return Tally(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def per(self, number: float) -> dict[str, float]:
        """Return every count, and the sums of transfers, divided by ``number``."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        found |= {"local": self.local, "remote": self.remote, "transfers": self.transfers}
        return {name: value / number for name, value in found.items()}


@dataclass(frozen=True)
class Move:
    """Transfers of one line that one function on one vCPU needed.

    Attributes:
        phys: QEMU's number for the line, in bytes.
        vaddr: the virtual address of one of the accesses.
        function: what needed it; ``vcpu``: where.
        writer: the function that wrote it last, ``(nobody)`` if none was seen.
        count: how often.
    """

    phys: int
    vaddr: int
    function: str
    vcpu: int
    writer: str
    count: int


@dataclass(frozen=True)
class Counts:
    """What a section counted.

    Attributes:
        name: of the section, as its maker called it.
        nodes: the NUMA node of each vCPU.
        what: ``"lines"``, or ``"instructions"`` if nothing else was counted.
        functions: by function, a tally per vCPU.
        moves: transfers line by line, most first.
        lost: transfers that are in no move, for lack of room.
    """

    name: str
    nodes: tuple[int, ...]
    what: str
    functions: Mapping[str, tuple[Tally, ...]]
    moves: tuple[Move, ...] = ()
    lost: int = 0

    @property
    def vcpus(self) -> int:
        """How many vCPUs there are."""
        return len(self.nodes)

    @property
    def total(self) -> Tally:
        """The sum over vCPUs and functions."""
        return _sum(self.by_vcpu())

    def by_vcpu(self) -> tuple[Tally, ...]:
        """Return a tally per vCPU."""
        return tuple(_sum(self.functions_of(vcpu).values()) for vcpu in range(self.vcpus))

    def by_function(self) -> dict[str, Tally]:
        """Return a tally per function, over all vCPUs."""
        return {name: _sum(tallies) for name, tallies in self.functions.items()}

    def functions_of(self, vcpu: int) -> dict[str, Tally]:
        """Return a tally per function for one vCPU."""
        return {name: tallies[vcpu] for name, tallies in self.functions.items()}

    def of(self, function: str, vcpu: int | None = None) -> Tally:
        """Return the tally of a function (zeros if it did not run), on one vCPU or on all."""
        tallies = self.functions.get(function, ())
        if vcpu is None:
            return _sum(tallies)
        return tallies[vcpu] if tallies else Tally()

    def by_structure(self, name: Callable[[Move], str]) -> dict[str, int]:
        """Return transfers by data structure, most first.

        Args:
            name: tells what a move's line belongs to; see :class:`harness.coherence.Namer`.
        """
        found: dict[str, int] = defaultdict(int)
        for move in self.moves:
            found[name(move)] += move.count
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def __sub__(self, other: Counts) -> Counts:
        """Return what is more in this one; the moves stay as they are.

        Raises:
            CoherenceError: the guests were not alike.
        """
        if (self.nodes, self.what) != (other.nodes, other.what):
            raise CoherenceError(f"{self.name} and {other.name} are of unlike guests")
        none = (Tally(),) * self.vcpus
        functions = {
            name: tuple(
                a - b
                for a, b in zip(
                    self.functions.get(name, none), other.functions.get(name, none), strict=True
                )
            )
            for name in {**self.functions, **other.functions}
        }
        return Counts(self.name, self.nodes, self.what, functions, self.moves, self.lost)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data, without the moves."""
        return {
            "name": self.name,
            "nodes": list(self.nodes),
            "what": self.what,
            "lost": self.lost,
            "columns": [field.name for field in fields(Tally)],
            "functions": {
                name: [list(astuple(tally)) for tally in tallies]
                for name, tallies in sorted(self.functions.items())
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Counts:
        """Return what :meth:`as_json` was made from, without the moves.

        Raises:
            CoherenceError: it is not that.
        """
        try:
            columns = data["columns"]
            functions = {
                name: tuple(Tally(**dict(zip(columns, row, strict=True))) for row in rows)
                for name, rows in data["functions"].items()
            }
            nodes = tuple(data["nodes"])
            return cls(data["name"], nodes, data["what"], functions, lost=data["lost"])
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise CoherenceError(f"not the counts of a section: {err}") from err

    def table(self, per: float = 1.0, *, rows: int = 20, vcpu: int | None = None) -> str:
        """Return the functions with most transfers (or instructions) as a Markdown table.

        Args:
            per: divide everything by this, e.g. by the number of packets.
            rows: how many functions.
            vcpu: show this one; all of them together unless given.
        """
        totals = self.by_function() if vcpu is None else self.functions_of(vcpu)
        columns = _COLUMNS if self.what == "lines" else {"instructions": _COLUMNS["instructions"]}
        key = next(iter(columns.values()))
        lines = ["| " + " | ".join(["function", *columns]) + " |"]
        lines.append("|---" + "|---:" * len(columns) + "|")
        first = sorted(totals, key=lambda name: (-key(totals[name]), name))[:rows]
        shown = [(f"`{name}`", totals[name]) for name in first]
        for name, tally in [*shown, ("**all**", _sum(totals.values()))]:
            figures = " | ".join(f"{value(tally) / per:.2f}" for value in columns.values())
            lines.append(f"| {name} | {figures} |")
        return "\n".join(lines)


#: The columns of a table; those after the first are part of it, or of another kind.
_COLUMNS: Mapping[str, Callable[[Tally], int]] = {
    "transfers": lambda tally: tally.transfers,
    "read": lambda tally: tally.read_local + tally.read_remote,
    "write": lambda tally: tally.write_local + tally.write_remote,
    "upgrade": lambda tally: tally.upgrade_local + tally.upgrade_remote,
    "remote": lambda tally: tally.remote,
    "instructions": lambda tally: tally.instructions,
}


def _sum(tallies: Iterable[Tally]) -> Tally:
    rows = [astuple(tally) for tally in tallies]
    return Tally(*(sum(column) for column in zip(*rows, strict=True))) if rows else Tally()


def from_dump(found: Dump, symbols: Symbols, *, name: str, nodes: tuple[int, ...]) -> Counts:
    """Attribute what a section's file holds to functions.

    Args:
        symbols: the kernel's; it must have run where it was linked (``nokaslr``).
        nodes: the NUMA node of each vCPU.

    Raises:
        CoherenceError: the file is from a guest with other vCPUs.
    """
    if found.vcpus != len(nodes):
        raise CoherenceError(f"{name}: {found.vcpus} vCPUs were counted, not {len(nodes)}")
    known: dict[int, str] = {0: "(unknown)"}

    def function(pc: int) -> str:
        if pc not in known:
            known[pc] = symbols.function(pc)
        return known[pc]

    sums: dict[str, list[list[int]]] = {}
    width = len(fields(Tally))
    for place in found.places:
        rows = sums.setdefault(function(place.pc), [])
        if not rows:
            rows += [[0] * width for _ in nodes]
        row = rows[place.vcpu]
        if place.kind == dump.ACCESS:
            for at, value in enumerate(place.slots, 2):
                row[at] += value
        elif place.kind == dump.BLOCK:
            row[0] += place.slots[0] * place.instructions
        else:
            row[1] += place.slots[0]
    moves: dict[tuple[int, str, int, str], list[int]] = {}
    for each in found.transfers:
        writer = function(each.writer) if each.writer else "(nobody)"
        key = (each.phys, function(each.pc), each.vcpu, writer)
        entry = moves.setdefault(key, [each.vaddr, 0])
        entry[1] += each.count
    return Counts(
        name,
        nodes,
        "lines" if found.lines else "instructions",
        {key: tuple(Tally(*row) for row in rows) for key, rows in sums.items()},
        tuple(
            Move(phys, vaddr, what, vcpu, writer, count)
            for (phys, what, vcpu, writer), (vaddr, count) in sorted(
                moves.items(), key=lambda item: (-item[1][1], item[0])
            )
        ),
        found.lost_moves,
    )
