"""Check a series of patches: quickly, or (--bisect) by building and booting each prefix of it.

Without --bisect, one line per patch and check:

CHECKS
and of the series as a whole:

SERIES
What lacks its tool is `skipped`, and what nobody can know here (the kernel's history, for
Fixes:) is `unverified`; neither is a pass, and neither fails the series (--no-skips: skipped
checks do). `hint` is what a reviewer may ask about. `waived` is a finding that
patches/BASE/checks.toml accepts, with a reason. What was looked at is not looked at again until
it changes. When all is well, scripts/send-series may send exactly these patches.

With --bisect, each prefix of the series (the first patch, the first two, ...): that it
compiles, that no compiler warning comes up that neither the baseline nor the prefix before
has, that it boots, runs a command, and that its kernel does not complain. It uses a worktree
of its own, build/trees/BASE/bisect (some 2 GiB with its objects). What passed is not done again
until the source, a patch up to there, the configuration or the compiler changes; what failed is.
Ended at any point, the next run goes on.

The results go to stdout. Exit status: 0 if nothing has to be changed, 1 if something has.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import bases, flavours, logs, prefixes, progress, stamp
from harness.bases import Base
from harness.checks import passed, registry, report, run
from harness.checks.context import Context, fingerprint
from harness.checks.run import Report, Told
from harness.cli import _main
from harness.flavours import Flavour
from harness.prefixes import Outcome

#: Columns for a subject; a longer one is cut.
_SUBJECT = 60


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    text = (__doc__ or "").replace("CHECKS\n", _titles(registry.PATCH_CHECKS))
    found = _main.parser("check-series", text.replace("SERIES\n", _titles(registry.SERIES_CHECKS)))
    _main.add_base(found)
    found.add_argument(
        "--bisect", action="store_true", help="build and boot every prefix of the series"
    )
    found.add_argument(
        "--flavour", metavar="NAME", help="how to configure it (with --bisect; default: BASE's own)"
    )
    found.add_argument(
        "--onto",
        metavar="TREE",
        type=Path,
        help="a kernel tree that the series is to apply to, too",
    )
    found.add_argument(
        "--no-skips", action="store_true", help="a check that lacks its tool fails the series"
    )
    found.add_argument("--json", metavar="FILE", type=Path, help="write the results there as well")
    found.add_argument("--junit", metavar="FILE", type=Path, help="and there, as JUnit XML")
    return found


def _titles(checks: Sequence[registry.PatchCheck | registry.SeriesCheck]) -> str:
    return "".join(f"  {check.name:<13} {check.title}\n" for check in checks)


def main(argv: Sequence[str]) -> int:
    """Check the series; the status is 1 if something was found."""
    known = parser()
    options = known.parse_args(argv)
    if options.flavour and not options.bisect:
        known.error("--flavour goes with --bisect: nothing is booted without it")
    for name in ("onto", "no_skips", "junit"):
        if options.bisect and getattr(options, name):
            known.error(f"--{name.replace('_', '-')} does not go with --bisect")
    base = bases.get(options.base)
    directory = logs.run_dir("check-series")
    progress.say(f"logs: {directory}")
    if not options.bisect:
        return 0 if _checks(base, directory, options) else 1
    flavour = flavours.get(options.flavour or base.flavour)
    facts: dict[str, Any] = {"base": base.name}
    try:
        good = _bisect(base, flavour, directory, facts)
        facts["ok"] = good
    finally:
        # A run that is ended has seen something, too.
        if options.json is not None:
            options.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 0 if good else 1


def _checks(base: Base, directory: Path, options: argparse.Namespace) -> bool:
    before = fingerprint(base)
    found = Report(base, [], no_skips=options.no_skips)
    last: list[int] = []

    def told(each: Told) -> None:
        number = each.place.number if each.place else 0
        if last[-1:] != [number]:
            last.append(number)
            print(report.head(each))
        print(report.line(each), flush=True)

    try:
        run.run(Context(base, directory, onto=options.onto), found, told)
    finally:
        kept = passed.path(base)
        # The first of each goes into the evidence of send-series.
        for file in (kept.with_name("report.json"), options.json):
            if file is not None:
                stamp.write_atomic(file, json.dumps(found.describe(), indent=1) + "\n")
        for file in (kept.with_name("junit.xml"), options.junit):
            if file is not None:
                report.junit(found, file)
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    counts = passed.remember(found, before, now)
    for line in report.details(found):
        print(line)
    print(report.total(found))
    if not found.ok:
        progress.say(f"next: change what is listed above; what the tools said is in {directory}")
    elif not counts:
        progress.say("note: the patches were changed meanwhile, so this does not count")
    return found.ok


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
