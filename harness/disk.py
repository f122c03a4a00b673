"""Is there room, and may we write there? Asked before a step starts, not when it is half done."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import HarnessError


class DiskTooSmall(HarnessError):
    """A file system lacks the space (or the inodes) that a step needs."""


class NotPermitted(HarnessError):
    """A file or directory that a step needs may not be written (or read)."""


def free_mib(directory: Path) -> int:
    """Return the MiB that this user can still write to the file system of ``directory``."""
    found = os.statvfs(_existing(directory))
    return found.f_bavail * found.f_frsize // (1 << 20)


def need(directory: Path, mib: int, what: str, *, files: int = 0) -> None:
    """Make sure that a step has the space it needs before it starts.

    Args:
        directory: where the step will write; it need not exist yet.
        mib: MiB that the step needs at its peak.
        what: the step, as the message names it, e.g. ``"unpacking v5.10"``.
        files: how many files it makes.

    Raises:
        DiskTooSmall: naming the directory, what is free and what is needed.
        NotPermitted: the directory, or the nearest one above it, may not be written.
    """
    there = _existing(directory)
    if not os.access(there, os.W_OK | os.X_OK):
        raise NotPermitted(
            f"{what}: no permission to write {there}",
            hint=f"make {there} writable for this user, or set SKBHOME_BUILD to another directory",
        )
    free = free_mib(directory)
    if free < mib:
        raise DiskTooSmall(
            f"{what} needs {mib} MiB in {directory}, and {free} MiB are free",
            hint="free some space, or set SKBHOME_BUILD to a directory on a larger file system",
        )
    inodes = os.statvfs(there)
    # Some file systems (btrfs) have no fixed number of inodes and say 0.
    if inodes.f_files and inodes.f_favail < files:
        raise DiskTooSmall(
            f"{what} needs {files} inodes in {directory}, and {inodes.f_favail} are free",
            hint="remove some files, or set SKBHOME_BUILD to a directory on another file system",
        )


@contextmanager
def guard(what: str) -> Iterator[None]:
    """Turn "no permission" and "no space" from the operating system into a named error.

    Raises:
        NotPermitted, DiskTooSmall: in place of the OSError, naming the file.
    """
    try:
        yield
    except OSError as err:
        name = err.filename or "a file"
        if err.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise NotPermitted(
                f"{what}: no permission for {name}",
                hint="make it accessible to this user, or set SKBHOME_BUILD to another directory",
            ) from err
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskTooSmall(
                f"{what}: no space left for {name}",
                hint="free some space, or set SKBHOME_BUILD to a directory elsewhere",
            ) from err
        raise


def _existing(path: Path) -> Path:
    """Return the nearest directory at or above ``path`` that is there for this user."""
    path = path.absolute()
    while path != path.parent:
        with suppress(PermissionError):
            if path.exists():
                break
        path = path.parent
    return path
