"""The quick checks of a series: what checkpatch.pl says, and the project's own rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakekernel import BASE, isolate, make_patch

from harness import bases, checkpatch, logs, patchfile, worktree
from harness.cli import check_series
from harness.errors import UsageError

pytestmark = pytest.mark.host

# Says what it was asked, on stderr what nobody wants to know, and finds what the patch tells it to.
PERL = r"""
print STDERR "Traceback (most recent call last):\nModuleNotFoundError: No module named 'ply'\n";
my $file = $ARGV[-1];
print "asked: @ARGV\nhome: $ENV{HOME}\n";
open(my $in, '<', $file) or die;
while (<$in>) {
    die "cannot go on" if /^\+die/;
    print "$1:SPACING: too close\n#12: FILE: net/core/dev.c:20:\n" if /^\+(ERROR|WARNING|CHECK)/;
}
print "total: 1 errors, 0 warnings, 0 checks, 9 lines checked\n";
exit 1;
"""


def trailer(path: Path, text: str = "Assisted-by: LLM") -> None:
    path.write_text(path.read_text().replace("Because.\n", f"Because.\n\n{text}\n"))


@pytest.fixture
def patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A series of two without a fault, and a tree with a checkpatch.pl."""
    isolate(tmp_path, monkeypatch)
    monkeypatch.setenv(logs.VARIABLE, str(tmp_path / "logs"))
    monkeypatch.setattr(bases, "get", lambda name: BASE)
    directory = tmp_path / "patches/v5.10"
    for number, line in enumerate((20, 50), 1):
        trailer(directory / make_patch(directory, number, line, f"int patched_{line};"))
    scripts = worktree.Home.of(BASE).worktree("patched") / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "checkpatch.pl").write_text(PERL)
    return directory


def edit(patches: Path, number: int, old: str, new: str) -> Path:
    path = sorted(patches.glob("*.patch"))[number - 1]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


# --- a patch file ------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "subject"),
    [
        ("[PATCH] net: do it", "net: do it"),
        ("[PATCH net-next 03/15] net: do it", "net: do it"),
        ("[PATCH] selftests: net: test freeing skbs on\n them", "selftests: net: test freeing "
         "skbs on them"),
        ("[PATCH] =?UTF-8?q?net:=20stra=C3=9Fe?=", "net: straße"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_subject(tmp_path: Path, header: str, subject: str) -> None:
    path = tmp_path / "x.patch"
    path.write_text(f"From 0 Mon Sep 17\nFrom: A <a@b.c>\nSubject: {header}\n\nWhy.\n---\n x\n")
    assert patchfile.read(path).subject == subject


def test_message_and_diff_are_told_apart(tmp_path: Path) -> None:
    name = make_patch(tmp_path, 1, 20, "int x;")
    with (tmp_path / name).open("a") as file:
        file.write("-- \n2.39.5\n\n")
    trailer(tmp_path / name, "Assisted-by: LLM sparse\nassisted-by: another")
    patch = patchfile.read(tmp_path / name)
    assert patch.body.startswith("Because.") and "insertion" not in patch.body
    assert patch.trailers("Assisted-by") == ["LLM sparse", "another"]
    assert patch.diff.startswith("diff --git a/net") and patch.diff.endswith(" int line_23;\n")


def test_bytes_that_are_no_text_are_kept_apart(tmp_path: Path) -> None:
    diffs = set()
    for byte in (b"\xe9", b"\xe8"):
        path = tmp_path / make_patch(tmp_path, 1, 20, "int x;")
        path.write_bytes(path.read_bytes().replace(b"int x;", b"int " + byte))
        diffs.add(patchfile.read(path).diff)
    assert len(diffs) == 2


# --- the rules ---------------------------------------------------------------


def test_a_patch_that_keeps_the_rules(patches: Path) -> None:
    assert checkpatch.of_series(patches) == []
    for path in patches.glob("*.patch"):
        assert checkpatch.of_patch(patchfile.read(path)) == []


@pytest.mark.parametrize(
    ("old", "new", "broken"),
    [
        ("Assisted-by: LLM", "Assisted by an LLM", "has no Assisted-by"),
        ("Assisted-by: LLM", "Assisted-by: LLM\nSigned-off-by: A <a@b.c>", "has a Signed-off-by"),
        ("net: change line 20", f"net: {'x' * 71}", "subject of 76 characters, at most 75"),
        ("net: change line 20", "", "has no subject"),
    ],
)
def test_a_rule_of_patches(patches: Path, old: str, new: str, broken: str) -> None:
    path = edit(patches, 1, old, new)
    assert checkpatch.of_patch(patchfile.read(path)) == [broken]


def test_a_sign_off_in_the_diff_is_none(patches: Path) -> None:
    path = edit(patches, 1, "+int patched_20;", "+Signed-off-by: A <a@b.c>")
    assert checkpatch.of_patch(patchfile.read(path)) == []


def test_the_rules_of_a_series(patches: Path) -> None:
    (patches / "0009-forgotten.patch").touch()
    (patches / "cover-letter").touch()
    with (patches / "series").open("a") as series:
        series.write("0003-not-there.patch\n0001-change-line-20.patch\n# a comment\n")
    assert checkpatch.of_series(patches) == [
        "`series` names 0003-not-there.patch, which is not there",
        "`series` does not name 0009-forgotten.patch",
        "`series` names 0001-change-line-20.patch 2 times",
    ]


def test_a_series_is_not_long(patches: Path) -> None:
    for number in range(3, 16):
        make_patch(patches, number, number, "int x;")
    assert checkpatch.of_series(patches) == []
    make_patch(patches, 16, 16, "int x;")
    assert checkpatch.of_series(patches) == ["16 patches; 15 are the most that people review"]


def test_an_empty_series_keeps_them(tmp_path: Path) -> None:
    assert checkpatch.of_series(tmp_path) == []


# --- checkpatch.pl -----------------------------------------------------------


def test_it_is_the_trees_own_and_asked_strictly(patches: Path, tmp_path: Path) -> None:
    tree = worktree.Home.of(BASE).worktree("patched")
    log = tmp_path / "log"
    assert checkpatch.run(tree, patches / "0001-change-line-20.patch", log) == []
    asked = log.read_text()
    for word in ("--strict", "--max-line-length=80", "--no-signoff"):
        assert word in asked
    # A person's own options must not count.
    assert "home: /dev/null" in asked


def test_what_it_finds(patches: Path, tmp_path: Path) -> None:
    tree = worktree.Home.of(BASE).worktree("patched")
    path = edit(patches, 1, "+int patched_20;", "+ERROR\n+CHECK\n+CHECK")
    found = checkpatch.run(tree, path, tmp_path / "log")
    assert [finding.level for finding in found] == ["ERROR", "CHECK", "CHECK"]
    assert found[0] == checkpatch.Finding("ERROR", "SPACING", "too close")
    checked = checkpatch.Checked(patchfile.read(path), tuple(found), (), tmp_path / "log")
    assert checked.verdict == "1 error, 2 checks (SPACING x3)" and not checked.ok


def test_one_that_does_not_come_to_its_end_finds_nothing(patches: Path, tmp_path: Path) -> None:
    tree = worktree.Home.of(BASE).worktree("patched")
    path = edit(patches, 1, "+int patched_20;", "+die")
    with pytest.raises(checkpatch.CheckpatchFailed, match="cannot go on"):
        checkpatch.run(tree, path, tmp_path / "log")


# --- the command -------------------------------------------------------------


def test_a_series_without_a_fault(patches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_series.main(["v5.10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[:2]] == ["ok", "ok"]
    assert len(lines) == 3 and "2 patches, 0 of them with findings" in lines[2]


def test_faults_are_told_in_one_line_per_patch_and_in_the_status(
    patches: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    edit(patches, 1, "+int patched_20;", "+WARNING")
    edit(patches, 1, "Assisted-by: LLM", "")
    (patches / "0009-forgotten.patch").touch()
    file = tmp_path / "results.json"
    assert check_series.main(["--json", str(file)]) == 1
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].endswith("net: change line 20".ljust(62) + "has no Assisted-by; 1 warning "
                             "(SPACING)")  # fmt: skip
    assert lines[1].endswith("ok") and lines[2] == "series: `series` does not name " + (
        "0009-forgotten.patch"
    )
    assert "logs/checkpatch" in said.err and "ply" not in said.out
    facts = json.loads(file.read_text())
    assert facts["ok"] is False and facts["series"] == [lines[2].removeprefix("series: ")]
    assert facts["patches"][0]["checkpatch"][0]["kind"] == "SPACING"
    assert "too close" in Path(facts["patches"][0]["log"]).read_text()


def test_without_a_tree_it_says_how_to_get_one(patches: Path) -> None:
    (worktree.Home.of(BASE).worktree("patched") / "scripts/checkpatch.pl").unlink()
    with pytest.raises(UsageError, match="scripts/apply-and-build v5.10"):
        check_series.main([])


def test_the_help_says_what_is_checked() -> None:
    text = check_series.parser().format_help()
    for words in ("--strict", "at most 15 patches", "compiler warning", "Nothing else is checked"):
        assert words in text
