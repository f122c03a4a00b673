"""Where the CPUs of a hung guest are: names for addresses, and monitors that do not answer."""

from __future__ import annotations

import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.console import Console
from harness.vm import autopsy

pytestmark = pytest.mark.host

#: What QEMU 7.2 prints for `info registers -a`, cut.
REGISTERS = """
CPU#0
RAX=0000000000000000 RBX=0000000000000000
RIP={spin:016x} RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0

CPU#1
RAX=0000000000000000 RBX=0000000000000000
RIP={idle:016x} RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1

CPU#2
RIP=00007f1234567890 RFL=00000246 HLT=0

CPU#3
RIP=ffffffffff600000 RFL=00000246 HLT=0

CPU#4
EAX=00000000 EIP=0000fff0
"""


@dataclass
class Kernel:
    vmlinux: Path
    image: Path = Path()
    build_dir: Path = Path()


@dataclass
class Machine:
    """What an autopsy needs of a guest: a console, a monitor, and the news of its end."""

    console: Console
    answers: dict[str, str | None]
    #: What the kernel says to an NMI.
    says: bytes = b""
    asked: list[str] = field(default_factory=list)
    changed: Any = field(default_factory=threading.Condition)
    ended: bool = False

    def monitor(self, command: str) -> str | None:
        self.asked.append(command)
        if command == "nmi":
            self.console.feed(self.says)
        return self.answers.get(command)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """A program with two functions in a kernel's place."""
    top = tmp_path_factory.mktemp("vmlinux")
    (top / "x.c").write_text(
        "int data = 1;\n"
        'void spin(void) { __asm__ volatile(".skip 64"); }\n'
        'void idle(void) { __asm__ volatile(".skip 64"); }\n'
    )
    words = ["gcc", "-O0", "-nostdlib", "-static", "-Wl,-Ttext=0xffffffff81000000", "-Wl,-eidle"]
    subprocess.run(
        [*words, "-mcmodel=kernel", "-fno-pie", "-no-pie", "-o", top / "vmlinux", top / "x.c"],
        check=True,
        timeout=60,
    )
    return Kernel(top / "vmlinux")


def address(kernel: Kernel, name: str) -> int:
    shown = subprocess.run(["nm", kernel.vmlinux], capture_output=True, text=True, check=True)
    return next(
        int(line.split()[0], 16) for line in shown.stdout.splitlines() if line.endswith(f" {name}")
    )


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autopsy, "NMI_GRACE", 0.3)


def examine(machine: Machine, kernel: Kernel) -> list[str]:
    return autopsy.examine(machine, kernel).splitlines()  # type: ignore[arg-type]


def test_each_cpu_has_a_line(tmp_path: Path, kernel: Kernel) -> None:
    spin, idle = address(kernel, "spin"), address(kernel, "idle")
    shown = REGISTERS.format(spin=spin + 0x1C, idle=idle)
    machine = Machine(
        Console(tmp_path / "log"),
        {"info registers -a": shown, "nmi": ""},
        b"[    9.1] Kernel panic - not syncing: NMI: Not continuing\n",
    )
    assert examine(machine, kernel) == [
        f"CPU 0: {spin + 0x1C:016x} spin+0x1c",
        f"CPU 1: {idle:016x} idle+0x0, halted",
        "CPU 2: 00007f1234567890 (user space)",
        "CPU 3: ffffffffff600000 (unknown)",
    ]
    assert machine.asked == ["info registers -a", "nmi"]


def test_a_kernel_that_is_deaf_to_an_nmi(tmp_path: Path, kernel: Kernel) -> None:
    machine = Machine(Console(tmp_path / "log"), {"info registers -a": "", "nmi": ""})
    assert examine(machine, kernel) == ["the kernel did not answer an NMI"]


def test_a_monitor_that_is_gone(tmp_path: Path, kernel: Kernel) -> None:
    machine = Machine(Console(tmp_path / "log"), {})
    assert examine(machine, kernel) == ["QEMU's monitor did not answer"]


def test_without_symbols_the_addresses_are_left(tmp_path: Path) -> None:
    shown = REGISTERS.format(spin=0xFFFFFFFF81000010, idle=0xFFFFFFFF81000020)
    machine = Machine(Console(tmp_path / "log"), {"info registers -a": shown})
    lines = examine(machine, Kernel(tmp_path / "none"))
    assert lines[0] == "CPU 0: ffffffff81000010 (unknown)"
    assert len(lines) == 4
