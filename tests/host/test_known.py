"""`--known`: what has passed is left out; what comes of the rest is written down at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import paths

pytestmark = pytest.mark.host

TESTS = """
import os
import pytest

@pytest.fixture
def memo():
    return {}

@pytest.fixture
def broken():
    yield
    assert False, "at the end"

def test_good():
    pass

def test_bad():
    assert 1 == 2

def test_skipped():
    pytest.skip("not here")

def test_broken(broken):
    pass

@pytest.mark.parametrize("arm", ["a", "b"])
@pytest.mark.parametrize("what", ["x", "y"])
def test_compared(memo, arm, what):
    if what == "y":
        pytest.skip("not here")

def test_races(request):
    assert [str(each) for each in request.config.skbhome.races.seen["baseline"]] == ["f / g"]

def test_killed():
    if os.environ.get("KILLED"):
        os._exit(3)
"""


def run(
    tmp_path: Path, *passed: str, killed: bool = False, known: str = ""
) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Return pytest's status, what was written down of each test, and what was shown."""
    (tmp_path / "test_them.py").write_text(TESTS)
    names = [f"test_them.py::{name}" for name in passed]
    (tmp_path / "known.json").write_text(known or json.dumps({"passed": names}))
    (tmp_path / "races-before.txt").write_text("f / g\n")
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    env |= {
        "PYTHONPATH": f"{paths.TESTS}:{paths.ROOT}",
        "SKBHOME_BUILD": str(tmp_path / "build"),
        "SKBHOME_RUN_DIR": str(tmp_path / "logs"),
    }
    if killed:
        env["KILLED"] = "1"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider"),
            *("-q", "-c", "/dev/null", "--rootdir", tmp_path),
            *("--known", tmp_path / "known.json", tmp_path),
        ],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    log = tmp_path / "outcomes.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    found = {line["test"].removeprefix("test_them.py::"): line for line in lines}
    return done.returncode, found, done.stdout + done.stderr


def test_outcomes_are_written_down(tmp_path: Path) -> None:
    status, found, _ = run(tmp_path)
    assert status == 1
    assert {name: line["outcome"] for name, line in found.items()} == {
        "test_good": "passed",
        "test_bad": "failed",
        "test_skipped": "skipped",
        "test_broken": "failed",
        "test_compared[x-a]": "passed",
        "test_compared[x-b]": "passed",
        "test_compared[y-a]": "skipped",
        "test_compared[y-b]": "skipped",
        "test_races": "passed",
        "test_killed": "passed",
    }
    assert found["test_bad"]["why"] == "assert 1 == 2"
    assert found["test_broken"]["why"].startswith("AssertionError: at the end")
    # No guest, so no kernel that it could speak for.
    assert found["test_good"]["kernel"] == {}
    # Nor did a kernel complain of it.
    assert not found["test_bad"]["final"]


def test_a_run_that_is_killed_has_written_down_what_it_did(tmp_path: Path) -> None:
    status, found, _ = run(tmp_path, killed=True)
    assert status == 3
    assert found["test_races"]["outcome"] == "passed" and "test_killed" not in found


def test_what_passed_is_left_out(tmp_path: Path) -> None:
    _, found, shown = run(tmp_path, "test_good", "test_races", "test_gone")
    assert "2 deselected" in shown
    assert "test_good" not in found and "test_races" not in found and "test_bad" in found


@pytest.mark.parametrize(("passed", "left_out"), [("a", False), ("ab", True)])
def test_what_is_compared_is_run_together(tmp_path: Path, passed: str, left_out: bool) -> None:
    _, found, _ = run(tmp_path, *(f"test_compared[x-{arm}]" for arm in passed))
    assert ("test_compared[x-a]" not in found) == left_out


def test_what_is_compared_again_has_not_passed_until_then(tmp_path: Path) -> None:
    run(tmp_path, "test_compared[x-a]", "test_good")
    lines = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    said = {line["test"]: line["outcome"] for line in lines if line["outcome"] == "again"}
    assert said == {"test_them.py::test_compared[x-a]": "again"}
    assert lines[0]["outcome"] == "again"


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_file_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    status, found, shown = run(tmp_path, known=text)
    assert status == 4 and not found
    assert "ERROR: --known" in shown
