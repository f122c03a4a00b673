"""The file that the plugin writes for a section: binary, as laid out in plugin.c."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from harness.coherence.errors import CoherenceError

MAGIC = b"SKBLINES"
FORMAT = 1

#: What a record of a place in the code counts.
ACCESS, BLOCK, REPEAT = 0, 1, 2

#: vCPUs are at most this many.
MAX_VCPUS = 32

_HEADER = struct.Struct("<8s4I5Q")
_PLACE = struct.Struct("<Q4I8Q")
_MOVE = struct.Struct("<4Q2I")


@dataclass(frozen=True)
class Place:
    """What one vCPU did at a place in the code: an instruction, or a block of them.

    Attributes:
        pc: the virtual address of the (first) instruction.
        vcpu: its index.
        kind: ACCESS, BLOCK, or REPEAT (a block of one string instruction that repeats itself).
        instructions: how many the block has; 0 for ACCESS.
        slots: of ACCESS: loads, stores, then transfers in the order of
            :data:`harness.coherence.counts.TRANSFERS`; of a block: how often it ran, then zeros.
    """

    pc: int
    vcpu: int
    kind: int
    instructions: int
    slots: tuple[int, ...]


@dataclass(frozen=True)
class Transfer:
    """How often ``vcpu`` needed a line at ``pc`` after ``writer`` had written it.

    Attributes:
        phys: QEMU's number for the line, in bytes.
        vaddr: the address of the last such access.
        pc: of the instruction that needed it.
        writer: of the instruction that wrote it last; 0 if nobody was seen to.
        vcpu, count: who and how often.
    """

    phys: int
    vaddr: int
    pc: int
    writer: int
    vcpu: int
    count: int


@dataclass(frozen=True)
class Dump:
    """What a section's file holds.

    Attributes:
        section: its number since QEMU was started.
        vcpus: how many there are.
        lines: accesses were followed; otherwise instructions alone.
        lost_moves, unplaced, lost_sites: what found no room in the plugin's tables (since
            it began to follow): transfers without a Transfer of their own, accesses beyond
            the directory, and places in the code (counted as one, at address 0).
    """

    section: int
    vcpus: int
    lines: bool
    places: tuple[Place, ...]
    transfers: tuple[Transfer, ...]
    lost_moves: int
    unplaced: int
    lost_sites: int


def parse(data: bytes) -> Dump:
    """Parse a section's file.

    Raises:
        CoherenceError: it is not one, or not whole.
    """
    if len(data) < _HEADER.size or not data.startswith(MAGIC):
        raise CoherenceError("not a section that the plugin wrote")
    (_, version, section, vcpus, lines, places, moves, *lost) = _HEADER.unpack_from(data)
    if version != FORMAT:
        raise CoherenceError(f"a section in format {version}; this reads format {FORMAT}")
    middle = _HEADER.size + places * _PLACE.size
    if len(data) != middle + moves * _MOVE.size or vcpus > MAX_VCPUS:
        raise CoherenceError(f"section {section} is damaged: {len(data)} bytes, {places} places")
    return Dump(
        section,
        vcpus,
        bool(lines),
        tuple(
            Place(pc, vcpu, kind, instructions, tuple(slots))
            for pc, vcpu, kind, instructions, _, *slots in _PLACE.iter_unpack(
                data[_HEADER.size : middle]
            )
        ),
        tuple(Transfer(*fields) for fields in _MOVE.iter_unpack(data[middle:])),
        *lost,
    )


def read(path: Path) -> Dump:
    """Read a section's file.

    Raises:
        CoherenceError: it is not there, or not one.
    """
    try:
        return parse(path.read_bytes())
    except OSError as err:
        raise CoherenceError(f"cannot read {path}: {err.strerror}") from err
    except CoherenceError as err:
        raise CoherenceError(err.what, log=path) from err
