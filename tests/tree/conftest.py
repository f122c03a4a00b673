"""Tests that need a kernel's source tree and no guest: on the series themselves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness import bases, series
from harness.checks.context import Context
from harness.errors import UsageError

# The mail server, for one, is shared with the host tests.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "host"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have each test see every base that has a series, or the one of --base."""
    if "series_base" not in metafunc.fixturenames:
        return
    name = metafunc.config.getoption("base")
    every = [bases.get(name)] if name else bases.all_bases()
    found = [base for base in every if series.read_names(base.patches)]
    metafunc.parametrize("series_base", found, ids=[base.name for base in found])


@pytest.fixture
def context(series_base: bases.Base, tmp_path: Path) -> Context:
    """The series of a base, and its tree, which is got if it is not there."""
    try:
        return Context(series_base, tmp_path / "checks")
    except UsageError:
        from harness import tree

        tree.prepare(series_base, baseline=False)
        return Context(series_base, tmp_path / "checks")
