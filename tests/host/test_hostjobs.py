"""Host tests in several processes, the others in one: what pytest shows of it, and its status."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import hostjobs
import pytest

from harness import paths

pytestmark = pytest.mark.host

CONFTEST = f"""
import sys
sys.path.insert(0, {str(paths.TESTS)!r})
import hostjobs
hostjobs.WORTH = 10

def pytest_configure(config):
    for name in ("host", "vm"):
        config.addinivalue_line("markers", f"{{name}}: x")
    hostjobs.configure(config)
"""

# Each test says in which process it ran.
TESTS = """
import os, time
from pathlib import Path
import pytest

def note(name):
    with (Path(__file__).parent / "ran").open("a") as file:
        file.write(f"{name} {os.getpid()}\\n")
    time.sleep(0.01)

@pytest.mark.vm
@pytest.mark.parametrize("n", range(4))
def test_vm(n):
    note(f"vm{n}")

@pytest.mark.host
@pytest.mark.parametrize("n", range(20))
def test_host(n):
    note("host")
    assert n != BAD

@pytest.mark.host
def test_dead():
    os._exit(3)
"""


@dataclass(frozen=True)
class Run:
    """What a run over 21 host tests and 4 others left behind."""

    status: int
    said: str
    ran: list[tuple[str, str]]
    xml: ElementTree.Element

    def processes(self, start: str) -> set[str]:
        return {pid for name, pid in self.ran if name.startswith(start)}


def run(top: Path, *words: str, bad: int) -> Run:
    (top / "conftest.py").write_text(CONFTEST)
    (top / "test_it.py").write_text(TESTS.replace("BAD", str(bad)))
    env = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junit-xml={top}/j.xml",
         "--rootdir", top, *words, top],
        cwd=top,
        env={**env, hostjobs.VARIABLE: "2"},
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip
    lines = (top / "ran").read_text().splitlines()
    return Run(
        done.returncode,
        done.stdout + done.stderr,
        [(line.split()[0], line.split()[1]) for line in lines],
        ElementTree.parse(top / "j.xml").getroot(),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which one host test fails and one takes its process with it."""
    pytest.importorskip("xdist")
    return run(tmp_path_factory.mktemp("whole"), bad=7)


def test_host_tests_run_elsewhere_and_the_others_here_in_order(whole: Run) -> None:
    names = [name for name, _ in whole.ran]
    # Nothing runs beside a VM test.
    assert names == ["host"] * 20 + ["vm0", "vm1", "vm2", "vm3"], whole.said
    hosts, others = whole.processes("host"), whole.processes("vm")
    assert len(hosts) >= 2 and len(others) == 1 and not hosts & others


def test_there_is_one_summary_and_one_status(whole: Run) -> None:
    assert whole.status == 1 and "collected 25 items" in whole.said
    assert "2 failed, 23 passed" in whole.said.splitlines()[-1], whole.said
    assert "test_host[7]" in whole.said
    assert "crashed while running 'test_it.py::test_dead'" in whole.said


def test_there_is_one_junit_file(whole: Run) -> None:
    names = [str(case.get("name")) for case in whole.xml.iter("testcase")]
    assert sorted(names) == sorted(
        [*(f"test_host[{n}]" for n in range(20)), "test_dead", *(f"test_vm[{n}]" for n in range(4))]
    )
    # One failed, and the one whose process died counts as an error there.
    assert [len(list(whole.xml.iter(kind))) for kind in ("failure", "error")] == [1, 1]


def test_stopping_at_the_first_failure_stops_before_the_others(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    found = run(tmp_path, "-x", "--deselect", "test_it.py::test_dead", bad=0)
    assert found.status == 1 and "stopping after 1 failures" in found.said, found.said
    assert not found.processes("vm")


# --- when they are not distributed --------------------------------------------


class Config(SimpleNamespace):
    """As much of pytest's configuration as is asked for it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            pluginmanager=self,
            plugins={"xdist"} | options.pop("plugins", set()),
            options={"dist": "no", "capture": "fd", "markexpr": "", **options},
        )

    def getoption(self, name: str, default: Any = None) -> Any:
        return self.options.get(name, default)

    def hasplugin(self, name: str) -> bool:
        return name in self.plugins

    def register(self, plugin: object, name: str) -> None:
        self.plugins.add(name)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(hostjobs.VARIABLE, "2")
    yield


def distributes(config: Config) -> bool:
    hostjobs.configure(config)  # type: ignore[arg-type]
    return config.hasplugin("hostjobs")


def test_two_processes_if_that_was_asked_for(two: None) -> None:
    assert distributes(Config())


@pytest.mark.parametrize("given", [None, "", "1", "many"])
def test_one_process_unless_more_were_asked_for(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(hostjobs.VARIABLE, raising=False)
    if given is not None:
        monkeypatch.setenv(hostjobs.VARIABLE, given)
    assert not distributes(Config())


@pytest.mark.parametrize(
    "options", [{"capture": "no"}, {"usepdb": True}, {"trace": True}, {"plugins": {"_cov"}}]
)
def test_one_process_for_those_who_watch(two: None, options: dict[str, Any]) -> None:
    assert not distributes(Config(**options))


def test_xdist_alone_gets_no_vm_tests() -> None:
    with pytest.raises(pytest.UsageError, match="VM tests stay in one process"):
        distributes(Config(dist="load"))
    distributes(Config(dist="load", markexpr="host"))


def test_few_host_tests_are_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = hostjobs._Controller(2)
    monkeypatch.setattr(controller, "_distribute", lambda session: pytest.fail("distributed"))
    item = SimpleNamespace(get_closest_marker=lambda name: name == "host")
    session = SimpleNamespace(
        items=[item] * (hostjobs.WORTH - 1),
        testsfailed=0,
        config=SimpleNamespace(option=SimpleNamespace(collectonly=False)),
    )
    assert controller.pytest_runtestloop(session) is None  # type: ignore[arg-type]


def test_a_test_that_nobody_ran_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = hostjobs._Controller(2)
    monkeypatch.setattr(controller, "_distribute", lambda session: None)
    item = SimpleNamespace(get_closest_marker=lambda name: True, nodeid="test_lost")
    session = SimpleNamespace(
        items=[item] * hostjobs.WORTH,
        testsfailed=0,
        config=SimpleNamespace(option=SimpleNamespace(collectonly=False)),
        Failed=pytest.Session.Failed,
    )
    with pytest.raises(pytest.Session.Failed, match="not run, test_lost first"):
        controller.pytest_runtestloop(session)  # type: ignore[arg-type]
