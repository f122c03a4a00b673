"""Draw what the series does, before and after, from the figures of a test run, as a PNG."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import figure, paths, progress
from harness.cli import _main
from harness.errors import HarnessError

#: Pixels for an inch of the figure.
_DPI = 110


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    found = argparse.ArgumentParser(prog="figure", description=__doc__)
    found.add_argument(
        "report",
        nargs="?",
        type=Path,
        metavar="REPORT",
        help="the report.json of a run of scripts/test with both kernels "
        "(default: that of the newest run)",
    )
    found.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("docs") / "before-after.png",
        help="where to put it (default: %(default)s)",
    )
    return found


def main(argv: Sequence[str]) -> int:
    """Draw the figure and write it."""
    options = parser().parse_args(argv)
    report = options.report or paths.logs() / "latest" / "report.json"
    drawn = figure.draw(figure.read(report))
    temporary = options.output.with_name(f".{options.output.name}.{os.getpid()}.png")
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        # No date and no version in it: the same figures give the same file.
        drawn.savefig(temporary, dpi=_DPI, metadata={"Software": None})
        temporary.replace(options.output)
    except OSError as err:
        raise HarnessError(f"{options.output} cannot be written: {err}") from err
    finally:
        temporary.unlink(missing_ok=True)
    progress.say(f"{report} -> {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(_main.run(main))
