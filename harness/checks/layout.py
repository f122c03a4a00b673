"""The series as a directory: its `series` file and the patches, and how many they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from harness import series
from harness.checks.context import Context
from harness.checks.model import Finding, Result

NAME = "layout"

#: What people can review.
MAX_PATCHES = 15


def check(context: Context) -> Result:
    """Look at the directory of a series."""
    return Result(NAME, tuple(of_series(context.patches)), note=f"{len(context.places)} patches")


def of_series(directory: Path) -> Iterator[Finding]:
    """Yield the rules that a directory of patches does not keep."""
    named = [path.name for path in series.read_names(directory)]
    there = {path.name for path in directory.glob("*.patch")}
    if len(named) > MAX_PATCHES:
        text = f"{len(named)} patches; {MAX_PATCHES} are the most that people review"
        yield Finding(text, kind="LONG")
    for name in named:
        if name not in there:
            yield Finding(f"`series` names {name}, which is not there", kind="MISSING")
    for name in sorted(there - set(named)):
        yield Finding(f"`series` does not name {name}", kind="UNNAMED")
    for name, count in Counter(named).items():
        if count > 1:
            yield Finding(f"`series` names {name} {count} times", kind="TWICE")
