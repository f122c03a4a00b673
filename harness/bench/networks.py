"""Networks in a guest that a workload's traffic takes, by kind.

- ``veth``: two namespaces joined by a pair; ``lo``: one namespace and its loopback.
- ``sink``: a device (tun, tap, vhost) whose reader drops what it gets.
- ``span``: two namespaces, each with a device, and a program that carries frames between them.
- ``forward``: a span of taps to a namespace that forwards to a vhost device, behind which another
  span's end is the receiver: skbs are allocated where the first span's program writes them, as a
  network card's driver does, and freed by vhost's threads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from harness import guesttools
from harness.bench.guests import Runner
from harness.errors import HarnessError

#: Seconds for a wire's ends to come up, or to end.
_PATIENCE = 60.0

#: Nobody has this address, and a device's neighbour entry says that somebody does.
_NOBODY = "02:00:00:00:00:02"

_COUNT = 0


class NetworkFailed(HarnessError):
    """A network could not be made, or the program that is a part of it failed."""


@dataclass(frozen=True)
class Network:
    """What a network is made of.

    Attributes:
        kind: see above.
        device: tun, tap or vhost, for a sink or a span.
        queues: of such a device, a reader for each.
        reader: CPUs of who reads the near device, of who reads the far one; empty: any.
        rps: CPUs that receive, as a mask; 0: where a packet was sent from.
        rfs: RFS steers to the reader's CPU.
        segments: the most segments one buffer may hold; 0: as many as the kernel likes.
        options: of the wire's ends (``tso``).
    """

    kind: Literal["veth", "lo", "sink", "span", "forward"]
    device: str = "tun"
    queues: int = 1
    reader: tuple[str, str] = ("", "")
    rps: int = 0
    rfs: bool = False
    segments: int = 0
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Path:
    """The way from a sender to a receiver.

    Attributes:
        device: the sender's; the receiver's is ``rx_device``.
    """

    tx_netns: str
    rx_netns: str
    addr: str
    device: str
    rx_device: str


@contextmanager
def network(guest: Runner, spec: Network) -> Iterator[Path]:
    """Make a network that lives for the body, in namespaces of its own.

    Raises:
        NetworkFailed: the wire did not come up, or saw an error.
        GuestCommandFailed: something else could not be made.
    """
    # Two that follow each other share no name: what the first leaves may take its time.
    global _COUNT  # noqa: PLW0603
    _COUNT += 1
    name = f"b{_COUNT}"
    if spec.kind in ("veth", "lo"):
        with _nets(guest, spec, name) as path:
            _flows(guest, spec, path)
            yield path
        return
    if spec.kind == "forward":
        with _forward(guest, spec, name) as path:
            yield path
        return
    near, far = f"{name}n", f"{name}f"
    spaces = [near] if spec.kind == "sink" else [near, far]
    guest.sh("".join(f"ip netns add {each}; ip -n {each} link set lo up; " for each in spaces))
    try:
        with _wire(guest, spec, near, far):
            if spec.device != "tun" and spec.kind == "sink":
                guest.sh(
                    f"ip -n {near} neigh replace 10.9.8.2 lladdr {_NOBODY} dev dev nud permanent"
                )
            path = Path(near, spaces[-1], "10.9.8.2", "dev", "dev")
            _flows(guest, spec, path)
            yield path
    finally:
        guest.sh("".join(f"ip netns del {each}; " for each in spaces), check=False)


@contextmanager
def _nets(guest: Runner, spec: Network, name: str) -> Iterator[Path]:
    script = guesttools.script("nets")
    mtu = " 65536" if spec.kind == "lo" else ""
    guest.sh(f"{script} {spec.kind} {name} {spec.rps:x} {spec.segments}{mtu}")
    try:
        if spec.kind == "lo":
            yield Path(name, name, "127.0.0.1", "lo", "lo")
        else:
            guest.sh(f"ip -n {name}-tx route add 239.0.0.0/8 dev tx")
            yield Path(f"{name}-tx", f"{name}-rx", "10.9.0.2", "tx", "rx")
    finally:
        guest.sh(f"{script} down {name}", check=False)


def _flows(guest: Runner, spec: Network, path: Path) -> None:
    """Steer what is received: RPS for a device of a wire, RFS for any."""
    entries = 4096 if spec.rfs else 0
    script = f"echo {entries} > /proc/sys/net/core/rps_sock_flow_entries; "
    queues = f"/sys/class/net/{path.rx_device}/queues/rx-*"
    set_all = []
    if spec.rfs:
        set_all.append(f"for q in {queues}; do echo 4096 > $q/rps_flow_cnt; done")
    if spec.rps and spec.kind in ("sink", "span"):
        set_all.append(f"for q in {queues}; do echo {spec.rps:x} > $q/rps_cpus; done")
    if set_all:
        script += f"ip netns exec {path.rx_netns} sh -c '{'; '.join(set_all)}'"
    guest.sh(script)


@contextmanager
def _forward(guest: Runner, spec: Network, name: str) -> Iterator[Path]:
    near, router, far = (f"{name}{each}" for each in "nrf")
    spaces = (near, router, far)
    guest.sh("".join(f"ip netns add {each}; ip -n {each} link set lo up; " for each in spaces))
    queues = f",queues={spec.queues}" if spec.queues > 1 else ""
    card = [
        f"tap:dev@{near},addr4=10.9.8.1/24{queues}",
        f"tap:in@{router},addr4=10.9.8.2/24{queues}",
    ]
    out = [
        f"{spec.device}:out@{router},addr4=10.9.7.1/24{queues}",
        f"tap:dev@{far},addr4=10.9.7.2/24{queues}",
    ]
    try:
        with (
            _running(guest, card, ["--a-cpu", spec.reader[0], "--b-cpu", spec.reader[0]]),
            _running(guest, out, []),
        ):
            guest.sh(
                f"ip netns exec {router} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'; "
                f"ip -n {near} route add 10.9.7.0/24 via 10.9.8.2; "
                f"ip -n {far} route add 10.9.8.0/24 via 10.9.7.1"
            )
            yield Path(near, far, "10.9.7.2", "dev", "dev")
    finally:
        guest.sh("".join(f"ip netns del {each}; " for each in spaces), check=False)


@contextmanager
def _wire(guest: Runner, spec: Network, near: str, far: str) -> Iterator[None]:
    more = [*spec.options, *([f"queues={spec.queues}"] if spec.queues > 1 else [])]
    ends = [
        ",".join([f"{spec.device}:dev@{netns}", f"addr4=10.9.8.{host}/24", *more])
        for host, netns in ((1, near), (2, far))
    ]
    if spec.kind == "sink":
        ends[1] = "sink"
    argv: list[str] = []
    for option, cpus in zip(("--a-cpu", "--b-cpu"), spec.reader, strict=True):
        argv += [option, cpus] if cpus else []
    if spec.device == "vhost" and any(spec.reader):
        # The kernel's threads stand where those who read from them do.
        workers = [cpus for cpus in spec.reader if cpus]
        argv += ["--vhost-cpu", ",".join(workers)]
    with _running(guest, ends, argv):
        yield


@contextmanager
def _running(guest: Runner, ends: list[str], options: list[str]) -> Iterator[None]:
    """Run a wire between two ends while the body runs."""
    argv = [str(guesttools.tool("wire")), "--a", ends[0], "--b", ends[1], "--timeout", "3600"]
    running = guest.start([*argv, *options])
    deadline = time.monotonic() + _PATIENCE
    while "ready" not in running.stderr:
        if running.poll() is not None or time.monotonic() > deadline:
            raise NetworkFailed(f"the wire {ends[0]} did not come up: {running.stderr}")
        time.sleep(0.02)
    try:
        yield
    finally:
        if running.poll() is None:
            running.kill(15)
        done = running.wait(_PATIENCE)
    report = json.loads(done.stdout or "{}")
    if report.get("error", "no report"):
        raise NetworkFailed(f"wire: {report.get('error') or done.stderr}")
