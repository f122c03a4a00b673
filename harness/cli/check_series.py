"""Check a series of patches: quickly, or (--bisect) by building and booting each prefix of it.

Without --bisect, each patch of patches/BASE: checkpatch.pl --strict of the kernel tree
itself with lines of at most 80 (apart from UNKNOWN_COMMIT_ID: the tree here has no history;
missing Signed-off-by lines are as they should be); no Signed-off-by, an Assisted-by, a
subject of at most 75 characters. And the series: at most 15 patches, and its `series` file
names exactly the patch files. Nothing else is checked.

With --bisect, each prefix of the series (the first patch, the first two, ...): that it
compiles, that no compiler warning comes up that neither the baseline nor the prefix before
has, that it boots, runs a command, and that its kernel does not complain. It uses a worktree
of its own, build/trees/BASE/bisect (some 2 GiB with its objects). What passed is not done again
until the source, a patch up to there, the configuration or the compiler changes; what failed is.
Ended at any point, the next run goes on.

The results go to stdout, one line each. Exit status: 0 if nothing was found, 1 if something was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import bases, checkpatch, flavours, logs, prefixes, progress
from harness.bases import Base
from harness.checkpatch import Checked
from harness.cli import _main
from harness.flavours import Flavour
from harness.prefixes import Outcome

#: Columns for a subject; a longer one is cut.
_SUBJECT = 60


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    found = _main.parser("check-series", __doc__)
    _main.add_base(found)
    found.add_argument(
        "--bisect", action="store_true", help="build and boot every prefix of the series"
    )
    found.add_argument(
        "--flavour", metavar="NAME", help="how to configure it (with --bisect; default: BASE's own)"
    )
    found.add_argument("--json", metavar="FILE", type=Path, help="write the results there as well")
    return found


def main(argv: Sequence[str]) -> int:
    """Check the series; the status is 1 if something was found."""
    known = parser()
    options = known.parse_args(argv)
    if options.flavour and not options.bisect:
        known.error("--flavour goes with --bisect: nothing is built without it")
    base = bases.get(options.base)
    flavour = flavours.get(options.flavour or base.flavour)
    directory = logs.run_dir("check-series")
    progress.say(f"logs: {directory}")
    facts: dict[str, Any] = {"base": base.name}
    try:
        if options.bisect:
            good = _bisect(base, flavour, directory, facts)
        else:
            good = _quick(base, directory, facts)
        facts["ok"] = good
    finally:
        # A run that is ended has seen something, too.
        if options.json is not None:
            options.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 0 if good else 1


def _quick(base: Base, directory: Path, facts: dict[str, Any]) -> bool:
    rows: list[dict[str, Any]] = []
    facts["patches"] = rows

    def told(checked: Checked) -> None:
        rows.append(checked.describe())
        print(_line(len(rows), checked.patch.subject, checked.verdict), flush=True)

    done, broken = checkpatch.check(base, directory, told)
    facts["series"] = broken
    for rule in broken:
        print(f"series: {rule}")
    bad = sum(not checked.ok for checked in done)
    print(f"{base.patches}: {len(done)} patches, {bad} of them with findings")
    if bad:
        progress.say(f"next: read what checkpatch.pl says in {directory / 'checkpatch'}")
    return not bad and not broken


def _bisect(base: Base, flavour: Flavour, directory: Path, facts: dict[str, Any]) -> bool:
    rows: list[dict[str, Any]] = []
    facts.update(flavour=flavour.name, prefixes=rows)

    def told(outcome: Outcome) -> None:
        rows.append(outcome.describe())
        build, boot = (
            "-" if value is None else progress.seconds(value)
            for value in (outcome.build_seconds, outcome.boot_seconds)
        )
        new = "-" if outcome.build_seconds is None else str(len(outcome.new_warnings))
        verdict = "ok, nothing to do" if outcome.known else outcome.verdict
        rest = f"{build:>12}  {new:>8}  {boot:>8}  {verdict}"
        print(_line(outcome.prefix.number, outcome.prefix.subject, rest), flush=True)
        for error in outcome.errors:
            for text in f"{outcome.prefix.patch.name}: {error}".splitlines():
                print(f"      {text}", flush=True)

    print(_line("#", "subject", f"{'build':>12}  {'warnings':>8}  {'boot':>8}"), flush=True)
    done = prefixes.check(base, flavour, directory, told)
    bad = sum(not outcome.ok for outcome in done)
    print(f"{base.patches}: {len(done)} prefixes ({flavour.name}), {bad} of them failed")
    return not bad


def _line(number: int | str, subject: str, rest: str) -> str:
    shown = subject if len(subject) <= _SUBJECT else f"{subject[: _SUBJECT - 3]}..."
    return f"{number:>3}  {shown:<{_SUBJECT}}  {rest}".rstrip()


if __name__ == "__main__":
    sys.exit(_main.run(main))
