"""Who has to get the series: what the tree's get_maintainer.pl says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.utils import parseaddr
from pathlib import Path

from harness import git, process
from harness.checks import cache
from harness.checks.context import Context
from harness.checks.model import Finding, Result
from harness.errors import HarnessError

NAME = "recipients"

TIMEOUT = 300.0


def check(context: Context) -> Result:
    """Ask for the maintainers and lists of all that the series touches."""
    if not context.places:
        return Result(NAME, note="no patches")
    found = of(context.tree, [place.patch.path for place in context.places])
    log = context.directory / "recipients.txt"
    log.write_text("".join(f"{line}\n" for line in found))
    lists = [line for line in found if is_list(line)]
    if not lists:
        text = "get_maintainer.pl knows no mailing list for what the series touches"
        return Result(NAME, (Finding(text, kind="NO_LIST"),), log=log)
    note = f"{len(found) - len(lists)} people and {len(lists)} lists"
    return Result(NAME, note=note, log=log)


def is_list(recipient: str) -> bool:
    """Tell a mailing list from a person: it is given without a name."""
    return not parseaddr(recipient)[0]


def of(tree: Path, patches: Sequence[Path]) -> list[str]:
    """Return the people and lists that get_maintainer.pl names for the patches, in its order.

    Raises:
        HarnessError: it does not run.
    """
    script = tree / "scripts/get_maintainer.pl"
    if not script.is_file():
        raise HarnessError(f"{tree} has no scripts/get_maintainer.pl")
    # The history here is not the kernel's: it says nothing about who works on a file.
    options = ["--no-git", "--no-git-fallback", "--no-rolestats", "--no-roles"]

    def ask() -> str:
        done = process.run(
            ["perl", script, *options, *patches],
            timeout=TIMEOUT,
            what="get_maintainer.pl",
            cwd=tree,
            env={**git.environment(), "HOME": "/dev/null"},
            split_stderr=True,
        )
        return done.output

    known = [script, tree / "MAINTAINERS", *patches]
    said = cache.text(NAME, [*options, *(path for path in known if path.is_file())], ask)
    return list(dict.fromkeys(re.findall(r"^\S.*@.*$", said, re.M)))
