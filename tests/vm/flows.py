"""Traffic in a guest: the reports of tcpflow and udpflow, and how they are run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness import counters, guesttools
from harness.counters import DeferStat


class Report(dict[str, Any]):
    """What a program said about its traffic: sides ``tx`` and ``rx``, ``timeout``, ``seconds``."""

    program: str

    @property
    def tx(self) -> dict[str, Any]:
        return self["tx"]

    @property
    def rx(self) -> dict[str, Any]:
        return self["rx"]

    def finished(self) -> None:
        """Assert that nothing failed and that it was done in time."""
        for side in (self.tx, self.rx):
            assert not side["error"], f"{self.program}: {side['error']}"
        assert not self["timeout"], f"{self.program} was not done in time"


class Flow(Report):
    """tcpflow's report."""

    program = "tcpflow"

    def snap(self, when: str) -> DeferStat:
        """Return the lists' counters ``all_read``, ``acted`` or ``ended`` (snap=DEFER_STAT)."""
        return counters.parse_defer_stat(self[when])

    def intact(self) -> Flow:
        """Assert that no byte was wrong and nothing failed; returns itself."""
        self.finished()
        for side in (self.tx, self.rx):
            assert side["mismatches"] == 0, f"wrong data from byte {side['first_mismatch']} on"
        return self


class UdpFlow(Report):
    """udpflow's report; packets may be lost in an intact one."""

    program = "udpflow"

    def intact(self) -> UdpFlow:
        """Assert that no packet was wrong or came twice and nothing failed; returns itself."""
        self.finished()
        assert self.rx["corrupt"] == 0, f"{self.rx['corrupt']} packets are not as they were sent"
        assert self.tx["wrong"] == 0, f"{self.tx['wrong']} answers are not as the packets were"
        assert self.rx["duplicates"] == 0, f"{self.rx['duplicates']} packets came twice"
        return self

    def complete(self) -> UdpFlow:
        """Assert that every packet that was sent was received; returns itself.

        For a flow with a window: what else is sent faster than it is read may be lost.
        """
        sent, received = self.tx["sent"], self.rx["received"]
        lost_by_socket, stalls = self.rx["drops"], self.tx["stalls"]
        assert received == sent > 0, (
            f"{sent - received} of {sent} packets are lost, {lost_by_socket} of them at the "
            f"receiver's socket; the sender went on without an answer {stalls} times: {self}"
        )
        return self

    def ordered(self) -> UdpFlow:
        """Assert that it is intact and that no packet overtook another of its flow."""
        self.intact()
        assert self.rx["reordered"] == 0, f"{self.rx['reordered']} packets were overtaken"
        return self


R = TypeVar("R", bound=Report)


class Background(Generic[R]):
    """Traffic that runs until it is told to stop."""

    def __init__(self, process: Any, limit: float, kind: type[R]) -> None:
        self._process = process
        self._limit = limit
        self._kind = kind

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> R:
        """Let the present round end and return the report."""
        if self.running:
            self._process.kill(15)
        result = self._process.wait(self._limit)
        return parse(self._kind, result)

    def receiving(self, limit: float) -> None:
        """Wait until a udpflow that only receives says that it does."""
        deadline = time.monotonic() + limit
        while "receiving" not in self._process.stderr:
            assert self.running, f"udpflow ended: {self._process.stderr}"
            assert time.monotonic() < deadline, "udpflow does not get to receive"
            time.sleep(0.02)


def parse(kind: type[R], result: Any) -> R:
    """Return the report that a program left on its standard output."""
    assert result.stdout, f"{kind.program}: status {result.returncode}: {result.stderr}"
    return kind(json.loads(result.stdout))


def command(program: Path | str, options: dict[str, Any], limit: float) -> list[str]:
    """Return the command line: dashes for underscores, True for an option without a value."""
    argv = [str(program), "--timeout", str(max(1, int(limit)))]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            argv.append(flag)
        elif value is not None and value is not False:
            argv += [flag, str(value)]
    return argv


def run(vm: Any, kind: type[R], options: dict[str, Any], limit: float) -> R:
    """Run the report's program to its end and return the report, unchecked."""
    argv = command(guesttools.tool(kind.program), options, limit)
    return parse(kind, vm.run(argv, timeout=limit + 10, check=False))


@contextmanager
def background(
    vm: Any, kind: type[R], options: dict[str, Any], limit: float, patience: float
) -> Iterator[Background[R]]:
    """Run the report's program while the body runs; ``patience``: seconds to end in when told."""
    process = vm.start(command(guesttools.tool(kind.program), options, limit))
    traffic = Background(process, patience, kind)
    try:
        yield traffic
    finally:
        if vm.alive and traffic.running:
            process.kill(9)
