"""Boot a kernel that cannot be a guest like the others: nothing but itself and one program.

Without IP there is no 9p for the host's files, without sysfs no virtme-ng, and a 32-bit
kernel runs no program of the host's. What such a kernel does while it boots, its KUnit
tests included, stands on its console all the same.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import accel as accels
from harness import console as consoles
from harness import lock, paths, process, stamp
from harness.console.decode import decode
from harness.errors import CommandTimeout
from harness.vm.command import kernel_arguments
from harness.vm.errors import GuestBootFailed, GuestPanic
from harness.vm.options import KernelImage, VmOptions

_INIT = Path(__file__).resolve().parents[1] / "guest" / "bareinit.c"

_FLAGS = (
    *("-O2", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-fno-stack-protector"),
    *("-fno-pie", "-no-pie", "-static", "-nostdlib"),
)

#: Seconds for compiling and packing what the guest starts.
_TIMEOUT = 120.0

#: Seconds for the whole life of a guest.
LIMIT = 300.0

_SAID = re.compile(r"skbhome: init runs on (\S+)")


def initramfs(bits: int) -> Path:
    """Return an archive for the kernel that holds one program, made if it is not there.

    Args:
        bits: 64 or 32, which the program is compiled for.

    Raises:
        CommandFailed: it cannot be compiled or packed.
    """
    made = paths.build_root() / "guest-tools" / f"bare-{bits}.cpio"
    mark = made.with_name(f".{made.name}.stamp")
    inputs = stamp.digest([_INIT, *_FLAGS, str(bits)])
    with lock.held(paths.locks() / "guest-tools", "packing an initramfs", timeout=_TIMEOUT * 2):
        if made.exists() and stamp.fresh(mark, inputs):
            return made
        mark.unlink(missing_ok=True)
        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="bare-", dir=made.parent) as scratch:
            process.run(
                ["gcc", *_FLAGS, f"-m{bits}", "-o", Path(scratch) / "init", _INIT],
                timeout=_TIMEOUT,
                what="compiling the program of a bare guest",
            )
            process.run(
                ["cpio", "--create", "--format=newc", "--quiet", "--file=archive"],
                cwd=Path(scratch),
                stdin=b"init\n",
                timeout=_TIMEOUT,
                what="packing the initramfs of a bare guest",
                hint="install cpio (scripts/apply-and-build does it)",
            )
            (Path(scratch) / "archive").replace(made)
        stamp.write(mark, inputs, {})
    return made


@dataclass(frozen=True)
class Bare:
    """What a bare guest has left behind.

    Attributes:
        release: what its program read of the kernel.
        console: everything that the kernel and the program said.
        accel: ``kvm`` or ``tcg``.
        seconds: from the start of QEMU to its end.
    """

    release: str
    console: consoles.Console
    accel: str
    seconds: float


def boot(
    kernel: KernelImage, directory: Path, *, bits: int = 64, options: VmOptions | None = None
) -> Bare:
    """Boot ``kernel`` with an initramfs until its only program has run and the guest has ended.

    Args:
        directory: where ``console.log`` goes.
        bits: what the kernel is compiled for, 64 or 32.
        options: CPUs, memory, kernel arguments and the accelerator.

    Raises:
        GuestPanic: the kernel panicked.
        GuestBootFailed: it did not get to its program, or the guest did not end in time.
    """
    options = options or VmOptions()
    accel = options.accel or accels.probe().name
    console = consoles.Console(
        directory / "console.log",
        decode=lambda text: decode(text, vmlinux=kernel.vmlinux, build_dir=kernel.build_dir),
    )
    log = directory / "qemu.log"
    log.unlink(missing_ok=True)
    late = False
    try:
        done = process.run(
            _qemu(kernel, options, accel, initramfs(bits)),
            timeout=LIMIT,
            what="a bare guest",
            check=False,
            log=log,
        )
        seconds = done.seconds
    except CommandTimeout:
        late, seconds = True, LIMIT
    finally:
        if log.is_file():
            console.feed(log.read_bytes())
        console.close()
    panic = console.panic
    if panic is not None:
        raise GuestPanic(f"the kernel panicked: {panic}", log=console.log, tail=console.tail())
    said = _SAID.search(console.since(0))
    if said is None or late:
        what = "did not end" if said else "did not get to its program"
        raise GuestBootFailed(
            f"the bare guest {what} in {seconds:.0f} s",
            stage="agent" if console.since(0) else "silent",
            log=console.log,
            tail=console.tail(),
            hint=None if said else "set CONFIG_BLK_DEV_INITRD, CONFIG_SERIAL_8250_CONSOLE",
        )
    return Bare(said[1], console, accel, seconds)


def _qemu(kernel: KernelImage, options: VmOptions, accel: str, archive: Path) -> Sequence[str]:
    arguments = kernel_arguments(options, kvm=accel == "kvm")
    return [
        *(accels.QEMU, "-machine", f"accel={accel}", "-cpu", "host" if accel == "kvm" else "max"),
        *("-m", options.memory, "-smp", str(options.cpus), "-nodefaults", "-display", "none"),
        *("-no-reboot", "-serial", "stdio", "-kernel", str(kernel.image)),
        *("-initrd", str(archive), "-append", " ".join([*arguments, "rdinit=/init"])),
    ]
