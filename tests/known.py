"""`--known FILE`: what has passed is left out, and what comes of the rest is written down at once.

For scripts/prove (harness/proof/outcomes.py), which decides what still counts.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import races

#: Parameters of tests that are compared with one another: which kernel, which of several runs.
_COMPARED = frozenset({"arm", "pair"})


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
            OSError, ValueError, KeyError, TypeError: the file cannot be read.
        """
        self._passed = frozenset(json.loads(file.read_text())["passed"])
        self._races = races.known(file.with_name("races-before.txt"))
        # Open from now on: what is left of a run that was killed writes to no later run's file.
        self._log = file.with_name("outcomes.jsonl").open("a")
        self._reports: dict[str, list[pytest.TestReport]] = defaultdict(list)
        self._ran: dict[str, Any] = {}
        self._final: set[str] = set()

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        session = config.skbhome  # type: ignore[attr-defined]
        session.races.seen["baseline"].update(self._races)
        self._final = session.retries.final
        # What is compared with others needs all of them in one run.
        incomplete = {
            _kind(item)
            for item in items
            if "memo" in getattr(item, "fixturenames", ()) and item.nodeid not in self._passed
        }
        known = {item for item in items if item.nodeid in self._passed}
        again = {item for item in known if _kind(item) in incomplete}
        for item in again:
            # Until it has been, and wherever this run ends.
            self._write({"test": item.nodeid, "outcome": "again", "kernel": {}})
        if known - again:
            config.hook.pytest_deselected(items=list(known - again))
            items[:] = [item for item in items if item not in known - again]

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        yield
        guest = item.config.skbhome.guest  # type: ignore[attr-defined]
        if guest is not None:
            log = str(guest.vm.console_log)
            self._ran = {"kernel": guest.kernel.describe(), "guest": log}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports[report.nodeid].append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        reports = self._reports.pop(nodeid, [])
        ran, self._ran = self._ran, {}
        bad = next((each for each in reports if each.failed), None)
        outcome, why = "passed", ""
        if bad is not None:
            said = [line[1:] for line in bad.longreprtext.splitlines() if line.startswith("E ")]
            outcome, why = "failed", (said or bad.longreprtext.splitlines() or [""])[0].strip()
        elif any(each.skipped for each in reports):
            outcome = "skipped"
        self._write(
            {
                "test": nodeid,
                "outcome": outcome,
                "why": why,
                "seconds": round(sum(each.duration for each in reports), 1),
                "final": nodeid in self._final,
                "kernel": {},
                **ran,
            }
        )

    def _write(self, line: dict[str, Any]) -> None:
        self._log.write(json.dumps(line, default=str) + "\n")
        self._log.flush()


def _kind(item: pytest.Item) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return what tests that are compared with one another have in common."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    same = ((name, repr(value)) for name, value in params.items() if name not in _COMPARED)
    return item.nodeid.partition("[")[0], tuple(sorted(same))


def configure(config: pytest.Config) -> None:
    file = config.getoption("known")
    if file is not None:
        try:
            config.pluginmanager.register(Known(file), "known")
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise pytest.UsageError(f"--known {file}: {err}") from err
