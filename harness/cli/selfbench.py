"""Measure, and print a table of what was measured and what it should be."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from harness import bases, build, logs, progress, selfbench, stamp
from harness.bases import Base
from harness.cli import _main
from harness.selfbench import Result


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    found = argparse.ArgumentParser(prog="bench", description=__doc__)
    commands = found.add_subparsers(dest="command", required=True, metavar="WHAT")
    harness = commands.add_parser(
        "harness",
        help="how long a person waits for the harness",
        description="How long a person waits for the harness, and how much disk it takes. "
        "Builds the patched kernel first if it is not there.",
    )
    harness.add_argument("base", nargs="?", metavar="BASE", default=bases.default_base().name)
    harness.add_argument(
        "--cold",
        action="store_true",
        help="also from nothing, in a directory of its own (downloads and builds, 20 minutes)",
    )
    harness.add_argument(
        "--configurations",
        action="store_true",
        help="also the CPU time of the default flavour against virtme-ng's own configuration "
        "(30 minutes)",
    )
    harness.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        choices=["nothing", "change", "boot", "host-tests", "disk", "cold", "configurations"],
        help="measure this alone; may be given several times: %(choices)s",
    )
    return found


def main(argv: Sequence[str]) -> int:
    """Measure and print; the status is 1 if a target is missed."""
    options = parser().parse_args(argv)
    base = bases.get(options.base)
    directory = logs.run_dir("bench")
    results: list[Result] = []
    for measure in _plan(base, options, directory):
        for result in measure():
            results.append(result)
            progress.say(selfbench.table([result]).splitlines()[-1])
    text = selfbench.table(results)
    facts = {
        "base": base.name,
        "machine": selfbench.machine(),
        "results": [asdict(r) for r in results],
    }
    stamp.write_atomic(directory / "bench.md", text + "\n")
    stamp.write_atomic(directory / "bench.json", json.dumps(facts, indent=1) + "\n")
    print(text)
    progress.say(f"written to {directory}/bench.md and bench.json")
    return 0 if all(result.ok for result in results) else 1


def _plan(
    base: Base, options: argparse.Namespace, directory: Path
) -> list[Callable[[], list[Result]]]:
    def boot() -> list[Result]:
        kernel = build.build(base, steps=progress.Steps(quiet=True))
        return [selfbench.first_command(kernel, directory)]

    known: dict[str, Callable[[], list[Result]]] = {
        "nothing": lambda: [selfbench.nothing_to_do(base)],
        "change": lambda: [selfbench.one_change(base)],
        "boot": boot,
        "host-tests": lambda: [selfbench.host_tests()],
        "disk": lambda: [selfbench.disk(base)],
        "cold": lambda: selfbench.cold(base),
        "configurations": lambda: selfbench.configurations(base),
    }
    if options.only:
        return [known[name] for name in options.only]
    slow = {"cold": options.cold, "configurations": options.configurations}
    return [measure for name, measure in known.items() if slow.get(name, True)]


if __name__ == "__main__":
    sys.exit(_main.run(main))
