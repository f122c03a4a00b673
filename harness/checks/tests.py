"""Tests come in the same series as what they test, in patches of their own."""

from __future__ import annotations

from harness.checks.context import Context, Place
from harness.checks.model import Finding, Result

NAME = "tests"


def check(context: Context) -> Result:
    """Look for patches that add tests."""
    with_tests = [place for place in context.places if any(_test(path) for path in place.paths)]
    if context.places and not with_tests:
        return Result(NAME, (Finding("no patch of the series adds a test", kind="NO_TESTS"),))
    mixed = [place for place in with_tests if _mixed(place)]
    return Result(
        NAME,
        hints=tuple(f"{place.name} has code and tests in one patch" for place in mixed),
        note="patches " + ", ".join(str(place.number) for place in with_tests),
    )


def _test(path: str) -> bool:
    return path.startswith("tools/testing/") or path.endswith(("_test.c", "_kunit.c"))


def _mixed(place: Place) -> bool:
    sources = (".c", ".h", ".S")
    return any(path.endswith(sources) and not _test(path) for path in place.paths)
