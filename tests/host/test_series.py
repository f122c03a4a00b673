"""Reading a series, and writing a worktree's commits back."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakekernel import BASE, Snapshot, commit_edit, git, isolate, make_patch, make_tree

from harness import paths, series, tree, worktree
from harness.cli import refresh_series
from harness.errors import UsageError

pytestmark = pytest.mark.host


@dataclass(frozen=True)
class Three:
    """A patched worktree, the tree it was made from, and its directory of patches."""

    work: Path
    mine: Path
    patches: Path


@pytest.fixture
def patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    isolate(tmp_path, monkeypatch)
    return tmp_path / "patches/v5.10"


@pytest.fixture(scope="module")
def snapshot_of_three(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A worktree with a series of three, already in the form that refresh writes."""
    top = tmp_path_factory.mktemp("snapshot")
    mine = make_tree(top / "mine")
    for number, line in enumerate((20, 50, 80), 1):
        make_patch(top / "patches/v5.10", number, line, f"int patched_{line};")
    with pytest.MonkeyPatch.context() as monkeypatch:
        isolate(top, monkeypatch)
        tree.prepare(BASE, baseline=False, tree=mine)
        series.refresh(BASE, tree=mine)
    made = Snapshot(top)
    made.save()
    return made


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A kernel tree of one's own: cheaper than a package."""
    return make_tree(tmp_path / "mine")


@pytest.fixture
def three(snapshot_of_three: Snapshot, monkeypatch: pytest.MonkeyPatch) -> Three:
    """The same for every test."""
    top = snapshot_of_three.restore()
    isolate(top, monkeypatch)
    work = worktree.Home.of(BASE, top / "mine").worktree("patched")
    return Three(work, top / "mine", top / "patches/v5.10")


def snapshot(directory: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in directory.rglob("*")
        if file.is_file()
    }


def refresh(mine: Path, *, force: bool = False) -> series.Refreshed:
    return series.refresh(BASE, tree=mine, force=force)


# --- reading ----------------------------------------------------------------


def test_the_series_file_gives_the_order(tmp_path: Path) -> None:
    for name in ("b.patch", "a.patch", "c.patch"):
        (tmp_path / name).touch()
    (tmp_path / "series").write_text("# first\nb.patch -p1\n\n  a.patch # second\n#c.patch\n")
    assert series.read(tmp_path) == [tmp_path / "b.patch", tmp_path / "a.patch"]


@pytest.mark.parametrize("text", [None, "", "# nothing\n\n"])
def test_an_empty_series(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "series").write_text(text)
    assert series.read(tmp_path) == []
    assert series.read(tmp_path / "missing") == []
    assert series.digest(tmp_path) == series.digest(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.patch\nmissing.patch\n", "line 2: there is no missing.patch"),
        ("a.patch -p0\n", "line 1: -p0: only -p1"),
        ("a.patch\n\na.patch\n", "line 3: a.patch is named twice"),
    ],
)
def test_a_bad_series_names_the_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.patch").touch()
    (tmp_path / "series").write_text(text)
    with pytest.raises(series.SeriesError, match=words):
        series.read(tmp_path)


def test_the_digest_is_that_of_contents_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.patch").write_text("a")
    (tmp_path / "b.patch").write_text("b")
    (tmp_path / "series").write_text("a.patch\nb.patch\n")
    one = series.digest(tmp_path)
    (tmp_path / "series").write_text("# comment\na.patch\nb.patch -p1\n")
    assert series.digest(tmp_path) == one
    (tmp_path / "series").write_text("b.patch\na.patch\n")
    assert series.digest(tmp_path) != one


def test_the_digest_of_the_code_is_that_of_the_changes(tmp_path: Path) -> None:
    diff = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-1\n+2\n"
    (tmp_path / "a.patch").write_text(f"Subject: [PATCH] one\n\nwhy\n---\n{diff}-- \n2.39\n")
    (tmp_path / "series").write_text("a.patch\n")
    one = series.code_digest(tmp_path)
    (tmp_path / "b.patch").write_text(f"Subject: [PATCH] two\n\nbetter\n---\n{diff}-- \n2.40\n")
    (tmp_path / "series").write_text("b.patch\n")
    assert series.code_digest(tmp_path) == one
    (tmp_path / "b.patch").write_text(f"Subject: [PATCH] two\n\n---\n{diff.replace('+2', '+3')}")
    assert series.code_digest(tmp_path) != one


# --- round trips ------------------------------------------------------------


def test_a_round_trip_without_change_leaves_no_diff(three: Three) -> None:
    mine = three.mine
    patches = three.patches
    before = snapshot(patches)
    times = {file: file.stat().st_mtime_ns for file in patches.iterdir()}
    done = refresh(mine)
    assert (done.written, done.removed, done.commits) == ((), (), 3)
    assert snapshot(patches) == before
    assert {file: file.stat().st_mtime_ns for file in patches.iterdir()} == times


def test_a_round_trip_through_a_new_tree_leaves_no_diff(
    three: Three, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = three.mine
    patches = three.patches
    before = snapshot(patches)
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path / "elsewhere"))
    tree.prepare(BASE, baseline=False, tree=mine)
    assert refresh(mine).written == ()
    assert snapshot(patches) == before


def test_what_a_person_configured_makes_no_difference(
    three: Three, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, mine, patches = three.work, three.mine, three.patches
    # A file about which the tree's own attributes say nothing.
    commit_edit(work, "include/linux/skbuff.h", "sk_buff", "skb", "net: shorter")
    refresh(mine)
    before = snapshot(patches)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[user]\nname = X\nemail = x@example.org\n"
        "[format]\nsignOff = true\nnumbered = true\nsubjectPrefix = RFC\nattach = true\n"
        "from = true\nthread = true\nsuffix = .txt\ncoverLetter = true\nuseAutoBase = true\n"
        "[diff]\nnoprefix = true\ncontext = 10\nalgorithm = patience\nmnemonicPrefix = true\n"
        "[core]\nabbrev = 40\nattributesFile = ~/attributes\n[log]\nshowSignature = true\n"
    )
    (home / "attributes").write_text("*.h -diff\n")
    (home / ".config/git").mkdir(parents=True)
    (home / ".config/git/attributes").write_text("*.h -diff\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("GIT_DIFF_OPTS", "--unified=9")
    assert refresh(mine).written == ()
    # The same settings in the repository itself.
    for name, value in (
        ("format.signOff", "true"), ("format.numbered", "true"), ("format.suffix", ".txt"),
        ("diff.noprefix", "true"), ("diff.context", "9"), ("diff.mnemonicPrefix", "true"),
        ("core.abbrev", "40"), ("format.subjectPrefix", "RFC"), ("diff.renames", "copies"),
        ("format.from", "true"), ("format.signature", "me"), ("format.notes", "true"),
        ("diff.statGraphWidth", "3"), ("diff.suppressBlankEmpty", "true"),
        ("diff.interHunkContext", "50"), ("format.to", "you@example.org"),
        ("format.headers", "X-Me: yes"), ("diff.relative", "true"),
        ("format.mboxrd", "true"), ("diff.wordRegex", "."), ("diff.dirstat", "files"),
    ):  # fmt: skip
        git(work, "config", name, value)
    assert refresh(mine).written == ()
    assert snapshot(patches) == before


def test_a_commit_becomes_a_patch_and_the_worktree_is_in_step(three: Three) -> None:
    work, mine, patches = three.work, three.mine, three.patches
    commit_edit(work, "net/core/sock.c", "int sock", "int socket", "net: name the socket\n\nWhy.")
    times = {file: file.stat().st_mtime_ns for file in patches.glob("*.patch")}
    done = refresh(mine)
    assert done.written == ("0004-net-name-the-socket.patch", "series")
    # The other patches are not written again.
    assert {file: file.stat().st_mtime_ns for file in times} == times
    text = (patches / "0004-net-name-the-socket.patch").read_text()
    assert text.startswith(f"From {'0' * 40} Mon Sep 17 00:00:00 2001\n")
    assert "Subject: [PATCH] net: name the socket\n" in text
    assert "Test Person" in text
    assert "Signed-off-by" not in text
    assert not text.rstrip().endswith(git(work, "--version").split()[2])
    assert (patches / "series").read_text().splitlines()[-1] == "0004-net-name-the-socket.patch"
    before = git(work, "rev-parse", "HEAD")
    made = tree.prepare(BASE, baseline=False, tree=mine)
    assert made.commit == before
    assert made.series_digest == series.digest(patches)
    # A patch that comes on top later leaves these commits, the person's own, as they are.
    make_patch(patches, 5, 95, "int patched_95;")
    after = tree.prepare(BASE, baseline=False, tree=mine)
    assert git(work, "rev-parse", "HEAD~1") == before != after.commit


def test_reordering_and_rewording_is_followed(three: Three) -> None:
    work, mine, patches = three.work, three.mine, three.patches
    git(work, "reset", "-q", "--hard", "base")
    git(work, "cherry-pick", "ORIG_HEAD")
    git(work, "commit", "-q", "--amend", "-m", "net: zwölf\n\nÄnderung.")
    done = refresh(mine)
    assert done.commits == 1
    assert set(done.removed) == {
        "0001-net-change-line-20.patch",
        "0002-net-change-line-50.patch",
        "0003-net-change-line-80.patch",
    }
    # Authors and their dates are the commits' own.
    assert "Fri, 1 Mar 2024 10:00:00 +0100" in (patches / done.written[0]).read_text()
    assert len(series.read(patches)) == 1


def test_odd_subjects_survive(three: Three) -> None:
    subjects = ["[RFC] net: x", "net: [y] x", "net: x" * 30, "äöü: ß"]
    for number, subject in enumerate(subjects):
        edit = ("int sock", "int socket") if number == 0 else ("int ", f"int {number}")
        commit_edit(three.work, "net/core/sock.c", *edit, f"{subject}\n\nWhy.")
    refresh(three.mine)
    git(three.work, "reset", "-q", "--hard", "base")
    worktree.Home.of(BASE, three.mine).record("patched").unlink()
    made = tree.prepare(BASE, baseline=False, tree=three.mine)
    assert git(made.path, "log", "-4", "--reverse", "--format=%s").splitlines() == subjects
    assert refresh(three.mine).written == ()


def test_new_moved_removed_and_binary_files_survive(three: Three) -> None:
    work = three.work
    mine = three.mine
    (work / "net/blob.bin").write_bytes(bytes(range(256)))
    (work / "net/run.sh").write_text("#!/bin/sh\n")
    (work / "net/run.sh").chmod(0o755)
    (work / "net/crlf.txt").write_bytes(b"one\r\ntwo\r\n")
    git(work, "mv", "net/core/sock.c", "net/core/socket.c")
    git(work, "rm", "-q", "include/linux/skbuff.h")
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "all kinds")
    head = git(work, "rev-parse", "HEAD^{tree}")
    refresh(mine)
    git(work, "reset", "-q", "--hard", "base")
    worktree.Home.of(BASE, mine).record("patched").unlink()
    made = tree.prepare(BASE, baseline=False, tree=mine)
    assert git(made.path, "rev-parse", "HEAD^{tree}") == head


def test_files_that_are_no_patches_of_the_series_stay(three: Three) -> None:
    work, mine, patches = three.work, three.mine, three.patches
    (patches / "0000-cover-letter.patch").write_text("about\n")
    (patches / "README").write_text("read\n")
    (patches / "notes").mkdir()
    (patches / "notes/one").write_text("1\n")
    commit_edit(work, "net/core/sock.c", "int sock", "int socket", "net: another")
    refresh(mine)
    assert (patches / "0000-cover-letter.patch").read_text() == "about\n"
    assert (patches / "README").read_text() == "read\n"
    assert (patches / "notes/one").read_text() == "1\n"


def test_comments_in_the_series_file_stay_with_their_patches(three: Three) -> None:
    work, mine, patches = three.work, three.mine, three.patches
    names = (patches / "series").read_text().splitlines()
    (patches / "series").write_text(
        f"# The series.\n\n{names[0]}\n# about 50\n{names[1]} -p1 # beside\n{names[2]}\n# end\n"
    )
    assert refresh(mine).written == ()
    git(work, "rebase", "-q", "--onto", "base", "HEAD~2")
    refresh(mine)
    assert (patches / "series").read_text() == (
        "# about 50\n0001-net-change-line-50.patch -p1 # beside\n"
        "0002-net-change-line-80.patch\n# end\n"
    )


def test_no_commits_make_an_empty_series(three: Three) -> None:
    work, mine, patches = three.work, three.mine, three.patches
    git(work, "reset", "-q", "--hard", "base")
    assert refresh(mine).commits == 0
    assert (patches / "series").read_text() == ""
    assert series.read(patches) == []


def test_a_base_without_patches_stays_without_files(patches: Path, mine: Path) -> None:
    tree.prepare(BASE, baseline=False, tree=mine)
    assert refresh(mine).written == ()
    assert not patches.exists()


# --- refusals ---------------------------------------------------------------


def refused(mine: Path, patches: Path, words: str, *, force: bool = False) -> str:
    before = snapshot(patches)
    with pytest.raises(worktree.HarnessError, match=words) as caught:
        refresh(mine, force=force)
    assert snapshot(patches) == before
    assert [each.name for each in patches.parent.iterdir()] == ["v5.10"]
    return str(caught.value)


@pytest.mark.parametrize("file", ["net/core/sock.c", "net/core/new.c"])
def test_uncommitted_changes(three: Three, file: str) -> None:
    work, mine, patches = three.work, three.mine, three.patches
    (work / file).write_text("int x;\n")
    assert file in refused(mine, patches, "has uncommitted changes")


def test_an_unfinished_am(three: Three, tmp_path: Path) -> None:
    work, mine, patches = three.work, three.mine, three.patches
    bad = tmp_path / "bad.patch"
    bad.write_text((patches / "0001-net-change-line-20.patch").read_text())
    with pytest.raises(subprocess.CalledProcessError):
        git(work, "am", bad)
    refused(mine, patches, "a git am is unfinished")


def test_an_unfinished_rebase(three: Three) -> None:
    work, mine, patches = three.work, three.mine, three.patches
    with pytest.raises(subprocess.CalledProcessError):
        git(work, "rebase", "--exec", "false", "base")
    refused(mine, patches, "a git rebase is unfinished")


def test_a_head_that_is_not_on_the_base(three: Three) -> None:
    work, mine, patches = three.work, three.mine, three.patches
    git(work, "checkout", "-q", "--orphan", "other")
    git(work, "commit", "-q", "-m", "other")
    assert "rebase" in refused(mine, patches, "not on top of the tag base")


def test_a_merge(three: Three) -> None:
    work, mine, patches = three.work, three.mine, three.patches
    git(work, "checkout", "-q", "-b", "side", "base")
    commit_edit(work, "net/core/sock.c", "int sock", "int socket", "side")
    git(work, "checkout", "-q", "series")
    git(work, "merge", "-q", "--no-edit", "side")
    refused(mine, patches, "is a merge")


def test_an_empty_commit(three: Three) -> None:
    work, mine, patches = three.work, three.mine, three.patches
    git(work, "commit", "-q", "--allow-empty", "-m", "nothing")
    refused(mine, patches, "changes nothing")


def test_patches_that_changed_in_the_meantime(three: Three) -> None:
    mine = three.mine
    patches = three.patches
    make_patch(patches, 4, 90, "int patched_90;")
    assert "--force" in refused(mine, patches, "has changed since it was applied")
    assert refresh(mine, force=True).commits == 3


def test_a_message_that_a_mail_cannot_carry(three: Three) -> None:
    work, mine, patches = three.work, three.mine, three.patches
    commit_edit(work, "net/core/sock.c", "int sock", "int socket", "net: x\n\nbefore\n---\nafter\n")
    refused(mine, patches, "do not give its HEAD again")


def test_no_worktree_yet(patches: Path) -> None:
    with pytest.raises(UsageError, match="no patched worktree") as caught:
        series.refresh(BASE)
    assert "scripts/apply-and-build v5.10" in str(caught.value)


def test_an_interruption_leaves_the_old_directory(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, mine, patches = three.work, three.mine, three.patches
    before = snapshot(patches)
    commit_edit(work, "net/core/sock.c", "int sock", "int socket", "net: another")

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(series, "_exchange", interrupt)
        with pytest.raises(KeyboardInterrupt):
            refresh(mine)
    assert snapshot(patches) == before
    assert [each.name for each in patches.parent.iterdir()] == ["v5.10"]
    assert len(refresh(mine).written) == 2


def test_without_an_exchange_of_directories(three: Three, monkeypatch: pytest.MonkeyPatch) -> None:
    work, mine, patches = three.work, three.mine, three.patches
    monkeypatch.setattr(series.ctypes, "CDLL", lambda *args, **kwargs: object())
    commit_edit(work, "net/core/sock.c", "int sock", "int socket", "net: another")
    assert len(refresh(mine).written) == 2
    assert len(series.read(patches)) == 4
    assert [each.name for each in patches.parent.iterdir()] == ["v5.10"]


# --- the command ------------------------------------------------------------


def test_the_command_says_what_it_wrote(three: Three, capsys: pytest.CaptureFixture[str]) -> None:
    work, mine, patches = three.work, three.mine, three.patches
    assert refresh_series.main(["v5.10", "--tree", str(mine)]) == 0
    assert "is up to date (3 patches)" in capsys.readouterr().out
    commit_edit(work, "net/core/sock.c", "int sock", "int socket", "net: another")
    assert refresh_series.main(["v5.10", "--tree", str(mine)]) == 0
    out = capsys.readouterr().out
    assert f"written: {patches}/0004-net-another.patch" in out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["v4.19"], 2, "unknown base 'v4.19'; known: v5.10"),
        (["v5.10"], 2, "no patched worktree"),
        (["--help"], 0, "No Signed-off-by is added"),
        ([], 2, "BASE"),
    ],
)
def test_the_command_by_itself(
    patches: Path, arguments: list[str], status: int, words: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli.refresh_series", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(paths.ROOT)},
        check=False,
    )
    assert done.returncode == status
    assert words in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stderr
