"""Does a series keep the rules, each of its patches' and those of the whole?

What checkpatch.pl says is the kernel tree's own opinion; the other rules are
this project's. Nothing is built, and the tree is only read.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import git, patchfile, process, series
from harness.bases import Base
from harness.errors import HarnessError, UsageError
from harness.patchfile import PatchFile
from harness.worktree import Arm, Home

#: What people can review.
MAX_PATCHES = 15
MAX_SUBJECT = 75

#: Seconds that checkpatch.pl may take for one patch.
TIMEOUT = 300.0

_OPTIONS = (
    "--strict",
    "--max-line-length=80",
    # Who sends the series signs it off, not this repository.
    "--no-signoff",
    # The tree's history is one commit, so no commit of the kernel's is known.
    "--ignore=UNKNOWN_COMMIT_ID",
    "--show-types",
    "--color=never",
)
_FINDING = re.compile(r"^(ERROR|WARNING|CHECK):([A-Z0-9_]+): (.*)$", re.M)
_TOTAL = re.compile(r"^total: \d+ errors, \d+ warnings, (?:\d+ checks, )?\d+ lines checked$", re.M)


class CheckpatchFailed(HarnessError):
    """checkpatch.pl did not come to its end."""


@dataclass(frozen=True)
class Finding:
    """One thing that checkpatch.pl does not like.

    Attributes:
        level: ``ERROR``, ``WARNING`` or ``CHECK``.
        kind: its name for it, e.g. ``LONG_LINE``.
        text: what it says, one line.
    """

    level: str
    kind: str
    text: str


@dataclass(frozen=True)
class Checked:
    """What was found in one patch.

    Attributes:
        findings: checkpatch.pl's.
        broken: the project's rules that it does not keep, in words.
        log: all that checkpatch.pl printed.
    """

    patch: PatchFile
    findings: tuple[Finding, ...]
    broken: tuple[str, ...]
    log: Path

    @property
    def ok(self) -> bool:
        """Nothing was found."""
        return not self.findings and not self.broken

    @property
    def verdict(self) -> str:
        """What was found, in one line."""
        if self.ok:
            return "ok"
        counts = Counter(finding.level for finding in self.findings)
        parts = [
            f"{counts[level]} {level.lower()}{'s' * (counts[level] > 1)}"
            for level in ("ERROR", "WARNING", "CHECK")
            if counts[level]
        ]
        kinds = Counter(finding.kind for finding in self.findings)
        named = ", ".join(f"{kind} x{n}" if n > 1 else kind for kind, n in kinds.items())
        said = [f"{', '.join(parts)} ({named})"] if parts else []
        return "; ".join([*self.broken, *said])

    def describe(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "patch": self.patch.path.name,
            "subject": self.patch.subject,
            "ok": self.ok,
            "broken": list(self.broken),
            "checkpatch": [vars(finding) for finding in self.findings],
            "log": str(self.log),
        }


def check(
    base: Base, directory: Path, told: Callable[[Checked], None]
) -> tuple[list[Checked], list[str]]:
    """Check every patch of the base's series, then the series.

    Args:
        directory: where the logs go.
        told: called with each patch's result as soon as it is known.

    Returns:
        The patches' results, and the rules that the series does not keep, in words.

    Raises:
        UsageError: there is no tree whose checkpatch.pl could be used.
        CheckpatchFailed: it did not come to its end.
    """
    done = []
    broken = of_series(base.patches)
    for path in series.read_names(base.patches):
        if not path.is_file():
            continue  # told of with the series
        patch = patchfile.read(path)
        log = directory / "checkpatch" / f"{path.stem}.log"
        checked = Checked(patch, tuple(run(_tree(base), path, log)), tuple(of_patch(patch)), log)
        done.append(checked)
        told(checked)
    return done, broken


def of_series(directory: Path) -> list[str]:
    """Return the rules that a directory of patches does not keep, in words."""
    broken = []
    named = [path.name for path in series.read_names(directory)]
    there = {path.name for path in directory.glob("*.patch")}
    if len(named) > MAX_PATCHES:
        broken.append(f"{len(named)} patches; {MAX_PATCHES} are the most that people review")
    broken += [f"`series` names {name}, which is not there" for name in named if name not in there]
    broken += [f"`series` does not name {name}" for name in sorted(there - set(named))]
    broken += [f"`series` names {name} {n} times" for name, n in Counter(named).items() if n > 1]
    return broken


def of_patch(patch: PatchFile) -> list[str]:
    """Return the project's rules that a patch does not keep, in words."""
    broken = []
    if patch.trailers("Signed-off-by"):
        broken.append("has a Signed-off-by")
    if not patch.trailers("Assisted-by"):
        broken.append("has no Assisted-by")
    if not patch.subject:
        broken.append("has no subject")
    if len(patch.subject) > MAX_SUBJECT:
        broken.append(f"subject of {len(patch.subject)} characters, at most {MAX_SUBJECT}")
    return broken


def run(tree: Path, patch: Path, log: Path) -> list[Finding]:
    """Run the tree's own checkpatch.pl over a patch and return what it finds.

    Raises:
        CheckpatchFailed: with what it said last.
    """
    log.unlink(missing_ok=True)
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
        # licence then counts as right.
        split_stderr=True,
    )
    if not _TOTAL.search(done.output):
        raise CheckpatchFailed(
            f"checkpatch.pl did not come to its end with {patch.name}",
            log=log,
            tail=process.tail(done.output + done.stderr),
            hint="run scripts/doctor" if done.returncode == 127 else None,
        )
    return [Finding(*match) for match in _FINDING.findall(done.output)]


def _tree(base: Base) -> Path:
    arms: tuple[Arm, ...] = ("patched", "baseline", "bisect")
    for arm in arms:
        path = Home.of(base).worktree(arm)
        if (path / "scripts/checkpatch.pl").is_file():
            return path
    raise UsageError(
        f"there is no tree of {base.name}, whose checkpatch.pl is needed",
        hint=f"run scripts/apply-and-build {base.name} first",
    )
