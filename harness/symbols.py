"""The names that a kernel image has for addresses."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import process
from harness.errors import HarnessError

#: Seconds for nm to list a kernel.
TIMEOUT = 60.0

#: Code further than this behind a name does not belong to it.
_FAR = 1 << 20

#: What a compiler adds to the name of a part or a variant of a function.
_VARIANT = re.compile(r"\.(?:cold|isra|part|constprop|llvm)(?:\.\d+)*|\.\d+$")


@dataclass(frozen=True)
class Symbols:
    """Symbols of an ELF file.

    Attributes:
        code: (address, name) of functions, ascending.
        data: (address, size, name) of variables, ascending; per-CPU ones among them, whose
            addresses are offsets.
        absolute: the addresses of all names, ``__per_cpu_end`` among them.
    """

    code: tuple[tuple[int, str], ...]
    data: tuple[tuple[int, int, str], ...]
    absolute: Mapping[str, int]

    def place(self, address: int) -> tuple[str, int]:
        """Return the function that an address is in and how far from its start.

        ``(user space)`` and ``(unknown)``, at 0, stand for what has none.
        """
        at = bisect.bisect_right(self.code, (address, "\x7f")) - 1
        if at < 0 or address - self.code[at][0] > _FAR:
            return ("(user space)" if 0 < address < 1 << 47 else "(unknown)"), 0
        start, name = self.code[at]
        return name, address - start

    def function(self, address: int) -> str:
        """Return the function that an address is in, without the compiler's suffixes.

        ``(user space)`` and ``(unknown)`` stand for what has none.
        """
        return plain(self.place(address)[0])

    def variable(self, address: int) -> tuple[str, int] | None:
        """Return the variable that an address is in and how far from its start, or None."""
        at = bisect.bisect_right(self.data, (address, 1 << 64, "")) - 1
        if at < 0:
            return None
        start, size, name = self.data[at]
        # One without a size reaches to the next.
        if size and address >= start + size:
            return None
        return (plain(name), address - start) if address - start < _FAR else None


def plain(name: str) -> str:
    """Return a function's name as its source has it: without ``.cold`` and the like."""
    return _VARIANT.sub("", name)


def parse(lines: Iterable[str]) -> Symbols:
    """Parse what ``nm -S`` printed: address, size if there is one, type and name."""
    code: dict[int, tuple[bool, str]] = {}
    data: list[tuple[int, int, str]] = []
    absolute: dict[str, int] = {}
    for line in lines:
        words = line.split()
        if len(words) not in (3, 4) or len(words[-2]) != 1:
            continue
        address, size = int(words[0], 16), int(words[1], 16) if len(words) == 4 else 0
        kind, name = words[-2], words[-1]
        absolute.setdefault(name, address)
        if kind in "tTwW":
            # Of several names, not one that stands in for another: those are weak or local.
            best = (kind != "T", name)
            code[address] = min(best, code.get(address, best))
        elif kind in "dDbBrRvV" or (kind in "aA" and size):
            data.append((address, size, name))
    functions = sorted((address, name) for address, (_, name) in code.items())
    return Symbols(tuple(functions), tuple(sorted(data)), absolute)


def read(vmlinux: Path, *, timeout: float = TIMEOUT) -> Symbols:
    """Read the symbols of an ELF file.

    Args:
        timeout: seconds for nm.

    Raises:
        HarnessError: nm is missing or cannot read it, or it has none.
    """
    done = process.run(
        ["nm", "-S", vmlinux],
        timeout=timeout,
        what=f"reading the symbols of {vmlinux}",
        split_stderr=True,
    )
    found = parse(done.output.splitlines())
    if not found.code:
        raise HarnessError(f"{vmlinux} has no symbols of functions", hint="do not strip it")
    return found
