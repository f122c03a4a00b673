"""The benchmark of the harness: its table, and that it leaves things as they were."""

import json
import subprocess
from pathlib import Path

import pytest

from harness import bench, logs
from harness.bench import Result
from harness.cli import bench as cli
from harness.errors import HarnessError

pytestmark = pytest.mark.host


def test_a_target_is_kept_or_not() -> None:
    assert Result("x", 5.0, "s", 5.0).ok and not Result("x", 5.1, "s", 5.0).ok
    assert Result("x", 1e9, "s").ok
    lines = bench.table(
        [
            Result("boot", 9.31, "s", 8.0, "tcg"),
            Result("disk", 42.2, "GiB", 60.0),
            Result("y", 1, "s"),
        ]
    ).splitlines()
    assert lines[2:] == [
        "| boot | 9.31 s | 8 s | **no** | tcg |",
        "| disk | 42 GiB | 60 GiB | yes |  |",
        "| y | 1.00 s |  |  |  |",
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net/core/skbuff.c"
    path.parent.mkdir(parents=True)
    path.write_text("int x;\n")
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    subprocess.run(
        ["git", "-C", tmp_path, "-c", "user.name=x", "-c", "user.email=x@example.org",
         "commit", "-qm", "x"],
        check=True,
    )  # fmt: skip
    return path


def test_a_changed_file_is_put_back_whatever_happens(file: Path) -> None:
    with pytest.raises(ZeroDivisionError), bench.changed(file):
        assert "skbhome_bench" in file.read_text()
        raise ZeroDivisionError
    assert file.read_text() == "int x;\n"


def test_a_persons_edits_are_not_touched(file: Path) -> None:
    file.write_text("int mine;\n")
    with pytest.raises(HarnessError, match="uncommitted changes"), bench.changed(file):
        pass
    assert file.read_text() == "int mine;\n"


def test_disk_use_is_measured(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * (3 << 20))
    assert bench.used_mib([tmp_path, tmp_path / "none"]) in (3, 4)
    assert bench.used_mib([tmp_path / "none"]) == 0
    with bench._peak(tmp_path) as peak:
        pass
    assert peak() >= 3


def test_the_command_writes_a_table_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(logs.VARIABLE, str(tmp_path))
    monkeypatch.setattr(bench, "disk", lambda base: Result("disk", 1.0, "GiB", 6.0))
    monkeypatch.setattr(bench, "host_tests", lambda: Result("host tests", 30.0, "s", 20.0))
    assert cli.main(["harness", "--only", "disk"]) == 0
    assert "| disk | 1.00 GiB |" in capsys.readouterr().out
    assert cli.main(["harness", "--only", "disk", "--only", "host-tests"]) == 1
    assert "**no**" in (tmp_path / "bench.md").read_text()
    facts = json.loads((tmp_path / "bench.json").read_text())
    assert facts["base"] == "v5.10" and facts["machine"]["compiler"]
    assert [result["value"] for result in facts["results"]] == [1.0, 30.0]
