"""Fetch a kernel, apply the series, configure, build, and boot the result once.

Whatever is there already is not done again. The steps and their times go to
stderr; --json prints them, and what the kernel was made from, on stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from harness import bases, build, doctor, firstboot, flavours, logs, packages, progress
from harness.build import Kernel
from harness.cli import _main
from harness.doctor import Status
from harness.progress import Step


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    first, _, rest = (__doc__ or "").partition("\n\n")
    names = ", ".join(base.name for base in bases.all_bases())
    known = "; ".join(f"{one.name}: {one.description}" for one in flavours.all_flavours())
    found = argparse.ArgumentParser(prog="apply-and-build", description=first, epilog=rest)
    found.add_argument(
        "base",
        nargs="?",
        metavar="BASE",
        default=bases.default_base().name,
        help=f"the kernel series: {names} (default: %(default)s)",
    )
    found.add_argument("--flavour", metavar="NAME", help=f"how to configure it ({known})")
    found.add_argument("--baseline", action="store_true", help="leave the series out")
    found.add_argument(
        "--tree",
        metavar="DIR",
        type=Path,
        help="your own kernel checkout or unpacked source; it is only read",
    )
    found.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="start from your own kernel configuration; what the VM and the tests need is added",
    )
    boot = found.add_mutually_exclusive_group()
    boot.add_argument("--no-boot", action="store_true", help="build, but do not boot")
    boot.add_argument(
        "--boot", action="store_true", help="boot even if this very kernel has booted before"
    )
    found.add_argument("--json", action="store_true", help="print what was done as JSON")
    return found


def main(argv: Sequence[str]) -> int:
    """Do it all; the status is 0 if the kernel is built and booted without a complaint."""
    options = parser().parse_args(argv)
    base = bases.get(options.base)
    flavour = flavours.get(options.flavour or base.flavour)
    started = time.monotonic()
    directory = logs.run_dir("apply-and-build")
    steps = progress.Steps()
    with steps.step("machine") as notes:
        installed = _fit(directory)
        notes.append(f"installed {' '.join(installed)}" if installed else "has what it takes")
    kernel = build.build(
        base,
        flavour=flavour.name,
        baseline=options.baseline,
        tree=options.tree.resolve() if options.tree else None,
        config=options.config.resolve() if options.config else None,
        steps=steps,
    )
    console: Path | None = None
    if not options.no_boot:
        console = None if options.boot else firstboot.booted(kernel)
        if console is None:
            with steps.step("boot") as notes:
                done = firstboot.boot(kernel, directory)
                notes.append(
                    f"{done.release} under {done.accel}, first command after {done.seconds:.1f} s"
                )
            console = done.console
        else:
            steps.add(Step("boot", 0.0, "this very kernel has booted before"))
    total = time.monotonic() - started
    if options.json:
        print(json.dumps(_facts(kernel, steps, total, console), indent=1))
    _summary(kernel, total, console, options)
    return 0


def _fit(directory: Path) -> list[str]:
    """Install what is missing and return it.

    Raises:
        PackagesMissing, Unfit: this machine cannot do the job.
    """
    found = doctor.run([doctor.system])[0]
    # Elsewhere than on Debian nothing can be installed; what lacks fails where it is used.
    debian = found.status is Status.OK
    installed = packages.ensure(log=directory / "apt.log") if debian else []
    for finding in doctor.require():
        if finding.status is Status.WARN:
            progress.say(doctor.report(finding))
    return [package.name for package in installed]


def _facts(
    kernel: Kernel, steps: progress.Steps, total: float, console: Path | None
) -> dict[str, object]:
    return {
        **kernel.describe(),
        "image": str(kernel.image),
        "vmlinux": str(kernel.vmlinux),
        "config": str(kernel.config),
        "source_tree": str(kernel.tree.path),
        "console": str(console) if console else None,
        "steps": [asdict(step) for step in steps.done],
        "seconds": round(total, 1),
    }


def _summary(
    kernel: Kernel, total: float, console: Path | None, options: argparse.Namespace
) -> None:
    base, flavour = kernel.tree.base, kernel.flavour
    arguments = [base.name] if base != bases.default_base() else []
    if flavour.name != base.flavour:
        arguments += ["--flavour", flavour.name]
    if options.baseline:
        arguments.append("--baseline")
    say = progress.say
    say(f"{'total':<10} {progress.seconds(total):>9}")
    say("")
    say(f"kernel   {kernel.image}")
    say(f"source   {kernel.tree.path} ({kernel.tree.source.version}, {kernel.tree.arm})")
    say(f"config   {kernel.config}")
    if console is not None:
        say(f"console  {console}")
    say("")
    say("next:")
    # A guest of a bare flavour has done all it can by now.
    if options.tree is None and options.config is None and not flavour.bare:
        tests = [f"--base {base.name}"] if base != bases.default_base() else []
        tests += [f"--flavour {flavour.name}"] if flavour.name != base.flavour else []
        say(f"  {'scripts/test ' + ' '.join(tests):<34} run the tests")
        say(f"  {' '.join(['scripts/vm', *arguments]):<34} a shell in this kernel")
    say(f"  {'git -C ' + str(kernel.tree.path) + ' log --oneline base..'}")
    say(f"  {'':<34} the series, one commit per patch" if not options.baseline else "")


if __name__ == "__main__":
    sys.exit(_main.run(main))
