"""The benchmark of the harness: its table, and that it leaves things as they were."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import bases, flavours, logs, paths, selfbench
from harness.cli import selfbench as cli
from harness.errors import CommandFailed, HarnessError
from harness.selfbench import Result

pytestmark = pytest.mark.host


def test_a_target_is_kept_or_not() -> None:
    assert Result("x", 5.0, "s", 5.0).ok and not Result("x", 5.1, "s", 5.0).ok
    assert Result("x", 1e9, "s").ok
    lines = selfbench.table(
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
    with pytest.raises(ZeroDivisionError), selfbench.changed(file):
        assert "skbhome_bench" in file.read_text()
        raise ZeroDivisionError
    assert file.read_text() == "int x;\n"


def test_a_persons_edits_are_not_touched(file: Path) -> None:
    file.write_text("int mine;\n")
    with pytest.raises(HarnessError, match="uncommitted changes"), selfbench.changed(file):
        pass
    assert file.read_text() == "int mine;\n"


def test_disk_use_is_measured(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * (3 << 20))
    assert selfbench.used_mib([tmp_path, tmp_path / "none"]) in (3, 4)
    assert selfbench.used_mib([tmp_path / "none"]) == 0
    with selfbench._peak(tmp_path) as peak:
        pass
    assert peak() >= 3


def test_the_command_writes_a_table_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(logs.VARIABLE, str(tmp_path))
    monkeypatch.setattr(selfbench, "disk", lambda base: Result("disk", 1.0, "GiB", 6.0))
    monkeypatch.setattr(selfbench, "host_tests", lambda: Result("host tests", 30.0, "s", 20.0))
    assert cli.main(["harness", "--only", "disk"]) == 0
    assert "| disk | 1.00 GiB |" in capsys.readouterr().out
    assert cli.main(["harness", "--only", "disk", "--only", "host-tests"]) == 1
    assert "**no**" in (tmp_path / "bench.md").read_text()
    facts = json.loads((tmp_path / "bench.json").read_text())
    assert facts["base"] == "v5.10" and facts["machine"]["compiler"]
    assert [result["value"] for result in facts["results"]] == [1.0, 30.0]


# --- what is measured: the commands are stand-ins ------------------------------------


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose apply-and-build takes 3 MiB where it is told to build."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    directory = tmp_path / "scripts"
    directory.mkdir()
    program(
        directory / "apply-and-build",
        f'echo "$* $SKBHOME_BUILD" >>{tmp_path}/calls\n'
        'head -c 3145728 /dev/zero >"$SKBHOME_BUILD/$#"',
    )
    return directory


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_command_that_fails_is_no_figure(scripts: Path) -> None:
    program(scripts / "test", "echo broken; exit 3")
    with pytest.raises(CommandFailed, match="scripts/test -m host -q: exit status 3"):
        selfbench.host_tests()
    program(scripts / "test", "exit 0")
    found = selfbench.host_tests()
    assert found.unit == "s" and 0 < found.value < 60 and found.target


def test_from_nothing_is_somewhere_else_and_leaves_nothing(scripts: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    base = bases.get("v5.10")
    patched, baseline, disk = selfbench.cold(base, scratch=scratch)
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert first.split()[:1] == ["v5.10"] and second.split()[:2] == ["v5.10", "--baseline"]
    assert first.split()[-1].startswith(f"{scratch}/skbhome-cold-")
    assert (patched.target, baseline.target) == (600.0, None)
    assert 6 <= disk.value * 1024 <= 7 and disk.unit == "GiB"
    assert list(scratch.iterdir()) == []


def test_nothing_to_do_is_the_median_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([90.0, 3.0, 1.0, 2.0])
    monkeypatch.setattr(selfbench, "command", lambda *words: next(taken))
    # The first run may have something to do.
    assert selfbench.nothing_to_do(bases.get("v5.10")).value == 2.0


def test_one_change_is_measured_and_taken_back(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    tree = SimpleNamespace(path=file.parents[2])

    def build_it(base: object, steps: object) -> object:
        built.append("skbhome_bench" in file.read_text())
        return SimpleNamespace(tree=tree)

    def command(*words: str) -> float:
        assert "skbhome_bench" in file.read_text()
        return 41.0

    monkeypatch.setattr(selfbench.build, "build", build_it)
    monkeypatch.setattr(selfbench, "command", command)
    found = selfbench.one_change(bases.get("v5.10"))
    assert (found.value, found.ok) == (41.0, True)
    # Before and after, without the change.
    assert built == [False, False]


def test_the_first_command_of_several_boots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    @contextmanager
    def boot(kernel: object, options: object, log_dir: Path) -> Iterator[object]:
        yield SimpleNamespace(cpus=2, accel="tcg", run=lambda argv, timeout: ran.append(argv))

    monkeypatch.setattr("harness.vm.boot", boot)
    found = selfbench.first_command(SimpleNamespace(), tmp_path, times=3)  # type: ignore[arg-type]
    assert ran == [["true"]] * 3
    assert found.note == "median of 3, 2 CPUs, tcg" and found.value < 8


def test_what_compiling_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    # User time that can be told from a fake that does nothing.
    program(tools / "make", f'echo "$*" >>{tmp_path}/calls; seq 200000 >/dev/null')
    program(tools / "virtme-configkernel", f'echo "configkernel $*" >>{tmp_path}/calls')
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    configured = []
    monkeypatch.setattr(
        selfbench.kconfig,
        "configure",
        lambda tree, where, *_, **__: configured.append(where.parent),
    )
    tree = tmp_path / "tree"
    tree.mkdir()
    source = SimpleNamespace(version="5.10.1")
    kernel = SimpleNamespace(
        tree=SimpleNamespace(path=tree, source=source), flavour=flavours.get("default")
    )
    monkeypatch.setattr(selfbench.build, "build", lambda base, **_: kernel)
    ours, theirs, ratio = selfbench.configurations(bases.get("v5.10"))
    assert configured == [tree]
    assert ours.value > 0 and theirs.value > 0
    assert ratio.value == pytest.approx(ours.value / theirs.value)
    assert ours.note == "v5.10 5.10.1, user and system"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["-C", "configkernel", "-C"]
    assert all("LOCALVERSION=" in call and "bzImage" in call for call in calls[::2])
    # Object directories are not left in the tree.
    assert list(tree.iterdir()) == []
