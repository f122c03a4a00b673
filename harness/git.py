"""Git, run the same way on every machine: no configuration, hooks or attributes but our own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import process

#: Seconds that one git command may take; the longest hashes a whole kernel tree.
TIMEOUT = 900.0

#: Whoever applies the series, the commits come out the same.
COMMITTER_NAME = "skbhome"
COMMITTER_EMAIL = "skbhome@localhost"

# A person's settings (aliases, templates, signing, format.*, diff.*, hooks) would
# make the results differ from machine to machine, so none of them is read.
_SETTINGS = (
    "advice.detachedHead=false",
    "checkout.workers=0",
    "commit.gpgSign=false",
    "core.attributesFile=/dev/null",
    "core.autocrlf=false",
    "core.excludesFile=/dev/null",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.quotePath=true",
    "diff.suppressBlankEmpty=false",
    "gc.auto=0",
    "index.threads=true",
    "maintenance.auto=false",
    # Under sudo, or in a container, the owner may be another user; nothing that a
    # repository could have us run (hooks, monitors, filters of ours) is in effect.
    "safe.directory=*",
)


def environment(extra: Mapping[str, str | None] | None = None) -> dict[str, str | None]:
    """Return the variables for a git command; None stands for one that must be absent."""
    # A hook or an alias that starts us exports GIT_DIR and the like, for its own repository.
    dropped: dict[str, str | None] = {name: None for name in os.environ if name.startswith("GIT_")}
    return {
        **dropped,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_EDITOR": "true",
        "GIT_PAGER": "cat",
        "GIT_COMMITTER_NAME": COMMITTER_NAME,
        "GIT_COMMITTER_EMAIL": COMMITTER_EMAIL,
        "LC_ALL": "C.UTF-8",
        **(extra or {}),
    }


def run(
    where: Path,
    *args: str | Path,
    timeout: float = TIMEOUT,
    what: str | None = None,
    env: Mapping[str, str | None] | None = None,
    check: bool = True,
    hint: str | None = None,
    log: Path | None = None,
    settings: Sequence[str] = (),
) -> process.Completed:
    """Run ``git -C where ARGS`` and return what it left behind (stderr kept apart).

    Args:
        where: a worktree or a bare repository.
        settings: more ``name=value`` pairs of configuration, for this command alone.

    Raises:
        CommandFailed, CommandTimeout: as :func:`harness.process.run`.
    """
    argv: list[str | Path] = ["git"]
    for setting in (*_SETTINGS, *settings):
        argv += ["-c", setting]
    return process.run(
        [*argv, "-C", where, *args],
        timeout=timeout,
        what=what or f"git {args[0]} in {where}",
        env=environment(env),
        check=check,
        hint=hint,
        log=log,
        split_stderr=True,
    )


def read(where: Path, *args: str | Path, env: Mapping[str, str | None] | None = None) -> str:
    """Return the standard output of a git command, without the last newline."""
    return run(where, *args, env=env).output.rstrip("\n")


def resolve(where: Path, revision: str) -> str | None:
    """Return the object name of ``revision``, or None if there is no such thing."""
    done = run(where, "rev-parse", "--verify", "--quiet", "--end-of-options", revision, check=False)
    return done.output.strip() if done.returncode == 0 else None


def blob(where: Path, name: str) -> bytes | None:
    """Return the bytes of a file that git keeps, e.g. ``HEAD:Makefile``; None if it has none."""
    merged = {**os.environ, **environment()}
    # Not through process.run, which reads text.
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", where, "cat-file", "blob", name],
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
        env={key: value for key, value in merged.items() if value is not None},
    )
    return done.stdout if done.returncode == 0 else None


def git_dir(worktree: Path) -> Path:
    """Return the directory that holds HEAD, the index and the state of ``git am``."""
    link = worktree / ".git"
    if link.is_file():
        return Path(link.read_text().removeprefix("gitdir: ").rstrip("\n"))
    return link


def head_and_changes(worktree: Path) -> tuple[str, list[str]]:
    """Return the commit that HEAD is, and the paths that differ from it, unknown files included."""
    listing = run(
        worktree,
        "status",
        "--porcelain=v2",
        "--branch",
        "-z",
        "--no-renames",
        "--untracked-files=all",
    )
    head = ""
    paths = []
    for entry in listing.output.split("\0"):
        if entry.startswith("# branch.oid "):
            head = entry.split()[2]
        elif entry.startswith("? "):
            paths.append(entry[2:])
        elif entry.startswith("1 "):
            paths.append(entry.split(" ", 8)[8])
        elif entry.startswith("u "):
            paths.append(entry.split(" ", 10)[10])
    return head, paths


def unfinished(worktree: Path) -> str | None:
    """Return ``am``, ``rebase``, ``merge`` ... if such an operation is in progress, else None."""
    state = git_dir(worktree)
    if (state / "rebase-apply").is_dir():
        return "am" if (state / "rebase-apply" / "applying").exists() else "rebase"
    for name, operation in (
        ("rebase-merge", "rebase"),
        ("MERGE_HEAD", "merge"),
        ("CHERRY_PICK_HEAD", "cherry-pick"),
        ("REVERT_HEAD", "revert"),
        ("BISECT_LOG", "bisect"),
    ):
        if (state / name).exists():
            return operation
    return None
