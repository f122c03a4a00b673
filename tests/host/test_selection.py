"""Which VM tests run where, in which order, and which get a second chance."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_seeds import run

pytestmark = pytest.mark.host

GUEST = """
import pytest

@pytest.fixture
def guest():
    pass

arms = pytest.mark.parametrize(
    "arm", ["patched", pytest.param("baseline", marks=pytest.mark.vm(baseline=True))]
)

@arms
@pytest.mark.vm
def test_everywhere(guest, flavour, arm):
    pass

@arms
@pytest.mark.vm
@pytest.mark.only("kcsan")
def test_races(guest, flavour, arm):
    pass

@pytest.mark.vm
@pytest.mark.faults
def test_storm(guest, flavour, request):
    path = request.config.rootpath / "times"
    times = int(path.read_text()) if path.exists() else 0
    path.write_text(str(times + 1))
    assert times
"""


def ran(tmp_path: Path, *words: str) -> list[str]:
    (tmp_path / "test_guest.py").write_text(GUEST)
    shown = run(tmp_path, "-v", "-v", "-m", "vm", *words).stdout
    return re.findall(r"test_guest\.py::(\S+) (?:PASSED|FAILED)", shown)


def test_what_is_for_one_flavour_runs_on_no_other(tmp_path: Path) -> None:
    assert ran(tmp_path) == [
        "test_everywhere[default-patched]",
        "test_everywhere[default-baseline]",
    ]


def test_where_races_are_found_the_baseline_comes_first(tmp_path: Path) -> None:
    assert ran(tmp_path, "--flavour", "kcsan") == [
        "test_everywhere[kcsan-baseline]",
        "test_races[kcsan-baseline]",
        "test_everywhere[kcsan-patched]",
        "test_races[kcsan-patched]",
    ]


def test_a_storm_that_fails_has_failed(tmp_path: Path) -> None:
    assert "test_storm[default]" in ran(tmp_path, "--faults", "-k", "test_storm")
    assert (tmp_path / "times").read_text() == "1"


def test_slow_flavours_give_way_and_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "test_guest.py").write_text(GUEST)
    words = ("-m", "vm", "--flavour", "default", "--flavour", "debug", "-k", "everywhere", "-rs")
    done = run(tmp_path, *words, "--minutes", "0")
    assert done.returncode == 0
    assert "2 passed" in done.stdout and "2 skipped" in done.stdout
    assert "debug: the run has taken its 0 minutes" in done.stdout
    assert "2 tests on debug; all of them: scripts/test -m vm --flavour debug" in done.stdout
    done = run(tmp_path, *words, "--minutes", "5")
    assert "4 passed" in done.stdout and "for want of time" not in done.stdout


def test_who_is_ended_says_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "test_long.py").write_text(
        "import os, signal, time\n"
        "def test_that_takes_too_long():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
    )
    done = run(tmp_path, "-k", "too_long")
    assert done.returncode == 2 and "KeyboardInterrupt" in done.stdout
    assert "in test_that_takes_too_long" in (tmp_path / "logs/ended-here.txt").read_text()
