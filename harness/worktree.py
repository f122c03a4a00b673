"""Where a base's repository and worktrees are, and what is known about each worktree.

Beside the repository of a base (``repo.git``) there are two worktrees,
``patched`` and ``baseline``, and one record per worktree: which series was put
there, and which commit that gave. From the record follows whether a worktree
holds work of a person's own, which nobody but that person may throw away.
Three more, ``bisect``, ``mutant`` and ``checks``, are the harness's alone (see
:mod:`harness.prefixtree`).
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness import git, paths, stamp
from harness.bases import Base
from harness.errors import HarnessError

Arm = Literal["patched", "baseline", "bisect", "mutant", "checks"]
#: The tag of the unpatched source, and the branch that the patched worktree is on.
BASE_TAG = "base"
BRANCH = "series"


class WorktreeError(HarnessError):
    """A worktree is in a state that only its owner can decide about."""


@dataclass(frozen=True)
class Home:
    """The directory of one base's repository: ``build/trees/NAME``."""

    path: Path

    @classmethod
    def of(cls, base: Base, tree: Path | None = None) -> Home:
        """Return the home of ``base``, or of a person's own ``tree`` built as that base."""
        if tree is None:
            return cls(paths.trees() / base.tree_name)
        name = hashlib.sha256(str(tree.resolve()).encode()).hexdigest()[:8]
        return cls(paths.trees() / f"{base.tree_name}-local-{name}")

    @property
    def repo(self) -> Path:
        """The bare repository that all worktrees share."""
        return self.path / "repo.git"

    @property
    def scratch(self) -> Path:
        """The directory of things half made; nobody has a claim on what is in it."""
        return self.path / "new"

    @property
    def source_stamp(self) -> Path:
        """The stamp of the import: which source the base commit was made from."""
        return self.path / "source.stamp"

    @property
    def lock(self) -> Path:
        """The lock that whoever changes anything here holds."""
        return paths.locks() / f"tree-{self.path.name}.lock"

    def worktree(self, arm: Arm) -> Path:
        """Return the path of a worktree."""
        return self.path / arm

    def record(self, arm: Arm) -> Path:
        """Return the path of a worktree's record."""
        return self.path / f"{arm}.stamp"


@dataclass(frozen=True)
class Applied:
    """One patch of a series and the commit that it became."""

    sha256: str
    commit: str


@dataclass(frozen=True)
class Record:
    """What was put into a worktree.

    Attributes:
        base: the base commit.
        commit: where HEAD was left.
        digest: the series that was put there, whole or not (see ``applied``).
        applied: its patches that are commits now, in order.
        moving: the commit that HEAD is being moved to; None when at rest.
    """

    base: str
    commit: str
    digest: str
    applied: tuple[Applied, ...] = ()
    moving: str | None = None

    def write(self, path: Path) -> None:
        """Write the record."""
        stamp.write(
            path,
            self.digest,
            {
                "base": self.base,
                "commit": self.commit,
                "applied": [[each.sha256, each.commit] for each in self.applied],
                "moving": self.moving,
            },
        )

    @classmethod
    def load(cls, path: Path) -> Record | None:
        """Read a record; None if there is none that can be trusted."""
        found = stamp.read(path)
        if found is None:
            return None
        digest, facts = found
        try:
            return cls(
                base=facts["base"],
                commit=facts["commit"],
                digest=digest,
                applied=tuple(Applied(one, two) for one, two in facts["applied"]),
                moving=facts["moving"],
            )
        except (KeyError, TypeError, ValueError):
            return None


def patch_key(patch: Path) -> str:
    """Return what tells patches apart: the SHA-256 of their contents."""
    return hashlib.sha256(patch.read_bytes()).hexdigest()


def common(applied: tuple[Applied, ...], patches: list[Path]) -> int:
    """Return how many patches at the start of a series are applied already."""
    count = 0
    for have, patch in zip(applied, patches, strict=False):
        if have.sha256 != patch_key(patch):
            break
        count += 1
    return count


def remove(home: Home, path: Path) -> None:
    """Remove a worktree (or a directory that was to become one) and what git knows of it."""
    if path.exists():
        shutil.rmtree(path)
    known = home.repo / "worktrees"
    if known.exists() and any((each / "gitdir").exists() for each in known.iterdir()):
        git.run(home.repo, "worktree", "prune", "--expire=now")


def contents(worktree: Path, index: Path) -> str:
    """Return the name of the git tree that the worktree's files make up, ignored files aside.

    Neither the index nor any file of the worktree is touched.

    Args:
        index: a path for a temporary index.
    """
    shutil.copyfile(git.git_dir(worktree) / "index", index)
    try:
        env = {"GIT_INDEX_FILE": str(index)}
        git.run(worktree, "add", "-A", ".", env=env)
        return git.read(worktree, "write-tree", env=env)
    finally:
        index.unlink(missing_ok=True)
