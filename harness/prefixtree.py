"""A worktree in which one version of a series after another is checked out.

It is ``bisect`` for the prefixes of a series and ``mutant`` for its mutants, beside the
worktree that people work in and never in place of it; whatever is changed there is thrown
away. Moving it writes only the files that differ between two versions, so that make does
no more than it has to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import disk, git, lock, series
from harness import tree as trees
from harness.bases import Base
from harness.series import PatchDoesNotApply
from harness.sources.model import Source
from harness.worktree import Arm, Home


class PrefixTree:
    """A worktree of one base. Nobody else may use it at the same time."""

    def __init__(self, base: Base, arm: Arm = "bisect") -> None:
        self.base = base
        self.arm: Arm = arm
        self._home = Home.of(base)
        self._start = ""

    @property
    def path(self) -> Path:
        """The worktree, whether it is there yet or not."""
        return self._home.worktree(self.arm)

    def source(self) -> Source:
        """Return the source that the series is for, fetched and imported if it is not there.

        Raises:
            SourceError: the source could not be had.
        """
        with self._held("importing"):
            found, self._start = trees.import_source(self.base, self._home, None)
        return found

    def commits(self, patches: list[Path]) -> tuple[list[str], PatchDoesNotApply | None]:
        """Make the patches commits on top of the source.

        Returns:
            The commits of those that apply, and what stopped at the next one, if anything.
        """
        with self._held("applying the series of"):
            made, failure = series.apply_aside(self._home, self._start, patches)
            # Empty unless something of another run is half made.
            with contextlib.suppress(OSError):
                self._home.scratch.rmdir()
        if failure is not None:
            # The tree that it was tried in is gone.
            failure.hint = (
                f"`scripts/apply-and-build {self.base.name}` leaves the state of `git am` in "
                "the patched worktree; see there"
            )
        return made, failure

    def checkout(self, commit: str) -> None:
        """Make the worktree's files those of ``commit``; ignored ones (objects) stay."""
        with self._held("checking out versions of"):
            if not self.path.exists():
                trees.add_worktree(self._home, self.arm, commit)
                with contextlib.suppress(OSError):
                    self._home.scratch.rmdir()
                return
            # We hold the lock, so whoever made this file is no more.
            (git.git_dir(self.path) / "index.lock").unlink(missing_ok=True)
            git.run(self.path, "checkout", "--quiet", "--force", "--detach", commit)
            # New files of a checkout that was cut off.
            git.run(self.path, "clean", "-fdq")

    @contextmanager
    def _held(self, doing: str) -> Iterator[None]:
        purpose = f"{doing} {self.base.name}"
        with disk.guard(purpose):
            disk.need(self._home.path, 1, purpose)
            with lock.held(self._home.lock, purpose):
                yield
