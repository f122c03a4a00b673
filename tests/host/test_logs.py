"""Directories of logs."""

from pathlib import Path

import pytest

from harness import logs

pytestmark = pytest.mark.host


@pytest.fixture(autouse=True)
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path))
    # Set and deleted, so that what a test exports is undone after it.
    monkeypatch.setenv(logs.VARIABLE, "x")
    monkeypatch.delenv(logs.VARIABLE)
    return tmp_path


def test_a_run_and_what_it_starts_share_a_directory() -> None:
    first = logs.run_dir("test")
    assert first.is_dir() and "-test-" in first.name
    assert logs.run_dir("other") == first
    assert (first.parent / "latest").resolve() == first.resolve()


def test_old_runs_go_and_other_things_stay(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "KEPT", 3)
    for day in range(10, 20):
        (build / f"logs/202601{day}-000000-test-1").mkdir(parents=True)
    (build / "logs/trees").mkdir()
    new = logs.run_dir("test")
    kept = sorted(path.name for path in (build / "logs").iterdir() if path.name[0] == "2")
    assert kept == ["20260118-000000-test-1", "20260119-000000-test-1", new.name]
    assert (build / "logs/trees").is_dir()
