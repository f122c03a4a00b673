"""What checks look at: a series, each place in it, and the files before and after a patch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from unidiff.errors import UnidiffParseError
from unidiff.patch import PatchedFile, PatchSet

from harness import git, patchfile, stamp
from harness import series as all_series
from harness.bases import Base
from harness.errors import UsageError
from harness.patchfile import PatchFile
from harness.prefixtree import PrefixTree
from harness.series import PatchDoesNotApply
from harness.sources.model import Source
from harness.worktree import Arm, Home

if TYPE_CHECKING:
    from harness.checks.compiled import Compiled


@dataclass(frozen=True)
class AddedLine:
    """One line that a patch adds.

    Attributes:
        file: path in the kernel tree.
        number: of the line, from 1, with the patch applied.
        text: without its end.
    """

    file: str
    number: int
    text: str


class Context:
    """A series on its way to people, and the tree that it is for.

    Nothing that a person works in is changed: the commits are made aside, and files are
    read out of the repository.
    """

    def __init__(self, base: Base, directory: Path, *, onto: Path | None = None) -> None:
        """Read the series of ``base``.

        Args:
            directory: where logs go.
            onto: another tree that the series is to apply to.

        Raises:
            UsageError: there is no tree whose scripts could be used.
        """
        self.base = base
        self.directory = directory
        self.onto = onto
        self.home = Home.of(base)
        self.tree = _tree(base)
        #: Filled in by whoever runs the checks that compile: warnings by prefix.
        self.compiled: dict[str, Compiled] = {}
        #: What a check has found out once for all patches, by its name.
        self.memo: dict[str, object] = {}
        self._contents: dict[tuple[int, str], bytes | None] = {}

    @property
    def patches(self) -> Path:
        """The directory of the series."""
        return self.base.patches

    @cached_property
    def places(self) -> list[Place]:
        """Each patch that is there, in order. One that is not is told of with the series."""
        there = [path for path in all_series.read_names(self.patches) if path.is_file()]
        return [Place(self, at, patchfile.read(path)) for at, path in enumerate(there, 1)]

    @cached_property
    def source(self) -> Source:
        """What the base's tree was made from."""
        return self._applied[0]

    @property
    def start(self) -> str:
        """The commit of the unpatched source."""
        return self._applied[1]

    @property
    def commits(self) -> list[str]:
        """The commits of the patches, as far as they apply."""
        return self._applied[2]

    @property
    def stopped(self) -> PatchDoesNotApply | None:
        """What stopped at the first patch that does not apply, if one does not."""
        return self._applied[3]

    @cached_property
    def _applied(self) -> tuple[Source, str, list[str], PatchDoesNotApply | None]:
        tree = PrefixTree(self.base, "checks")
        source = tree.source()
        made, failure = tree.commits([place.patch.path for place in self.places])
        start = git.read(self.home.repo, "rev-parse", "refs/tags/base^{commit}")
        return source, start, made, failure

    def content(self, at: int, file: str) -> bytes | None:
        """Return a file as it is behind patch ``at`` (0: unpatched); None if it is not there."""
        if at > len(self.commits):
            return None
        if (at, file) not in self._contents:
            commit = self.commits[at - 1] if at else self.start
            self._contents[at, file] = git.blob(self.home.repo, f"{commit}:{file}")
        return self._contents[at, file]


@dataclass(frozen=True)
class Place:
    """One patch of a series.

    Attributes:
        number: of the patch, from 1.
    """

    context: Context = field(repr=False)
    number: int
    patch: PatchFile

    @property
    def name(self) -> str:
        """The name of the patch's file."""
        return self.patch.path.name

    @cached_property
    def damage(self) -> str:
        """What is wrong with the diff as such; empty if it can be read."""
        if not self.patch.diff.strip():
            return "it has no diff"
        try:
            PatchSet.from_string(self.patch.diff)
        except UnidiffParseError as err:
            return f"its diff is damaged: {err}"
        return ""

    @cached_property
    def files(self) -> list[PatchedFile]:
        """The files that it changes; none if the diff is damaged."""
        return [] if self.damage else list(PatchSet.from_string(self.patch.diff))

    @property
    def paths(self) -> list[str]:
        """Their paths in the kernel tree, as they are called behind the patch."""
        return [file.path for file in self.files]

    def added(self, suffixes: tuple[str, ...] = ("",)) -> Iterator[AddedLine]:
        """Yield the lines that it adds to files whose names end so."""
        for file in self.files:
            if not file.path.endswith(suffixes):
                continue
            for hunk in file:
                for line in hunk:
                    if line.is_added:
                        text = line.value.rstrip("\n")
                        yield AddedLine(file.path, line.target_line_no or 0, text)

    @property
    def applies(self) -> bool:
        """The files behind the patch are known."""
        return self.number <= len(self.context.commits)

    def before(self, file: str) -> bytes | None:
        """Return a file as it is in front of the patch."""
        return self.context.content(self.number - 1, file)

    def after(self, file: str) -> bytes | None:
        """Return a file as it is behind the patch."""
        return self.context.content(self.number, file)


def fingerprint(base: Base) -> str:
    """Return a digest of all that is mailed or decides a check: patches, letter, waivers."""
    words: list[str | bytes | Path] = []
    for path in sorted(base.patches.glob("*")):
        # What was sent before is no part of what is sent now.
        if path.is_file() and not path.name.startswith("."):
            words += [path.name, path]
    return stamp.digest(words)


def _tree(base: Base) -> Path:
    arms: tuple[Arm, ...] = ("patched", "baseline", "bisect", "checks")
    for arm in arms:
        path = Home.of(base).worktree(arm)
        if (path / "scripts/checkpatch.pl").is_file():
            return path
    raise UsageError(
        f"there is no tree of {base.name}, whose checkpatch.pl is needed",
        hint=f"run scripts/apply-and-build {base.name} first",
    )


def is_user_space(file: str) -> bool:
    """Tell whether Kbuild compiles a file for this machine's users, and not into the kernel."""
    return re.match(r"(tools|samples|scripts|usr|Documentation)/", file) is not None
