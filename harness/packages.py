"""The Debian packages that the harness calls programs of, and how to get the missing ones."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import process
from harness.errors import CommandFailed, CommandTimeout, HarnessError

#: Seconds for fetching the lists, and for fetching and unpacking the packages.
UPDATE_TIMEOUT = 300.0
INSTALL_TIMEOUT = 1200.0

#: Seconds that apt itself waits for another apt or dpkg to end.
LOCK_WAIT = 300


@dataclass(frozen=True)
class Package:
    """One Debian package.

    Attributes:
        name: as apt knows it.
        needed_for: what does not work without it, for people.
        optional: the main job works without it.
    """

    name: str
    needed_for: str
    optional: bool = False


_KERNEL = "building a kernel"

PACKAGES: tuple[Package, ...] = (
    Package("git", "keeping the kernel tree and applying the series"),
    Package("ca-certificates", "fetching a kernel over https"),
    Package("gpgv", "checking the signatures of the distribution's archive"),
    Package("xz-utils", "unpacking a kernel"),
    Package("gcc", _KERNEL),
    Package("make", _KERNEL),
    Package("libc6-dev", _KERNEL),
    Package("flex", _KERNEL),
    Package("bison", _KERNEL),
    Package("bc", _KERNEL),
    Package("perl-base", _KERNEL),
    Package("cpio", _KERNEL),
    Package("kmod", _KERNEL),
    Package("libelf-dev", _KERNEL),
    Package("libssl-dev", _KERNEL),
    Package("ccache", "building a second kernel in a fraction of the time", optional=True),
    Package("sparse", "checking a series' types and address spaces", optional=True),
    Package("git-email", "sending a series", optional=True),
    # Debian's git-email only recommends it, and does not work without it.
    Package("libmailtools-perl", "sending a series", optional=True),
    Package("qemu-system-x86", "booting a kernel"),
    Package("iproute2", "the tests' networks"),
)


class PackagesMissing(HarnessError):
    """Packages are needed and could not be installed."""


def missing(packages: Iterable[Package] = PACKAGES) -> list[Package]:
    """Return the packages that are not installed.

    Raises:
        HarnessError: this is not a Debian system.
    """
    wanted = list(packages)
    if shutil.which("dpkg-query") is None:
        raise HarnessError(
            "this is not a Debian system: there is no dpkg-query",
            hint="install what these packages hold with the system's own tools: "
            + " ".join(package.name for package in wanted),
        )
    done = process.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n"]
        + [package.name for package in wanted],
        timeout=30,
        check=False,  # a package it has never heard of gives status 1
        split_stderr=True,
    )
    there = {
        line.split()[1] for line in done.output.splitlines() if line.split()[:1] == ["installed"]
    }
    return [package for package in wanted if package.name not in there]


def ensure(packages: Iterable[Package] = PACKAGES, *, log: Path | None = None) -> list[Package]:
    """Install what is missing and return it; an empty list if all was there.

    Raises:
        PackagesMissing: with the command that a person with the right can run. That only
            optional ones could not be had is said, and no error.
    """
    wanted = list(packages)
    try:
        return _ensure(wanted, log)
    except PackagesMissing as err:
        if not all(package.optional for package in missing(wanted)):
            raise
        print(f"note: {err}\nnote: it goes on without them", file=sys.stderr, flush=True)
        return []


def _ensure(packages: Sequence[Package], log: Path | None) -> list[Package]:
    absent = missing(packages)
    if not absent:
        return []
    names = [package.name for package in absent]
    print(f"installing {' '.join(names)}", file=sys.stderr, flush=True)
    command = f"apt-get update && apt-get install --no-install-recommends {' '.join(names)}"
    hint = f"as root: {command}; then run the same command again"
    options = ["-q", "-y", "-o", f"DPkg::Lock::Timeout={LOCK_WAIT}"]
    try:
        # Old lists may still do: a failure to renew them counts only if the packages fail.
        with contextlib.suppress(CommandFailed):
            _as_root(["apt-get", *options, "update"], timeout=UPDATE_TIMEOUT, log=log)
        install = ["apt-get", *options, "install", "--no-install-recommends", *names]
        _as_root(install, timeout=INSTALL_TIMEOUT, log=log)
    except (CommandFailed, CommandTimeout, _NotRoot) as err:
        raise PackagesMissing(
            f"could not install {' '.join(names)}: {err.what}",
            log=err.log,
            tail=err.tail,
            hint=hint,
        ) from err
    still = missing(packages)
    if still:
        raise PackagesMissing(
            f"still missing after apt-get: {' '.join(package.name for package in still)}",
            log=log,
            hint=hint,
        )
    return absent


class _NotRoot(HarnessError):
    """This user may not install packages."""


def _as_root(argv: Sequence[str], *, timeout: float, log: Path | None) -> None:
    words = ["env", "DEBIAN_FRONTEND=noninteractive", *argv]
    what = f"{argv[0]} {argv[-1] if 'update' in argv else 'install'}"
    if os.geteuid() == 0:
        process.run(words, timeout=timeout, what=what, log=log)
        return
    if shutil.which("sudo") is None:
        raise _NotRoot("that takes root, and there is no sudo")
    if process.run(["sudo", "-n", "true"], timeout=30, check=False).returncode == 0:
        process.run(["sudo", "-n", "--", *words], timeout=timeout, what=what, log=log)
        return
    if not sys.stdin.isatty():
        raise _NotRoot("that takes root, and sudo would ask for a password")
    # sudo asks at the terminal, so it must stay in the terminal's session.
    try:
        done = subprocess.run(["sudo", "--", *words], timeout=timeout, check=False)
    except subprocess.TimeoutExpired as err:
        raise CommandTimeout(f"{what}: not done after {timeout:.0f} s") from err
    if done.returncode != 0:
        raise CommandFailed(f"{what}: exit status {done.returncode}", returncode=done.returncode)
