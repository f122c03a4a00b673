"""`--known FILE`: what has passed is left out, and what comes of the rest is written down at once.

For scripts/prove (harness/proof/outcomes.py), which decides what still counts.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from harness import races


def add_options(group: pytest.OptionGroup) -> None:
    group.addoption(
        "--known",
        type=Path,
        default=None,
        metavar="FILE",
        help="leave out the tests that FILE (JSON) has in `passed`; write what comes of each "
        "other one to outcomes.jsonl beside it (for scripts/prove)",
    )


class Known:
    """A plugin of pytest's."""

    def __init__(self, file: Path) -> None:
        """Read what has passed, and what races the baseline was seen to have.

        Raises:
            OSError, ValueError: the file cannot be read.
        """
        self._passed = frozenset(json.loads(file.read_text())["passed"])
        self._races = races.known(file.with_name("races-before.txt"))
        self._log = file.with_name("outcomes.jsonl")
        self._reports: dict[str, list[pytest.TestReport]] = defaultdict(list)
        self._kernel: dict[str, Any] = {}

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        config.skbhome.races.seen["baseline"].update(self._races)  # type: ignore[attr-defined]
        # A test that is compared with others of its kind needs all of them in one run.
        incomplete = {
            _kind(item)
            for item in items
            if "memo" in getattr(item, "fixturenames", ()) and item.nodeid not in self._passed
        }
        known = {
            item for item in items if item.nodeid in self._passed and _kind(item) not in incomplete
        }
        if known:
            config.hook.pytest_deselected(items=list(known))
            items[:] = [item for item in items if item not in known]

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        yield
        guest = item.config.skbhome.guest  # type: ignore[attr-defined]
        self._kernel = {} if guest is None else guest.kernel.describe()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports[report.nodeid].append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        reports = self._reports.pop(nodeid, [])
        kernel, self._kernel = self._kernel, {}
        bad = next((each for each in reports if each.failed), None)
        outcome, why = "passed", ""
        if bad is not None:
            said = [line[1:] for line in bad.longreprtext.splitlines() if line.startswith("E ")]
            outcome, why = "failed", (said or bad.longreprtext.splitlines() or [""])[0].strip()
        elif any(each.skipped for each in reports):
            outcome = "skipped"
        line = {
            "test": nodeid,
            "outcome": outcome,
            "why": why,
            "seconds": round(sum(each.duration for each in reports), 1),
            "kernel": kernel,
        }
        with self._log.open("a") as log:
            log.write(json.dumps(line, default=str) + "\n")


def _kind(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def configure(config: pytest.Config) -> None:
    file = config.getoption("known")
    if file is not None:
        try:
            config.pluginmanager.register(Known(file), "known")
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise pytest.UsageError(f"--known {file}: {err}") from err
