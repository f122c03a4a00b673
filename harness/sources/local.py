"""A person's own kernel source: a git checkout or an unpacked directory. It is only read."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from harness import git
from harness.bases import Base
from harness.errors import CommandFailed
from harness.sources.model import NotAKernel, Source, SourceError

#: What every kernel tree has, and hardly anything else.
_MARKS = ("Makefile", "Kbuild", "net/core")


def kernel_version(tree: Path) -> str:
    """Return the version that a kernel tree's Makefile states, e.g. ``5.10.262-rc1``.

    Raises:
        NotAKernel: saying what a kernel tree has and this one lacks.
    """
    if not tree.is_dir():
        raise NotAKernel(f"{tree} is not a directory", hint="give the top of a kernel tree")
    for mark in _MARKS:
        if not (tree / mark).exists():
            raise NotAKernel(
                f"{tree} is not a kernel tree: it has no {mark}",
                hint="give the directory that holds the kernel's top Makefile",
            )
    text = (tree / "Makefile").read_text(errors="replace")
    found: dict[str, str] = dict(
        re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*=[ \t]*(.*?)\s*$", text, re.M)
    )
    for name in ("VERSION", "PATCHLEVEL"):
        if not found.get(name, "").isdigit():
            raise NotAKernel(
                f"{tree} is not a kernel tree: its Makefile sets no {name}",
                hint="give the directory that holds the kernel's top Makefile",
            )
    numbers = [found["VERSION"], found["PATCHLEVEL"], found.get("SUBLEVEL", "")]
    return ".".join(n for n in numbers if n) + found.get("EXTRAVERSION", "")


def is_checkout(tree: Path) -> bool:
    """Tell whether ``tree`` itself is the top of a git worktree (not merely inside one)."""
    if not (tree / ".git").exists():
        return False
    done = git.run(tree, "rev-parse", "--show-prefix", check=False)
    if done.returncode != 0:
        raise SourceError(
            f"git cannot read {tree}",
            tail=done.stderr.strip(),
            hint="make `git status` work there, or give a copy without its .git",
        )
    return done.output.strip() == ""


def inspect(base: Base, tree: Path) -> Source:
    """Return the source that ``tree`` is now.

    A git checkout counts as its HEAD; an unpacked tree as its files, told
    apart by name, size and time of change.

    Raises:
        NotAKernel: it is not a kernel tree.
        SourceError: it is a git checkout that git cannot read.
    """
    tree = tree.resolve()
    version = kernel_version(tree)
    if is_checkout(tree):
        try:
            checksum = git.read(tree, "rev-parse", "--verify", "HEAD^{tree}")
        except CommandFailed as err:
            raise SourceError(
                f"{tree} has no commit yet", hint="commit its files, or remove its .git"
            ) from err
    else:
        checksum = fingerprint(tree)
    return Source(base=base.name, version=version, origin="local", checksum=checksum, path=tree)


def built_in_place(tree: Path) -> bool:
    """Tell whether somebody has configured or built the kernel inside its source."""
    return any((tree / mark).exists() for mark in (".config", "include/config", "vmlinux"))


def uncommitted(tree: Path) -> int:
    """Return how many tracked files of a checkout differ from its HEAD."""
    # No index refresh: that would write to a directory that is not ours.
    done = git.run(tree, "--no-optional-locks", "diff", "--name-only", "-z", "HEAD", check=False)
    return done.output.count("\0")


def fingerprint(tree: Path) -> str:
    """Return a digest of the names, sizes and times of change of all files under ``tree``."""
    total = hashlib.sha256()
    stack = [str(tree)]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                    continue
                found = entry.stat(follow_symlinks=False)
                name = os.path.relpath(entry.path, tree)
                total.update(
                    f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_mode}\n".encode(
                        errors="surrogateescape"
                    )
                )
    return total.hexdigest()
