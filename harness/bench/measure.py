"""Runs a case's traffic in a guest once, and says what was read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness import guesttools, traces
from harness.bench import counts
from harness.bench.arms import BASELINES
from harness.bench.counts import Window
from harness.bench.guests import Guest
from harness.bench.networks import Path
from harness.bench.workloads import SEGMENT, Case
from harness.errors import HarnessError

#: Seconds, over what a run itself takes, that one may need on a busy machine; a case may ask
#: for another ``timeout``.
_LIMIT = 60

#: Seconds of a traced run, of which its window is the greater part; KiB of its buffer per CPU.
TRACED, _TRACE_KIB = 0.1, 6144

#: Seconds after which lists are empty (200 ms, as documented, and what an emulated CPU adds).
_DRAINED = 0.4

_TRACING = "/sys/kernel/tracing"


class LoadFailed(HarnessError):
    """The traffic program failed, or what it did is of no use."""


@dataclass
class Measured:
    """What one run said.

    Attributes:
        values: metric to value; ``throughput`` in the case's unit, latencies in us, and counts
            per 1,000 packets.
        packets: how many the window saw.
    """

    values: dict[str, float]
    packets: float
    seconds: float
    extra: dict[str, Any] = field(default_factory=dict)


def arguments(case: Case, path: Path, **more: object) -> list[str]:
    """Return the command line of ``load`` for a case."""
    wanted: dict[str, object] = {
        "addr": path.addr,
        "seconds": case.window,
        "timeout": _LIMIT,
        **case.load,
        "tx-netns": path.tx_netns,
        "rx-netns": path.rx_netns,
        "tx-dev": path.device,
        "rx-dev": path.rx_device,
        **more,
    }
    argv = [str(guesttools.tool("load"))]
    for name, value in wanted.items():
        if value is True:
            argv.append(f"--{name}")
        elif value is not None and value is not False:
            argv += [f"--{name}", str(value)]
    return argv


def run(
    guest: Guest,
    case: Case,
    path: Path,
    *,
    events: Sequence[str] = (),
    files: Sequence[str] | None = None,
    **more: object,
) -> Window:
    """Run ``load`` to its end and return its window.

    Args:
        events: trace events to count.
        files: what to read; everything that :func:`harness.bench.counts.totals` looks at
            unless given.

    Raises:
        LoadFailed: it failed, or saw errors.
    """
    argv = arguments(case, path, **more)
    if files is None:
        files = [*counts.FILES, *([counts.DEFER] if guest.kind not in BASELINES else [])]
    for name in files:
        argv += ["--file", name]
    for event in events:
        argv += ["--event", event]
    limit = float(str(case.load.get("timeout", _LIMIT)))
    done = guest.vm.run(argv, timeout=limit + 20, check=False)
    if done.returncode != 0:
        why = "ran out of time" if done.returncode == 3 else done.stderr.strip()
        raise LoadFailed(f"{case.name}: load ended with {done.returncode}: {why}")
    return counts.window(json.loads(done.stdout))


def packets(case: Case, path: Path, found: Window) -> float:
    """Return how many packets the window saw, counted as the case says."""
    if case.packets == "received":
        return float(found.own("received"))
    if case.packets == "device":
        reader = counts.device(path.device, "tx_packets")
        return found.grew("tx:/proc/thread-self/net/dev", reader)
    return found.grew("rx:/proc/thread-self/net/snmp", counts.snmp("Ip", "InReceives"))


def segments(case: Case, path: Path, found: Window) -> float:
    """Return the packets of a window; of a stream, what it carried, in segments.

    How much one skb of a stream holds depends on how far the reader lags behind.
    """
    if case.rate != "Mbit/s":
        return packets(case, path, found)
    return found.own("received_bytes") / int(str(case.load.get("mss", SEGMENT)))


def evaluate(case: Case, path: Path, found: Window) -> Measured:
    """Return throughput, latencies and counts per 1,000 packets.

    Raises:
        LoadFailed: hardly anything went through.
    """
    number = packets(case, path, found)
    if number < 10:
        raise LoadFailed(f"{case.name}: {number:.0f} packets in {found.seconds:.1f} s")
    rate = {
        "Mbit/s": found.own("received_bytes") * 8 / 1e6,
        "packets/s": number,
        "requests/s": float(found.own("sent")),
    }[case.rate]
    values = {"throughput": rate / found.seconds}
    for histogram in case.latencies:
        times = found.raw.get(histogram)
        for part in ("p50", "p99", "p99.9"):
            if times:
                values[f"{histogram} {part}"] = float(times[part])
    for name, count in counts.totals(found).items():
        values[name] = 1000 * count / number
    return Measured(values, number, found.seconds)


# --- where buffers are freed, and events -------------------------------------------


def define_probes(guest: Guest) -> list[str]:
    """Define the probes that the kernel takes, and return the events that can be counted.

    Behind the 5 bytes of a function's entry where the kernel takes them there, as ``skbtrace``
    does: at the entry interrupts are on while ftrace does the work, and what one of them frees
    then is missed by the probe that follows buffers.
    """
    lines = [
        f"for f in {' '.join(counts.PROBES)}; do",
        '  for n in $f $(grep -om1 " [tT] $f\\.[a-z0-9.]*$" /proc/kallsyms | cut -c4-); do',
        "    for at in $n+5 $n; do",
        f"      echo p:{counts.GROUP}/$f $at 2>/dev/null >> {_TRACING}/kprobe_events && break 2",
        "    done",
        "  done",
        "done",
        f"cd {_TRACING}/events && ls -d {counts.GROUP}/*/ "
        f"{' '.join(sorted({name.partition(':')[0] for name in counts.EVENTS}))} 2>/dev/null",
    ]
    shown = {line.rstrip("/:") for line in guest.sh("\n".join(lines), check=False).splitlines()}
    events = [event for event in counts.EVENTS if event.partition(":")[0] in shown]
    return events + [f"{counts.GROUP}/{each}" for each in counts.PROBES if _is(each, shown)]


def _is(probe: str, shown: set[str]) -> bool:
    return f"{counts.GROUP}/{probe}" in shown


def follow(guest: Guest, case: Case, path: Path, events: Sequence[str]) -> Measured:
    """Follow every buffer of a short run from its allocation to its release; count events.

    Its times are worth nothing: every allocation and release is recorded.

    Raises:
        LoadFailed: as for :func:`run`, or the trace lost events although it was short.
    """
    script = guesttools.script("skbtrace")
    dump = f"{guesttools.tool('ringdump')} {_TRACING} {' '.join(traces.SKB_EVENTS)}"
    seconds = TRACED
    for _ in range(4):
        # Probes are set before there is traffic: set in code that all CPUs run, one of them may
        # wait for the others for ever on an emulated machine.
        guest.sh(f"{script} start {_TRACE_KIB}; echo 0 > {_TRACING}/tracing_on")
        try:
            found = run(
                guest,
                case,
                path,
                events=events,
                # What is read takes its time, in which everything is recorded as well.
                files=(*counts.PACKETS, *counts.PAIRS),
                seconds=seconds,
                rest=_DRAINED,
                begin=f"echo 1 > {_TRACING}/tracing_on",
                end=f"echo 0 > {_TRACING}/tracing_on",
            )
        finally:
            shown = guest.sh(f"{script} stop; {dump}; {script} clear", timeout=120)
        trace = traces.parse_raw(shown)
        if not trace.lost:
            break
        seconds /= 3
    else:
        raise LoadFailed(f"{case.name}: the trace loses events however short it is")
    sizes = [
        int(guest.vm.read_file(f"/sys/kernel/slab/{cache}/object_size"))
        for cache in counts.SKB_CACHES
    ]
    where = traces.locality(trace, skb_size=sizes[0], pair_size=sizes[1])
    number = packets(case, path, found)
    happened = counts.events(found, counts.batch(guest.vm.read_file("/proc/zoneinfo")))
    values = {name: 1000 * count / max(number, 1) for name, count in happened.items()}
    known = sum(where.pairs.values())
    if known:
        values["read skbs freed elsewhere, %"] = 100 * (known - where.home) / known
    hits = counts.tx_cache_hits(found)
    if hits is not None:
        values["tx cache hits, %"] = hits
    pairs = {f"{born} to {freed}": count for (born, freed), count in sorted(where.pairs.items())}
    extra = {
        "followed": known,
        "unknown": where.unknown,
        "pairs": pairs,
        "seconds": found.seconds,
    }
    return Measured(values, number, found.seconds, extra)
