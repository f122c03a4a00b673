"""Cache-line transfers and instructions per packet, from the simulation.

The only module here that knows :mod:`harness.coherence`. A guest with its plugin is booted for
each kernel and runs the cases one after the other: the plugin is many times slower than the
guest alone, so no times are taken, and arms need not take turns.
"""

from __future__ import annotations

import time
from collections import Counter as Counter_
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import coherence, progress
from harness.bench import arms, counts, figures, measure, networks
from harness.bench.arms import APPEND, Arm, Kind
from harness.bench.guests import CPUS, MEMORY, Guest
from harness.bench.measure import LoadFailed
from harness.bench.samples import Samples
from harness.bench.workloads import Case
from harness.coherence import Counter, Counts, Recorder
from harness.vm import (
    GuestCommandFailed,
    GuestCommandTimeout,
    GuestError,
    KernelImage,
    VmOptions,
    boot,
)

#: Arms that are simulated: the base, the series as it comes, and with what it can have beside.
ARMS = ("off", "defer", "defer+tx", "threads")

#: Seconds of guest time before and within a section: enough packets at a tenth of the speed.
WARM, SECONDS = 0.8, 1.0

#: Sections for each arm, of which the mean is reported.
SECTIONS = 2

#: How often an arm may fail, or end its guest, until it is left out.
_ATTEMPTS = 2

#: Functions that copy or sum payload, as far as v5.10 to v6.1 have them.
COPIES = (
    "copy_user_enhanced_fast_string",
    "copy_user_generic_string",
    "copy_user_generic_unrolled",
    "csum_partial_copy_generic",
    "do_csum",
    "csum_partial",
)

#: Functions that a profile keeps.
_TOP = 40


def inputs() -> list[str | bytes | Path]:
    """Return what decides what is counted, beside the case: the plugin's sources and sizes."""
    here = Path(coherence.__file__).parent
    return [f"{WARM} {SECONDS} {SECTIONS}", *sorted(here.glob("*.[ch]"))]


@contextmanager
def counting(
    kernel: KernelImage, kind: Kind, log_dir: Path, *, cpus: int = CPUS, numa: int = 0
) -> Iterator[tuple[Guest, Counter]]:
    """Boot a guest in which is counted; the plugin follows it from its boot on.

    Raises:
        GuestBootFailed: it does not come up.
        CoherenceError, CommandFailed: the plugin cannot be made or does not answer.
    """
    recorder = Recorder(log_dir / "coherence", what="lines")
    options = recorder.prepare(
        VmOptions(cpus=cpus, memory=MEMORY if cpus <= 8 else "2G", numa=numa, append=APPEND[kind])
    )
    with boot(kernel, options, log_dir=log_dir) as vm:
        counter = recorder.attach(vm)
        # All the time: what it costs to begin and to end is more than what it slows down between.
        with counter.following():
            yield Guest(kind, vm), counter


def section(guest: Guest, counter: Counter, case: Case, path: networks.Path) -> dict[str, Any]:
    """Count one section of a case; the plugin must be following.

    Returns:
        ``packets``, ``values`` (metric to value, per packet), and by function ``profile``
        (instructions per packet on the reading CPU, or all) and ``transfers``.

    Raises:
        LoadFailed: the traffic failed.
        CoherenceError: there was no section.
    """
    with counter.expect(case.name) as found:
        # Reading takes long here, and would be a part of the window that is not counted.
        window = measure.run(guest, case, path, files=counts.PACKETS, warm=WARM, seconds=SECONDS)
    number = measure.segments(case, path, window)
    if number < 10:
        raise LoadFailed(f"{case.name}: {number:.0f} packets in a section")
    return evaluate(case, found.counts, number)


def evaluate(case: Case, counted: Counts, packets: float) -> dict[str, Any]:
    """Return what :func:`section` returns."""
    total = counted.total.per(packets)
    by_cpu = counted.by_vcpu()
    both = [each for each in (case.sender, case.reader) if each is not None]
    ends = [by_cpu[cpu] for cpu in dict.fromkeys(both)] if len(both) == 2 else list(by_cpu)
    values = {
        figures.TRANSFERS: total["transfers"],
        figures.INSTRUCTIONS: total["instructions"],
        figures.BOTH: sum(each.instructions for each in ends) / packets,
    }
    if len(set(counted.nodes)) > 1:
        values[figures.REMOTE] = total["remote"]
    here = counted.by_function() if case.reader is None else counted.functions_of(case.reader)
    profile = {name: tally.instructions / packets for name, tally in here.items()}
    moved = {name: tally.transfers / packets for name, tally in counted.by_function().items()}
    return {
        "packets": packets,
        "values": values,
        "profile": _top(profile),
        "transfers": _top(moved),
        "nodes": len(set(counted.nodes)),
        "vcpus": counted.vcpus,
    }


def _top(values: Mapping[str, float]) -> dict[str, float]:
    first = sorted(values.items(), key=lambda item: -item[1])[:_TOP]
    return {name: round(value, 4) for name, value in first if value > 0}


def with_derived(case: Case, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section's counts for exactly its packets, and what no copy of the payload makes.

    Packets are counted from reading to reading, which an emulated CPU that is followed takes its
    time for; what is counted begins and ends between. Whoever reads a datagram calls some
    functions once, which execute the same instructions each time: they say how many datagrams
    were read in the section itself.
    """
    factor = 1.0
    if case.packets in ("received", "device"):
        for function, instructions in _ONCE.items():
            if found["profile"].get(function, 0.0) > 0:
                factor = instructions / found["profile"][function]
                break
    scaled = {
        group: {name: value * factor for name, value in found[group].items()}
        for group in ("values", "profile", "transfers")
    }
    copies = sum(scaled["transfers"].get(name, 0.0) for name in COPIES)
    scaled["values"][figures.BESIDE] = scaled["values"][figures.TRANSFERS] - copies
    # What a CPU does while it waits for a lock is not work, and here depends on the host.
    spun = scaled["profile"].get(_SPIN, 0.0)
    if figures.BOTH in scaled["values"]:
        scaled["values"][figures.WORK] = scaled["values"][figures.BOTH] - spun
    return {**found, **scaled, "packets_factor": factor}


#: Functions one of which runs once for each datagram that is read, and its instructions: counted
#: in the disassembly, the same in the base and the series. Another compiler's would change all
#: figures by one factor, and no ratio.
_ONCE = {"skb_copy_datagram_iter": 24.0, "inet_recvmsg": 26.0}

#: Where a CPU is that waits for a lock.
_SPIN = "queued_spin_lock_slowpath"


def mean(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of several sections of one arm, with the least and the most transfers."""
    first = dict(found[0])
    for group in ("values", "profile", "transfers"):
        names = dict.fromkeys(name for each in found for name in each[group])
        first[group] = {
            name: sum(each[group].get(name, 0.0) for each in found) / len(found) for name in names
        }
    first["packets"] = sum(each["packets"] for each in found)
    moved = [each["values"][figures.TRANSFERS] for each in found]
    first["transfers_range"] = [min(moved), max(moved)]
    return first


def simulate(
    kernels: Mapping[bool, KernelImage],
    cases: Sequence[Case],
    known: Callable[[Case], dict[str, Any]],
    keep: Callable[[Case, Mapping[str, Any]], None],
    log_dir: Path,
    in_time: Callable[[], None],
) -> None:
    """Count what has not been counted of each case, kernel by kernel.

    Args:
        kernels: the baseline (True) and the patched one (False).
        known, keep: return and keep what was counted of a case, arm by arm.
        in_time: raises if there is no more time; called before each arm.

    Raises:
        CoherenceError: the plugin cannot be made or does not answer.
    """
    line = progress.Line("bench, simulation")
    for kind in arms.KINDS:
        failed: Counter_[tuple[str, str]] = Counter_()
        while True:
            todo = [
                (case, arm)
                for case in cases
                if case.lines
                for arm in (arms.BY_NAME[name] for name in ARMS if name in case.arms)
                if arm.kind == kind
                and arm.name not in known(case)
                and failed[case.name, arm.name] < _ATTEMPTS
            ]
            if not todo:
                break
            in_time()
            started = time.monotonic()
            where = log_dir / f"lines-{kind}-{sum(failed.values())}"
            at = todo[0]
            try:
                with counting(kernels[kind in arms.BASELINES], kind, where) as (guest, counter):
                    for number, at in enumerate(todo, 1):
                        case, arm = at
                        in_time()
                        line.update(f"{kind}: {number} of {len(todo)}, {case.name}, {arm.name}")
                        try:
                            found = _arm(guest, counter, case, arm)
                        except (LoadFailed, GuestCommandFailed, GuestCommandTimeout) as err:
                            failed[case.name, arm.name] += 1
                            progress.say(f"simulating {case.name}, {arm.name}: {err.what}")
                            continue
                        keep(case, {**known(case), arm.name: found})
            except GuestError as err:
                failed[at[0].name, at[1].name] += 1
                progress.say(f"simulating {at[0].name}, {at[1].name}: {err.what}")
            taken = progress.seconds(time.monotonic() - started)
            progress.say(f"simulated {kind}, {len(todo)} to do: {taken}")


def _arm(guest: Guest, counter: Counter, case: Case, arm: Arm) -> dict[str, Any]:
    guest.apply(arm)
    with networks.network(guest, case.network) as path:
        return mean([section(guest, counter, case, path) for _ in range(SECTIONS)])


def profiles(known: Mapping[str, Samples], cases: Sequence[Case]) -> dict[str, Any]:
    """Return, for the cases of workload 1, what each arm's reading CPU executes, by function."""
    wanted = ("off", "defer", "threads")
    return {
        case.name: {
            arm: known[case.name].lines[arm]["profile"]
            for arm in wanted
            if arm in known[case.name].lines
        }
        for case in cases
        if case.workload == 1 and known[case.name].lines
    }
