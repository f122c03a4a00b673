"""Whether KVM really works here, and what is used where it does not.

A /dev/kvm that can be opened proves nothing: it can make QEMU abort, or run a
boot sector and then hang a kernel that decompresses itself. So something is
booted, under a short limit, and the answer is remembered for this machine's
present boot. A boot sector is all that can be booted before there is a kernel;
the first kernel is therefore watched (:mod:`harness.vm.boot`), and its failure
is remembered here, too.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import paths, process, stamp
from harness.errors import CommandTimeout, HarnessError, UsageError

#: Overrides the probe: ``kvm`` or ``tcg``.
VARIABLE = "SKBHOME_ACCEL"

#: Seconds for a boot sector to run.
LIMIT = 8.0

#: Seconds for QEMU to say its version, on a machine that has other things to do.
VERSION_LIMIT = 10.0

QEMU = "qemu-system-x86_64"

_DEVICE = Path("/dev/kvm")

#: What the boot sector writes to QEMU's debug-exit port, and the status that makes.
_ANSWER = 0x2A
_STATUS = _ANSWER << 1 | 1


@dataclass(frozen=True)
class Accel:
    """How guests are run here.

    Attributes:
        name: ``"kvm"`` or ``"tcg"``.
        reason: why, in words for people.
        proven: a whole kernel has booted this way.
    """

    name: str
    reason: str
    proven: bool = False


def probe(*, fresh: bool = False) -> Accel:
    """Return how guests are run here. Takes at most 20 s, and a moment if remembered.

    Args:
        fresh: do not use what is remembered.

    Raises:
        UsageError: ``SKBHOME_ACCEL`` is neither ``kvm`` nor ``tcg``.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted in ("kvm", "tcg"):
        return Accel(wanted, f"{VARIABLE} says so", proven=True)
    if wanted:
        raise UsageError(f"{VARIABLE} is {wanted!r}; it can be kvm or tcg")
    refused = _refused()
    if refused is not None:
        return Accel("tcg", refused, proven=True)
    try:
        key = _key()
    except HarnessError as err:
        return Accel("tcg", f"QEMU cannot be asked: {err.what}")
    if not fresh and (known := _recall(key)) is not None:
        return known
    found = _boot_sector()
    _remember(key, found)
    return found


def remember_failure(reason: str) -> Accel:
    """Remember that a kernel did not boot under KVM; return what is used from now on."""
    found = Accel("tcg", f"KVM is there, but {reason}", proven=True)
    _try_remember(found)
    return found


def remember_success() -> None:
    """Remember that a kernel has booted under KVM."""
    if not os.environ.get(VARIABLE):
        _try_remember(Accel("kvm", "a kernel has booted with it", proven=True))


def _refused() -> str | None:
    """Return why KVM is out of the question, if that can be told without a boot."""
    if platform.machine() != "x86_64":
        return f"this is {platform.machine()}, the guests are x86_64"
    if not _DEVICE.exists():
        return "there is no /dev/kvm"
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as err:
        return f"/dev/kvm cannot be opened: {err.strerror}"
    return None


def _boot_sector() -> Accel:
    """Boot a sector that only says that it runs."""
    program = bytes((0xBA, 0xF4, 0x00, 0xB0, _ANSWER, 0xEE, 0xF4, 0xEB, 0xFD))
    try:
        with tempfile.TemporaryDirectory(prefix="skbhome-kvm-") as directory:
            image = Path(directory) / "sector"
            image.write_bytes(program.ljust(510, b"\0") + b"\x55\xaa")
            done = process.run(
                [
                    *(QEMU, "-machine", "accel=kvm", "-cpu", "host,topoext=on", "-m", "64"),
                    *("-nodefaults", "-display", "none", "-no-reboot"),
                    *("-device", "isa-debug-exit,iobase=0xf4,iosize=0x01"),
                    *("-drive", f"file={image},format=raw,if=ide"),
                ],
                timeout=LIMIT,
                what="booting a sector with KVM",
                check=False,
            )
    except CommandTimeout:
        return Accel("tcg", f"KVM is there, but a boot sector did not run in {LIMIT:.0f} s", True)
    except (HarnessError, OSError) as err:
        return Accel("tcg", f"the probe of KVM failed: {err}")
    if done.returncode == _STATUS:
        return Accel("kvm", "a boot sector runs with it")
    said = done.output.strip().splitlines()
    why = f": {said[0].split(':', 1)[-1].strip()}" if said else ""
    return Accel("tcg", f"KVM is there, but QEMU ended with status {done.returncode}{why}", True)


def _key() -> str:
    """Return a digest of everything that the answer depends on."""
    if shutil.which(QEMU) is None:
        raise HarnessError(f"{QEMU} was not found")
    version = process.run([QEMU, "--version"], timeout=VERSION_LIMIT).output
    model = [
        line
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        if line.startswith(("model name", "vendor_id", "microcode"))
    ]
    boot = Path("/proc/sys/kernel/random/boot_id")
    return stamp.digest(
        (
            "2",
            version,
            os.uname().release,
            "\n".join(sorted(set(model))),
            boot.read_text() if boot.exists() else "",
        )
    )


def _cache() -> Path:
    return paths.build_root() / "accel.json"


def _recall(key: str) -> Accel | None:
    found = stamp.read(_cache())
    if found is None or found[0] != key:
        return None
    try:
        known = Accel(**found[1])
    except TypeError:
        return None
    return known if known.name in ("kvm", "tcg") else None


def _remember(key: str, found: Accel) -> None:
    try:
        stamp.write(_cache(), key, json.loads(json.dumps(asdict(found))))
    except OSError:
        return  # a directory that cannot be written costs a probe each time


def _try_remember(found: Accel) -> None:
    try:
        _remember(_key(), found)
    except (HarnessError, OSError):
        return
