from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import stamp

pytestmark = pytest.mark.host


def test_a_stamp_is_fresh_for_its_inputs_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "stamp"
    assert not stamp.fresh(path, "abc")
    stamp.write(path, "abc", {"version": "5.10.7"})
    assert stamp.fresh(path, "abc")
    assert not stamp.fresh(path, "abd")
    assert stamp.read(path) == ("abc", {"version": "5.10.7"})


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"inputs": "abc"}', '{"inputs": 1, "facts": {}}', '{"inputs": "a"'],
)
def test_a_damaged_stamp_counts_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "stamp"
    path.write_text(text)
    assert stamp.read(path) is None
    assert not stamp.fresh(path, "abc")


def test_a_stamp_of_bytes_that_are_no_text_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "stamp"
    path.write_bytes(b"\xff\xfe\x00")
    assert stamp.read(path) is None


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    stamp.write_atomic(path, "old")

    def broken(fd: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="no space"):
        stamp.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_the_digest_keeps_parts_apart(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"cd")
    assert stamp.digest(["ab", file]) == stamp.digest([b"ab", "cd"])
    assert stamp.digest(["ab", "cd"]) != stamp.digest(["abc", "d"])
    assert stamp.digest(["a", ""]) != stamp.digest(["a"])
    assert stamp.digest(["a", "b"]) != stamp.digest(["b", "a"])
