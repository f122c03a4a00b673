"""Boot a kernel and hand back a guest that answers, or say how far it came."""

from __future__ import annotations

import atexit
import contextlib
import re
import sys
import time
import weakref
from pathlib import Path

from harness import accel as accels
from harness.vm import command
from harness.vm.errors import GuestBootFailed
from harness.vm.machine import Machine
from harness.vm.options import KernelImage, VmOptions
from harness.vm.vm import Vm

#: Seconds within which a kernel has to print something, with TCG and with KVM.
#: A kernel decompresses itself first, which an emulated CPU on a busy machine takes long for.
SILENT = {"tcg": 90.0, "kvm": 30.0}

#: The same for the first kernel under KVM, which is a probe of KVM itself.
UNPROVEN = 15.0

#: Seconds for which a booting kernel may print nothing.
STALL = 150.0

#: Seconds for the whole way to the agent's first word, unless the options say otherwise.
WHOLE = 600.0

#: Seconds that QEMU gets to end after a panic's report.
_PANIC_GRACE = 5.0

#: What the end of a failed boot's log means, and what to do about it.
_HINTS = (
    (
        r"Unable to mount root fs|Cannot open root device",
        "the kernel cannot mount the host's files: set CONFIG_9P_FS, CONFIG_NET_9P_VIRTIO, "
        "CONFIG_VIRTIO_PCI and (before v5.16) CONFIG_BLOCK",
    ),
    (r"no virtio port", "set CONFIG_VIRTIO_CONSOLE and CONFIG_VIRTIO_PCI"),
    (
        r"Requested init .* failed|No working init found",
        "the guest cannot start its init: set CONFIG_BINFMT_ELF and CONFIG_64BIT, and see that the "
        "repository can be read by whoever runs this",
    ),
    (
        r"[Cc]annot (?:allocate|set up guest) memory|System is deadlocked on memory",
        "ask for another amount of memory (--memory)",
    ),
    (r"overlay", "set CONFIG_OVERLAY_FS"),
)

_machines: weakref.WeakSet[Machine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for machine in list(_machines):
        machine.close()


def boot(kernel: KernelImage, options: VmOptions | None = None, *, log_dir: Path) -> Vm:
    """Boot ``kernel`` and return the guest once it answers.

    A kernel that printed nothing at all is started once more, and the first
    one under KVM that does so makes guests use TCG from then on; either is said
    on standard error and kept in :attr:`Vm.notes`.

    Args:
        log_dir: directory for ``console.log`` and ``qemu.log``; made if it is not there.

    Raises:
        GuestBootFailed: with how far it came.
    """
    options = options or VmOptions()
    if options.accel is not None:
        chosen = accels.Accel(options.accel, "asked for", proven=True)
    else:
        chosen = accels.probe()
    notes: list[str] = []
    try:
        vm = _attempt(kernel, options, chosen, log_dir, notes)
    except GuestBootFailed as err:
        if err.stage not in ("start", "silent"):
            raise
        if chosen.name == "kvm" and not chosen.proven:
            chosen = accels.remember_failure(f"{_lower(err.what)}: guests run under TCG")
            _note(notes, f"KVM does not work here ({chosen.reason})")
        elif err.stage == "start":
            raise  # QEMU has said what it does not like
        else:
            _note(notes, f"{_lower(err.what)}; trying once more")
        _keep(log_dir)
        vm = _attempt(kernel, options, chosen, log_dir, notes)
    if chosen.name == "kvm" and not chosen.proven:
        accels.remember_success()
    return vm


def _note(notes: list[str], text: str) -> None:
    notes.append(text)
    print(f"boot: {text}", file=sys.stderr, flush=True)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _keep(log_dir: Path) -> None:
    """Keep the logs of a boot that is tried again."""
    for name in ("console.log", "qemu.log"):
        with contextlib.suppress(OSError):
            (log_dir / name).replace(log_dir / f"first-{name}")


def _attempt(
    kernel: KernelImage,
    options: VmOptions,
    accel: accels.Accel,
    log_dir: Path,
    notes: list[str],
) -> Vm:
    if not kernel.image.is_file():
        raise GuestBootFailed(
            f"there is no kernel image {kernel.image}", stage="start", hint="build it first"
        )
    machine = Machine(log_dir)
    _machines.add(machine)
    try:
        vm = Vm(machine, kernel, options, accel=accel.name)
        vm.notes = notes
        argv = command.assemble(
            kernel,
            options,
            kvm=accel.name == "kvm",
            agent_socket=machine.agent_socket,
            monitor_socket=machine.monitor_socket,
        )
        started = time.monotonic()
        machine.start(argv)
        _watch(machine, options, accel, started)
        vm.boot_seconds = time.monotonic() - started
        vm.release = machine.hello.get("release", "")
    except BaseException:
        machine.close()
        raise
    return vm


def _watch(machine: Machine, options: VmOptions, accel: accels.Accel, started: float) -> None:
    """Wait for the agent's first word, or say what came instead."""
    console = machine.console
    whole = options.boot_timeout or WHOLE
    silent = SILENT[accel.name] if accel.proven else UNPROVEN
    grown, grown_at = 0, started
    with machine.changed:
        while not machine.connected:
            now = time.monotonic()
            size = console.mark(flush=False)
            if size != grown:
                grown, grown_at = size, now
            if console.panic is not None:
                _linger(machine)
                raise _failure(
                    machine,
                    "panic",
                    f"the kernel panicked while booting: {console.panic}{_complaint(machine)}",
                )
            if machine.ended or machine.lost is not None:
                _linger(machine)
                if console.panic is not None:
                    continue
                raise _ended(machine)
            if now - started > whole:
                raise _late(machine, f"the guest did not answer within {whole:.0f} s")
            if not _kernel_spoke(machine) and now - started > silent:
                raise _failure(
                    machine,
                    "silent",
                    f"the kernel printed nothing within {silent:.0f} s ({accel.name.upper()})",
                )
            if now - grown_at > STALL:
                raise _late(machine, f"the booting kernel printed nothing for {STALL:.0f} s")
            machine.changed.wait(0.25)


def _complaint(machine: Machine) -> str:
    """Return what the kernel complained of first, if it said more than that it panicked."""
    found = machine.console.splats(decode=False, flush=False)
    if not found or found[0].kind == "PANIC":
        return ""
    return f"; before that it said {found[0].kind}: {found[0].title}"


def _kernel_spoke(machine: Machine) -> bool:
    # The firmware and QEMU may print on the console, too.
    return machine.console.shows(rb"^\[ *\d+\.\d+\]|Linux version |Decompressing Linux")


def _linger(machine: Machine) -> None:
    """Let a dying guest finish what it has to say; `changed` is held."""
    deadline = time.monotonic() + _PANIC_GRACE
    while not machine.ended and time.monotonic() < deadline:
        machine.changed.wait(0.1)


def _ended(machine: Machine) -> GuestBootFailed:
    if not _kernel_spoke(machine):
        said = machine.stderr.strip().splitlines()
        why = f": {said[-1]}" if said else ""
        return _failure(machine, "start", f"QEMU ended before the kernel printed anything{why}")
    if not machine.ended:
        return _failure(machine, "agent", f"the guest does not make sense: {machine.lost}")
    return _failure(machine, "gone", "the guest ended while it was booting")


def _late(machine: Machine, what: str) -> GuestBootFailed:
    # QEMU knows where the CPUs are even if the guest no longer does.
    return _failure(machine, "agent", what)


def _failure(machine: Machine, stage: str, what: str) -> GuestBootFailed:
    tail = machine.console.tail(40)
    said = machine.stderr.strip()
    if said and stage != "panic":
        tail = f"{tail}\n-- QEMU --\n{said}" if tail else said
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, tail)), None)
    return GuestBootFailed(what, stage=stage, log=machine.console.log, hint=hint, tail=tail)
