"""A tree from start to end, on a kernel of a dozen files."""

from __future__ import annotations

import dataclasses
import lzma
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fakekernel import (
    BASE,
    DEV_C,
    Snapshot,
    commit_edit,
    git,
    isolate,
    make_package,
    make_patch,
    make_tree,
)

from harness import bases, disk, lock, process, series, stamp, tree, worktree
from harness.bases import Base
from harness.sources import fetch
from harness.sources.model import NotAKernel, Source, SourceError, sha256

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("deb"))


class Fetches:
    """Stands for the network: hands out one package and counts."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        self.version = "5.10.7"
        self.count = 0
        self.rt_patch: Path | None = None

    def __call__(self, base: Base, *, tree: Path | None = None, offline_ok: bool = True) -> Source:
        assert tree is None
        self.count += 1
        return Source(
            base=base.name,
            version=self.version,
            origin="distribution",
            checksum=sha256(self.archive),
            archive=self.archive,
            rt_patch=self.rt_patch,
            package_version=f"{self.version}-1",
        )


@pytest.fixture
def fetches(tmp_path: Path, deb: Path, monkeypatch: pytest.MonkeyPatch) -> Fetches:
    isolate(tmp_path, monkeypatch)
    fetches = Fetches(deb)
    monkeypatch.setattr(fetch, "fetch", fetches)
    return fetches


@pytest.fixture
def patches(tmp_path: Path, fetches: Fetches) -> Path:
    """The directory patches/v5.10 with three patches, on lines 20, 50 and 80."""
    directory = tmp_path / "patches/v5.10"
    for number, line in enumerate((20, 50, 80), 1):
        make_patch(directory, number, line, f"int patched_{line};")
    return directory


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory, deb: Path) -> Snapshot:
    """Three patches and both arms, prepared once for all tests that start from there."""
    top = tmp_path_factory.mktemp("snapshot")
    for number, line in enumerate((20, 50, 80), 1):
        make_patch(top / "patches/v5.10", number, line, f"int patched_{line};")
    with pytest.MonkeyPatch.context() as monkeypatch:
        isolate(top, monkeypatch)
        monkeypatch.setattr(fetch, "fetch", Fetches(deb))
        patched()
        tree.prepare(BASE, baseline=True)
    made = Snapshot(top)
    made.save()
    return made


@pytest.fixture
def prepared(snapshot: Snapshot, fetches: Fetches, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of patches of a base whose two trees have been prepared."""
    top = snapshot.restore()
    isolate(top, monkeypatch)
    return top / "patches/v5.10"


def patched() -> tree.Tree:
    return tree.prepare(BASE, baseline=False)


def log(path: Path) -> list[str]:
    return git(path, "log", "--reverse", "--format=%s", "base..HEAD").splitlines()


# --- the import -------------------------------------------------------------


def test_both_arms_stand_side_by_side(patches: Path) -> None:
    one, two = patched(), tree.prepare(BASE, baseline=True)
    assert one.path.parent == two.path.parent
    assert (one.path / "net/core/dev.c").read_text() != DEV_C
    assert (two.path / "net/core/dev.c").read_text() == DEV_C
    assert log(one.path) == ["net: change line 20", "net: change line 50", "net: change line 80"]
    assert two.commit == git(one.path, "rev-parse", "base")
    assert git(one.path, "status", "--porcelain") == ""
    assert git(two.path, "status", "--porcelain") == ""
    assert git(one.path, "symbolic-ref", "--short", "HEAD") == "series"
    assert one.series_digest == series.digest(patches)
    assert two.series_digest != one.series_digest
    assert one.source.version == "5.10.7"


def rt_patch(tmp_path: Path, old: str = "int line_90;") -> Path:
    """Write a PREEMPT_RT patch: it changes line 90 of net/core/dev.c and adds a file."""
    lines = DEV_C.splitlines()
    body = "".join(
        f"-{old}\n+int rt;\n" if at == 90 else f" {lines[at - 1]}\n" for at in range(87, 94)
    )
    text = (
        "some words\n--- a/net/core/dev.c\n+++ b/net/core/dev.c\n@@ -87,7 +87,7 @@\n"
        f"{body}--- /dev/null\n+++ b/localversion-rt\n@@ -0,0 +1 @@\n+-rt1\n"
    )
    path = tmp_path / "rt.patch.xz"
    path.write_bytes(lzma.compress(text.encode()))
    return path


def test_preempt_rt_lies_below_the_series(fetches: Fetches, patches: Path, tmp_path: Path) -> None:
    plain = patched()
    fetches.rt_patch = rt_patch(tmp_path)
    under = dataclasses.replace(BASE, rt_patch=True).under_rt()
    made = tree.prepare(under, baseline=False)
    base = tree.prepare(under, baseline=True)
    assert made.path.parent.name == "v5.10-rt" != plain.path.parent.name
    for one in (made, base):
        assert (one.path / "localversion-rt").read_text() == "-rt1\n"
        assert "int rt;" in (one.path / "net/core/dev.c").read_text()
        assert git(one.path, "status", "--porcelain") == ""
        # What the kernel's own .gitignore hides as well.
        assert (one.path / "debian/rules").exists()
    assert log(made.path) == log(plain.path)
    assert git(base.path, "log", "-1", "--format=%s", "base") == "Linux 5.10.7 with PREEMPT_RT"
    # Found as it is the second time, and the other tree was left alone.
    count = fetches.count
    assert tree.prepare(under, baseline=False) == made
    assert fetches.count == count
    assert patched() == plain
    assert not (plain.path / "localversion-rt").exists()


def test_a_base_with_preempt_rt_in_its_tree_needs_no_patch() -> None:
    assert BASE.under_rt() == BASE


def test_no_preempt_rt_patch(fetches: Fetches, patches: Path, tmp_path: Path) -> None:
    under = dataclasses.replace(BASE, rt_patch=True).under_rt()
    with pytest.raises(SourceError, match="no PREEMPT_RT patch with 5.10.7"):
        tree.prepare(under, baseline=True)
    fetches.rt_patch = rt_patch(tmp_path, old="int something_else;")
    with pytest.raises(SourceError, match="does not apply to 5.10.7") as failure:
        tree.prepare(under, baseline=True)
    assert "net/core/dev.c" in str(failure.value.tail)
    assert not worktree.Home.of(under).source_stamp.exists()


def test_ignored_files_of_the_source_are_imported(prepared: Path) -> None:
    assert (tree.prepare(BASE, baseline=True).path / "debian/rules").exists()


def test_object_directories_are_ignored(prepared: Path) -> None:
    path = patched().path
    (path / "build-default").mkdir()
    (path / "build-default/x.c").touch()
    assert git(path, "status", "--porcelain") == ""


def test_commits_are_the_same_everywhere(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = patched()
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path / "elsewhere"))
    # What a person's configuration or a hook's environment says must not matter.
    config = tmp_path / "home/.gitconfig"
    config.parent.mkdir()
    config.write_text("[user]\nname = X\nemail = x@example.org\n[core]\nautocrlf = true\n")
    monkeypatch.setenv("HOME", str(config.parent))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_COMMITTER_NAME", "Somebody")
    second = patched()
    assert second.path != first.path
    assert second.commit == first.commit
    assert (
        git(second.path, "log", "--format=%cn <%ce>").splitlines()
        == ["skbhome <skbhome@localhost>"] * 4
    )


def test_the_author_is_kept_and_nobody_signs(prepared: Path) -> None:
    text = git(patched().path, "log", "-1", "--format=%an <%ae> %ad%n%B")
    assert "Ann Author <ann@example.org> Fri Mar 1 10:00:00 2024 +0100" in text
    assert "Signed-off-by" not in text


def test_a_second_run_fetches_nothing_and_touches_nothing(
    patches: Path, fetches: Fetches, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = patched()
    before = {each: each.stat().st_mtime_ns for each in first.path.rglob("*.[ch]")}
    monkeypatch.setattr(disk, "free_mib", lambda directory: 2)
    assert patched() == first
    assert fetches.count == 1
    assert {each: each.stat().st_mtime_ns for each in first.path.rglob("*.[ch]")} == before


def test_the_source_is_known_even_when_the_archive_is_gone(
    patches: Path, fetches: Fetches, tmp_path: Path
) -> None:
    fetches.archive = Path(shutil.copy(fetches.archive, tmp_path / "copy.deb"))
    patched()
    fetches.archive.unlink()
    source = patched().source
    assert source.archive is None
    assert source.checksum


def test_no_room_is_said_before_anything_starts(
    patches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_mib", lambda directory: 1000)
    with pytest.raises(disk.DiskTooSmall, match="unpacking v5.10 5.10.7 needs 2400 MiB"):
        patched()
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("how", "step"),
    [
        ("interrupt", "add"),
        ("interrupt", "am"),
        ("kill", "add"),
        ("kill", "commit-tree"),
        ("kill", "worktree"),
        ("kill", "am"),
        ("kill", "reset"),
    ],
)
def test_a_run_that_ends_anywhere_is_made_good_by_the_next(
    patches: Path, monkeypatch: pytest.MonkeyPatch, step: str, how: str
) -> None:
    """Ctrl-C while a git command runs, or right after it with nothing cleaned up."""
    real = process.run
    hit = False

    def run(argv, **kwargs):  # type: ignore[no-untyped-def]
        nonlocal hit
        words = [str(word) for word in argv]
        if not hit and words[0] == "git" and step in words:
            hit = True
            if how == "kill":
                real(argv, **kwargs)
            raise KeyboardInterrupt
        return real(argv, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(process, "run", run)
        if how == "kill":
            # Whoever is killed does not clean up either.
            patch.setattr(worktree, "remove", lambda home, path: None)
            patch.setattr(tree, "remove", lambda home, path: None)
            patch.setattr(series, "remove", lambda home, path: None)
        with pytest.raises(KeyboardInterrupt):
            patched()
    assert hit
    path = patched().path
    assert len(log(path)) == 3
    assert git(path, "status", "--porcelain") == ""
    assert (tree.prepare(BASE, baseline=True).path / "net/core/dev.c").read_text() == DEV_C


def test_an_archive_without_a_kernel_is_an_error(
    patches: Path, fetches: Fetches, tmp_path: Path
) -> None:
    top = tmp_path / "odd"
    top.mkdir()
    (top / "hello").write_text("hello")
    fetches.archive = tmp_path / "odd.tar.xz"
    process.run(["tar", "-C", tmp_path, "-cJf", fetches.archive, "odd"], timeout=20)
    with pytest.raises(SourceError, match="does not hold a kernel tree"):
        patched()
    assert not (tmp_path / "build/trees/v5.10/source.stamp").exists()


def test_two_runs_at_once(patches: Path, fetches: Fetches) -> None:
    results: list[tree.Tree | BaseException] = []

    def run() -> None:
        try:
            results.append(patched())
        except BaseException as err:
            results.append(err)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1] == results[2]
    assert fetches.count == 1


def test_somebody_who_holds_the_lock_is_named(
    patches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = worktree.Home.of(BASE)
    real = lock.held
    monkeypatch.setattr(lock, "held", lambda path, what, **k: real(path, what, timeout=0))
    with (
        real(home.lock, "preparing something"),
        pytest.raises(lock.LockTimeout, match=f"process {os.getpid()}"),
    ):
        patched()


# --- the series changes -----------------------------------------------------


def test_only_files_that_differ_are_written(patches: Path) -> None:
    name = make_patch(patches, 4, 90, "int patched_90;")
    (patches / name).write_text(
        (patches / name).read_text().replace("net/core/dev.c", "net/core/sock.c")
        .replace("@@ -87,7 +87,7 @@", "@@ -1 +1 @@").partition("@@ -1 +1 @@\n")[0]
        + "@@ -1 +1 @@\n-int sock;\n+int socket;\n"
    )  # fmt: skip
    first = patched()
    for file in first.path.rglob("*.[ch]"):
        os.utime(file, ns=(10**18, 10**18))
    git(first.path, "update-index", "-q", "--refresh")
    last = patches / name
    last.write_text(last.read_text().replace("int socket;", "int mysock;"))
    second = patched()
    assert second.commit != first.commit
    assert (second.path / "net/core/sock.c").read_text() == "int mysock;\n"
    assert (second.path / "net/core/sock.c").stat().st_mtime_ns != 10**18
    assert (second.path / "net/core/dev.c").stat().st_mtime_ns == 10**18
    # The patches before it are the same commits.
    assert git(second.path, "rev-parse", "HEAD~1") == git(
        second.path, "rev-parse", f"{first.commit}~1"
    )


def test_a_changed_first_patch_keeps_what_is_the_same_in_the_end(prepared: Path) -> None:
    first = patched()
    dev = first.path / "net/core/dev.c"
    os.utime(dev, ns=(10**18, 10**18))
    git(first.path, "update-index", "-q", "--refresh")
    one = prepared / "0001-change-line-20.patch"
    one.write_text(one.read_text().replace("Because.", "Because of that."))
    second = patched()
    assert second.commit != first.commit
    assert dev.stat().st_mtime_ns == 10**18


def test_patches_come_and_go(prepared: Path) -> None:
    patched()
    (prepared / "series").write_text("0003-change-line-80.patch\n0001-change-line-20.patch -p1\n")
    path = patched().path
    assert log(path) == ["net: change line 80", "net: change line 20"]
    assert "patched_50" not in (path / "net/core/dev.c").read_text()
    (prepared / "series").write_text("# none\n")
    assert log(patched().path) == []
    assert (path / "net/core/dev.c").read_text() == DEV_C


def test_no_directory_of_patches_is_an_empty_series(fetches: Fetches) -> None:
    assert log(patched().path) == []


def test_a_new_file_of_a_dropped_patch_goes(prepared: Path) -> None:
    (prepared / "0004-new.patch").write_text(
        "From: A <a@example.org>\nDate: Fri, 1 Mar 2024 10:00:00 +0100\n"
        "Subject: [PATCH] net: add a file\n\nWhy.\n---\n"
        "diff --git a/net/new.c b/net/new.c\nnew file mode 100644\n--- /dev/null\n"
        "+++ b/net/new.c\n@@ -0,0 +1 @@\n+int x;\n"
    )
    text = (prepared / "series").read_text()
    (prepared / "series").write_text(text + "0004-new.patch\n")
    path = patched().path
    assert (path / "net/new.c").exists()
    (prepared / "series").write_text(text)
    patched()
    assert not (path / "net/new.c").exists()


# --- a patch that does not apply --------------------------------------------


@pytest.fixture
def broken(prepared: Path) -> Path:
    """The series with a second patch whose only hunk finds no place."""
    bad = prepared / "0002-change-line-50.patch"
    bad.write_text(bad.read_text().replace("-int line_50;", "-int line_fifty;"))
    return prepared


def state(path: Path) -> Path:
    return Path(git(path, "rev-parse", "--absolute-git-dir")) / "rebase-apply"


def test_patch_and_hunk_are_named_and_the_state_is_kept(broken: Path) -> None:
    with pytest.raises(series.PatchDoesNotApply) as caught:
        patched()
    path = worktree.Home.of(BASE).worktree("patched")
    text = str(caught.value)
    assert "0002-change-line-50.patch does not apply at net/core/dev.c:47 (hunk 1 of 1)" in text
    assert f"git -C {path} am --show-current-patch" in text
    for words in ("am --continue", "am --abort", "refresh-series"):
        assert words in text
    assert state(path).is_dir()
    assert log(path) == ["net: change line 20"]
    assert "line_fifty" in git(path, "am", "--show-current-patch=diff")


def test_only_the_hunks_that_fail_are_named(patches: Path) -> None:
    (patches / "series").write_text("0009-two.patch\n")
    lines = [patches / f"000{n}-change-line-{line}.patch" for n, line in ((1, 20), (3, 80))]
    text = lines[0].read_text() + lines[1].read_text().partition("b/net/core/dev.c\n---")[2]
    one, two = (file.read_text().partition("\n@@")[2] for file in lines)
    head = lines[0].read_text().partition("\n@@")[0]
    two = two.replace("-int line_80;", "-int line_eighty;")
    text = f"{head}\n@@{one}@@{two}"
    (patches / "0009-two.patch").write_text(text)
    with pytest.raises(series.PatchDoesNotApply) as caught:
        patched()
    assert caught.value.places == ("net/core/dev.c:77 (hunk 2 of 2)",)


def test_a_second_run_does_not_trust_it(broken: Path) -> None:
    for _ in range(2):
        with pytest.raises((series.PatchDoesNotApply, worktree.WorktreeError)) as caught:
            patched()
    assert "a git am is unfinished" in str(caught.value)
    assert "am --continue" in str(caught.value)


def test_after_abort_and_no_change_it_fails_again(broken: Path) -> None:
    with pytest.raises(series.PatchDoesNotApply):
        patched()
    git(worktree.Home.of(BASE).worktree("patched"), "am", "--abort")
    with pytest.raises(series.PatchDoesNotApply):
        patched()


def test_after_abort_and_a_better_patch_it_goes_on(broken: Path) -> None:
    with pytest.raises(series.PatchDoesNotApply):
        patched()
    git(worktree.Home.of(BASE).worktree("patched"), "am", "--abort")
    bad = broken / "0002-change-line-50.patch"
    bad.write_text(bad.read_text().replace("-int line_fifty;", "-int line_50;"))
    assert len(log(patched().path)) == 3


def test_after_continue_the_worktree_is_used(broken: Path) -> None:
    with pytest.raises(series.PatchDoesNotApply):
        patched()
    path = worktree.Home.of(BASE).worktree("patched")
    dev = path / "net/core/dev.c"
    dev.write_text(dev.read_text().replace("line_50;", "patched_50;"))
    git(path, "add", "-u")
    git(path, "am", "--continue")
    used = patched()
    assert len(log(path)) == 3
    assert used.series_digest != series.digest(broken)
    series.refresh(BASE)
    assert patched().series_digest == series.digest(broken)


def test_a_file_that_is_no_mail(patches: Path) -> None:
    (patches / "0002-change-line-50.patch").write_text("just text\n")
    with pytest.raises(series.PatchDoesNotApply, match=r"0002-change-line-50\.patch"):
        patched()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: text.index("+int patched_50;") + 4],
        lambda text: text[: text.index("@@ -47")],
        lambda text: text[: text.index("From: Ann")],
        lambda text: text.replace(" int line_49;", "int line_49;"),
        lambda text: text.replace("+int patched_50;", "+int\npatched_50;"),
        lambda text: text.replace("@@ -47,7 +47,7 @@", "@@ -47,9 +47,9 @@"),
        lambda text: text.replace("From: Ann Author <ann@example.org>\n", ""),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: f"<html><body><pre>{text.replace('<', '&lt;').replace('>', '&gt;')}</pre>",
        lambda text: "",
    ],
    ids=[
        *("cut-in-a-line", "cut-before-the-hunk", "cut-in-the-head", "space-eaten", "wrapped"),
        *("wrong-counts", "no-author", "dos-lines", "saved-from-the-web", "empty"),
    ],
)
def test_a_damaged_mail_is_named_and_makes_no_commit(
    patches: Path, damage: Callable[[str], str]
) -> None:
    bad = patches / "0002-change-line-50.patch"
    bad.write_text(damage(bad.read_text()), newline="")
    with pytest.raises(series.PatchDoesNotApply, match=r"0002-change-line-50\.patch") as caught:
        patched()
    assert str(caught.value).startswith("0002-change-line-50.patch does not apply")
    assert caught.value.hint
    path = worktree.Home.of(BASE).worktree("patched")
    assert "net: change line 50" not in log(path)
    # Only where a hunk found no place is a place named.
    wrong_place = "patch failed" in str(caught.value.tail)
    assert bool(caught.value.places) is wrong_place


# --- work of a person's own -------------------------------------------------


def test_own_edits_are_built_as_they_are(prepared: Path) -> None:
    first = patched()
    sock = first.path / "net/core/sock.c"
    sock.write_text("int edited;\n")
    second = patched()
    assert sock.read_text() == "int edited;\n"
    assert second.series_digest not in (first.series_digest, series.digest(prepared))
    assert patched().series_digest == second.series_digest
    sock.write_text("int edited_again;\n")
    assert patched().series_digest != second.series_digest
    # An untracked file counts as well.
    git(first.path, "checkout", "-q", ".")
    assert patched().series_digest == first.series_digest
    (first.path / "net/core/new.c").write_text("int x;\n")
    assert patched().series_digest != first.series_digest
    assert git(first.path, "status", "--porcelain") == "?? net/core/new.c"


def test_own_commits_are_built_as_they_are(prepared: Path) -> None:
    first = patched()
    commit_edit(first.path, "net/core/sock.c", "int sock", "int mine", "my own")
    second = patched()
    assert log(second.path)[-1] == "my own"
    assert second.series_digest != first.series_digest


@pytest.mark.parametrize("kind", ["edit", "commit", "new file"])
def test_own_work_and_new_patches_are_for_the_person_to_put_together(
    prepared: Path, kind: str
) -> None:
    path = patched().path
    if kind == "commit":
        commit_edit(path, "net/core/sock.c", "int sock", "int mine", "my own")
    else:
        (path / ("net/core/sock.c" if kind == "edit" else "net/x.c")).write_text("int mine;\n")
    before = git(path, "rev-parse", "HEAD"), git(path, "status", "--porcelain")
    make_patch(prepared, 4, 90, "int patched_90;")
    with pytest.raises(worktree.WorktreeError) as caught:
        patched()
    text = str(caught.value)
    assert ("commits of your own" if kind == "commit" else "uncommitted changes") in text
    assert str(prepared) in text
    assert "refresh-series" in text
    assert "reset --hard" in text
    assert (git(path, "rev-parse", "HEAD"), git(path, "status", "--porcelain")) == before
    # What the message tells to do, works.
    git(path, "reset", "-q", "--hard", text.partition("reset --hard ")[2].partition("`")[0])
    git(path, "clean", "-fdq")
    assert len(log(patched().path)) == 4


def test_a_lost_record_throws_nothing_away(prepared: Path) -> None:
    path = patched().path
    commit_edit(path, "net/core/sock.c", "int sock", "int mine", "my own")
    worktree.Home.of(BASE).record("patched").write_text("{")
    with pytest.raises(worktree.WorktreeError) as caught:
        patched()
    assert log(path)[-1] == "my own"
    git(path, "reset", "-q", "--hard", "base")
    assert "reset --hard base" in str(caught.value)
    assert len(log(patched().path)) == 3


def test_a_removed_worktree_is_made_again_and_its_commits_kept(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = patched().path
    commit_edit(path, "net/core/sock.c", "int sock", "int mine", "my own")
    mine = git(path, "rev-parse", "HEAD")
    shutil.rmtree(path)
    assert len(log(patched().path)) == 3
    assert git(path, "rev-parse", f"series-saved-{mine[:12]}") == mine
    assert "series-saved" in capsys.readouterr().err


def test_a_removed_repository_is_made_again(patches: Path) -> None:
    first = patched()
    shutil.rmtree(first.path.parent)
    assert patched().commit == first.commit


@pytest.mark.parametrize("operation", ["rebase", "merge", "cherry-pick"])
def test_an_unfinished_operation_is_named(prepared: Path, operation: str) -> None:
    path = patched().path
    git(path, "checkout", "-q", "-b", "other", "base")
    commit_edit(path, "net/core/dev.c", "int line_20", "int other", "clashes")
    git(path, "checkout", "-q", "series")
    with pytest.raises(Exception, match="returned non-zero"):
        git(path, operation, "other")
    with pytest.raises(worktree.WorktreeError, match=f"git {operation} is unfinished"):
        patched()
    git(path, operation, "--abort")
    patched()


def test_a_move_that_was_cut_off_is_undone(prepared: Path) -> None:
    first = patched()
    home = worktree.Home.of(BASE)
    old = worktree.Record.load(home.record("patched"))
    assert old is not None
    make_patch(prepared, 4, 90, "int patched_90;")
    target = git(first.path, "rev-parse", "HEAD~1")
    worktree.Record(old.base, old.commit, old.digest, old.applied, moving=target).write(
        home.record("patched")
    )
    # Half of the files are the new ones, and git's own lock was left behind.
    git(first.path, "checkout", "-q", target, "--", "net/core/dev.c")
    index_lock = Path(git(first.path, "rev-parse", "--absolute-git-dir")) / "index.lock"
    index_lock.touch()
    assert len(log(patched().path)) == 4
    assert git(first.path, "status", "--porcelain") == ""


def test_a_move_that_was_cut_off_spares_other_edits(prepared: Path) -> None:
    first = patched()
    home = worktree.Home.of(BASE)
    old = worktree.Record.load(home.record("patched"))
    assert old is not None
    worktree.Record(old.base, old.commit, old.digest, old.applied, moving=old.base).write(
        home.record("patched")
    )
    (first.path / "net/core/sock.c").write_text("int mine;\n")
    with pytest.raises(worktree.WorktreeError, match=r"net/core/sock\.c"):
        patched()
    assert (first.path / "net/core/sock.c").read_text() == "int mine;\n"


def test_a_changed_baseline_is_refused(prepared: Path) -> None:
    path = tree.prepare(BASE, baseline=True).path
    (path / "net/core/sock.c").write_text("int mine;\n")
    with pytest.raises(worktree.WorktreeError, match="baseline worktree") as caught:
        tree.prepare(BASE, baseline=True)
    assert "net/core/sock.c" in str(caught.value)
    git(path, "checkout", "-q", ".")
    commit_edit(path, "net/core/sock.c", "int sock", "int mine", "my own")
    with pytest.raises(worktree.WorktreeError, match="baseline worktree"):
        tree.prepare(BASE, baseline=True)
    git(path, "reset", "-q", "--hard", "base")
    tree.prepare(BASE, baseline=True)


# --- a person's own tree ----------------------------------------------------


def listing(top: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file.relative_to(top)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in sorted(top.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("kind", ["checkout", "unpacked", "linked worktree"])
def test_a_tree_of_ones_own_is_used_and_never_modified(
    patches: Path, fetches: Fetches, tmp_path: Path, kind: str
) -> None:
    mine = make_tree(tmp_path / "mine", version="5.10.99")
    if kind != "unpacked":
        git(mine, "init", "-q")
        git(mine, "add", "-f", ".")
        git(mine, "commit", "-q", "-m", "x")
    if kind == "linked worktree":
        git(mine, "worktree", "add", "-q", tmp_path / "linked")
        mine = tmp_path / "linked"
    before = listing(mine)
    made = tree.prepare(BASE, baseline=False, tree=mine)
    base = tree.prepare(BASE, baseline=True, tree=mine)
    assert listing(mine) == before
    assert len(log(made.path)) == 3
    assert (base.path / "net/core/dev.c").read_text() == DEV_C
    assert made.source.version == "5.10.99"
    assert made.path.parent.name.startswith("v5.10-local-")
    assert fetches.count == 0
    assert tree.prepare(BASE, baseline=False, tree=mine) == made
    # It stands beside the fetched one.
    assert patched().path != made.path


@pytest.mark.parametrize("kind", ["checkout", "unpacked"])
def test_a_tree_of_ones_own_that_changes_is_followed(
    patches: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = make_tree(tmp_path / "mine")
    if kind == "checkout":
        git(mine, "init", "-q")
        git(mine, "add", "-f", ".")
        git(mine, "commit", "-q", "-m", "x")
    first = tree.prepare(BASE, baseline=False, tree=mine)
    tree.prepare(BASE, baseline=True, tree=mine)
    (mine / "net/core/sock.c").write_text("int newer;\n")
    if kind == "checkout":
        capsys.readouterr()
        assert tree.prepare(BASE, baseline=False, tree=mine) == first
        git(mine, "commit", "-q", "-a", "-m", "newer")
    second = tree.prepare(BASE, baseline=False, tree=mine)
    assert (second.path / "net/core/sock.c").read_text() == "int newer;\n"
    assert len(log(second.path)) == 3
    base = tree.prepare(BASE, baseline=True, tree=mine)
    assert (base.path / "net/core/sock.c").read_text() == "int newer;\n"


def test_uncommitted_changes_of_a_checkout_are_not_taken_and_that_is_said(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = make_tree(tmp_path / "mine")
    git(mine, "init", "-q")
    git(mine, "add", "-f", ".")
    git(mine, "commit", "-q", "-m", "x")
    (mine / "net/core/sock.c").write_text("int mine;\n")
    made = tree.prepare(BASE, baseline=True, tree=mine)
    assert (made.path / "net/core/sock.c").read_text() == "int sock;\n"
    assert f"1 uncommitted changes in {mine} are not taken" in capsys.readouterr().err


def test_objects_of_a_tree_that_was_built_in_place_stay_behind(
    patches: Path, tmp_path: Path
) -> None:
    mine = make_tree(tmp_path / "mine")
    (mine / ".config").write_text("CONFIG_X=y\n")
    (mine / "net/core/dev.o").write_text("object")
    made = tree.prepare(BASE, baseline=False, tree=mine)
    assert not (made.path / ".config").exists()
    assert not (made.path / "net/core/dev.o").exists()
    assert (made.path / "net/core/dev.c").exists()


def test_a_tree_that_is_no_kernel_leaves_nothing_behind(patches: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(NotAKernel):
        tree.prepare(BASE, baseline=False, tree=tmp_path / "mine")
    assert not list((tmp_path / "build").rglob("*.git"))


def test_every_base_has_a_home_of_its_own() -> None:
    homes = {worktree.Home.of(base).path for base in bases.all_bases()}
    assert len(homes) == len(bases.all_bases())


def test_a_record_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    path = tmp_path / "record"
    assert worktree.Record.load(path) is None
    stamp.write(path, "digest", {"base": "x"})
    assert worktree.Record.load(path) is None
    record = worktree.Record("b", "c", "d", (worktree.Applied("s", "e"),), "m")
    record.write(path)
    assert worktree.Record.load(path) == record
