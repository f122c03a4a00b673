"""Where the CPUs of a guest are that no longer answers.

QEMU tells their registers whatever state the guest is in; an NMI then makes
the kernel (booted with ``unknown_nmi_panic``) print the stack of one of them.
"""

from __future__ import annotations

import bisect
import re
import time

from harness import process
from harness.errors import HarnessError
from harness.vm.machine import Machine
from harness.vm.options import KernelImage

#: Seconds to wait for what the kernel says to an NMI.
NMI_GRACE = 8.0

_CPU = re.compile(r"^CPU#(\d+)", re.MULTILINE)
_RIP = re.compile(r"\bRIP=([0-9a-f]+)")
_HALTED = re.compile(r"\bHLT=1")


def examine(machine: Machine, kernel: KernelImage) -> str:
    """Return one line per CPU; what the kernel says to an NMI goes to the console.

    Takes at most about 25 s. The guest is of no use afterwards.
    """
    registers = machine.monitor("info registers -a") or ""
    lines = []
    symbols = _symbols(kernel) if registers else []
    parts = _CPU.split(registers)
    for number, text in zip(parts[1::2], parts[2::2], strict=True):
        match = _RIP.search(text)
        if match is None:
            continue
        address = int(match[1], 16)
        state = ", halted" if _HALTED.search(text) else ""
        lines.append(f"CPU {number}: {address:016x} {_name(symbols, address)}{state}")
    size = machine.console.mark(flush=False)
    if machine.monitor("nmi") is not None:
        deadline = time.monotonic() + NMI_GRACE
        with machine.changed:
            while not machine.ended and time.monotonic() < deadline:
                machine.changed.wait(0.25)
        if machine.console.mark(flush=False) == size:
            lines.append("the kernel did not answer an NMI")
    elif not registers:
        lines.append("QEMU's monitor did not answer")
    return "\n".join(lines)


def _symbols(kernel: KernelImage) -> list[tuple[int, str]]:
    try:
        listed = process.run(["nm", kernel.vmlinux], timeout=10, split_stderr=True).output
    except HarnessError:
        return []
    found = []
    for line in listed.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in "tTwW":
            found.append((int(words[0], 16), words[2]))
    return sorted(found)


def _name(symbols: list[tuple[int, str]], address: int) -> str:
    at = bisect.bisect_right(symbols, (address, "\x7f")) - 1
    if at < 0 or address - symbols[at][0] > 1 << 20:
        return "(user space)" if address < 1 << 47 else "(unknown)"
    return f"{symbols[at][1]}+{address - symbols[at][0]:#x}"
