"""What is tried a second time, what is not, and what pytest says of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import paths

pytestmark = pytest.mark.host

CONFTEST = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(paths.TESTS)!r}, {str(paths.ROOT)!r}]
from retries import Retries

HERE = Path(__file__).parent

def pytest_configure(config):
    config.retries = Retries(
        may=lambda item: "host" not in item.name, directory=lambda: HERE / "logs", say=print
    )
    config.pluginmanager.register(config.retries, "retries")

def pytest_terminal_summary(terminalreporter, config):
    for flake in config.retries.flakes:
        terminalreporter.write_line(flake)
"""

TESTS = """
import pytest
from conftest import HERE

@pytest.fixture
def again(request):
    count = HERE / f"{request.node.name}.count"
    times = int(count.read_text()) if count.exists() else 0
    count.write_text(str(times + 1))
    return times

@pytest.fixture
def complaint(request):
    request.config.retries.final.add(request.node.nodeid)
"""


def run(tmp_path: Path, tests: str) -> tuple[int, str]:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_them.py").write_text(TESTS + tests)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            "/dev/null",
            tmp_path,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def test_a_failure_that_does_not_come_again_is_told(tmp_path: Path) -> None:
    status, shown = run(tmp_path, "def test_once(again):\n    assert again == 1\n")
    assert status == 0
    assert "1 passed" in shown
    assert "test_once failed and passed the second time: assert 0 == 1 (log: " in shown
    assert "assert again == 1" in (tmp_path / "logs/retried-1.txt").read_text()


def test_a_failure_that_comes_again_has_failed(tmp_path: Path) -> None:
    status, shown = run(tmp_path, "def test_always(again):\n    assert again == 7\n")
    assert status == 1
    assert "1 failed" in shown
    assert "passed the second time" not in shown
    assert (tmp_path / "test_always.count").read_text() == "2"


def test_what_the_kernel_complained_of_is_not_tried_again(tmp_path: Path) -> None:
    status, shown = run(
        tmp_path,
        "def test_splat(again, complaint):\n    assert again\n"
        "def test_host(again):\n    assert again\n",
    )
    assert status == 1
    assert "2 failed" in shown
    assert (tmp_path / "test_splat.count").read_text() == "1"
    assert (tmp_path / "test_host.count").read_text() == "1"


def test_more_than_a_few_are_a_failure(tmp_path: Path) -> None:
    status, shown = run(
        tmp_path,
        "@pytest.mark.parametrize('n', range(5))\ndef test_often(again, n):\n    assert again\n",
    )
    assert status == 1
    assert "2 failed, 3 passed" in shown
