"""scripts/refresh-series: write the commits of a worktree back into patches/."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import bases, series
from harness.cli import _main


def parser() -> argparse.ArgumentParser:
    """Return the command's argument parser."""
    made = argparse.ArgumentParser(
        prog="scripts/refresh-series",
        description=(
            "Write the commits of a base's patched worktree (build/trees/BASE/patched) back "
            "into patches/BASE: one file per commit in git format-patch form, and a quilt "
            "`series` file. Commit or rebase in the worktree first. No Signed-off-by is added."
        ),
    )
    known = ", ".join(base.name for base in bases.all_bases())
    made.add_argument("base", metavar="BASE", help=f"one of {known}")
    made.add_argument(
        "--tree",
        type=Path,
        metavar="DIR",
        help="take the worktree that was made from this kernel tree with --tree",
    )
    made.add_argument(
        "--force",
        action="store_true",
        help="replace patches/BASE even if it has changed since it was applied to the worktree",
    )
    return made


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    arguments = parser().parse_args(argv)
    done = series.refresh(bases.get(arguments.base), tree=arguments.tree, force=arguments.force)
    for name in done.written:
        print(f"written: {done.directory / name}")
    for name in done.removed:
        print(f"removed: {done.directory / name}")
    if not done.written and not done.removed:
        print(f"{done.directory} is up to date ({done.commits} patches)")
    return 0


if __name__ == "__main__":
    sys.exit(_main.run(main))
