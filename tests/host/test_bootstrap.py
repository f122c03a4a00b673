"""scripts/_bootstrap: the Python environment is made once, and again if it must. pip is a fake."""

import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

from harness import paths

pytestmark = pytest.mark.host

# Stands for the system's python3: knows versions, `-m venv`, and makes environments whose
# own python records what pip is asked for.
PYTHON = r"""#!/bin/sh
case $* in
*version_info*) exit OLD ;;
*"import ensurepip"*) [ ! -e TOP/no-ensurepip ] ;;
"-m venv "*) echo venv >>TOP/calls; mkdir -p "$3/bin"; cp TOP/venv-python "$3/bin/python" ;;
*) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""
VENV_PYTHON = r"""#!/bin/sh
case $* in
"-m pip "*) echo pip >>TOP/calls; [ ! -e TOP/pip-fails ] || exit 1; sleep PAUSE ;;
*) echo "ran $* in $PWD with $PYTHONPATH" ;;
esac
"""


class Place:
    """A copy of the scripts in a directory of its own, with fakes in PATH."""

    def __init__(self, top: Path, *, old: bool = False, pause: str = "0") -> None:
        self.top = top
        self.root = top / "a clone"
        (self.root / "scripts").mkdir(parents=True)
        for name in ("_bootstrap", "doctor"):
            shutil.copy2(paths.ROOT / "scripts" / name, self.root / "scripts" / name)
        (self.root / "requirements.txt").write_text("pytest==1\n")
        self.tools = top / "tools"
        self.tools.mkdir()
        self.pause = pause
        self.tool("python3", PYTHON.replace("OLD", "1" if old else "0"))
        for name in ("python3.14", "python3.13", "python3.12", "python3.11", "python3.10"):
            self.tool(name, "#!/bin/sh\nexit 1\n")
        (top / "venv-python").write_text(self.fill(VENV_PYTHON))
        (top / "venv-python").chmod(stat.S_IRWXU)

    def fill(self, text: str) -> str:
        return text.replace("TOP", str(self.top)).replace("PAUSE", self.pause)

    def tool(self, name: str, text: str) -> None:
        (self.tools / name).write_text(self.fill(text))
        (self.tools / name).chmod(stat.S_IRWXU)

    def start(self, **env: str) -> "subprocess.Popen[str]":
        clean = {k: v for k, v in os.environ.items() if k not in ("SKBHOME_BUILD", "PYTHONPATH")}
        return subprocess.Popen(
            [self.root / "scripts/doctor", "--json"],
            cwd="/",
            env={**clean, "PATH": f"{self.tools}:/usr/bin:/bin", **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **env: str) -> "subprocess.CompletedProcess[str]":
        with self.start(**env) as proc:
            out, err = proc.communicate(timeout=30)
        return subprocess.CompletedProcess(proc.args, proc.returncode, out, err)

    def calls(self) -> list[str]:
        path = self.top / "calls"
        lines = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_environment_is_made_once(place: Place) -> None:
    done = place.run()
    assert done.returncode == 0, done.stderr
    # From any directory, in a clone whose path has a space.
    assert done.stdout == f"ran -m harness.cli.doctor --json in / with {place.root}\n"
    assert place.calls() == ["venv", "pip"]
    again = place.run()
    assert again.stdout == done.stdout and again.stderr == ""
    assert place.calls() == []


def test_it_is_quick_once_the_environment_is_there(place: Place) -> None:
    place.run()
    took = []
    for _ in range(5):
        started = time.monotonic()
        place.run()
        took.append(time.monotonic() - started)
    # Ten times what it takes on an idle machine: this finds a pip run, not a slow disk.
    assert min(took) < 0.5


@pytest.mark.parametrize("what", ["requirements", "stamp", "python"])
def test_it_is_made_again_if_it_cannot_be_trusted(place: Place, what: str) -> None:
    place.run()
    place.calls()
    if what == "requirements":
        (place.root / "requirements.txt").write_text("pytest==2\n")
    elif what == "stamp":
        (place.root / "build/venv/.stamp").unlink()
    else:
        (place.root / "build/venv/bin/python").unlink()
    assert place.run().returncode == 0
    assert place.calls() == ["venv", "pip"]


def test_an_environment_that_was_not_finished_is_not_used(place: Place) -> None:
    (place.top / "pip-fails").touch()
    done = place.run()
    assert done.returncode == 1 and done.stdout == ""
    assert "could not install the Python packages" in done.stderr and "next: " in done.stderr
    (place.top / "pip-fails").unlink()
    place.calls()
    assert place.run().returncode == 0
    assert place.calls() == ["venv", "pip"]


def test_two_at_once_make_one_environment(tmp_path: Path) -> None:
    place = Place(tmp_path, pause="1")
    runs = [place.start() for _ in range(2)]
    results = [proc.communicate(timeout=30) for proc in runs]
    assert [proc.returncode for proc in runs] == [0, 0]
    assert place.calls() == ["venv", "pip"]
    assert sum("waiting for another run" in err for _, err in results) == 1


def test_skbhome_build_moves_it(place: Place, tmp_path: Path) -> None:
    assert place.run(SKBHOME_BUILD=str(tmp_path / "elsewhere")).returncode == 0
    assert (tmp_path / "elsewhere/venv/.stamp").is_file()
    assert not (place.root / "build").exists()


APT = r"""#!/bin/sh
case $* in *update*) echo update ;; *) echo install ;; esac >>TOP/calls
[ ! -e TOP/apt-fails ] || exit 100
rm -f TOP/no-ensurepip
cp TOP/new-python TOP/tools/python3
"""


def test_debian_without_python3_venv_gets_it(place: Place) -> None:
    (place.top / "no-ensurepip").touch()
    (place.top / "new-python").write_text(place.fill(PYTHON).replace("OLD", "0"))
    (place.top / "new-python").chmod(stat.S_IRWXU)
    place.tool("apt-get", APT)
    place.tool("id", "#!/bin/sh\necho 0\n")
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert place.calls() == ["install", "venv", "pip"]


def test_without_any_python_one_is_installed(tmp_path: Path) -> None:
    place = Place(tmp_path, old=True)
    (place.top / "new-python").write_text(place.fill(PYTHON).replace("OLD", "0"))
    (place.top / "new-python").chmod(stat.S_IRWXU)
    place.tool("apt-get", APT)
    place.tool("id", "#!/bin/sh\necho 0\n")
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert place.calls() == ["install", "venv", "pip"]


def test_without_the_right_to_install_the_command_is_told(place: Place) -> None:
    (place.top / "no-ensurepip").touch()
    place.tool("id", "#!/bin/sh\necho 1000\n")
    place.tool("sudo", "#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    place.tool("apt-get", APT)
    done = place.run()
    assert done.returncode == 1
    assert "apt-get update && apt-get install --no-install-recommends python3-venv" in done.stderr
    assert place.calls() == []


def test_every_requirement_is_pinned() -> None:
    lines = (paths.ROOT / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if line.strip() and not line.startswith("#")]
    assert wanted and all("==" in line for line in wanted)
