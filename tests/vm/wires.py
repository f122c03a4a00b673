"""Devices whose other side is a program in the guest: tun, tap, macvtap and vhost-net."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness import guesttools


class Wire:
    """A running ``wire`` (tests/guest/wire), and its report once it has ended."""

    def __init__(self, process: Any, patience: float) -> None:
        self._process = process
        self._patience = patience
        self._report: dict[str, Any] | None = None

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def ready(self) -> None:
        """Wait until both ends are up."""
        deadline = time.monotonic() + self._patience
        while "ready" not in self._process.stderr:
            assert self.running, f"wire ended: {self._process.stderr}"
            assert time.monotonic() < deadline, f"wire is not ready: {self._process.stderr}"
            time.sleep(0.02)

    def go(self) -> None:
        """Have a wire that was started with ``stall`` read from now on."""
        self._process.kill(10)

    def calm(self) -> None:
        """Have a wire that was started with ``churn`` leave its queues where they belong."""
        self._process.kill(10)

    def kill(self) -> None:
        """End it as a crash would; there is no report."""
        self._process.kill(9)
        self._process.wait(self._patience)

    def done(self) -> None:
        """Wait until it ends by itself, which it was told to when it has seen enough."""
        deadline = time.monotonic() + self._patience
        while self.running:
            assert time.monotonic() < deadline, "wire has not seen what it waits for"
            time.sleep(0.02)

    def report(self) -> dict[str, Any]:
        """End it, unless it has ended by itself, and return what it counted."""
        if self._report is None:
            if self.running:
                self._process.kill(15)
            done = self._process.wait(self._patience)
            assert done.stdout, f"wire: status {done.returncode}: {done.stderr}"
            self._report = json.loads(done.stdout)
        return self._report

    def sunk(self) -> dict[str, Any]:
        """Return the sink's counts, after a look at whether all of them are as they should be."""
        report = self.report()
        assert not report["error"], report["error"]
        sink = report["b"]
        assert sink["bad"] == 0, f"{sink['bad']} payloads are not as they were sent"
        return sink


@contextmanager
def wire(
    vm: Any, a: str, b: str, *, patience: float, limit: float, **options: Any
) -> Iterator[Wire]:
    """Run a wire between two ends (see ``wire --help``) while the body runs."""
    argv = [str(guesttools.tool("wire")), "--a", a, "--b", b, "--timeout", str(int(limit))]
    for name, value in options.items():
        if value is not None and value is not False:
            argv.append("--" + name.replace("_", "-"))
            argv += [] if value is True else [str(value)]
    running = Wire(vm.start(argv), patience)
    try:
        running.ready()
        yield running
    finally:
        if vm.alive and running.running:
            running.kill()


#: What a sender in a device's namespace sends to: nobody has these addresses, a wire's end does.
PEERS = {4: "10.9.8.2", 6: "fd08::2"}


#: The Ethernet address of who is behind on_veth()'s device.
BEHIND = "02:00:00:00:00:09"


def addresses(host: int = 1) -> list[str]:
    """Return the addresses of a host: those of 2 are PEERS."""
    return [f"10.9.8.{host}/24", f"fd08::{host}/64"]


def several(queues: int) -> list[str]:
    """Return an end's options for its number of queues."""
    return [f"queues={queues}"] if queues > 1 else []


def end(kind: str, netns: str, *options: str, host: int = 1) -> str:
    """Name the end of a wire that is the device ``dev`` in ``netns``, with addresses."""
    own = [f"addr{4 + 2 * at}={each}" for at, each in enumerate(addresses(host))]
    return ",".join([f"{kind}:dev@{netns}", *own, *options])


def behind(kind: str, netns: str, *options: str) -> str:
    """Name the end of a wire that is on_veth()'s ``over`` in ``netns``."""
    return ",".join([f"{kind}:over@{netns}", *options])


def _settle(device: str, host: int) -> list[str]:
    """Return ip's commands that give a device the addresses of a host."""
    return [
        f"addr add {each} dev {device}" + (" nodad" if "::" in each else "")
        for each in addresses(host)
    ]


def on_veth(
    kind: str, near: str, far: str, *, queues: int = 1, host: int = 1
) -> dict[str, list[str]]:
    """Return ip's commands, by namespace, for a macvtap or ipvtap on a veth.

    Its other end is ``dev`` in ``near``, with addresses; the device, ``over`` in ``far``,
    gets all that is sent there.
    """
    mode = {"macvtap": "passthru", "ipvtap": "l2"}[kind]
    own = _settle("dev", host)
    # What is sent to an ipvtap is known by the addresses of who is behind it.
    behind = _settle("over", 3 - host) if kind == "ipvtap" else []
    return {
        near: [
            f"link add name dev type veth peer name under netns {far}",
            *own,
            "link set dev dev addrgenmode none",
            "link set dev dev up",
        ],
        far: [
            "link set dev under addrgenmode none",
            f"link set dev under address {BEHIND}",
            "link set dev under up",
            f"link add link under name over numtxqueues {queues} numrxqueues {queues} "
            f"type {kind} mode {mode}",
            "link set dev over addrgenmode none",
            *behind,
        ],
    }


def neighbours() -> list[str]:
    """Return ip's commands after which nobody has to answer for PEERS on an Ethernet."""
    return [
        f"neigh replace {peer} lladdr 02:00:00:00:00:02 dev dev nud permanent"
        for peer in PEERS.values()
    ]
