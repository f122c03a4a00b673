"""The workloads, as data: each case is traffic on a network, and what is reported of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from harness.bench import arms
from harness.bench.networks import Network

#: How a window's packets are counted: as they arrive at IP in the receiver's namespace, as
#: the program has received them, or as a device's reader has taken them.
Packets = Literal["ip", "received", "device"]

#: Bytes of a segment of a stream, unless a case says another.
SEGMENT = 1448

#: What a case's throughput is: bytes received, packets, or messages of the program's.
Rate = Literal["Mbit/s", "packets/s", "requests/s"]


@dataclass(frozen=True)
class Case:
    """One size of one workload.

    Attributes:
        workload: 1 to 7, as the issue numbers them.
        name: unique, e.g. ``stream-veth``.
        title: what it is, for a table's heading.
        network: what the traffic takes.
        load: options of ``load``, without dashes.
        packets: how they are counted.
        rate: the unit of its throughput.
        arms: names of the arms.
        sender, reader: the CPUs of who sends and of who reads, for what is told of them.
        latencies: which of ``load``'s histograms are reported, and what they are.
        quick: it belongs to the quick run.
        window: seconds, of a timed run.
        lines: cache-line transfers are simulated.
        reads: the bar about skbs that were read and freed away from home is for this case.
        tune: settings below /proc/sys for all arms.
        note: what a reader must know.
    """

    workload: int
    name: str
    title: str
    network: Network
    load: Mapping[str, object] = field(hash=False)
    packets: Packets
    rate: Rate
    arms: tuple[str, ...]
    sender: int | None = 0
    reader: int | None = 1
    latencies: Mapping[str, str] = field(default_factory=dict, hash=False)
    quick: bool = False
    window: float = 0.6
    lines: bool = False
    reads: bool = True
    note: str = ""


#: The workloads by number: a title, and the claim of a seed that it is about.
TITLES: Mapping[int, tuple[str, str]] = {
    1: (
        "One TCP stream, received on one CPU and read on another",
        "49,685 to 73,076 Mbit/s, between two hosts with 100 Gbit/s and RFS",
    ),
    2: (
        "Many TCP flows with an MSS of 400 into a multiqueue tap, read by vhost-net",
        "55 to 110 Gbit/s, 1,200 flows on 640 CPUs",
    ),
    3: (
        "Small requests and answers over many connections",
        "about 10 % on 112 threads",
    ),
    4: (
        "UDP over the loopback device with RPS: softirq, IPIs, threads",
        "threads as fast as IPIs, and local traffic as fast as without them",
    ),
    5: (
        "UDP, one way, through veth, tun, tap and vhost-net",
        "20 % less with a later form of the list, as the kernel's test robot found",
    ),
    6: ("Multicast UDP to 1 to 16 listeners", "none: the baseline for scratch clones"),
    7: ("10,000 idle connections after traffic", "a huge increase of memory, of the 2019 caches"),
}

_TCP = arms.names()
_UDP = arms.names(tcp=False)

#: What cases have beside the ones that are looked at most closely.
_TCP_FEW = ("off", "off-again", "rx+tx", "defer", "defer+tx", "threads")
_UDP_FEW = ("off", "off-again", "defer")


def _streams() -> list[Case]:
    common: dict[str, object] = {"mode": "stream", "tx-cpu": 0, "rx-cpu": 1}
    found = []
    for rfs in (False, True):
        steering = "RFS" if rfs else "RX on the sender's CPU"
        found.append(
            Case(
                1,
                "stream-veth" + ("-rfs" if rfs else ""),
                f"veth, {steering}",
                Network("veth", rps=0xF if rfs else 1, rfs=rfs),
                common,
                "ip",
                "Mbit/s",
                _TCP,
                quick=not rfs,
                lines=not rfs,
                note="A buffer of up to 64 KB travels as one skb, which the sender has allocated.",
            )
        )
    for rfs in (False, True):
        steering = "RFS" if rfs else "RX where it was written"
        found.append(
            Case(
                1,
                "stream-tun" + ("-rfs" if rfs else ""),
                f"tun as a network card, {steering}",
                Network("span", "tun", reader=("2", "3"), rps=0xF if rfs else 0, rfs=rfs),
                common,
                "ip",
                "Mbit/s",
                _TCP_FEW,
                sender=2,
                lines=rfs,
                note="skbs of 1,500 bytes are allocated on CPU 2, where a program writes them to a "
                "tun device, as a driver does on the CPU of its interrupt.",
            )
        )
    return found


#: Flows of workload 2. Its largest number in the seed is 1,200.
FLOWS = (1, 16, 128, 1200)


def _flows() -> list[Case]:
    return [
        Case(
            2,
            f"flows-{flows}",
            f"{flows} flow{'s' if flows > 1 else ''}",
            Network("forward", "vhost", queues=4, reader=("0,1,2,3", "")),
            {
                "mode": "stream",
                "mss": 400,
                "flows": flows,
                "tx-threads": min(flows, 4),
                "rx-threads": min(flows, 4),
                # Memory for all of them, on a guest that has little.
                "sndbuf": 65536,
                "rcvbuf": 65536,
                "warm": 0.3 if flows < 1000 else 2.0,
            },
            "ip",
            "Mbit/s",
            _TCP if flows == 16 else _TCP_FEW,
            sender=None,
            reader=None,
            lines=flows == 128,
            note="Forwarded: skbs are allocated by threads that stand on CPUs 0 to 3 and write "
            "to a tap as a card's driver would; 4 vhost workers run wherever the scheduler puts "
            "them. The sender's own tap is read by a program, whose frees count as well.",
        )
        for flows in FLOWS
    ]


def _requests() -> list[Case]:
    return [
        Case(
            3,
            f"rr-{conns}",
            f"{conns} connections, 64 bytes",
            Network("veth", rps=1),
            {
                "mode": "rr",
                "size": 64,
                "flows": conns,
                "tx-cpu": 0,
                "rx-cpu": "1,2",
                "rx-threads": min(conns, 2),
            },
            "ip",
            "requests/s",
            _TCP if conns == 64 else _TCP_FEW,
            reader=None,
            latencies={"latency": "from a request to its answer"},
        )
        for conns in (64, 1, 512)
    ]


#: Bytes of a packet in workload 5, the size first that is looked at most closely.
SIZES = (400, 64, 1400)


def _backlog() -> list[Case]:
    def case(name: str, title: str, rps: int, **more: object) -> Case:
        load = {"mode": "udp", "size": 64, "tx-cpu": 0, "rx-cpu": 1, "rcvbuf": 1 << 20, **more}
        loaded = "burn" in more
        return Case(
            4,
            name,
            title,
            Network("lo", rps=rps),
            load,
            "received",
            "packets/s",
            ("off", "off-again", "defer", "threads", "limit-0"),
            latencies={
                "latency": "from send() to recv()",
                **(
                    {"wakeup": "of a SCHED_FIFO thread on the CPU that receives, late by"}
                    if loaded
                    else {}
                ),
            },
            quick=name == "lo-rps",
            note="",
        )

    return [
        case("lo-local", "no RPS: received where it was sent", 0),
        case("lo-rps", "RPS to another CPU", 4),
        case(
            "lo-rps-load",
            "RPS to a CPU that computes, 5,000 packets/s",
            4,
            **{"burn": 2, "cyclic": 2, "gap-us": 200, "seconds": 1.2},
        ),
    ]


def _udp() -> list[Case]:
    found = []
    for size in SIZES:
        # Other limits for one size: what they change does not depend on it.
        names = _UDP if size == 400 else _UDP_FEW
        load: dict[str, object] = {"mode": "udp", "size": size, "tx-cpu": 0, "rcvbuf": 1 << 20}
        there = {**load, "rx-cpu": 1}
        found.append(
            Case(
                5,
                f"udp-veth-{size}",
                f"veth, {size} bytes",
                Network("veth", rps=1),
                there,
                "received",
                "packets/s",
                names,
                lines=size == 400,
                note="",
            )
        )
        for device in ("tun", "tap", "vhost"):
            found.append(
                Case(
                    5,
                    f"udp-{device}-out-{size}",
                    f"{device}, to its reader, {size} bytes",
                    Network("sink", device, reader=("1", "")),
                    {**load, "no-receiver": True},
                    "device",
                    "packets/s",
                    names,
                    quick=device == "tun" and size == 400,
                    lines=size == 400,
                )
            )
            found.append(
                Case(
                    5,
                    f"udp-{device}-in-{size}",
                    f"{device}, from a program to a socket, {size} bytes",
                    Network("span", device, reader=("2", "3" if device == "vhost" else "2")),
                    there,
                    "received",
                    "packets/s",
                    names,
                    sender=2,
                    note="The program has read them from such a device before: both ends count.",
                )
            )
    return found


def _multicast() -> list[Case]:
    return [
        Case(
            6,
            f"multicast-{listeners}",
            f"{listeners} listener{'s' if listeners > 1 else ''}",
            Network("veth", rps=1),
            {
                "mode": "udp",
                "addr": "239.1.2.3",
                "size": 400,
                "listeners": listeners,
                "rx-threads": min(listeners, 2),
                "tx-cpu": 0,
                "rx-cpu": "1,2",
                "gap-us": 1000,
                "burst": 16,
                "rcvbuf": 1 << 20,
            },
            "ip",
            "packets/s",
            ("off", "off-again", "defer", "limit-0"),
            reader=None,
            reads=False,
            note="Bursts of 16 frames, so that slow readers lose nothing; counts are per frame.",
        )
        for listeners in (1, 2, 4, 8, 16)
    ]


#: Connections of workload 7.
IDLE = 10_000


def all_cases() -> tuple[Case, ...]:
    """Return every case of workloads 1 to 6, in the order of the report."""
    return (
        *_streams(),
        *_flows(),
        *_requests(),
        *_backlog(),
        *_udp(),
        *_multicast(),
    )
