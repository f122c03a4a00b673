"""The laboratory in a guest: networks, traffic, counters and traces, from the host's side."""

from __future__ import annotations

import re
import shlex
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import flows
import wires
from flows import Background, Flow, UdpFlow
from wires import Wire

from harness import counters, guesttools, traces
from harness.counters import DEFER_COLUMNS, DEFER_VERDICTS, DeferStat, SlabStat
from harness.traces import Locality, Trace

#: By way of process 1: the file is in the first namespace only, wherever its reader is.
DEFER_STAT = "/proc/1/net/stat/skb_defer"
DEFER_MAX = "/proc/sys/net/core/skb_defer_max"
TRACING = "/sys/kernel/tracing"

#: Caches whose objects are network buffers.
SKB_CACHES = ("skbuff_head_cache", "skbuff_fclone_cache")

#: bash: wait for the seconds in $1 without starting a program, which takes as long.
NAP = "exec 9<> <(:); nap() { read -rt $1 -u 9 || :; }; "

#: bash: a line "cache objects" for each of $CACHES that rested for one of 100 moments.
COUNT_OBJECTS = (
    NAP
    + """
for cache in $CACHES; do
	cd /sys/kernel/slab/$cache
	for try in {1..100}; do
		echo 1 > shrink
		read before _ < cpu_slabs; read count _ < objects; read after _ < cpu_slabs
		[ $before$after != 00 ] || { echo $cache $count; break; }
		nap 0.02
	done
done
"""
)

#: bash: count in n what waits on lists.
_QUEUED = (
    NAP
    + f"""
queued() {{
	n=0
	while read -ra row; do
		[ ${{row[0]}} = {DEFER_COLUMNS[0]} ] && continue
		((n += 16#${{row[{DEFER_COLUMNS.index("deferred")}]}}))
		((n -= 16#${{row[{DEFER_COLUMNS.index("flushed")}]}}))
	done < {DEFER_STAT}
}}
"""
)

#: bash: run $SEND until buffers wait on lists; print how many.
UNTIL_LISTED = (
    _QUEUED
    + """
for try in {1..8}; do
	$SEND > /dev/null
	for look in {1..5}; do
		queued
		[ $n = 0 ] || break 2
		nap 0.005
	done
done
echo $n
"""
)

#: The same, but look while $SEND runs.
WHILE_SENDING = (
    _QUEUED
    + """
for try in {1..8}; do
	$SEND > /dev/null &
	while kill -0 $! 2> /dev/null; do
		queued
		[ $n = 0 ] || break 2
	done
done
echo $n
"""
)

#: Too few packets for a kick, or for a sender to take back: they wait for their age.
FEW = 10

NAMESPACES = "/sys/kernel/slab/net_namespace"

#: bash: wait until there are no more than $1 network namespaces; how many, from when to when.
UNTIL_GONE = (
    NAP
    + f"""
until_gone() {{
	for i in {{1..300}}; do
		echo 1 > {NAMESPACES}/shrink
		read n rest < {NAMESPACES}/objects
		[ $n -gt $1 ] || break
		nap 0.01
	done
	echo $n $2 $EPOCHREALTIME
}}
"""
)

#: Seconds within which a list must be empty, whatever its CPU does (as documented).
DRAIN_BOUND = 0.2

#: What a list's age may seem longer than it is: an emulated CPU that the host does not run.
DRAIN_SLACK = 0.3


def until_gone(script: str, spaces: int) -> str:
    """Return a bash script that carries out one and waits for namespaces to be gone.

    That is, until there are no more than ``spaces``.
    """
    return f"{UNTIL_GONE}\nstart=$EPOCHREALTIME; {script}; until_gone {spaces} $start"


def gone_after(shown: str, spaces: int) -> float:
    """Return how many seconds that took, from what the script printed."""
    left, start, end = shown.split()[-3:]
    assert int(left) <= spaces, f"{int(left) - spaces} namespaces are still there"
    return float(end) - float(start)


#: The receiver's address by IP version, for each kind of network that `nets` makes.
ADDRESSES = {
    "lo": {4: "127.0.0.1", 6: "::1"},
    "veth": {4: "10.9.0.2", 6: "fd09::2"},
    "gre": {4: "10.10.0.2", 6: "fd10::2"},
    "vxlan": {4: "10.10.0.2", 6: "fd10::2"},
}


@dataclass(frozen=True)
class Net:
    """A way from a sender to a receiver."""

    name: str
    kind: str  # one of ADDRESSES
    tx_netns: str
    rx_netns: str
    addresses: dict[int, str]  # IP version to the receiver's address

    def options(self, family: int = 4) -> dict[str, str]:
        """Return tcpflow's and udpflow's options for traffic over this way."""
        return {
            "addr": self.addresses[family],
            "tx_netns": self.tx_netns,
            "rx_netns": self.rx_netns,
        }


class Lab:
    """What tests do in a guest."""

    def __init__(self, guest: Any, scale: Any) -> None:
        self.guest = guest
        self.vm = guest.vm
        self.scale = scale
        self.ringdump = str(guesttools.tool("ringdump"))

    # --- commands and files

    def sh(self, script: str, *, timeout: float = 20, check: bool = True) -> str:
        """Run a bash script in the guest and return what it printed."""
        done = self.vm.run(script, timeout=self.scale.seconds(timeout), check=check)
        return done.stdout

    def read(self, path: str) -> str:
        return self.vm.read_file(path)

    def write(self, path: str, text: str) -> None:
        # One write(2), as sysctl and tracefs files want it.
        self.sh(f"printf '%s\\n' '{text}' > {path}")

    def files(self, *names: str) -> dict[str, str]:
        """Read several files in one go."""
        return counters.parse_bundle(self.sh(f"tail -v -n +1 {' '.join(names)}"))

    @property
    def cpus(self) -> int:
        return self.guest.key.cpus

    # --- networks

    @contextmanager
    def net(
        self,
        kind: str,
        *,
        name: str = "own",
        rps: int = 1,
        segments: int = 1,
        mtu: int = 4096,
        inner: int = 0,
    ) -> Iterator[Net]:
        """A network that lives for the body.

        ``rps``: the CPUs that receive, as a mask; ``inner``: the same for what comes out
        of a tunnel; ``segments``: how many one buffer may hold; ``mtu``: the loopback's.
        """
        net = self.make_net(kind, name=name, rps=rps, segments=segments, mtu=mtu, inner=inner)
        try:
            yield net
        finally:
            if self.vm.alive:
                self.sh(f"{guesttools.script('nets')} down {name}", check=False)

    def make_net(
        self, kind: str, *, name: str, rps: int, segments: int, mtu: int = 4096, inner: int = 0
    ) -> Net:
        extra = {"lo": f" {mtu}", "veth": ""}.get(kind, f" {inner:x}")
        self.sh(f"{guesttools.script('nets')} {kind} {name} {rps:x} {segments}{extra}")
        ends = (name, name) if kind == "lo" else (f"{name}-tx", f"{name}-rx")
        return Net(name, kind, *ends, ADDRESSES[kind])

    def give_up_soon(self, net: Net) -> None:
        """Have sockets that nobody has open any more give up after one attempt.

        They would keep their namespace, and what they have queued, for minutes.
        """
        for netns in dict.fromkeys((net.tx_netns, net.rx_netns)):
            self.sh(
                f"ip netns exec {netns} bash -c 'echo 1 > /proc/sys/net/ipv4/tcp_orphan_retries'"
            )

    def shared_net(self, kind: str, *, segments: int = 1, rps: int = 1) -> Net:
        """A network that lives as long as the guest, for tests that leave it as it is."""
        name = f"{kind}{segments}r{rps}"
        memo = self.guest.memo
        if name not in memo:
            memo[name] = self.make_net(kind, name=name, rps=rps, segments=segments)
        return memo[name]

    # --- traffic

    def flow(self, net: Net, family: int = 4, *, timeout: float = 60, **options: Any) -> Flow:
        """Run tcpflow to its end and return its report (unchecked: see Flow.intact)."""
        limit = self.scale.seconds(timeout)
        return flows.run(self.vm, Flow, {**net.options(family), **options}, limit)

    @contextmanager
    def traffic(
        self,
        net: Net,
        family: int = 4,
        *,
        timeout: float = 150,
        patience: float = 30,
        **options: Any,
    ) -> Iterator[Background[Flow]]:
        """Traffic in rounds that runs while the body does; then a round has ``patience``."""
        wanted = {**net.options(family), "rounds": 0, **options}
        limit, patience = self.scale.seconds(timeout), self.scale.seconds(patience)
        with flows.background(self.vm, Flow, wanted, limit, patience) as background:
            yield background

    def udp(self, net: Net, family: int = 4, *, timeout: float = 60, **options: Any) -> UdpFlow:
        """Run udpflow to its end and return its report (unchecked: see UdpFlow.intact)."""
        limit = self.scale.seconds(timeout)
        return flows.run(self.vm, UdpFlow, {**net.options(family), **options}, limit)

    @contextmanager
    def udp_traffic(
        self, net: Net, family: int = 4, *, timeout: float = 150, **options: Any
    ) -> Iterator[Background[UdpFlow]]:
        """UDP packets that are sent, or with receive_only taken, while the body runs."""
        # Who only receives and is given a number ends when it has come.
        endless = {} if options.get("receive_only") else {"count": 0}
        wanted = {**net.options(family), **endless, **options}
        limit, patience = self.scale.seconds(timeout), self.scale.seconds(30)
        with flows.background(self.vm, UdpFlow, wanted, limit, patience) as background:
            if options.get("receive_only"):
                background.receiving(patience)
            yield background

    def list_then(
        self,
        net: Net,
        then: str,
        family: int = 4,
        *,
        timeout: float = 20,
        gone: bool = True,
        **options: Any,
    ) -> tuple[int, str]:
        """Send UDP packets to nobody until lists hold some; with no delay, run a bash script.

        Returns how many buffers lists held in between, and what the script printed. Neither
        the script nor what it starts runs on the CPU of the sender (``tx_cpu``, 0). Give it
        so few packets (``count``) that they wait for their age. The sender has ended by then,
        if it must be ``gone``; on a slow flavour that takes as long as buffers may wait.
        """
        wanted = {**net.options(family), "tx_cpu": 0, "no_receiver": True, **options}
        send = flows.command(guesttools.tool("udpflow"), wanted, self.scale.seconds(timeout))
        others = (1 << self.cpus) - 1 - (1 << wanted["tx_cpu"])
        shown = self.sh(
            f"taskset -p {others:x} $$ > /dev/null; SEND='{shlex.join(send)}'\n"
            f"{UNTIL_LISTED if gone else WHILE_SENDING}\n{then}",
            timeout=timeout,
        )
        listed, _, rest = shown.partition("\n")
        return int(listed), rest

    @contextmanager
    def wire(self, a: str, b: str, *, timeout: float = 120, **options: Any) -> Iterator[Wire]:
        """A program that takes the other side of devices; see wires.py."""
        limit, patience = self.scale.seconds(timeout), self.scale.seconds(30)
        with wires.wire(self.vm, a, b, patience=patience, limit=limit, **options) as running:
            yield running

    @contextmanager
    def sink(
        self,
        kind: str,
        *options: str,
        netns: str = "sunk",
        queues: int = 1,
        reader: int = 1,
        **more: Any,
    ) -> Iterator[tuple[Net, Wire]]:
        """A device in a namespace of its own whose frames a program on CPU ``reader`` takes.

        A macvtap or ipvtap is on top of the other end of a veth, in ``<netns>-2``.
        Yields the way to send there and the running program.
        """
        options = (*options, *wires.several(queues))
        on_top = kind in ("macvtap", "ipvtap")
        behind = f"{netns}-2"
        with self.netns(netns, *([behind] if on_top else [])):
            if on_top:
                for where, commands in wires.on_veth(kind, netns, behind, queues=queues).items():
                    self.ip(commands, netns=where)
                spec = wires.behind(kind, behind, *options)
            else:
                spec = wires.end(kind, netns, *options)
            pinned = {"vhost_cpu": reader} if kind == "vhost" else {}
            with self.wire(spec, "sink", **{"a_cpu": reader, **pinned, **more}) as wire:
                if kind != "tun":
                    self.ip(wires.neighbours(), netns=netns)
                yield Net(netns, kind, netns, netns, dict(wires.PEERS)), wire

    @contextmanager
    def span(
        self, a: str, b: str, *, queues: int = 1, cpus: tuple[str, str] = ("1", "2"), **more: Any
    ) -> Iterator[tuple[Net, Wire]]:
        """A wire between devices of two namespaces, ``near`` and ``far``.

        Each end is a kind of wire's, with options ("tap,tso"), and is read on the CPUs
        that it is given; one of them may be on top of a veth. Yields the way from near
        to far and the running program.
        """
        ends, specs, workers = (a, b), [], []
        on_top = [each.split(",")[0] in ("macvtap", "ipvtap") for each in ends]
        with self.netns("near", "far", *(["beside"] if any(on_top) else [])):
            for at, netns in enumerate(("near", "far")):
                kind, *options = ends[at].split(",")
                options += wires.several(queues)
                if on_top[at]:
                    made = wires.on_veth(kind, netns, "beside", queues=queues, host=at + 1)
                    for where, commands in made.items():
                        self.ip(commands, netns=where)
                    specs.append(wires.behind(kind, "beside", *options))
                else:
                    own = [f"mac={wires.BEHIND}"] if on_top[1 - at] else []
                    specs.append(wires.end(kind, netns, *options, *own, host=at + 1))
                if kind == "vhost":
                    named = cpus[at].split(",")
                    workers += [named[i % len(named)] for i in range(queues)]
            pinned = {"a_cpu": cpus[0], "b_cpu": cpus[1], "vhost_cpu": ",".join(workers) or None}
            with self.wire(*specs, **{**pinned, **more}) as wire:
                yield Net("span", a, "near", "far", dict(wires.PEERS)), wire

    @contextmanager
    def netns(self, *names: str) -> Iterator[None]:
        """Network namespaces that live for the body, or shorter; loopback devices stay down."""
        self.ip([f"netns add {name}" for name in names])
        try:
            yield
        finally:
            if self.vm.alive:
                self.ip([f"netns del {name}" for name in names], check=False)

    def ip(self, commands: list[str], *, netns: str = "", check: bool = True) -> None:
        """Have ip(8) carry out commands, all of them by one process."""
        options = f"-n {netns} " if netns else ""
        force = "" if check else "-force "
        lines = "\n".join(commands)
        self.sh(f"ip {options}{force}-batch - <<'END'\n{lines}\nEND", check=check)

    # --- counters

    def slab(self, cache: str, name: str) -> SlabStat:
        return counters.parse_slab_stat(self.read(f"/sys/kernel/slab/{cache}/{name}"))

    def slab_paths(self) -> dict[str, SlabStat]:
        """Return alloc and free counters of the buffer caches, by ``cache/counter``."""
        names = [
            f"/sys/kernel/slab/{cache}/{kind}_{path}"
            for cache in SKB_CACHES
            for kind in ("alloc", "free")
            for path in ("fastpath", "slowpath")
        ]
        return {
            name.removeprefix("/sys/kernel/slab/"): counters.parse_slab_stat(text)
            for name, text in self.files(*names).items()
        }

    def objects(self, *caches: str) -> dict[str, int]:
        """Return how many objects of each cache are in use.

        The allocator counts every object of a slab that a CPU has for itself as used.
        Shrinking takes those slabs away; a single allocation by anybody brings one back,
        so a count stands only if no CPU had a slab before it and none after it.
        """
        names = caches or SKB_CACHES
        found = self.sh(COUNT_OBJECTS.replace("$CACHES", " ".join(names)), timeout=30)
        counts = {
            cache: counters.parse_slab_objects(count)
            for cache, count in (line.split() for line in found.splitlines())
        }
        missing = set(names) - set(counts)
        assert not missing, f"CPUs never left these caches alone: {', '.join(missing)}"
        return counts

    @property
    def noise(self) -> int:
        """How many objects of a cache may come or go without anybody's doing."""
        return 8

    @property
    def forgets_when_offline(self) -> bool:
        """Objects are never given back that a CPU frees on its way offline.

        KASAN of v5.10 keeps freed objects in a quarantine. Of a CPU that is about to go
        its quarantine_put() takes none and tells nobody, so that SLUB counts them as used
        for ever. The baseline does that as well.
        """
        if "kasan" not in self.guest.memo:
            found = self.sh("zcat /proc/config.gz | grep -c ^CONFIG_KASAN_GENERIC=y", check=False)
            self.guest.memo["kasan"] = found.strip() == "1"
        return self.guest.memo["kasan"]

    @property
    def too_slow_to_look(self) -> bool:
        """A program takes longer to end here than buffers may wait: lists may be seen empty."""
        return bool(self.scale.slow > 2)

    @property
    def rt(self) -> bool:
        """The kernel is a PREEMPT_RT one."""
        if "rt" not in self.guest.memo:
            self.guest.memo["rt"] = "PREEMPT_RT" in self.sh("uname -v")
        return self.guest.memo["rt"]

    def kept(
        self,
        before: dict[str, int],
        *,
        noise: int | dict[str, int] | None = None,
        seconds: float = 8,
    ) -> dict[str, int]:
        """Return how many more objects there are than ``before``, by cache.

        Waits for sockets that nobody has open any more to give up (nets makes
        that short), at most ``seconds``, or until no more than ``noise`` are left,
        of every cache or of each.
        """
        noise = self.noise if noise is None else noise
        bearable = noise if isinstance(noise, dict) else dict.fromkeys(before, noise)
        deadline = time.monotonic() + self.scale.seconds(seconds)
        while True:
            now = self.objects(*before)
            kept = {cache: now[cache] - before[cache] for cache in before}
            if (
                all(n <= bearable[cache] for cache, n in kept.items())
                or time.monotonic() > deadline
            ):
                return kept
            time.sleep(0.3)

    def defer(self) -> DeferStat:
        return counters.parse_defer_stat(self.read(DEFER_STAT))

    def interrupts(self) -> dict[str, dict[int, int]]:
        return counters.parse_per_cpu_table(self.read("/proc/interrupts"))

    def drained(self, timeout: float = 2.0) -> DeferStat:
        """Wait until nothing is queued on any list; fails if that takes too long."""
        deadline = time.monotonic() + self.scale.seconds(timeout)
        while True:
            stat = self.defer()
            if stat.queued == 0:
                return stat
            assert time.monotonic() < deadline, f"{stat.queued} buffers are still queued"
            time.sleep(0.05)

    def settled(self, before: DeferStat, timeout: float = 3.0) -> dict[str, int]:
        """Wait until no more buffers are consumed; return what happened since ``before``."""
        deadline = time.monotonic() + self.scale.seconds(timeout)
        seen = 0
        while True:
            delta = self.defer() - before
            judged = sum(delta[verdict] for verdict in DEFER_VERDICTS)
            if judged and judged == seen:
                return delta
            assert time.monotonic() < deadline, f"buffers are still consumed: {delta}"
            seen = judged
            time.sleep(self.scale.seconds(0.2))

    def on_against_off(
        self, rate: Callable[[], float], *, floor: float, pairs: int = 3, most: int = 15
    ) -> float:
        """Return the median ratio of what ``rate`` returns with lists on and with lists off.

        It is above ``floor``. The runs are paired, and take turns at who is first. A host that
        has other things to do spoils a pair now and then: below ``floor``, there are more of
        them, up to ``most``. How fast a kernel is that checks itself says little: on a slow
        flavour one pair will do.
        """
        if self.scale.slow > 2:
            pairs = 1
        ratios: list[float] = []
        while len(ratios) < most:
            found = {}
            for value in ((64, 0), (0, 64))[len(ratios) % 2]:
                with self.limit(value):
                    found[value] = rate()
            ratios.append(found[64] / found[0])
            if len(ratios) >= pairs and statistics.median(ratios) > floor:
                break
        print(f"ratios: {[f'{ratio:.2f}' for ratio in ratios]}")
        ratio = statistics.median(ratios)
        assert ratio > floor, ratios
        return ratio

    @contextmanager
    def limit(self, value: int) -> Iterator[None]:
        """Set net.core.skb_defer_max for the body."""
        before = self.read(DEFER_MAX).strip()
        self.write(DEFER_MAX, str(value))
        try:
            yield
        finally:
            if self.vm.alive:
                self.write(DEFER_MAX, before)

    # --- traces

    @contextmanager
    def follow_skbs(self, *, kilobytes: int = 6144) -> Iterator[list[Trace]]:
        """Trace every buffer during the body; the list holds the trace afterwards."""
        script = guesttools.script("skbtrace")
        self.sh(f"{script} start {kilobytes}")
        result: list[Trace] = []
        try:
            yield result
        finally:
            if self.vm.alive:
                dump = f"{self.ringdump} {TRACING} {' '.join(traces.SKB_EVENTS)}"
                shown = self.sh(f"{script} stop; {dump}; {script} clear", timeout=60)
                result.append(traces.parse_raw(shown))

    def locality(self, trace: Trace) -> Locality:
        """Say where the buffers of a trace were freed."""
        assert trace.lost == 0, f"the trace lost {trace.lost} events: give it a larger buffer"
        sizes = (self.read(f"/sys/kernel/slab/{cache}/object_size") for cache in SKB_CACHES)
        skb_size, pair_size = map(int, sizes)
        return traces.locality(trace, skb_size=skb_size, pair_size=pair_size)

    @contextmanager
    def events(
        self, *names: str, clock: str = "mono", kilobytes: int = 2048
    ) -> Iterator[list[Trace]]:
        """Record trace events (``skb/skb_defer_free``) during the body."""
        on = "; ".join(f"echo 1 > {TRACING}/events/{name}/enable" for name in names)
        self.sh(
            f"cd {TRACING}; echo 0 > tracing_on; echo nop > current_tracer; echo 0 > events/enable;"
            f" echo {clock} > trace_clock; echo {kilobytes} > buffer_size_kb; echo > trace; {on};"
            " echo 1 > tracing_on"
        )
        result: list[Trace] = []
        try:
            yield result
        finally:
            if self.vm.alive:
                shown = self.sh(
                    f"cd {TRACING}; echo 0 > tracing_on; cat trace; echo 0 > events/enable;"
                    " echo > trace; echo 64 > buffer_size_kb",
                    timeout=60,
                )
                result.append(traces.parse_text(shown))

    @contextmanager
    def calls(self, *functions: str) -> Iterator[dict[str, int]]:
        """Count how often the kernel calls functions during the body (kprobes)."""
        define = "; ".join(f"echo 'p:calls/{name} {name}' >> kprobe_events" for name in functions)
        start = "echo 1 > events/calls/enable; echo 1 > tracing_on"
        self.sh(f"set -e; cd {TRACING}; {define}; {start}")
        counted: dict[str, int] = {}
        try:
            yield counted
        finally:
            if self.vm.alive:
                undo = "; ".join(f"echo '-:calls/{name}' >> kprobe_events" for name in functions)
                shown = self.sh(
                    f"cd {TRACING}; echo 0 > events/calls/enable; cat kprobe_profile;"
                    f" {undo}; echo 0 > tracing_on; echo > trace"
                )
                lines = [line.split() for line in shown.splitlines()]
                counted.update({name: int(hits) for name, hits, _ in lines if name in functions})
        assert counted.keys() == set(functions), shown

    def softnet(self) -> dict[str, int]:
        """Return the sums over all CPUs of what /proc/net/softnet_stat counts."""
        return counters.parse_softnet_stat(self.read("/proc/net/softnet_stat"))

    def event_fields(self, name: str) -> list[str]:
        """Return the names of a trace event's own fields."""
        text = self.read(f"{TRACING}/events/{name}/format")
        return [
            field
            for field in re.findall(r"field:[^;]*?(\w+)(?:\[\d+\])?;", text)
            if not field.startswith("common_")
        ]

    # --- faults

    @contextmanager
    def fault(self, name: str, **settings: object) -> Iterator[None]:
        """Inject failures (``failslab``, ``fail_function``) for the body."""
        base = f"/sys/kernel/debug/{name}"
        # The function first, since it makes further files; the probability last,
        # or failures begin before they are confined.
        order = {"inject": 0, "probability": 2}
        lines = [
            f"printf '%s\\n' '{value}' > {base}/{key.replace('_', '-')}"
            for key, value in sorted(settings.items(), key=lambda pair: order.get(pair[0], 1))
        ]
        self.sh("set -e; " + "; ".join(lines))
        try:
            yield
        finally:
            if self.vm.alive:
                reset = f"echo 0 > {base}/probability; echo 0 > {base}/times"
                if name == "fail_function":
                    reset += f"; echo > {base}/inject"
                self.sh(reset)

    @contextmanager
    def threads_kept_out(self, cpu: int) -> Iterator[None]:
        """The thread of a CPU's backlog, if there is one, does not run during the (short) body.

        Without such threads this does nothing.
        """
        if not self.sh("pgrep '^backlog_napi/'", check=False):
            yield
            return
        loop = ["bash", "-c", "echo; while :; do :; done"]
        busy = self.vm.start(["taskset", "-c", str(cpu), "chrt", "-f", "10", *loop])
        try:
            deadline = time.monotonic() + self.scale.seconds(10)
            while not busy.stdout:
                assert busy.poll() is None, f"nothing keeps CPU {cpu} busy: {busy.stderr}"
                assert time.monotonic() < deadline, f"nothing gets to keep CPU {cpu} busy"
                time.sleep(0.02)
            yield
        finally:
            if self.vm.alive:
                busy.kill(9)
                busy.wait(self.scale.seconds(10))

    @contextmanager
    def failing_kicks(self) -> Iterator[None]:
        """No IPI of the lists' can be sent during the body: each attempt ends with EBUSY."""
        with self.fault(
            "fail_function",
            inject="skb_defer_kick_ipi",
            verbose=0,
            task_filter="N",
            interval=1,
            times=-1,
            probability=100,
        ):
            self.sh(
                "cd /sys/kernel/debug/fail_function/skb_defer_kick_ipi;"
                " echo -16 > retval 2> /dev/null || echo 0xfffffffffffffff0 > retval"
            )
            yield
