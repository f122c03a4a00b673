"""What a source is, and the ways in which getting one can fail."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import HarnessError

Origin = Literal["distribution", "kernel.org", "local"]


@dataclass(frozen=True)
class Source:
    """The kernel source that a tree was or will be made from.

    Attributes:
        base: name of the base, e.g. ``v5.10``.
        version: the point release, e.g. ``5.10.262``.
        origin: where it came from.
        checksum: SHA-256 (hex) of the archive; for a local tree, the git tree's
            name, or a fingerprint of the files if it is not a checkout.
        archive: the verified archive (a .deb or a .tar.xz), unless local.
        rt_patch: the PREEMPT_RT patch that goes with it (.patch.xz), if there is one.
        path: the person's own tree, if local.
        package_version: the distribution's full version, e.g. ``5.10.262-1``.
    """

    base: str
    version: str
    origin: Origin
    checksum: str
    archive: Path | None = None
    rt_patch: Path | None = None
    path: Path | None = None
    package_version: str = ""

    def describe(self) -> dict[str, str]:
        """Return what to record with a result: version, origin, checksum."""
        return {
            "version": self.package_version or self.version,
            "origin": self.origin,
            "checksum": self.checksum,
        }


class SourceError(HarnessError):
    """Kernel source could not be had."""


class NoNetwork(SourceError):
    """The archive's server could not be reached."""


class NotThere(SourceError):
    """The archive was reached and does not have it."""


class BadSignature(SourceError):
    """An index is not signed by the key that it should be signed by."""


class BadChecksum(SourceError):
    """A file differs from what its signed or published checksum says."""


class NotAKernel(SourceError):
    """A directory that was given as kernel source is not one."""

    status = 2


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


def newer(left: str, right: str) -> bool:
    """Tell whether point release ``left`` is newer than ``right`` (numbers, dots between)."""
    return _numbers(left) > _numbers(right)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
