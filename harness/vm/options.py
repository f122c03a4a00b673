"""What a guest is made of, and what a kernel has to offer to be booted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.errors import UsageError

_UNITS = {"": 1, "M": 1, "G": 1024}
_PATH = re.compile(r"[a-zA-Z0-9_+ /.-]+")

MAX_CPUS = 64


class KernelImage(Protocol):
    """A built kernel: what :class:`harness.build.Kernel` provides."""

    @property
    def image(self) -> Path:
        """The bootable image."""

    @property
    def vmlinux(self) -> Path:
        """The ELF file with symbols, for decoding stacks."""

    @property
    def build_dir(self) -> Path:
        """The object directory; its ``source`` link leads to the source tree."""


@dataclass(frozen=True)
class VmOptions:
    """What a guest is made of.

    Attributes:
        cpus: 1 to 64.
        memory: as QEMU writes it: ``512M``, ``2G``.
        numa: number of NUMA nodes to divide CPUs and memory among; 0 for none.
        append: arguments added to the kernel's command line.
        rwdirs: host directories that the guest may write to.
        boot_timeout: seconds for the guest to answer its first ping; None: by
            the number of CPUs and whether KVM is there.
        hang_after: seconds without a sign of life after which a guest counts as hung.
        accel: ``"kvm"`` or ``"tcg"`` to insist on one; None probes.
        qemu_args: arguments added to QEMU's, e.g. ``("-plugin", "FILE.so")``.
    """

    cpus: int = 2
    memory: str = "1G"
    numa: int = 0
    append: tuple[str, ...] = ()
    rwdirs: tuple[Path, ...] = ()
    boot_timeout: float | None = None
    hang_after: float = 90.0
    accel: str | None = None
    qemu_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.cpus <= MAX_CPUS:
            raise UsageError(f"{self.cpus} CPUs: from 1 to {MAX_CPUS} are possible")
        if self.numa < 0 or self.numa > self.cpus:
            raise UsageError(f"{self.numa} NUMA nodes need at least as many CPUs, not {self.cpus}")
        megabytes = self.megabytes
        if megabytes < 128:
            raise UsageError(f"{self.memory} of memory is too little to boot: give at least 128M")
        for word in self.append:
            if '"' in word or "\n" in word:
                raise UsageError(f"a kernel argument cannot be quoted: {word!r}")
        for directory in self.rwdirs:
            if not _PATH.fullmatch(str(directory)):
                raise UsageError(f"a shared directory needs a plain name, not {str(directory)!r}")
            if not directory.is_dir():
                raise UsageError(f"{directory} is not a directory")

    @property
    def megabytes(self) -> int:
        """Memory in MiB.

        Raises:
            UsageError: it is not written as QEMU writes it.
        """
        match = re.fullmatch(r"(\d+)([MG]?)", self.memory)
        if not match:
            raise UsageError(f"memory {self.memory!r}: write it like 512M or 2G")
        return int(match[1]) * _UNITS[match[2]]

    def nodes(self) -> list[tuple[int, str]]:
        """Return (MiB, CPU range) of every NUMA node; together they are all there is."""
        nodes = []
        for node in range(self.numa):
            first, end = (self.cpus * at // self.numa for at in (node, node + 1))
            low, high = (self.megabytes * at // self.numa for at in (node, node + 1))
            # QEMU wants nodes in whole pages of 2 MiB.
            low, high = (value if value == self.megabytes else value & ~1 for value in (low, high))
            cpus = f"cpus={first}-{end - 1}" if end - first > 1 else f"cpus={first}"
            nodes.append((high - low, cpus))
        return nodes
