"""Fixtures of the tests that run in a guest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab


@pytest.fixture
def lab(guest: Any, scale: Any) -> Lab:
    """The guest with networks, traffic, counters and traces."""
    return Lab(guest, scale)


@pytest.fixture
def quiet(lab: Lab) -> Iterator[Lab]:
    """A laboratory whose lists are empty when the test starts and when it ends."""
    lab.drained()
    yield lab
    lab.drained()


@pytest.fixture
def counter(guest: Any) -> Any:
    """What counts in a guest that the marker `vm(counted=…)` asked for."""
    return guest.counter


@pytest.fixture
def memo(request: pytest.FixtureRequest) -> dict[Any, Any]:
    """What tests keep for others of the run."""
    kept: dict[Any, Any] = request.config.skbhome.memo
    return kept


@pytest.fixture
def source_tree(kernel: Any) -> Path:
    """The source tree of the guest's kernel."""
    tree = getattr(kernel, "tree", None)
    # A kernel given by --kernel: its object directory is one of its source's, or names it.
    return Path(tree.path) if tree else Path(kernel.build_dir / "source").resolve()
