"""Kernel trees ready to build: one git repository per base, a worktree per arm.

The unpacked source is imported once, as the commit tagged ``base``. The
worktree ``baseline`` stays there; ``patched`` is on the branch ``series``, with
one commit per patch. When patches/ changes, the new commits are made aside and
the worktree is then moved to them in one step, which writes only files that
differ: everything else keeps its time of change, and the next build is short.
"""

from __future__ import annotations

import contextlib
import lzma
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import disk, git, lock, paths, process, progress, series, stamp
from harness.bases import Base
from harness.errors import CommandFailed
from harness.sources import fetch, local
from harness.sources.model import NotAKernel, Source, SourceError
from harness.worktree import (
    BASE_TAG,
    BRANCH,
    Applied,
    Arm,
    Home,
    Record,
    WorktreeError,
    common,
    contents,
    patch_key,
    remove,
)

__all__ = ["Tree", "add_worktree", "import_source", "prepare"]

#: MiB: a kernel's files, and what git keeps of them. Measured on 5.10 to 7.3, rounded up.
WORKTREE_MIB = 1900
REPOSITORY_MIB = 500
FILES = 110_000

#: Raised when the way of importing changes, so that older imports are made again.
_FORMAT = "1"
#: The date of every base commit: the same source gives the same commit everywhere.
_DATE = "2020-01-01T00:00:00+0000"


@dataclass(frozen=True)
class Tree:
    """A kernel tree, ready to configure and build.

    Attributes:
        arm: ``patched``, ``baseline``, ``bisect`` for a part of the series, ``mutant`` for it
            with a bug.
        path: a git worktree.
        source: what it was made from.
        commit: its HEAD.
        series_digest: names the series in it. Two trees with the same source
            and digest have the same contents; uncommitted edits count.
    """

    base: Base
    arm: Arm
    path: Path
    source: Source
    commit: str
    series_digest: str


def prepare(base: Base, *, baseline: bool, tree: Path | None = None) -> Tree:
    """Return the tree of ``base`` with its series applied, or without it.

    What is there already is used: the source is fetched when there is no tree
    yet, and the series is applied when patches/ has changed. Work of a
    person's own in the patched worktree is built as it is, and never undone.

    Args:
        baseline: the unpatched tree.
        tree: a person's own kernel tree to start from; it is only read.

    Raises:
        SourceError: the source could not be had (see :mod:`harness.sources.fetch`).
        PatchDoesNotApply: the state of ``git am`` is kept in the patched worktree.
        WorktreeError: both the worktree and patches/ have changed, or an
            operation (am, rebase ...) is unfinished there.
        DiskTooSmall, NotPermitted, LockTimeout: as their names say.
    """
    arm: Arm = "baseline" if baseline else "patched"
    home = Home.of(base, tree)
    purpose = f"preparing the {arm} tree of {base.name}"
    with disk.guard(purpose):
        # Steps ask for their own space; this asks whether we may write there at all.
        disk.need(home.path, 1, purpose)
        with lock.held(home.lock, purpose):
            source, commit = import_source(base, home, tree)
            path = home.worktree(arm)
            if not path.exists():
                add_worktree(home, arm, commit)
            if arm == "baseline":
                digest = _settle_baseline(home, commit)
            else:
                digest = _settle_patched(home, commit, base.patches)
            head = git.read(path, "rev-parse", "HEAD")
            # Empty unless something is half made.
            with contextlib.suppress(OSError):
                home.scratch.rmdir()
    return Tree(base, arm, path, source, head, digest)


# --- the import -------------------------------------------------------------


def import_source(base: Base, home: Home, tree: Path | None) -> tuple[Source, str]:
    """Make sure that the repository has the base commit; return its source and name.

    The caller holds the lock of ``home``.
    """
    recorded = stamp.read(home.source_stamp)
    known: tuple[Source, str] | None = None
    if recorded is not None and home.repo.exists():
        facts = recorded[1]
        if git.resolve(home.repo, f"refs/tags/{BASE_TAG}^{{commit}}") == facts["commit"]:
            known = _source(facts["source"]), facts["commit"]
    if tree is None:
        if known is not None and recorded is not None and recorded[0] == _inputs(base, known[0]):
            return known
        source = fetch.fetch(base)
    else:
        source = local.inspect(base, tree)
        if known is not None and recorded is not None and recorded[0] == _inputs(base, source):
            return source, known[1]
    disk.need(
        home.path,
        WORKTREE_MIB + REPOSITORY_MIB,
        f"unpacking {base.name} {source.version}",
        files=FILES,
    )
    if not f"{source.version}.".startswith(f"{base.series}."):
        progress.say(f"note: {source.path} is {source.version}, not a {base.series}")
    progress.say(f"importing {base.tree_name} {source.version} ({source.origin})")
    commit = _make_base(home, source, rt=base.rt)
    stamp.write(
        home.source_stamp,
        _inputs(base, source),
        {
            "commit": commit,
            "source": {
                name: str(value) if isinstance(value, Path) else value
                for name, value in asdict(source).items()
            },
        },
    )
    return source, commit


def _inputs(base: Base, source: Source) -> str:
    # The archive has the PREEMPT_RT patch in it, so that its checksum is for both.
    rt = ["rt"] if base.rt else []
    return stamp.digest([_FORMAT, source.origin, source.checksum, *rt])


def _source(facts: dict[str, str | None]) -> Source:
    """Rebuild a source from a stamp; files that are gone by now are left out."""
    files: dict[str, Path | None] = {}
    for name in ("archive", "rt_patch", "path"):
        value = facts.get(name)
        files[name] = Path(value) if value and Path(value).exists() else None
    return Source(
        base=str(facts["base"]),
        version=str(facts["version"]),
        origin=facts["origin"],  # type: ignore[arg-type]
        checksum=str(facts["checksum"]),
        package_version=str(facts.get("package_version") or ""),
        **files,
    )


def _make_base(home: Home, source: Source, *, rt: bool) -> str:
    """Import the source's files; tag and return the base commit.

    Args:
        rt: with the PREEMPT_RT patch that goes with the source.
    """
    if rt and source.rt_patch is None:
        raise SourceError(
            f"there is no PREEMPT_RT patch with {source.version} ({source.origin})",
            hint="it is in the distribution's source package; see that this can be had, "
            "or give a tree that has PREEMPT_RT with --tree",
        )
    _make_repository(home)
    remove(home, home.scratch)
    home.scratch.mkdir(parents=True)
    # An import that was cut off leaves packs that it had not finished.
    for leftover in (home.repo / "objects/pack").glob("tmp_*"):
        leftover.unlink()
    staging = home.scratch / "files"
    index = home.scratch / "index"
    if source.path is not None and local.is_checkout(source.path):
        git_tree = _fetch_tree(home, source)
        files = None
    else:
        staging.mkdir()
        _fill(staging, source, home)
        git_tree = _add(home, staging, index, source)
        files = staging
        if rt:
            git_tree = _add_rt(home, index, source)
            files = None
    commit = git.read(
        home.repo,
        "commit-tree",
        git_tree,
        "-m",
        f"Linux {source.version}{' with PREEMPT_RT' if rt else ''}",
        "-m",
        f"{'Patched' if rt else 'Unmodified'} source, version "
        f"{source.package_version or source.version}.",
        env={
            "GIT_AUTHOR_NAME": git.COMMITTER_NAME,
            "GIT_AUTHOR_EMAIL": git.COMMITTER_EMAIL,
            "GIT_AUTHOR_DATE": _DATE,
            "GIT_COMMITTER_DATE": _DATE,
        },
    )
    git.run(home.repo, "update-ref", f"refs/tags/{BASE_TAG}", commit)
    if files is not None and not home.worktree("patched").exists():
        add_worktree(home, "patched", commit, files=files, index=index)
    remove(home, home.scratch)
    return commit


_CONFIG = """[gc]
	; Repacking a kernel takes minutes, and there is nothing to gain from it here.
	auto = 0
[core]
	; In a bare repository reflogs are off, but people work in its worktrees.
	logAllRefUpdates = always
	untrackedCache = true
[index]
	version = 4
"""


def _make_repository(home: Home) -> None:
    home.path.mkdir(parents=True, exist_ok=True)
    config = home.repo / "config"
    if not config.exists():
        process.run(
            ["git", "init", "--quiet", "--bare", "--template=", "-b", BRANCH, home.repo],
            timeout=60,
            env=git.environment(),
        )
    text = config.read_text()
    if _CONFIG not in text:
        stamp.write_atomic(config, text + _CONFIG)
    (home.repo / "info").mkdir(exist_ok=True)
    stamp.write_atomic(home.repo / "info/exclude", "/build-*/\n")


def _fill(staging: Path, source: Source, home: Home) -> None:
    log = paths.logs() / "trees" / f"{home.path.name}.log"
    if source.path is None:
        fetch.unpack(source, staging, log=log)
        try:
            local.kernel_version(staging)
        except NotAKernel as err:
            raise SourceError(
                f"{source.archive} does not hold a kernel tree", tail=err.what
            ) from err
        return
    process.run(
        # Reflinks where the file system has them; owners and links as they are.
        ["cp", "-R", "-P", "-p", "--reflink=auto", f"{source.path}/.", staging],
        timeout=fetch.UNPACK_TIMEOUT,
        what=f"copying {source.path}",
        log=log,
    )
    if (staging / ".git").is_dir():
        shutil.rmtree(staging / ".git")
    else:
        (staging / ".git").unlink(missing_ok=True)


def _add(home: Home, staging: Path, index: Path, source: Source) -> str:
    """Write all files below ``staging`` into the repository; return the tree's name."""
    # The kernel's .gitignore also hides files that belong to a source package. But
    # in a tree that was built in place it is what tells source from objects.
    built = source.path is not None and local.built_in_place(staging)
    git.run(
        home.repo,
        f"--work-tree={staging}",
        "add",
        "-A" if built else "-Af",
        ".",
        what=f"importing {source.version}",
        env={"GIT_INDEX_FILE": str(index)},
        settings=(
            "core.bare=false",
            "core.compression=1",
            # A file above the threshold goes straight into a pack: one pack in
            # place of 75,000 files.
            "core.bigFileThreshold=1",
        ),
    )
    if built:
        git.run(
            home.repo,
            f"--work-tree={staging}",
            "clean",
            "-fdxq",
            env={"GIT_INDEX_FILE": str(index)},
            settings=("core.bare=false",),
        )
    return git.read(home.repo, "write-tree", env={"GIT_INDEX_FILE": str(index)})


def _add_rt(home: Home, index: Path, source: Source) -> str:
    """Put the PREEMPT_RT patch over the files in ``index``; return the new tree's name."""
    assert source.rt_patch is not None
    patch = home.scratch / "rt.patch"
    with lzma.open(source.rt_patch) as packed, patch.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)
    env = {"GIT_INDEX_FILE": str(index)}
    try:
        git.run(
            home.repo,
            *("apply", "--cached", "--whitespace=nowarn", patch),
            what="applying the PREEMPT_RT patch",
            env=env,
        )
    except CommandFailed as err:
        raise SourceError(
            f"{source.rt_patch.name} does not apply to {source.version}", tail=err.tail
        ) from err
    return git.read(home.repo, "write-tree", env=env)


def _fetch_tree(home: Home, source: Source) -> str:
    """Copy the HEAD of a person's checkout into our repository; return its tree's name."""
    assert source.path is not None
    edits = local.uncommitted(source.path)
    if edits:
        progress.say(
            f"note: {edits} uncommitted changes in {source.path} are not taken, only its HEAD"
        )
    # A copy rather than borrowed objects: the checkout may drop them at any time.
    git.run(
        home.repo,
        "fetch",
        "--quiet",
        "--depth=1",
        "--no-tags",
        # The other end is a git of its own. Looking for deltas would take minutes.
        "--upload-pack=git -c pack.window=0 -c pack.compression=1 -c safe.directory=* upload-pack",
        f"file://{source.path}",
        "HEAD",
        what=f"copying the HEAD of {source.path}",
    )
    return git.read(home.repo, "rev-parse", "FETCH_HEAD^{tree}")


# --- worktrees --------------------------------------------------------------


def add_worktree(
    home: Home, arm: Arm, commit: str, *, files: Path | None = None, index: Path | None = None
) -> None:
    """Make a worktree at ``commit``; it gets its name when it is whole.

    The caller holds the lock of ``home``.

    Args:
        files: a directory with exactly the commit's files, to be used up.
        index: the index that goes with them.
    """
    if files is None:
        disk.need(home.path, WORKTREE_MIB, f"checking out {home.path.name}", files=FILES)
        progress.say(f"checking out the {arm} tree of {home.path.name}")
    new = home.scratch / arm
    remove(home, new)
    home.scratch.mkdir(parents=True, exist_ok=True)
    where: list[str | Path] = ["--detach"]
    if arm == "patched":
        _keep_branch(home)
        where = ["-B", BRANCH]
    checkout = ["--no-checkout"] if files is not None else []
    git.run(home.repo, "worktree", "add", "--quiet", *checkout, *where, new, commit)
    if files is not None:
        assert index is not None
        for entry in files.iterdir():
            entry.rename(new / entry.name)
        index.rename(git.git_dir(new) / "index")
    git.run(new, "update-index", "-q", "--refresh", check=False)
    Record(base=commit, commit=commit, digest=stamp.digest([])).write(home.record(arm))
    git.run(home.repo, "worktree", "move", new, home.worktree(arm))


def _keep_branch(home: Home) -> None:
    """Give another name to a branch ``series`` whose worktree somebody has removed."""
    tip = git.resolve(home.repo, f"refs/heads/{BRANCH}")
    record = Record.load(home.record("patched"))
    if tip is None or (record is not None and tip in (record.commit, record.base)):
        return
    saved = f"{BRANCH}-saved-{tip[:12]}"
    git.run(home.repo, "branch", "--force", saved, tip)
    progress.say(f"note: commits of an earlier worktree are kept in {home.repo} as branch {saved}")


def _settle_baseline(home: Home, base: str) -> str:
    """Make sure that the baseline worktree is exactly the base commit."""
    path = home.worktree("baseline")
    _recover(home, "baseline")
    record = Record.load(home.record("baseline"))
    head, changed = git.head_and_changes(path)
    if changed or head not in (base, record.commit if record else base):
        raise WorktreeError(
            f"the baseline worktree {path} has been changed: "
            + (", ".join(changed[:5]) if changed else f"HEAD is {head[:12]}"),
            hint=f"`git -C {path} reset --hard {BASE_TAG} && git -C {path} clean -fd` undoes that",
        )
    if head != base:
        _move(home, "baseline", Record(base=base, commit=base, digest=stamp.digest([])))
    return stamp.digest([])


def _settle_patched(home: Home, base: str, directory: Path) -> str:
    """Bring the patched worktree up to date with ``directory``; return its digest."""
    path = home.worktree("patched")
    _recover(home, "patched")
    patches = series.read(directory)
    digest = series.digest(directory)
    operation = git.unfinished(path)
    if operation is not None:
        raise WorktreeError(
            f"a git {operation} is unfinished in {path}",
            hint=f"`git -C {path} {operation} --continue` or `--abort`, then run this again",
        )
    record = Record.load(home.record("patched"))
    head, changed = git.head_and_changes(path)
    if record is None and head == base and not changed:
        record = Record(base=base, commit=base, digest=stamp.digest([]))
        record.write(home.record("patched"))
    untouched = record is not None and head == record.commit and not changed
    if record is None or not (record.base == base and record.digest == digest):
        if not untouched:
            moved = record is not None and record.base != base
            raise _conflict(path, "its source" if moved else directory, record, head, changed)
        assert record is not None
        _apply(home, base, patches, digest, record)
    elif untouched and common(record.applied, patches) != len(patches):
        # An earlier run could not apply them all, and its `git am` was aborted.
        _apply(home, base, patches, digest, record)
    elif not untouched:
        tree = contents(path, home.path / "contents.index")
        progress.say(f"note: {path} has changes of your own; they are built as they are")
        return stamp.digest([digest, head, tree])
    return digest


def _conflict(
    path: Path, cause: Path | str, record: Record | None, head: str, changed: list[str]
) -> WorktreeError:
    what = []
    if changed:
        what.append(f"uncommitted changes ({', '.join(changed[:3])}{', ...' * (len(changed) > 3)})")
    if record is None or head != record.commit:
        what.append("commits of your own")
    return WorktreeError(
        f"{path} has {' and '.join(what)}, and {cause} has changed since they were started",
        hint=(
            "to keep your work, commit it in the worktree, put it together with the new patches "
            "there, and let `scripts/refresh-series --force` replace the patches; to give it up, "
            f"`git -C {path} reset --hard {record.commit[:12] if record else BASE_TAG}` "
            f"(and `git -C {path} clean -fd` for new files)"
        ),
    )


def _apply(home: Home, base: str, patches: list[Path], digest: str, record: Record) -> None:
    """Make the commits of the series aside, then move the worktree to them."""
    kept = common(record.applied, patches) if record.base == base else 0
    start = record.applied[kept - 1].commit if kept else base
    if patches[kept:]:
        progress.say(f"applying {len(patches) - kept} of {len(patches)} patches")
    commits, failure = series.apply_aside(home, start, patches[kept:])
    applied = record.applied[:kept] + tuple(
        Applied(patch_key(patch), commit)
        for patch, commit in zip(patches[kept:], commits, strict=False)
    )
    tip = applied[-1].commit if applied else base
    _move(home, "patched", Record(base=base, commit=tip, digest=digest, applied=applied))
    if failure is not None:
        # Again where a person can work on it, with all files in place.
        series.apply(home.worktree("patched"), patches[len(applied) :])
        raise failure


def _move(home: Home, arm: Arm, target: Record) -> None:
    """Move a worktree that has no changes from where its record says to ``target``."""
    old = Record.load(home.record(arm))
    assert old is not None
    Record(old.base, old.commit, old.digest, old.applied, moving=target.commit).write(
        home.record(arm)
    )
    try:
        git.run(home.worktree(arm), "reset", "--quiet", "--keep", target.commit)
    except CommandFailed as err:
        old.write(home.record(arm))
        raise WorktreeError(
            f"{home.worktree(arm)} cannot be moved to {target.commit[:12]}",
            tail=err.tail,
            hint="move the files named above out of the way, then run this again",
        ) from err
    target.write(home.record(arm))


def _recover(home: Home, arm: Arm) -> None:
    """Undo a move that was cut off half-way."""
    record = Record.load(home.record(arm))
    if record is None or record.moving is None:
        return
    path = home.worktree(arm)
    # We hold the lock on this tree, so whoever made this file is no more.
    (git.git_dir(path) / "index.lock").unlink(missing_ok=True)
    listing = git.read(
        path, "diff", "--no-renames", "--name-only", "-z", record.commit, record.moving
    )
    between = {name for name in listing.split("\0") if name}
    strange = set(git.head_and_changes(path)[1]) - between
    if strange:
        raise WorktreeError(
            f"{path} was left half-way between two series, and has other changes: "
            + ", ".join(sorted(strange)[:5]),
            hint=f"`git -C {path} reset --hard {record.commit[:12]}`, saving those files first",
        )
    git.run(path, "reset", "--quiet", "--hard", record.commit)
    for name in between & set(git.head_and_changes(path)[1]):
        # New files of the series that it was being moved to.
        (path / name).unlink(missing_ok=True)
    Record(record.base, record.commit, record.digest, record.applied).write(home.record(arm))
