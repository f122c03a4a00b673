"""Data races that the kernel's detector (KCSAN) reports: whose they are.

Kernels of today have many that nobody counts as bugs. What a series answers for are
those between functions of which it adds or changes one, unless the kernel without the
series has the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import patchfile
from harness import series as all_series

#: The kind of splat that a report of a race is.
KIND = "KCSAN"

_TITLE = re.compile(r"data-race in (\S+)(?: / (\S+))?")

#: What a compiler adds to the name of a function that it has taken apart.
_SUFFIX = re.compile(r"(\+0x.*|\.(part|isra|constprop|cold)\b.*)$")

#: The name that a line of C, as a hunk's header or its first line has it, defines.
_DEFINES = re.compile(r"^(?!\s|#|/|\*)[A-Za-z_][\w\s*]*?\b(\w+)\((?!.*;\s*$)")

_NO_FUNCTIONS = frozenset({"if", "while", "for", "switch", "return", "sizeof"})


@dataclass(frozen=True, order=True)
class Race:
    """Two functions that touch the same memory, by name, in alphabetical order."""

    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.first} / {self.second}"


def parse(title: str) -> Race | None:
    """Return the race that a report's title names, or None if it is another report."""
    found = _TITLE.search(title)
    if found is None:
        return None
    one = _SUFFIX.sub("", found[1])
    other = _SUFFIX.sub("", found[2]) if found[2] else one
    return Race(*sorted((one, other)))


def touched(patches: Path) -> frozenset[str]:
    """Return the names of functions that a series adds or changes in C files.

    From the hunks: their headers name what they are in, their lines what they define.
    """
    names: set[str] = set()
    for path in all_series.read(patches):
        current = ""
        for line in patchfile.read(path).diff.splitlines():
            if line.startswith("+++ "):
                current = line[4:]
            elif current.endswith((".c", ".h")):
                if line.startswith("@@"):
                    names |= _defined(line.split("@@", 2)[-1].strip())
                elif line[:1] in ("+", "-", " "):
                    names |= _defined(line[1:])
    return frozenset(names)


def _defined(line: str) -> set[str]:
    found = _DEFINES.match(line)
    return {found[1]} - _NO_FUNCTIONS if found else set()


def known(listed: Path) -> frozenset[Race]:
    """Return the races of a file with one per line (``first / second``); # starts a comment."""
    if not listed.is_file():
        return frozenset()
    lines = (line.partition("#")[0].strip() for line in listed.read_text().splitlines())
    return frozenset(Race(*sorted(line.split(" / "))) for line in lines if line)


def answered_for(splats: Iterable[Any], patches: Path | None) -> list[Any]:
    """Return those of a console's splats that a series answers for, nothing else being known.

    Args:
        patches: the series' directory, or None for a kernel without it, which answers for no race.
    """
    found = [(each, parse(each.title) if each.kind == KIND else None) for each in splats]
    mine: set[Race] = set()
    if patches is not None and any(race for _, race in found):
        mine = set(ours((race for _, race in found if race), touched(patches), frozenset()))
    return [splat for splat, race in found if race is None or race in mine]


def ours(races: Iterable[Race], functions: frozenset[str], baseline: frozenset[Race]) -> list[Race]:
    """Return the races that the series answers for."""
    return sorted(
        race
        for race in set(races) - baseline
        if race.first in functions or race.second in functions
    )
