"""Host tests in several processes, all else in this one, and one summary for both.

Two guests at a time would spoil what VM tests measure, and their order matters, so they
cannot be given to pytest-xdist. This gives it the tests marked `host` alone: when
pytest has collected everything and is about to run it, xdist's workers run those first;
then pytest goes on here with the rest. Reports, JUnit XML and exit status are pytest's own.

SKBHOME_HOST_JOBS says how many processes (scripts/test sets it); without it there is one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any

import pytest

VARIABLE = "SKBHOME_HOST_JOBS"

#: With fewer host tests than this the workers take longer to start than to do the work.
WORTH = 60


def configure(config: pytest.Config) -> None:
    """Have this run's host tests distributed if that was asked for; called once per process.

    Raises:
        UsageError: xdist was asked to distribute the VM tests as well.
    """
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(_Worker(), "hostjobs")
        return
    if config.getoption("dist", "no") != "no" and config.getoption("markexpr") != "host":
        raise pytest.UsageError(
            f"VM tests stay in one process: use {VARIABLE}=N in place of -n N, or add -m host"
        )
    given = os.environ.get(VARIABLE, "")
    jobs = int(given) if given.isdigit() else 1
    plain = (
        config.pluginmanager.hasplugin("xdist")
        and config.getoption("dist") == "no"
        # Those want to see the tests happen here.
        and not config.getoption("usepdb")
        and not config.getoption("trace", False)
        and config.getoption("capture") != "no"
        and not config.pluginmanager.hasplugin("_cov")
    )
    if jobs > 1 and plain:
        config.pluginmanager.register(_Controller(jobs), "hostjobs")


class _Worker:
    """In a process of xdist's: nothing but host tests."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.get_closest_marker("host")]


class _Controller:
    """In the process that pytest was started in."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.reported: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reported.add(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        away = [item for item in session.items if item.get_closest_marker("host")]
        if session.config.option.collectonly or session.testsfailed or len(away) < WORTH:
            return None
        self._distribute(session)
        missing = [item.nodeid for item in away if item.nodeid not in self.reported]
        if missing:
            # A test that was not run must not look like one that passed.
            raise session.Failed(f"{len(missing)} host tests were not run, {missing[0]} first")
        # What pytest's own loop does, which would take failed host tests for failed collection.
        rest = [item for item in session.items if not item.get_closest_marker("host")]
        for item, following in zip_longest(rest, rest[1:]):
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
        return True

    def _distribute(self, session: pytest.Session) -> None:
        from xdist import dsession

        config = session.config
        with _options(config, dist="worksteal", tx=["popen"] * self.jobs):
            workers = dsession.DSession(config)
            config.pluginmanager.register(workers, "dsession")
            try:
                # It sets the number of tests; this session knows of more than the workers do.
                workers.pytest_sessionstart(SimpleNamespace(testscollected=0))  # type: ignore[arg-type]
                workers.pytest_runtestloop()
            except dsession.Interrupted:
                if session.shouldfail:
                    raise session.Failed(session.shouldfail) from None
                raise
            finally:
                workers.pytest_sessionfinish()
                config.pluginmanager.unregister(workers)


@contextmanager
def _options(config: pytest.Config, **changed: Any) -> Iterator[None]:
    """Have other options, and dots in place of file names, while the body runs."""
    before = {name: getattr(config.option, name) for name in changed}
    terminal = config.pluginmanager.getplugin("terminalreporter")
    shown = getattr(terminal, "showfspath", None)
    vars(config.option).update(changed)
    if terminal is not None:
        terminal.showfspath = False
    try:
        yield
    finally:
        vars(config.option).update(before)
        if terminal is not None:
            terminal.showfspath = shown
            terminal.ensure_newline()
