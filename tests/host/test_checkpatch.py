"""A patch file is read, and what checkpatch.pl finds in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakekernel import isolate, make_patch
from fakeseries import write_scripts

from harness import patchfile
from harness.checks import checkpatch
from harness.checks.model import Finding

pytestmark = pytest.mark.host


def trailer(path: Path, text: str) -> None:
    path.write_text(path.read_text().replace("Because.\n", f"Because.\n\n{text}\n"))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with a checkpatch.pl."""
    isolate(tmp_path, monkeypatch)
    write_scripts(tmp_path / "tree/scripts")
    return tmp_path / "tree"


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


# --- checkpatch.pl -----------------------------------------------------------


def patch(top: Path, text: str = "int x;") -> Path:
    return top / make_patch(top, 1, 20, text)


def test_it_is_the_trees_own_and_asked_strictly(tree: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert checkpatch.run(tree, patch(tmp_path), log) == []
    asked = log.read_text()
    for word in ("--strict", "--max-line-length=80", "--no-signoff", "FILE_PATH_CHANGES"):
        assert word in asked
    # A person's own options must not count.
    assert "home: /dev/null" in asked


def test_what_it_finds(tree: Path, tmp_path: Path) -> None:
    found = checkpatch.run(tree, patch(tmp_path, "ERROR\n+CHECK\n+CHECK"), tmp_path / "log")
    assert [finding.level for finding in found] == ["ERROR", "CHECK", "CHECK"]
    assert found[0] == Finding("too close", "SPACING", "ERROR", "net/core/dev.c", 20)


def test_it_is_asked_again_when_it_or_the_patch_changes(tree: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = patch(tmp_path)
    checkpatch.run(tree, first, log)
    script = tree / "scripts/checkpatch.pl"
    text = script.read_text()
    script.write_text('die "asked";')
    with pytest.raises(checkpatch.CheckpatchFailed, match="asked"):
        checkpatch.run(tree, first, log)
    script.write_text(text)
    log.unlink(missing_ok=True)
    assert checkpatch.run(tree, first, log) == [] and "asked: --strict" in log.read_text()
    assert len(checkpatch.run(tree, patch(tmp_path, "CHECK"), log)) == 1


def test_one_that_does_not_come_to_its_end_finds_nothing(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(checkpatch.CheckpatchFailed, match="cannot go on"):
        checkpatch.run(tree, patch(tmp_path, "die"), tmp_path / "log")
