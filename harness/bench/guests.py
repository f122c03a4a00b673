"""Guests: one for each kernel, alive at the same time, so that arms can take turns."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol

from harness.bench.arms import APPEND, BASELINES, Arm, Kind
from harness.vm import GuestBootFailed, GuestProcess, KernelImage, Vm, VmOptions, boot

#: CPUs of a guest, and what a guest has of memory (it needs a fifth of that).
CPUS, MEMORY = 4, "768M"

#: An emulator that does not start is given one more chance.
_ATTEMPTS = 2


class Runner(Protocol):
    """What networks and workloads need of a guest."""

    def sh(self, script: str, *, timeout: float = 30, check: bool = True) -> str:
        """Run a bash script and return what it printed."""

    def start(self, argv: list[str]) -> GuestProcess:
        """Start a program and return at once."""


class Guest:
    """A booted guest of one kind."""

    def __init__(self, kind: Kind, vm: Vm) -> None:
        self.kind = kind
        self.vm = vm
        self._settings: dict[str, int] = {}

    def sh(self, script: str, *, timeout: float = 30, check: bool = True) -> str:
        """Run a bash script and return what it printed.

        Raises:
            GuestCommandFailed: it ended with another status than 0, and ``check``.
        """
        return self.vm.run(script, timeout=timeout, check=check).stdout

    def start(self, argv: list[str]) -> GuestProcess:
        """Start a program and return at once."""
        return self.vm.start(argv)

    def apply(self, arm: Arm) -> None:
        """Set what the arm sets; connections made from now on are the arm's."""
        for path, value in arm.settings.items():
            if self._settings.get(path) != value:
                self.vm.write_file(f"/proc/sys/{path}", f"{value}\n")
                self._settings[path] = value


class Guests:
    """The guests of a run, booted when they are first asked for. Use it as a context manager."""

    def __init__(
        self, kernels: Mapping[bool, KernelImage], log_dir: Path, *, cpus: int = CPUS, numa: int = 0
    ) -> None:
        """Remember what to boot.

        Args:
            kernels: the kernel of the baseline (True) and the patched one (False).
        """
        self._kernels = kernels
        self._log_dir = log_dir
        self._cpus = cpus
        self._numa = numa
        self._guests: dict[Kind, Guest] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Guests:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._guests.clear()
        self._stack.close()

    def get(self, kind: Kind) -> Guest:
        """Return the guest of a kind.

        Raises:
            GuestBootFailed: it does not come up, twice.
        """
        if kind not in self._guests:
            options = VmOptions(
                cpus=self._cpus, memory=MEMORY, numa=self._numa, append=APPEND[kind]
            )
            kernel = self._kernels[kind in BASELINES]
            for attempt in range(1, _ATTEMPTS + 1):
                where = self._log_dir / f"guest-{kind}-{attempt}"
                try:
                    vm = self._stack.enter_context(boot(kernel, options, log_dir=where))
                    break
                except GuestBootFailed:
                    if attempt == _ATTEMPTS:
                        raise
            self._guests[kind] = Guest(kind, vm)
        return self._guests[kind]

    @property
    def booted(self) -> Mapping[Kind, Guest]:
        """Those that are there."""
        return dict(self._guests)
