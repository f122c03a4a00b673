"""`--seed`, `seeded` and `--faults`: the same chance again, and what a failure says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from harness import paths

pytestmark = pytest.mark.host

TESTS = """
import pytest

def test_plain():
    pass

@pytest.mark.faults
@pytest.mark.parametrize("what", ["a", "b"])
def test_chance(seeded, what):
    assert False, f"drew {seeded.randrange(10**9)}"

@pytest.mark.faults
def test_other(seeded):
    assert seeded.randrange(10**9) < 0
"""


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with the options, hooks and fixtures that all tests have."""
    (tmp_path / "test_them.py").write_text(TESTS)
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    env |= {
        "PYTHONPATH": f"{paths.TESTS}:{paths.ROOT}",
        "SKBHOME_BUILD": str(tmp_path / "build"),
        "SKBHOME_RUN_DIR": str(tmp_path / "logs"),
    }
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider"),
            *("-q", "-c", "/dev/null", "--rootdir", tmp_path, *words, tmp_path),
        ],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def drawn(shown: str) -> list[str]:
    return re.findall(r"^E +AssertionError: (drew \d+)$", shown, re.M)


def test_they_are_run_if_asked_for(tmp_path: Path) -> None:
    without = run(tmp_path)
    assert (without.returncode, "1 passed" in without.stdout) == (0, True), without.stdout
    assert "3 failed, 1 passed" in run(tmp_path, "--faults", "--tb=no").stdout


def test_the_same_seed_gives_the_same_again(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    first = run(tmp_path, "--faults", f"--junit-xml={junit}")
    numbers = drawn(first.stdout)
    # Each test has a chance of its own, which does not depend on what ran before it.
    assert len(set(numbers)) == 2, first.stdout
    found = re.findall(r"^seed (\d+); again: (.*)$", first.stdout, re.M)
    assert len(found) == 3 and len({seed for seed, _ in found}) == 1
    seed, command = found[1]
    assert command == f"scripts/test 'test_them.py::test_chance[b]' --seed {seed} --faults"
    again = [each.get("value") for each in ET.parse(junit).iter("property")]
    assert command in again and len(again) == 3
    _, node, *options = shlex.split(command)
    second = run(tmp_path, "-k", node.rpartition("[")[2].rstrip("]"), *options)
    assert drawn(second.stdout) == numbers[1:]


def test_without_a_seed_each_run_has_its_own(tmp_path: Path) -> None:
    shown = [run(tmp_path, "--faults", "-k", "test_other").stdout for _ in range(2)]
    seeds = [re.findall(r"^seed (\d+);", each, re.M) for each in shown]
    assert len(seeds[0]) == len(seeds[1]) == 1
    # One in a million of these is wrong.
    assert seeds[0] != seeds[1]


GUEST = """
import pytest
from types import SimpleNamespace

@pytest.fixture
def guest(request):
    session = request.config.skbhome
    kernel = SimpleNamespace(describe=lambda: {"arm": "patched", "series": "cafe"})
    session._kernels["default", False] = kernel
    session._accel.add("tcg")

@pytest.mark.vm
def test_in_a_guest(guest, flavour, seeded, request):
    path = request.config.rootpath / "times"
    times = int(path.read_text()) if path.exists() else 0
    path.write_text(str(times + 1))
    assert times
"""


def test_what_a_run_leaves_for_a_proof(tmp_path: Path) -> None:
    (tmp_path / "test_guest.py").write_text(GUEST)
    shown = run(tmp_path, "--seed", "5").stdout
    assert "2 passed" in shown, shown
    session = json.loads((tmp_path / "logs/session.json").read_text())
    assert session["kernels"] == [{"arm": "patched", "series": "cafe"}]
    assert (session["accel"], session["seed"]) == (["tcg"], 5)
    (flake,) = session["not_steady"]
    assert "test_in_a_guest[default] failed and passed the second time" in flake


def test_with_another_flavour_the_command_names_it(tmp_path: Path) -> None:
    (tmp_path / "test_guest.py").write_text(GUEST.replace("assert times", "assert 0"))
    shown = run(tmp_path, "--seed", "5", "--flavour", "rt", "--base", "v6.1", "--once").stdout
    node = "test_guest.py::test_in_a_guest[rt]"
    assert f"again: scripts/test '{node}' --seed 5 --base v6.1 --flavour rt\n" in shown, shown
