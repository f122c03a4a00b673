"""One logical change per patch: files and size hint at it, no more than that."""

from __future__ import annotations

from pathlib import PurePosixPath

from harness.checks.context import Place
from harness.checks.model import Result

NAME = "size"

#: Changed lines of code from which a reviewer asks whether it could be two patches.
MANY_LINES = 400
#: Directories with code in them from which one asks whether it is one change.
MANY_PLACES = 6


def check(place: Place) -> Result:
    """Count what a patch changes; its documentation and its tests do not count."""
    code = [file for file in place.files if not _aside(file.path)]
    lines = sum(file.added + file.removed for file in code)
    places = {str(PurePosixPath(file.path).parent) for file in code}
    hints = []
    if lines > MANY_LINES:
        hints.append(f"{lines} lines of code change: more than one logical change?")
    if len(places) > MANY_PLACES:
        hints.append(f"code of {len(places)} directories changes: more than one logical change?")
    return Result(NAME, hints=tuple(hints), note=f"{len(place.files)} files, {_lines(place)}")


def _lines(place: Place) -> str:
    added = sum(file.added for file in place.files)
    removed = sum(file.removed for file in place.files)
    return f"+{added} -{removed}"


def _aside(path: str) -> bool:
    return path.startswith(("Documentation/", "tools/testing/")) or path.endswith("_test.c")
