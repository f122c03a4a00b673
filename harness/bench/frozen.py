"""Kernels as they were when a benchmark began: copies that work on the series does not change.

A full run takes an hour, and more where it has to wait for a quiet machine. What it has measured
speaks for the kernels that it was measured with, and would be void if they were built anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness import stamp
from harness.errors import HarnessError


class Measured(Protocol):
    """A kernel that can be booted and says what it is: a :class:`harness.build.Kernel` does."""

    @property
    def image(self) -> Path:
        """The bootable image."""

    @property
    def vmlinux(self) -> Path:
        """The ELF file with symbols."""

    @property
    def build_dir(self) -> Path:
        """The object directory."""

    def describe(self) -> dict[str, Any]:
        """Return what to record with every result obtained with this kernel."""


@dataclass(frozen=True)
class Frozen:
    """A kernel that was copied."""

    image: Path
    vmlinux: Path
    build_dir: Path
    facts: Mapping[str, Any]

    def describe(self) -> dict[str, Any]:
        """Return what the kernel said of itself when it was copied."""
        return dict(self.facts)


_NAMES = {True: "baseline", False: "patched"}


def freeze(kernels: Mapping[bool, Measured], directory: Path) -> None:
    """Copy the baseline (True) and the patched kernel (False); they appear whole or not at all."""
    part = directory.with_name(f".{directory.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for baseline, name in _NAMES.items():
        kernel = kernels[baseline]
        (part / name).mkdir(parents=True)
        for path in (kernel.image, kernel.vmlinux):
            shutil.copy2(path, part / name / path.name)
        facts = {**kernel.describe(), "image": kernel.image.name, "vmlinux": kernel.vmlinux.name}
        stamp.write_atomic(part / name / "kernel.json", json.dumps(facts, indent=1) + "\n")
    part.replace(directory)


def load(directory: Path) -> dict[bool, Measured]:
    """Return the kernels that were copied there.

    Raises:
        HarnessError: they are not what was copied.
    """
    found: dict[bool, Measured] = {}
    for baseline, name in _NAMES.items():
        here = directory / name
        try:
            facts = json.loads((here / "kernel.json").read_text())
            image, vmlinux = here / facts.pop("image"), here / facts.pop("vmlinux")
        except (OSError, ValueError, KeyError) as err:
            raise HarnessError(
                f"{here} does not hold a kernel: {err}", hint=f"remove {directory}"
            ) from err
        found[baseline] = Frozen(image, vmlinux, here, facts)
    return found
