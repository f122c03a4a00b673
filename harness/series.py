"""A series of patches: read it, apply it as commits, write commits back."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness import disk, git, lock, patchfile, stamp
from harness.bases import Base
from harness.errors import CommandFailed, HarnessError, UsageError
from harness.worktree import (
    BASE_TAG,
    Applied,
    Home,
    Record,
    WorktreeError,
    patch_key,
    remove,
)


class SeriesError(HarnessError):
    """A directory of patches is not a proper series."""


class PatchDoesNotApply(SeriesError):
    """A patch of the series does not fit the tree.

    Attributes:
        patch: the patch file.
        places: each hunk that found no place, e.g. ``net/core/dev.c:120 (hunk 2 of 3)``.
    """

    def __init__(self, patch: Path, places: tuple[str, ...], *, tail: str, hint: str) -> None:
        at = f" at {', '.join(places)}" if places else ""
        super().__init__(f"{patch.name} does not apply{at}", tail=tail, hint=hint)
        self.patch = patch
        self.places = places


def read(directory: Path) -> list[Path]:
    """Return the patches of a directory, in the order of its quilt ``series`` file.

    A line is a file name, ``#`` starts a comment; ``-p1`` after the name is
    allowed. A missing or empty ``series`` is an empty series.

    Raises:
        SeriesError: a patch is missing, named twice, or needs another ``-p``.
    """
    file = directory / "series"
    if not file.exists():
        return []
    found: list[Path] = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        patch = directory / words[0]
        where = f"{file}, line {number}"
        if words[1:] not in ([], ["-p1"]):
            raise SeriesError(f"{where}: {' '.join(words[1:])}: only -p1 is understood")
        if not patch.is_file():
            raise SeriesError(
                f"{where}: there is no {words[0]}", hint="add the patch, or remove the line"
            )
        if patch in found:
            raise SeriesError(f"{where}: {words[0]} is named twice")
        found.append(patch)
    return found


def digest(directory: Path) -> str:
    """Return a digest of the series: the patches' contents, in order."""
    return stamp.digest(read(directory))


def code_digest(directory: Path) -> str:
    """Return a digest of what the series changes, in order; messages and names do not count.

    Reports name a series by it: a message may then cite a report without voiding it.
    """
    return stamp.digest([patchfile.read(patch).diff for patch in read(directory)])


def apply(worktree: Path, patches: list[Path]) -> list[str]:
    """Apply patches with ``git am`` and return the commits, in order.

    Author and message are the mail's, the committer is always the same, so the
    same series on the same base gives the same commits everywhere.

    Raises:
        PatchDoesNotApply: with the state of ``git am`` kept in ``worktree``.
    """
    if not patches:
        return []
    for patch in patches:
        # What stopped git would then look like the first patch of the series.
        if not patch.read_bytes().strip():
            raise PatchDoesNotApply(
                patch,
                (),
                tail="the file is empty",
                hint=f"take {patch.name} from where it came from again, or out of `series`",
            )
    try:
        git.run(
            worktree,
            "am",
            "--quiet",
            "--no-3way",
            "--no-gpg-sign",
            "--no-scissors",
            "--keep-non-patch",
            "--keep-cr",
            "--whitespace=nowarn",
            "--committer-date-is-author-date",
            "--",
            *(patch.resolve() for patch in patches),
            what="git am",
        )
    except CommandFailed as err:
        stopped = git.git_dir(worktree) / "rebase-apply/next"
        number = int(stopped.read_text()) if stopped.exists() else 1
        raise _failure(worktree, patches[number - 1], err.output) from err
    return git.read(worktree, "rev-list", "--reverse", f"-n{len(patches)}", "HEAD").split()


def apply_aside(
    home: Home, start: str, patches: list[Path]
) -> tuple[list[str], PatchDoesNotApply | None]:
    """Apply patches on top of ``start`` without touching any worktree of a person's.

    Returns:
        The commits of the patches that apply, and what stopped at the next one, if anything.
    """
    aside = home.scratch / "am"
    remove(home, aside)
    home.scratch.mkdir(parents=True, exist_ok=True)
    # git am takes the files that it needs out of the index, so nothing is checked out.
    git.run(home.repo, "worktree", "add", "--quiet", "--no-checkout", "--detach", aside, start)
    failure: PatchDoesNotApply | None = None
    try:
        git.run(aside, "read-tree", "HEAD")
        try:
            commits = apply(aside, patches)
        except PatchDoesNotApply as err:
            failure = err
            commits = git.read(aside, "rev-list", "--reverse", f"{start}..HEAD").split()
    finally:
        remove(home, aside)
    return commits, failure


def _failure(worktree: Path, patch: Path, output: str) -> PatchDoesNotApply:
    # Once more, on paper only: git am names just the first hunk of each file.
    told = git.run(
        worktree, "apply", "--check", "--reject", "--verbose", patch.resolve(), check=False
    )
    text = told.output + told.stderr
    hunks = _hunks(patch)
    places = []
    # Where git has another objection, the files may be changed already, and no hunk fits twice.
    failed = re.findall(r"^error: patch failed: (.+:\d+)$", text, re.M)
    for place in dict.fromkeys(failed if "error: patch failed: " in output else ()):
        name, _, line = place.rpartition(":")
        lines = hunks.get(name, [])
        number = lines.index(int(line)) + 1 if int(line) in lines else 0
        places.append(f"{place} (hunk {number} of {len(lines)})" if number else place)
    # git am tells what stopped it, be it a hunk, a missing file or a damaged mail.
    errors = [line for line in output.splitlines() if line.startswith(("error: ", "fatal: "))]
    return PatchDoesNotApply(
        patch,
        tuple(places),
        tail="\n".join(errors),
        hint=(
            f"the state is kept in {worktree}: look at the patch with `git -C {worktree} am "
            "--show-current-patch=diff`; then either edit the files there, `git add` them, "
            "`git am --continue` and run scripts/refresh-series, or `git am --abort`, change the "
            "patch, and run the command again"
        ),
    )


def _hunks(patch: Path) -> dict[str, list[int]]:
    """Return the first line of each hunk, by file, as the patch counts them."""
    found: dict[str, list[int]] = {}
    name = ""
    for line in patch.read_text(errors="replace").splitlines():
        if line.startswith("--- "):
            name = line[4:].partition("/")[2]
        elif name and (matched := re.match(r"@@ -(\d+)(?:,\d+)? \+\d+", line)):
            found.setdefault(name, []).append(int(matched[1]))
    return found


# --- writing back -----------------------------------------------------------


@dataclass(frozen=True)
class Refreshed:
    """What :func:`refresh` did.

    Attributes:
        directory: the directory of the series.
        commits: how many patches it has now.
        written: names of files that are new or differ, in order.
        removed: names of files that are no longer there.
    """

    directory: Path
    commits: int
    written: tuple[str, ...]
    removed: tuple[str, ...]


def refresh(base: Base, *, tree: Path | None = None, force: bool = False) -> Refreshed:
    """Write the commits of the patched worktree back into the base's directory of patches.

    Files there that are no patches of the series (a cover letter, a README)
    stay. The directory changes in one step, after the patches have been seen
    to give exactly the tree of HEAD.

    Args:
        tree: the person's own tree that the worktree was made from, if any.
        force: replace patches/ even if it has changed since it was applied.

    Raises:
        UsageError: there is no patched worktree yet.
        WorktreeError: uncommitted changes, an unfinished operation, HEAD not on
            top of the base commit, or patches/ changed in the meantime.
        SeriesError: a commit cannot be written as a patch.
    """
    home = Home.of(base, tree)
    worktree = home.worktree("patched")
    if not worktree.exists():
        raise UsageError(
            f"there is no patched worktree of {base.name} ({worktree})",
            hint=f"run scripts/apply-and-build {base.name} first",
        )
    purpose = f"refreshing patches/{base.name}"
    with disk.guard(purpose), lock.held(home.lock, purpose):
        return _refresh(base, home, force)


def _refresh(base: Base, home: Home, force: bool) -> Refreshed:
    worktree = home.worktree("patched")
    commits = _checked_commits(worktree)
    record = Record.load(home.record("patched"))
    if not force and (record is None or record.digest != digest(base.patches)):
        raise WorktreeError(
            f"{base.patches} has changed since it was applied to {worktree}, and the commits "
            "there do not have that change",
            hint="put both together in the worktree, then run this again with --force, which "
            "replaces the patches by the commits",
        )
    new = base.patches.with_name(f".{base.patches.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        names = _format(worktree, commits, new)
        start = git.read(worktree, "rev-parse", f"{BASE_TAG}^{{commit}}")
        again, failure = apply_aside(home, start, [new / name for name in names])
        if failure is not None or not _same(worktree, again, commits):
            raise SeriesError(
                f"the patches made from {worktree} do not give its HEAD again",
                tail=str(failure) if failure else None,
                hint="look for `diff`, `---` or a scissors line in the commit messages",
            )
        written, removed = _complete(base.patches, new, names)
        if written or removed:
            _exchange(new, base.patches)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    Record(
        base=start,
        commit=git.read(worktree, "rev-parse", "HEAD"),
        digest=digest(base.patches),
        applied=tuple(
            Applied(patch_key(base.patches / name), commit)
            for name, commit in zip(names, commits, strict=True)
        ),
    ).write(home.record("patched"))
    return Refreshed(base.patches, len(commits), tuple(written), tuple(removed))


def _checked_commits(worktree: Path) -> list[str]:
    """Return the commits on top of the base, after making sure that they can be patches."""
    operation = git.unfinished(worktree)
    if operation is not None:
        raise WorktreeError(
            f"a git {operation} is unfinished in {worktree}",
            hint=f"`git -C {worktree} {operation} --continue` or `--abort`, then run this again",
        )
    _, changed = git.head_and_changes(worktree)
    if changed:
        raise WorktreeError(
            f"{worktree} has uncommitted changes: {', '.join(changed[:5])}",
            hint="commit them, `git stash --include-untracked` them, or remove them",
        )
    if git.resolve(worktree, f"refs/tags/{BASE_TAG}^{{commit}}") is None or (
        git.run(worktree, "merge-base", "--is-ancestor", BASE_TAG, "HEAD", check=False).returncode
        != 0
    ):
        raise WorktreeError(
            f"HEAD of {worktree} is not on top of the tag {BASE_TAG}",
            hint=f"`git -C {worktree} rebase {BASE_TAG}`, or check out the branch `series`",
        )
    commits = []
    before = git.read(worktree, "rev-parse", f"{BASE_TAG}^{{tree}}")
    for line in git.read(
        worktree, "log", "--reverse", "--format=%H %T %P", f"{BASE_TAG}..HEAD"
    ).splitlines():
        commit, its_tree, *parents = line.split()
        if len(parents) != 1:
            raise SeriesError(
                f"{commit[:12]} is a merge, which no patch can hold",
                hint=f"`git -C {worktree} rebase {BASE_TAG}` makes the history straight",
            )
        if its_tree == before:
            raise SeriesError(
                f"{commit[:12]} changes nothing, so it makes no patch",
                hint=f"drop it with `git -C {worktree} rebase -i {BASE_TAG}`",
            )
        commits.append(commit)
        before = its_tree
    return commits


def _format(worktree: Path, commits: list[str], into: Path) -> list[str]:
    """Write commits as patch files and return their names; the same commits give the same bytes."""
    into.mkdir(parents=True)
    if not commits:
        return []
    made = git.run(
        worktree,
        "format-patch",
        "--output-directory",
        into,
        # Nothing that changes when a patch is added elsewhere, or from machine to machine.
        "--no-numbered",
        "--zero-commit",
        "--no-signature",
        "--no-signoff",
        "--no-thread",
        "--no-attach",
        "--no-cover-letter",
        "--no-base",
        "--no-notes",
        "--no-to",
        "--no-cc",
        "--no-add-header",
        "--no-from",
        "--subject-prefix=PATCH",
        "--suffix=.patch",
        "--filename-max-length=64",
        "--start-number=1",
        "--encode-email-headers",
        "--abbrev=12",
        "--unified=3",
        "--inter-hunk-context=0",
        "--diff-algorithm=histogram",
        "--indent-heuristic",
        # A distribution's `patch` may not know renames.
        "--no-renames",
        "--binary",
        "--no-ext-diff",
        "--no-textconv",
        "--no-color",
        "--src-prefix=a/",
        "--dst-prefix=b/",
        "--submodule=short",
        "--no-relative",
        "--stat=72",
        "--summary",
        "--patch",
        f"{BASE_TAG}..HEAD",
        settings=("diff.orderFile=/dev/null",),
    )
    names = [Path(line).name for line in made.output.splitlines()]
    if len(names) != len(commits):
        raise SeriesError(f"git made {len(names)} patches from {len(commits)} commits")
    return names


def _same(worktree: Path, left: list[str], right: list[str]) -> bool:
    """Tell whether two rows of commits have the same files, messages and authors."""

    def facts(commits: list[str]) -> str:
        form = "--format=%T%n%an%n%ae%n%ad%n%B%x00"
        wanted = ["--no-walk=unsorted", "--date=raw", form, *commits]
        return git.read(worktree, "log", *wanted) if commits else ""

    return facts(left) == facts(right)


def _complete(old: Path, new: Path, names: list[str]) -> tuple[list[str], list[str]]:
    """Add the series file and all else that stays to ``new``; say what differs from ``old``."""
    ours = {patch.name for patch in read_names(old)}
    for entry in old.iterdir() if old.is_dir() else ():
        if entry.name in ours or entry.name == "series" or (new / entry.name).exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, new / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, new / entry.name, follow_symlinks=False)
    text = _series_text(old / "series", names)
    if names or (old / "series").exists():
        (new / "series").write_text(text)
    written = []
    for name in [*names, *(["series"] if (new / "series").exists() else [])]:
        before = old / name
        if before.is_file() and before.read_bytes() == (new / name).read_bytes():
            # The same bytes: keep the time of change too.
            shutil.copy2(before, new / name)
        else:
            written.append(name)
    return written, sorted(ours - set(names))


def read_names(directory: Path) -> list[Path]:
    """Return the patches that a ``series`` file names, whether they exist or not."""
    file = directory / "series"
    lines = file.read_text().splitlines() if file.exists() else []
    words = (line.partition("#")[0].split() for line in lines)
    return [directory / word[0] for word in words if word]


def _series_text(old: Path, names: list[str]) -> str:
    """Return a series file of ``names`` that keeps the comments of the old one.

    A comment belongs to the patch below it, whatever number that patch has now.
    """

    def title(name: str) -> str:
        return re.sub(r"^\d+-", "", name)

    above: dict[str, list[str]] = {}
    beside: dict[str, str] = {}
    pending: list[str] = []
    for line in old.read_text().splitlines() if old.exists() else ():
        words = line.partition("#")[0].split()
        if not words:
            pending.append(line)
            continue
        above[title(words[0])] = pending
        beside[title(words[0])] = line[len(words[0]) :]
        pending = []
    lines: list[str] = []
    for name in names:
        lines += above.get(title(name), [])
        lines.append(name + beside.get(title(name), ""))
    return "".join(f"{line}\n" for line in lines + pending)


def _exchange(new: Path, old: Path) -> None:
    """Put directory ``new`` in the place of ``old``; ``new`` is the old one afterwards."""
    if not old.exists():
        new.rename(old)
        return
    # renameat2(RENAME_EXCHANGE): at no moment is there no directory.
    libc = ctypes.CDLL(None, use_errno=True)
    at_cwd, exchange = -100, 2
    done = getattr(libc, "renameat2", None)
    if done is not None and (
        done(at_cwd, os.fsencode(new), at_cwd, os.fsencode(old), exchange) == 0
    ):
        return
    # A file system without it (some network and overlay ones).
    aside = old.with_name(f".{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    old.rename(aside)
    try:
        new.rename(old)
    except BaseException:
        aside.rename(old)
        raise
    shutil.rmtree(aside, ignore_errors=True)
