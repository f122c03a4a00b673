"""Where the CPUs of a guest are that no longer answers.

QEMU tells their registers whatever state the guest is in; an NMI then makes
the kernel (booted with ``unknown_nmi_panic``) print the stack of one of them.
"""

from __future__ import annotations

import re
import time

from harness import symbols
from harness.errors import HarnessError
from harness.symbols import Symbols
from harness.vm.machine import Machine
from harness.vm.options import KernelImage

#: Seconds to wait for what the kernel says to an NMI.
NMI_GRACE = 8.0

#: Seconds for nm to list the kernel's symbols.
NM_TIMEOUT = 10.0

_CPU = re.compile(r"^CPU#(\d+)", re.MULTILINE)
_RIP = re.compile(r"\bRIP=([0-9a-f]+)")
_HALTED = re.compile(r"\bHLT=1")


def examine(machine: Machine, kernel: KernelImage) -> str:
    """Return one line per CPU; what the kernel says to an NMI goes to the console.

    Takes at most about 25 s. The guest is of no use afterwards.
    """
    registers = machine.monitor("info registers -a") or ""
    lines = []
    known = _symbols(kernel)
    parts = _CPU.split(registers)
    for number, text in zip(parts[1::2], parts[2::2], strict=True):
        match = _RIP.search(text)
        if match is None:
            continue
        address = int(match[1], 16)
        state = ", halted" if _HALTED.search(text) else ""
        lines.append(f"CPU {number}: {address:016x} {_name(known, address)}{state}")
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


def _symbols(kernel: KernelImage) -> Symbols:
    try:
        return symbols.read(kernel.vmlinux, timeout=NM_TIMEOUT)
    except HarnessError:
        return Symbols((), (), {})


def _name(found: Symbols, address: int) -> str:
    name, offset = found.place(address)
    return name if name.startswith("(") else f"{name}+{offset:#x}"
