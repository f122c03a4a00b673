"""Prove what is claimed of a series: run everything, go on where the last run stopped, report.

    scripts/prove                          all stages of v5.10; the whole takes many hours
    scripts/prove v5.10 --list             the stages, and what is known of each
    scripts/prove v5.10 --only series --only 'kernel-*'
    scripts/prove v5.10 --again            also what has passed
    scripts/prove v5.10 --keep             then copy the report, and what tests measured, to docs/

A stage is one of the other commands, with a time limit and a log. What passed is not run again
until something that it speaks for changes: the patches, the tests, the configuration, the
compiler, the kernel. What failed, or was ended, is; of VM tests, those that had not passed, and
those of a file that has changed since. The report, build/proof/BASE/report.md and
report.json, is written anew after each stage. A report that was kept in docs/ counts as well, so
that a proof can be gathered on several machines.

Exit status: 0 if all stages that were asked for passed or do not apply here, else 1.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import accel, bases, paths, progress, stamp
from harness.cli import _main
from harness.proof import figures, outcomes, stages
from harness.proof.results import Result, Verdict
from harness.proof.runner import Proof, kept
from harness.proof.stages import Stage

#: A seed that is drawn is below this.
_SEEDS = 1_000_000


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    found = _main.parser("prove", __doc__)
    _main.add_base(found)
    found.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="STAGE",
        help="run this stage alone; may be given several times, and hold *",
    )
    found.add_argument("--list", action="store_true", help="name the stages and do nothing")
    found.add_argument("--again", action="store_true", help="run also what has passed")
    found.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="what the fault scenarios start from (default: drawn); they are run again",
    )
    found.add_argument("--json", type=Path, metavar="FILE", help="write the report there as well")
    found.add_argument(
        "--keep",
        action="store_true",
        help="copy the report to docs/proof-BASE.*, what came of each VM test to docs/proof-BASE/, "
        "what tests measured to docs/figures-BASE-*.md",
    )
    return found


def main(argv: Sequence[str]) -> int:
    """Run the stages; the status is 1 if one that was asked for did not pass."""
    options = parser().parse_args(argv)
    base = bases.get(options.base)
    seed = random.SystemRandom().randrange(_SEEDS) if options.seed is None else options.seed
    every = stages.of(base, seed=seed, drawn=options.seed is None)
    wanted = stages.chosen(every, options.only)
    again = [stage.name for stage in wanted if options.again]
    if options.seed is not None:
        again.append(stages.FAULTS)
    if options.list:
        proof = Proof(base, every, {})
        for stage in wanted:
            result = proof.known[stage.name]
            print(f"{stage.name:<16} {result.verdict.value:<16} {stage.title}")
        return 0
    proof = Proof(base, every, machine())
    try:
        good = proof.run(wanted, _told, again=again)
    finally:
        # A run that is ended has seen something, too.
        _copies(proof, options)
    print(f"the report: {proof.directory / 'report.md'}")
    return 0 if good else 1


def machine() -> dict[str, Any]:
    """Return what all stages' times depend on."""
    return {"accelerator": accel.probe().name, "CPUs": len(os.sched_getaffinity(0))}


def _told(stage: Stage, result: Result) -> None:
    counts = ", ".join(f"{number} {name}" for name, number in result.counts.items() if number)
    words = [word for word in (counts, *result.notes, result.why) if word]
    if result.known:
        words.insert(0, "known")
    took = progress.seconds(result.seconds) if result.seconds else ""
    print(
        f"{stage.name:<16} {result.verdict.value:<16} {took:>12}  {'; '.join(words)}".rstrip(),
        flush=True,
    )
    for failure in result.failures:
        print(f"      {failure}", flush=True)
    if result.verdict in (Verdict.FAILED, Verdict.TIMED_OUT) and result.log:
        print(f"      log: {paths.build_root() / result.log}", flush=True)


def _copies(proof: Proof, options: argparse.Namespace) -> None:
    text = (proof.directory / "report.json").read_text()
    if options.json is not None:
        stamp.write_atomic(options.json, text)
    if options.keep:
        stamp.write_atomic(kept(proof.base), text)
        stamp.write_atomic(kept(proof.base, ".md"), (proof.directory / "report.md").read_text())
        figures.keep(proof)
        _keep_outcomes(proof)


def _keep_outcomes(proof: Proof) -> None:
    for stage in proof.stages:
        file = proof.outcomes(stage)
        found = outcomes.load(proof.base, stage, file) if file.is_file() else None
        # What counts for nothing now may have taken the place of what does, of another machine.
        if found is not None and found.passed:
            outcomes.save(outcomes.kept(proof.base, stage), found)


if __name__ == "__main__":
    sys.exit(_main.run(main))
