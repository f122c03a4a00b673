"""Workload 2 on guests of more CPUs, for the model: counts alone, from the simulation.

An emulated guest may have more CPUs than the machine: how often something happens for a packet
is told by what the kernel does, and hardly by how long it takes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness import progress, stamp
from harness.bench import arms, counts, figures, lines, measure, networks, workloads
from harness.bench.workloads import Case
from harness.vm import GuestCommandFailed, GuestCommandTimeout, KernelImage

#: CPUs of the guests, each with two NUMA nodes.
CPUS = (2, 4, 8, 16)
NODES = 2

ARMS = ("off", "defer")

#: Seconds for each CPU of a guest that a run may take: few of them run at a time.
_PER_CPU = 30


def case(cpus: int) -> Case:
    """Return workload 2 for a guest of that many CPUs: as many queues, 8 flows for each."""
    base = next(each for each in workloads.all_cases() if each.name == "flows-128")
    queues = min(cpus, 16)
    network = dataclasses.replace(
        base.network, queues=queues, reader=(",".join(map(str, range(queues))), "")
    )
    load = {
        **base.load,
        "flows": 8 * cpus,
        "tx-threads": max(1, cpus // 2),
        "rx-threads": max(1, cpus // 2),
        "timeout": max(60, _PER_CPU * cpus),
    }
    return dataclasses.replace(base, name=f"scaling-{cpus}", network=network, load=load)


def run(
    kernels: Mapping[bool, KernelImage],
    file: Path,
    key: str,
    log_dir: Path,
    in_time: Callable[[], None],
) -> None:
    """Count what is missing, and keep each guest's counts as soon as they are there.

    Raises:
        CoherenceError, GuestError: the plugin or a guest failed.
    """
    found = known(file, key)
    for cpus in CPUS:
        for name in ARMS:
            label = f"{name} {cpus}"
            if label in found:
                continue
            in_time()
            arm = arms.BY_NAME[name]
            mine = case(cpus)
            where = log_dir / f"scaling-{name}-{cpus}"
            try:
                with lines.counting(
                    kernels[arm.kind in arms.BASELINES], arm.kind, where, cpus=cpus, numa=NODES
                ) as (guest, counter):
                    guest.apply(arm)
                    with networks.network(guest, mine.network) as path:
                        events = measure.define_probes(guest)
                        batch = counts.batch(guest.vm.read_file("/proc/zoneinfo"))
                        # It marks a section of its own, which is not what is wanted here.
                        with counter.expect("events"):
                            window = measure.run(
                                guest, mine, path, events=events, seconds=2.0, warm=1.0
                            )
                        number = measure.segments(mine, path, window)
                        counted = lines.section(guest, counter, mine, path)
            except (measure.LoadFailed, GuestCommandFailed, GuestCommandTimeout) as err:
                progress.say(f"{label} CPUs: {err.what}")
                continue
            happened = counts.events(window, batch)
            found[label] = {
                "cpus": cpus,
                "arm": name,
                "packets": number,
                "zone": happened.get("zone-lock takings", 0.0) / number,
                "transfers": counted["values"][figures.TRANSFERS],
                "remote": counted["values"].get(figures.REMOTE, 0.0),
                "instructions": counted["values"][figures.INSTRUCTIONS],
            }
            stamp.write(file, key, found)
            progress.say(f"scaling: {label} CPUs")


def known(file: Path, key: str) -> dict[str, Any]:
    """Return what was counted: ``ARM CPUS`` to what happened for a packet."""
    found = stamp.read(file)
    return {} if found is None or found[0] != key else dict(found[1])
