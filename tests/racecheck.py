"""On the flavour with the data race detector: which reports fail a test, and which are noted.

A race of functions that the series neither adds nor changes, or that the baseline has too
(tests/vm/races/BASE.txt, and what this run saw of it), is noted in the run's directory as
races-ARM.txt, and fails nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import bases, paths, races

#: The flavour whose kernel reports races.
FLAVOUR = "kcsan"

#: The kind of splat that a report of a race is.
KIND = "KCSAN"


def listed(base: bases.Base) -> Path:
    """Return the file of races that the baseline is known to have."""
    return paths.TESTS / "vm" / "races" / f"{base.name}.txt"


class RaceCheck:
    """The races that one run has seen, by arm."""

    def __init__(self, base: bases.Base, directory: Callable[[], Path]) -> None:
        self._base = base
        self._directory = directory
        self.seen: dict[str, Counter[races.Race]] = {"baseline": Counter(), "patched": Counter()}
        self._functions: frozenset[str] | None = None

    def failing(self, splats: list[Any], *, baseline: bool) -> list[Any]:
        """Return those of a guest's splats that a test must answer for."""
        found = [(each, races.parse(each.title) if each.kind == KIND else None) for each in splats]
        seen = self.seen["baseline" if baseline else "patched"]
        seen.update(race for _, race in found if race is not None)
        if any(race for _, race in found):
            self._write()
        if baseline:
            return [splat for splat, race in found if race is None]
        if self._functions is None:
            self._functions = races.touched(self._base.patches)
        known = races.known(listed(self._base)) | set(self.seen["baseline"])
        bad = set(races.ours((race for _, race in found if race), self._functions, known))
        return [splat for splat, race in found if race is None or race in bad]

    def _write(self) -> None:
        for arm, seen in self.seen.items():
            lines = [f"{race}  # {count}\n" for race, count in sorted(seen.items())]
            (self._directory() / f"races-{arm}.txt").write_text("".join(lines))
