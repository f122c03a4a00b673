"""The command line that starts a guest: virtme-ng assembles QEMU's."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from harness.errors import HarnessError
from harness.vm import agent
from harness.vm.options import KernelImage, VmOptions

#: Writable in the guest, without the host noticing, as virtme-ng has it; and root's home,
#: if the guest may see it (otherwise the agent makes an empty one).
OVERLAYS = ("/etc", "/lib", "/home", "/opt", "/srv", "/usr", "/var", "/tmp")
HOME = "/root"

#: The kernel's own limit on its command line (x86).
CMDLINE_MAX = 2047


#: What a kernel on emulated CPUs is told.
EMULATED = (
    # A CPU that the host leaves without time misses the ticks by which the kernel would
    # find out whether its timer works, and panics.
    "no_timer_check",
    # QEMU's emulated CPUs all read one counter, which the kernel cannot know. Each look at
    # the clock would go to the HPET instead: a device, behind a lock of all of QEMU.
    "tsc=reliable",
)


def virtme_run() -> Path:
    """Return the ``virtme-run`` of this Python's environment.

    Raises:
        HarnessError: there is none.
    """
    beside = Path(sys.executable).with_name("virtme-run")
    if beside.exists():
        return beside
    found = shutil.which("virtme-run")
    if found is None:
        raise HarnessError(
            "virtme-run was not found",
            hint="install the pinned requirements (scripts/apply-and-build does it)",
        )
    return Path(found)


def kernel_arguments(options: VmOptions, *, kvm: bool) -> list[str]:
    """Return what the harness adds to the kernel's command line, init not included."""
    return [
        # The log goes to the serial console alone and in full.
        "console=ttyS0",
        "ignore_loglevel",
        "printk.time=1",
        # A panic ends the guest at once (QEMU runs with -no-reboot), and an NMI
        # that the harness sends to a hung guest makes one, with a stack.
        "panic=-1",
        "unknown_nmi_panic=1",
        # The harness marks the log through /dev/kmsg; no mark may be dropped.
        "printk.devkmsg=on",
        "random.trust_cpu=on",
        *(() if kvm else EMULATED),
        *options.append,
    ]


def assemble(
    kernel: KernelImage,
    options: VmOptions,
    *,
    kvm: bool,
    agent_socket: str,
    monitor_socket: str,
) -> list[str]:
    """Return the command that starts the guest.

    The console is its standard output. It connects to two abstract UNIX sockets
    on which the harness listens: the agent's channel and QEMU's monitor.
    """
    argv = [
        str(virtme_run()),
        "--kimg",
        str(kernel.image),
        "--mods",
        "none",
        "--memory",
        f"{options.megabytes}M",
        "--cpus",
        str(options.cpus),
        "--name",
        "skbhome",
        # Without it virtme-run makes the kernel quiet.
        "--verbose",
        # Keep the console a plain pipe: no escape characters, no monitor behind it.
        "--disable-monitor",
        # virtme-ng's other way to share the host's files needs the Rust virtiofsd,
        # which a distribution with QEMU before 8.0 does not have. One way for all.
        "--force-9p",
    ]
    if not kvm:
        argv.append("--disable-kvm")
    for size, cpus in options.nodes():
        argv += ["--numa", f"{size}M,{cpus}"]
    for directory in (*OVERLAYS, *([HOME] if os.geteuid() == 0 else [])):
        path = Path(directory)
        if path.is_dir() and not path.is_symlink():
            argv.append(f"--overlay-rwdir={directory}")
    for shared in options.rwdirs:
        argv.append(f"--rwdir={shared.resolve()}")
    # The kernel hands everything after a lone `--` to init, virtme-ng's own
    # `init=` (always the last argument) included, so this one stays in force.
    # (The tab keeps the `--` inside one word, which option parsers would eat alone.)
    words = [*kernel_arguments(options, kvm=kvm), f"init={agent.program()}", "--\tskbhome"]
    # What virtme-run adds is about 400 bytes, its overlays and shares not counted.
    length = sum(len(word) + 1 for word in words) + 700
    if length > CMDLINE_MAX:
        raise HarnessError(
            f"the kernel's command line would have {length} bytes, {CMDLINE_MAX} are possible",
            hint="give fewer kernel arguments, or move the repository to a shorter path",
        )
    argv += [f"--kopt={word}" for word in words]
    argv.append("--qemu-opts")
    if options.numa > 1 and options.cpus % options.numa == 0:
        # A socket per node: the kernel complains of CPUs that share a cache across nodes.
        argv += ["-smp", f"sockets={options.numa},cores={options.cpus // options.numa},threads=1"]
    argv += [
        "-no-reboot",
        "-chardev",
        f"socket,id=skbhome-agent,abstract=on,path={agent_socket}",
        "-device",
        "virtio-serial-pci,id=skbhome-serial,max_ports=2",
        "-device",
        "virtserialport,bus=skbhome-serial.0,chardev=skbhome-agent,name=org.skbhome.agent",
        "-chardev",
        f"socket,id=skbhome-monitor,abstract=on,path={monitor_socket}",
        "-mon",
        "chardev=skbhome-monitor,mode=control",
        *options.qemu_args,
    ]
    return argv
