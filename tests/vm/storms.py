"""What a storm does to a guest, step by step, and whether all is as before afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lab import DEFER_MAX, Net

from harness import guesttools

#: Caches whose objects come and go with traffic, sockets, routes and namespaces, and how many
#: of each may be somebody else's by the end.
BALANCED = {
    "skbuff_head_cache": 8,
    "skbuff_fclone_cache": 8,
    "TCP": 2,
    "TCPv6": 2,
    "UDP": 2,
    "net_namespace": 0,
    # A route of the guest's own may be made when something looks for it.
    "ip_dst_cache": 16,
    "ip6_dst_cache": 16,
}

#: What TCP's sockets are made of, and how many namespaces the two ends of traffic have.
SOCKETS = ("TCP", "TCPv6")
NAMESPACES = 2

CPUS = "/sys/devices/system/cpu"


class Balance:
    """How many objects there were before, and that no more are left."""

    def __init__(self, lab: Any, *, sockets_stay: bool = False) -> None:
        """Count what there is.

        Args:
            sockets_stay: TCP sockets may be left, and each keeps its namespace; if none is
                left, no namespace may be.
        """
        self._lab = lab
        self._sockets_stay = sockets_stay
        # What the first network of a guest leaves for good is nobody's loss.
        with lab.net("veth", name="first") as net:
            lab.flow(net, tx_cpu=0, rx_cpu=1, bytes=20_000).intact()
        lab.drained()
        present = lab.sh("ls /sys/kernel/slab").split()
        self._allowed = {cache: n for cache, n in BALANCED.items() if cache in present}
        self._before = lab.objects(*self._allowed)

    def restored(self, *, seconds: float = 60) -> None:
        """Assert that all lists get empty and that nothing is left behind."""
        self._lab.drained(timeout=10)
        kept = self._lab.kept(self._before, noise=self._allowed, seconds=seconds)
        left = {cache: n for cache, n in kept.items() if n > self._allowed[cache]}
        if self._sockets_stay and any(kept.get(cache, 0) > 0 for cache in SOCKETS):
            namespaces = left.pop("net_namespace", 0)
            assert namespaces <= NAMESPACES, f"left behind: {namespaces} namespaces"
            left = {cache: n for cache, n in left.items() if cache not in SOCKETS}
        assert not left, f"left behind: {left}"


@dataclass
class Steps:
    """A source of steps that the administrator of a busy host might take, in any order.

    Each is one line of bash that may fail: a device that is not there cannot be deleted.

    Attributes:
        rng: decides which.
        cpus: of the guest.
        net: a veth pair under traffic, whose masks and programs are changed.
        threads: process numbers of the backlog threads, by CPU.
    """

    rng: random.Random
    cpus: int
    net: Net
    threads: dict[int, int] = field(default_factory=dict)
    spaces: tuple[str, ...] = ("s0", "s1", "s2")

    def __iter__(self) -> Iterator[str]:
        while True:
            yield self.rng.choice(self._kinds())()

    def _kinds(self) -> list[Callable[[], str]]:
        kinds = [self.limit, self.rps, self.rps, self.rfs, self.xps, self.space, self.device]
        kinds += [self.device, self.xdp, self.packets, self.reader]
        return kinds + [self.thread] * bool(self.threads)

    def _mask(self) -> str:
        return f"{self.rng.randrange(1 << self.cpus):x}"

    def _end(self) -> tuple[str, str]:
        return self.rng.choice([(self.net.tx_netns, "tx"), (self.net.rx_netns, "rx")])

    def _in(self, netns: str, script: str) -> str:
        return f"ip netns exec {netns} bash -c '{script}'"

    def limit(self) -> str:
        return f"echo {self.rng.choice([0, 1, 2, 3, 64, 64, 4096])} > {DEFER_MAX}"

    def rps(self) -> str:
        netns, device = self._end()
        return self._in(
            netns, f"echo {self._mask()} > /sys/class/net/{device}/queues/rx-0/rps_cpus"
        )

    def rfs(self) -> str:
        netns, device = self._end()
        entries = self.rng.choice([0, 64, 1024])
        flows = f"/sys/class/net/{device}/queues/rx-0/rps_flow_cnt"
        return f"echo {entries} > /proc/sys/net/core/rps_sock_flow_entries; " + self._in(
            netns, f"echo {entries} > {flows}"
        )

    def xps(self) -> str:
        netns, device = self._end()
        return self._in(
            netns, f"echo {self._mask()} > /sys/class/net/{device}/queues/tx-0/xps_cpus"
        )

    def space(self) -> str:
        return f"ip netns {self.rng.choice(['add', 'add', 'del'])} {self.rng.choice(self.spaces)}"

    def device(self) -> str:
        netns = self.rng.choice(self.spaces)
        name = self.rng.choice(["d0", "d1"])
        what = self.rng.choice(
            [
                f"link add {name} type veth peer name {name}p",
                f"link add {name} type dummy",
                f"tuntap add {name} mode tun multi_queue",
                f"tuntap add {name} mode tap",
                f"link del {name}",
                f"link set {name} up",
                f"link set {name} down",
                f"addr add 10.77.{self.rng.randrange(4)}.1/24 dev {name}",
                f"link set {name} netns {self.rng.choice(self.spaces)}",
            ]
        )
        return f"ip -n {netns} {what}"

    def xdp(self) -> str:
        netns, device = self._end()
        # What drops everything would leave no traffic to test with.
        verdict = self.rng.choice(["pass", "off", "off"])
        return f"{guesttools.tool('xdp')} {netns} {device} {verdict}"

    def packets(self) -> str:
        """Packets that nobody reads, into a device that may be there."""
        to = f"/dev/udp/10.77.{self.rng.randrange(4)}.2/9"
        send = f"exec 9> {to}; for i in {{1..20}}; do echo x >&9; done"
        return self._in(self.rng.choice(self.spaces), send)

    def reader(self) -> str:
        """A reader of a tun that is killed while packets come."""
        netns = self.rng.choice(self.spaces)
        program = guesttools.tool("wire")
        queues = self.rng.choice(["", ",queues=2"])
        end = f"tun:d2@{netns},addr4=10.77.9.1/24{queues}"
        cpu = self.rng.randrange(self.cpus)
        send = "exec 9> /dev/udp/10.77.9.2/9; for i in {1..30}; do echo x >&9; done"
        return (
            f"{{ {program} --a {end} --b sink --a-cpu {cpu} --timeout 20 & pid=$!; sleep 0.05; "
            + self._in(netns, send)
            + "; kill -9 $pid; wait $pid; }"
        )

    def thread(self) -> str:
        pid = self.rng.choice(sorted(self.threads.values()))
        return self.rng.choice(
            [
                f"chrt -f -p {self.rng.randrange(1, 50)} {pid}",
                f"chrt -o -p 0 {pid}",
                f"chrt -b -p 0 {pid}",
                f"renice -n {self.rng.randrange(-20, 20)} -p {pid}",
                f"taskset -p {self._mask()} {pid}",
            ]
        )

    def undo(self) -> list[str]:
        """Return what puts everything back."""
        lines = [f"echo 64 > {DEFER_MAX}", "echo 0 > /proc/sys/net/core/rps_sock_flow_entries"]
        lines += [f"ip netns del {space}" for space in self.spaces]
        lines += [f"chrt -o -p 0 {pid}; renice -n 0 -p {pid}" for pid in self.threads.values()]
        for netns, device in ((self.net.tx_netns, "tx"), (self.net.rx_netns, "rx")):
            lines.append(f"{guesttools.tool('xdp')} {netns} {device} off")
        return lines


def carry_out(lab: Any, lines: list[str], *, timeout: float) -> None:
    """Carry out lines of bash, one after the other, whether they succeed or not."""
    body = "\n".join(f"{line} > /dev/null 2>&1" for line in lines)
    lab.sh(body + "\ntrue", timeout=timeout)


def hotplug(rng: random.Random, cpus: int, count: int) -> list[str]:
    """Return ``count`` steps that take CPUs offline and back, all of them back at the end.

    Now and then all but the first go, as before a suspend.
    """
    online = set(range(1, cpus))
    lines = []

    def switch(cpu: int, on: bool) -> None:
        lines.append(f"echo {int(on)} > {CPUS}/cpu{cpu}/online")
        (online.add if on else online.discard)(cpu)

    while len(lines) < count:
        if rng.random() < 0.08:
            for cpu in rng.sample(sorted(online), len(online)):
                switch(cpu, False)
        else:
            cpu = rng.randrange(1, cpus)
            switch(cpu, cpu not in online)
    for cpu in rng.sample(range(1, cpus), cpus - 1):
        if cpu not in online:
            switch(cpu, True)
    return lines
