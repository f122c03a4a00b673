"""A VM test that fails without a word of the kernel's is tried once more, in a fresh guest.

An emulated CPU is at the mercy of its host. What the kernel complained of is never tried
again, what was tried again is told at the end of the run, and where that happens to more
than a few tests, the next one has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from harness import stamp

#: How many tests of a run may be tried a second time.
MOST = 3


class Retries:
    """A plugin of pytest's.

    Attributes:
        final: tests (node IDs) whose failure counts the first time.
        flakes: what failed and passed the second time, for people.
    """

    def __init__(
        self,
        *,
        may: Callable[[pytest.Item], bool],
        directory: Callable[[], Path],
        say: Callable[[str], None],
    ) -> None:
        self._may = may
        self._directory = directory
        self._say = say
        self._tried = 0
        self.final: set[str] = set()
        self.flakes: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Run a test, and once more if it failed and may be; only the last time is reported."""
        if not self._may(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        failed = next((report for report in reports if report.failed), None)
        if failed is not None and item.nodeid not in self.final and self._tried < MOST:
            why = self._note(failed.longreprtext)
            self._say(f"failed, trying again: {why}")
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
            if not any(report.failed for report in reports):
                self.flakes.append(f"{item.nodeid} failed and passed the second time: {why}")
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _note(self, text: str) -> str:
        """Keep what the first failure said; return the line of it that says why."""
        self._tried += 1
        log = self._directory() / f"retried-{self._tried}.txt"
        stamp.write_atomic(log, text + "\n")
        lines = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
        return f"{(lines or [text.partition(chr(10))[0]])[0]} (log: {log})"
