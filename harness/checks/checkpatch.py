"""The kernel tree's own checkpatch.pl, asked as netdev's CI asks it, and a little more.

The options are those of netdev's CI (nipa, tests/patch/checkpatch), but that long lines and
the form of commit ids in a message are told of as well.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from harness import git, process
from harness.checks import cache
from harness.checks.context import Place
from harness.checks.model import Finding, Result
from harness.errors import HarnessError

NAME = "checkpatch"

#: Seconds that checkpatch.pl may take for one patch.
TIMEOUT = 300.0

_OPTIONS = (
    "--strict",
    "--max-line-length=80",
    # Who sends the series signs it off, not this repository.
    "--no-signoff",
    "--ignore="
    # The tree's history is one commit, so no commit of the kernel's is known.
    "UNKNOWN_COMMIT_ID,"
    # What netdev's CI does not want to hear about.
    "MACRO_ARG_REUSE,ALLOC_SIZEOF_STRUCT,NO_AUTHOR_SIGN_OFF,CAMELCASE,FILE_PATH_CHANGES,"
    "BAD_REPORTED_BY_LINK",
    "--show-types",
    "--color=never",
)
_FINDING = re.compile(
    r"^(?P<level>ERROR|WARNING|CHECK):(?P<kind>[A-Z0-9_]+): (?P<text>.*)"
    r"(?:\n#\d+:(?: FILE: (?P<file>\S+?):(?P<line>\d+):)?)?",
    re.M,
)
_TOTAL = re.compile(r"^total: \d+ errors, \d+ warnings, (?:\d+ checks, )?\d+ lines checked$", re.M)


class CheckpatchFailed(HarnessError):
    """checkpatch.pl did not come to its end."""


def check(place: Place) -> Result:
    """Ask checkpatch.pl about a patch."""
    log = place.context.directory / NAME / f"{place.patch.path.stem}.log"
    return Result(NAME, tuple(run(place.context.tree, place.patch.path, log)), log=log)


def run(tree: Path, patch: Path, log: Path) -> list[Finding]:
    """Run the tree's own checkpatch.pl over a patch and return what it finds.

    Raises:
        CheckpatchFailed: with what it said last.
    """
    scripts = [tree / "scripts" / name for name in ("checkpatch.pl", "spelling.txt")]
    key: list[str | bytes | Path] = [*_OPTIONS, *(path for path in scripts if path.is_file())]
    log.unlink(missing_ok=True)
    output = cache.text(NAME, [*key, patch.name, patch], lambda: _run(tree, patch, log))
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(output)
    return [
        Finding(
            text=match["text"],
            kind=match["kind"],
            level=match["level"],
            file=match["file"] or "",
            line=int(match["line"] or 0),
        )
        for match in _FINDING.finditer(output)
    ]


def _run(tree: Path, patch: Path, log: Path) -> str:
    done = process.run(
        ["perl", tree / "scripts/checkpatch.pl", *_OPTIONS, patch],
        timeout=TIMEOUT,
        what=f"checkpatch.pl {patch.name}",
        cwd=tree,
        env={
            **git.environment(),
            # It looks there for options of a person's own.
            "HOME": os.devnull,
            # The owner of the tree may be another user.
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        },
        log=log,
        check=False,
        # The tracebacks of spdxcheck.py, which wants a Python module that few have; the
        # check `spdx` looks at the licence instead.
        split_stderr=True,
    )
    if not _TOTAL.search(done.output):
        raise CheckpatchFailed(
            f"checkpatch.pl did not come to its end with {patch.name}",
            log=log,
            tail=process.tail(done.output + done.stderr),
            hint="run scripts/doctor" if done.returncode == 127 else None,
        )
    return done.output
