"""Boot a kernel and run a command as root in it, or an interactive shell.

The guest sees this machine's files: /etc, /home, /opt, /root, /srv, /tmp, /usr and /var can be
written there, but what is written is lost; everything else is read-only, unless --rwdir shares
it. The command starts in the present directory. Its standard streams are this command's, its
exit status is this command's (128 + N if signal N ended it). The kernel's log goes to a file
that is named on stderr. Status 99: the kernel complained, its report is on stderr; 98: the
guest never came up, hung or vanished. In the interactive shell Ctrl-] ends the guest.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import bases, build, flavours, logs, progress
from harness.cli import _main
from harness.console import Splat
from harness.errors import UsageError
from harness.flavours import Flavour
from harness.vm import GuestError, GuestPanic, Vm, VmOptions, boot, relay

#: Exit status if the kernel complained, whatever the command returned.
SPLAT = 99

#: Exit status if the guest failed otherwise.
GUEST = 98


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    first, _, rest = (__doc__ or "").partition("\n\n")
    names = ", ".join(base.name for base in bases.all_bases())
    known = ", ".join(one.name for one in flavours.all_flavours())
    found = argparse.ArgumentParser(
        prog="scripts/vm",
        description=first,
        epilog=rest,
        usage="%(prog)s [BASE] [OPTION...] [-- COMMAND...]",
    )
    found.add_argument(
        "base",
        nargs="?",
        metavar="BASE",
        default=bases.default_base().name,
        help=f"the kernel series: {names} (default: %(default)s)",
    )
    found.add_argument("--flavour", metavar="NAME", help=f"how it is configured: {known}")
    found.add_argument("--baseline", action="store_true", help="the kernel without the series")
    found.add_argument("--tree", metavar="DIR", type=Path, help="your own kernel source")
    found.add_argument("--config", metavar="FILE", type=Path, help="your own configuration")
    found.add_argument("--cpus", metavar="N", type=int, default=2, help="CPUs (%(default)s)")
    found.add_argument("--memory", metavar="SIZE", help="like 512M or 2G (1G; debug kernels 3G)")
    found.add_argument("--numa", metavar="N", type=int, default=0, help="NUMA nodes")
    found.add_argument(
        "--append",
        metavar="KERNEL-ARGUMENTS",
        action="append",
        default=[],
        help="added to the kernel's command line",
    )
    found.add_argument(
        "--rwdir",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="a directory that the guest may really write to",
    )
    found.add_argument("--accel", choices=("kvm", "tcg"), help="do not probe, use this")
    found.add_argument("--timeout", metavar="SECONDS", type=float, help="limit for the command")
    return found


def main(argv: Sequence[str]) -> int:
    """Run the command; the status is as described above."""
    words = list(argv)
    command: list[str] = []
    if "--" in words:
        at = words.index("--")
        words, command = words[:at], words[at + 1 :]
    chosen = parser().parse_args(words)
    base = bases.get(chosen.base)
    flavour = flavours.for_commands(chosen.flavour or base.flavour)
    options = VmOptions(
        cpus=chosen.cpus,
        memory=chosen.memory or memory_for(flavour),
        numa=chosen.numa,
        append=tuple(word for text in chosen.append for word in split(text)),
        rwdirs=tuple(directory.resolve() for directory in chosen.rwdir),
        accel=chosen.accel,
    )
    kernel = build.build(
        base,
        flavour=flavour.name,
        baseline=chosen.baseline,
        tree=chosen.tree.resolve() if chosen.tree else None,
        config=chosen.config.resolve() if chosen.config else None,
        steps=progress.Steps(quiet=True),
    )
    return run(kernel, options, command, log_dir=logs.run_dir("vm"), timeout=chosen.timeout)


def run(
    kernel: build.Kernel,
    options: VmOptions,
    command: Sequence[str],
    *,
    log_dir: Path,
    timeout: float | None = None,
) -> int:
    """Boot ``kernel``, run ``command`` (a shell if it is empty) and return the status."""
    try:
        with boot(kernel, options, log_dir=log_dir) as vm:
            progress.say(
                f"vm: {vm.release}, {vm.cpus} CPUs, {vm.accel.upper()}, "
                f"up in {vm.boot_seconds:.1f} s; kernel log: {vm.console_log}"
            )
            try:
                status = _command(vm, command, timeout)
            except GuestError:
                _report(vm.console.splats(decode=True))
                raise
            splats = vm.console.splats(decode=True)
    except GuestError as err:
        err.status = SPLAT if isinstance(err, GuestPanic) else GUEST
        raise
    if splats:
        _report(splats)
        progress.say(f"vm: the kernel complained; its log: {vm.console_log}")
        return SPLAT
    return status if status >= 0 else 128 - status


def _command(vm: Vm, command: Sequence[str], timeout: float | None) -> int:
    here = Path.cwd()
    if command:
        # One word with a space in it can only be meant for a shell.
        script = len(command) == 1 and re.search(r"[\s;|&<>$]", command[0]) is not None
        return relay.run(vm, command[0] if script else command, cwd=here, timeout=timeout)
    if sys.stdin.isatty() and sys.stdout.isatty():
        progress.say("vm: Ctrl-] ends the guest")
        status = relay.shell(vm, cwd=here, env={"TERM": os.environ.get("TERM", "linux")})
        progress.say("")
        return status
    return relay.run(vm, ["bash"], cwd=here, timeout=timeout)


def memory_for(flavour: Flavour) -> str:
    """Return the memory that a guest of a flavour gets unless told otherwise."""
    # Checks remember much; what is merely slower does not.
    return "3G" if flavour.slow > 2 else "1G"


def split(text: str) -> list[str]:
    """Return the kernel arguments in ``text``; what is in double quotes stays together.

    Raises:
        UsageError: a quote is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as err:
        raise UsageError(f"--append {text!r}: a quote is not closed") from err


def _report(splats: Sequence[Splat]) -> None:
    for splat in splats:
        progress.say(f"\nvm: {splat.kind}: {splat.title}")
        progress.say(str(splat).rstrip("\n"))
        if splat.note:
            progress.say(f"vm: not decoded: {splat.note}")


if __name__ == "__main__":
    sys.exit(_main.run(main))
