"""Boot a kernel that was just built: one guest, one command, and not a word of complaint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness import stamp
from harness.build import Kernel
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
    # Needs packages that a command may have to install first.
    from harness import vm as machines  # noqa: PLC0415

    with machines.boot(kernel, machines.VmOptions(), log_dir=directory) as vm:
        release = vm.run(["uname", "-r"], timeout=COMMAND_TIMEOUT).stdout.strip()
        if release != kernel.release:
            raise BootedWrong(
                f"the guest runs {release}, but {kernel.release} was built", log=vm.console_log
            )
        splats = vm.console.splats()
        if splats:
            raise BootedWrong(
                f"the kernel complains while it boots: {splats[0].title}",
                log=vm.console_log,
                tail=splats[0].decoded or splats[0].text,
            )
        made = Boot(release, vm.accel, vm.boot_seconds, Path(vm.console_log))
    stamp.write(kernel.build_dir / _BOOTED, _identity(kernel), {"console": str(made.console)})
    return made


def booted(kernel: Kernel) -> Path | None:
    """Return the console's log of an earlier boot of this very image, if there was one."""
    found = stamp.read(kernel.build_dir / _BOOTED)
    if found is None or found[0] != _identity(kernel):
        return None
    console = Path(found[1]["console"])
    return console if console.is_file() else None


def _identity(kernel: Kernel) -> str:
    return stamp.digest([kernel.image])
