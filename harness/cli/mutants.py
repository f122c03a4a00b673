"""Put one bug after the other into the kernel and see that the tests find it.

    scripts/test --mutants                 all mutants of v5.10
    scripts/test --mutants NAME...         some of them
    scripts/test --mutants --base v5.10    of this kernel series
    scripts/test --mutants --keep          also write what is found to docs/mutants-BASE.json
    scripts/test --mutants --list          name them

tests/mutants/BASE/NAME.patch is a bug, on top of the series; its `Killed-by:` lines name the
tests that must fail with it. Each is built in a worktree of its own, build/trees/BASE/mutant.
A mutant is killed by an assertion or a complaint of the kernel's, not by a time limit. What was
found stays known until the series, the mutant, the tests or the configuration changes; ended at
any point, the next run goes on. What was kept in docs/ counts as well, so that the mutants can be
tried on several machines.

Exit status: 0 if all are killed, 1 if one survived or could not be tried.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from harness import bases, flavours, logs, mutants, progress, stamp
from harness.cli import _main
from harness.mutants import Verdict


def main(argv: Sequence[str]) -> int:
    """Try mutants; the status is 1 if one was not killed."""
    parser = _main.parser("test --mutants", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a mutant (default: all)")
    parser.add_argument("--base", default=bases.default_base().name, help="the kernel series")
    parser.add_argument("--flavour", help="how to configure it (default: BASE's own)")
    parser.add_argument("--list", action="store_true", help="name the mutants and do nothing")
    parser.add_argument("--keep", action="store_true", help="also write to docs/mutants-BASE.json")
    options = parser.parse_args(argv)
    base = bases.get(options.base)
    wanted = mutants.read(base, options.names)
    if options.list:
        for mutant in wanted:
            print(f"{mutant.name:<28} {mutant.bug}")
        return 0
    flavour = flavours.get(options.flavour or base.flavour)
    directory = logs.run_dir("mutants")
    progress.say(f"logs: {directory}")
    seen: list[Verdict] = []

    def told(verdict: Verdict) -> None:
        seen.append(verdict)
        place = f"{len(seen)} of {len(wanted)}"
        by = f" by {verdict.by} in {verdict.seconds:.0f} s: {verdict.how}" if verdict.by else ""
        known = " (known)" if verdict.known else ""
        rest = by or (f" {verdict.how}" if verdict.how else "")
        print(f"{place:>9}  {verdict.name:<28} {verdict.verdict}{known}{rest}", flush=True)

    try:
        mutants.run(base, flavour, wanted, directory, told, keep=options.keep)
    finally:
        # A run that is ended has seen something, too.
        stamp.write_atomic(directory / "mutants.md", mutants.report(seen) + "\n")
        rows = json.dumps(mutants.describe(seen), indent=1)
        stamp.write_atomic(directory / "mutants.json", rows + "\n")
    killed = sum(each.ok for each in seen)
    print(f"{killed} of {len(wanted)} mutants killed; the table: {directory / 'mutants.md'}")
    return 0 if killed == len(wanted) else 1


if __name__ == "__main__":
    sys.exit(_main.run(main))
