"""`--minutes`: on a slow machine, slow flavours give way, and the run says what it left out."""

from __future__ import annotations

import time

import pytest

from harness import flavours


def add_options(group: pytest.OptionGroup) -> None:
    group.addoption(
        "--minutes",
        type=float,
        default=None,
        metavar="N",
        help="start no VM test on a flavour slower than the default one when the run has taken "
        "this long; each is skipped, and told (all of them: scripts/prove)",
    )


class Minutes:
    """Skips what there is no time for, before its kernel is built or its guest booted."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._end = time.monotonic() + 60 * limit
        self._left_out: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        key = item.config.skbhome.keys.get(item)  # type: ignore[attr-defined]
        if key is None or flavours.get(key.flavour).slow <= 1 or time.monotonic() < self._end:
            return
        self._left_out.append(key.flavour)
        pytest.skip(f"{key.flavour}: the run has taken its {self._limit:g} minutes")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._left_out:
            return
        terminalreporter.section("not run for want of time")
        for name in sorted(set(self._left_out)):
            terminalreporter.write_line(
                f"{self._left_out.count(name)} tests on {name}; "
                f"all of them: scripts/test -m vm --flavour {name}"
            )


def pytest_configure(config: pytest.Config) -> None:
    limit = config.getoption("minutes")
    if limit is not None:
        config.pluginmanager.register(Minutes(limit))
