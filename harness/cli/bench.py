"""Measure what a series gains and costs, or how long a person waits for the harness.

scripts/bench BASE compares kernels with and without the series, by events that are counted and
by times that are paired, and writes a report: build/bench/BASE/SIZE/report.md, .json and plots.
What was measured is kept: a run that was ended goes on, and what it speaks for no longer is
measured again. scripts/bench harness measures the harness itself (see its own --help).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import bases, logs, paths, progress
from harness.bench import study, workloads
from harness.cli import _main, selfbench


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    found = _main.parser("bench", __doc__)
    _main.add_base(found)
    size = found.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a few cases, two rounds: some minutes")
    size.add_argument("--full", action="store_true", help="everything: an hour (the default)")
    found.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        default=[],
        help="a workload's number, a case's name or its beginning; may be given several times",
    )
    found.add_argument(
        "--flavour",
        metavar="NAME",
        help="kernels of this flavour, rt for example: samples and report are kept apart",
    )
    found.add_argument(
        "--minutes",
        metavar="N",
        type=float,
        help="stop after that long; the next run goes on where this one stopped",
    )
    found.add_argument(
        "--rounds",
        metavar="N",
        type=int,
        help="timed rounds of each case (quick 2, full 6); more are added to those that are there",
    )
    found.add_argument(
        "--part",
        action="append",
        choices=study.PARTS,
        default=[],
        help="this part alone (timed and traced runs, idle connections, simulations); may be given "
        "several times, and several runs of different parts may run at the same time",
    )
    found.add_argument(
        "--keep-kernels",
        action="store_true",
        help="copy the kernels to build/bench/BASE/kernels, or take those that are there: what is "
        "measured stays valid while somebody works on the series",
    )
    found.add_argument("--list", action="store_true", help="name the cases, and measure nothing")
    found.add_argument(
        "--report", action="store_true", help="write the report of what is known; measure nothing"
    )
    found.add_argument(
        "--keep", action="store_true", help="also write the report to docs/bench-BASE*"
    )
    return found


def main(argv: Sequence[str]) -> int:
    """Measure and write the report; the status is 1 if something could not be measured."""
    if argv and argv[0] == "harness":
        return selfbench.main(argv)
    options = parser().parse_args(argv)
    base = bases.get(options.base)
    study.check(options.only)
    if options.list:
        for case in workloads.all_cases():
            print(f"{case.workload} {case.name:<20} {case.title}")
        print(f"7 {'idle':<20} {workloads.IDLE:,} connections")
        return 0
    log_dir = logs.run_dir("bench")
    size = study.QUICK if options.quick else study.FULL
    if options.rounds is not None:
        size = dataclasses.replace(size, rounds=options.rounds)
    mine = study.Study(
        base, size, log_dir, flavour=options.flavour, keep_kernels=options.keep_kernels
    )
    done = True
    if not options.report:
        parts = options.part or study.PARTS
        done = mine.run(options.only, minutes=options.minutes, parts=parts)
    facts = mine.facts()
    _written(mine.write(facts, mine.where, "report"))
    if options.keep:
        _written(mine.write(facts, paths.ROOT / "docs", mine.stem))
    for bar in facts["bars"]:
        print(f"{bar['kept']:<10} {bar['what']}: {bar['measured'][:200]}")
    if not done:
        progress.say("the time is over; the same command goes on from here")
    return 0 if done else 1


def _written(files: Sequence[Path]) -> None:
    progress.say("written: " + ", ".join(str(path) for path in files))


if __name__ == "__main__":
    sys.exit(_main.run(main))
