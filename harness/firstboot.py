"""Boot a kernel that was just built: one guest, one command, and not a word of complaint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness import races, stamp
from harness.build import Kernel
from harness.console import Console
from harness.errors import HarnessError

#: Stamp of an image that has booted without a complaint.
_BOOTED = ".skbhome-booted.json"

#: Seconds for the one command that runs in the guest.
COMMAND_TIMEOUT = 60.0


class BootedWrong(HarnessError):
    """The guest runs another kernel than the one that was built, or its kernel complains."""


@dataclass(frozen=True)
class Boot:
    """A boot that went well.

    Attributes:
        release: what ``uname -r`` says in the guest.
        accel: ``kvm`` or ``tcg``.
        seconds: from the start of the guest to its first answer.
        console: the log of its console.
    """

    release: str
    accel: str
    seconds: float
    console: Path


def boot(kernel: Kernel, directory: Path) -> Boot:
    """Boot once, and remember that this very image has booted.

    Args:
        directory: where the guest's logs go.

    Raises:
        BootedWrong: the release differs, or the console holds a splat.
        HarnessError: the guest did not come up, or did not answer.
    """
    made = _bare(kernel, directory) if kernel.flavour.bare else _guest(kernel, directory)
    stamp.write(kernel.build_dir / _BOOTED, _identity(kernel), {"console": str(made.console)})
    return made


def _guest(kernel: Kernel, directory: Path) -> Boot:
    # Needs packages that a command may have to install first.
    from harness import vm as machines  # noqa: PLC0415

    with machines.boot(kernel, machines.VmOptions(), log_dir=directory) as vm:
        release = vm.run(["uname", "-r"], timeout=COMMAND_TIMEOUT).stdout.strip()
        _check(kernel, release, vm.console, Path(vm.console_log))
        return Boot(release, vm.accel, vm.boot_seconds, Path(vm.console_log))


def _bare(kernel: Kernel, directory: Path) -> Boot:
    from harness.vm import bare  # noqa: PLC0415

    found = bare.boot(kernel, directory, bits=kernel.flavour.bits)
    _check(kernel, found.release, found.console, found.console.log)
    return Boot(found.release, found.accel, found.seconds, found.console.log)


def _check(kernel: Kernel, release: str, console: Console, log: Path) -> None:
    if release != kernel.release:
        raise BootedWrong(f"the guest runs {release}, but {kernel.release} was built", log=log)
    splats = races.answered_for(
        console.splats(), kernel.tree.base.patches if kernel.tree.arm == "patched" else None
    )
    if splats:
        raise BootedWrong(
            f"the kernel complains while it boots: {splats[0].title}",
            log=log,
            tail=splats[0].decoded or splats[0].text,
        )


def booted(kernel: Kernel) -> Path | None:
    """Return the console's log of an earlier boot of this very image, if there was one."""
    found = stamp.read(kernel.build_dir / _BOOTED)
    if found is None or found[0] != _identity(kernel):
        return None
    console = Path(found[1]["console"])
    return console if console.is_file() else None


def _identity(kernel: Kernel) -> str:
    return stamp.digest([kernel.image])
