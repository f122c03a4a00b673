"""Style and types are part of the tests."""

import shutil
import subprocess
import sys

import pytest

from harness import paths

pytestmark = pytest.mark.host


def check(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=paths.ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"\n{done.stdout}{done.stderr}"


def test_ruff_has_nothing_to_say() -> None:
    check("ruff", "check", "--output-format=concise", "harness", "tests")


def test_the_code_is_formatted() -> None:
    check("ruff", "format", "--check", "harness", "tests")


def test_the_harness_is_typed() -> None:
    check("mypy", "--strict", "harness")


def test_the_shell_scripts_parse() -> None:
    for path in [*sorted((paths.ROOT / "scripts").iterdir()), paths.ROOT / ".ci/run"]:
        shell = "bash" if "bash" in path.read_text().partition("\n")[0] else "sh"
        done = subprocess.run([shell, "-n", path], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
    if shutil.which("shellcheck"):
        scripts = [str(path) for path in (paths.ROOT / "scripts").iterdir()]
        done = subprocess.run(
            ["shellcheck", "-x", "-P", "SCRIPTDIR", *scripts],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout
