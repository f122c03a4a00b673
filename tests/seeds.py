"""Chance that can be had again: `--seed`, the fixture `seeded`, and what a failure says of it."""

from __future__ import annotations

import random
import shlex
from collections.abc import Iterator

import pytest

from harness import bases

#: Seeds that are drawn are below this: short enough to be typed.
MOST = 1_000_000


def add_options(group: pytest.OptionGroup) -> None:
    group.addoption("--faults", action="store_true", help="run the tests marked `faults`, too")
    group.addoption(
        "--seed",
        type=int,
        default=None,
        metavar="N",
        help="what the tests that use chance start from (default: drawn, and told on failure)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("seed") is None:
        config.option.seed = random.SystemRandom().randrange(MOST)


@pytest.fixture
def seeded(request: pytest.FixtureRequest) -> random.Random:
    """Chance that is the same for the same `--seed` and the same test, whatever else runs."""
    return random.Random(f"{request.config.getoption('seed')} {request.node.nodeid}")


def again(item: pytest.Item) -> str:
    """Return the command that runs a test with this run's seed."""
    config = item.config
    words = ["scripts/test", f"'{item.nodeid}'", "--seed", str(config.getoption("seed"))]
    for mark in ("faults", "slow"):
        words += [f"--{mark}"] * (item.get_closest_marker(mark) is not None)
    base = config.getoption("base", None)
    if base and base != bases.default_base().name:
        words += ["--base", shlex.quote(base)]
    # Without it a test is not there in other flavours than those that it has by itself.
    if config.getoption("flavour", None):
        words += ["--flavour", str(item.callspec.params["flavour"])]  # type: ignore[attr-defined]
    return " ".join(words)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Say at the end of a failure of a test that used chance how to have it again."""
    outcome = yield
    report: pytest.TestReport = outcome.get_result()  # type: ignore[attr-defined]
    if not report.failed or "seeded" not in getattr(item, "fixturenames", ()):
        return
    command = again(item)
    report.sections.append(("seed", f"seed {item.config.getoption('seed')}; again: {command}"))
    if ("again", command) not in item.user_properties:
        item.user_properties.append(("again", command))
    report.user_properties = list(item.user_properties)
