"""Where something was measured: what a reader must know, without this machine's own names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from harness import accel, process, selfbench, series
from harness.bases import Base
from harness.bench import guests
from harness.bench.frozen import Measured

#: Characters of a digest that tell two apart.
_SHORT = 16


def describe(kernels: Mapping[bool, Measured]) -> dict[str, Any]:
    """Return accelerator, CPUs, NUMA layout, kernels and what else figures depend on.

    Args:
        kernels: the baseline (True) and the patched kernel (False).
    """
    machine = selfbench.machine()
    qemu = process.run([accel.QEMU, "--version"], timeout=20, check=False).output.splitlines()
    found: dict[str, Any] = {
        "accelerator": accel.probe().name.upper(),
        "host": f"{len(os.sched_getaffinity(0))} CPUs, {machine['cpu']}",
        "guests": f"{guests.CPUS} CPUs, {guests.MEMORY}, one NUMA node; two of the baseline, one "
        "patched, one with threads, alive at the same time, idle while another runs",
        "emulator": qemu[0] if qemu else "?",
        "compiler": machine["compiler"],
    }
    for baseline, name in ((True, "baseline kernel"), (False, "patched kernel")):
        facts = kernels[baseline].describe()
        found[name] = (
            f"{facts['release']} from {facts['source'].get('version', '?')}, "
            f"flavour {facts['flavour']}, configuration SHA-256 {facts['config_sha256'][:_SHORT]}"
        )
    return found


def of_series(base: Base, kernel: Measured) -> dict[str, Any]:
    """Return the name of the series, how many patches it has, and its digest."""
    patches = series.digest(base.patches)
    running = str(kernel.describe()["series"])
    found: dict[str, Any] = {
        "base": base.name,
        "patches": len(series.read(base.patches)),
        "sha256": series.code_digest(base.patches),
    }
    if running != patches:
        found["measured_sha256"] = f"{running} (the tree had changes of its own)"
    return found
