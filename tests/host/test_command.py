"""What a guest is started with, where virtme-run is, and how the guest's agent is compiled."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.errors import CommandFailed, HarnessError
from harness.vm import VmOptions, agent, command

pytestmark = pytest.mark.host


@dataclass
class Image:
    image: Path = Path("/kernel/bzImage")
    vmlinux: Path = Path("/kernel/vmlinux")
    build_dir: Path = Path("/kernel")


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# --- virtme-run ------------------------------------------------------------------


def test_virtme_run_of_this_environment_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv/bin/python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(HarnessError, match="virtme-run was not found") as caught:
        command.virtme_run()
    assert "scripts/apply-and-build" in str(caught.value)
    elsewhere = program(tmp_path / "bin/virtme-run", "")
    assert command.virtme_run() == elsewhere
    ours = program(tmp_path / "venv/bin/virtme-run", "")
    assert command.virtme_run() == ours


# --- the command line --------------------------------------------------------------


def assembled(monkeypatch: pytest.MonkeyPatch, *, kvm: bool, **options: object) -> list[str]:
    monkeypatch.setattr(command, "virtme_run", lambda: Path("/bin/virtme-run"))
    monkeypatch.setattr(agent, "program", lambda: Path("/agent"))
    chosen = VmOptions(**options)  # type: ignore[arg-type]
    return command.assemble(Image(), chosen, kvm=kvm, agent_socket="a", monitor_socket="m")


def test_what_emulated_cpus_are_told_real_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    emulated = assembled(monkeypatch, kvm=False)
    real = assembled(monkeypatch, kvm=True)
    assert set(emulated) - set(real) == {
        "--disable-kvm",
        "--kopt=no_timer_check",
        "--kopt=tsc=reliable",
    }
    assert set(real) <= set(emulated)


@pytest.mark.parametrize("root", [True, False])
def test_the_home_of_root_is_shared_with_root_alone(
    monkeypatch: pytest.MonkeyPatch, root: bool
) -> None:
    monkeypatch.setattr(command.os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr(command, "HOME", "/")
    assert ("--overlay-rwdir=/" in assembled(monkeypatch, kvm=False)) is root


def test_nodes_are_sockets_where_the_cpus_can_be_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    even = assembled(monkeypatch, kvm=False, cpus=8, numa=2, memory="2G")
    assert even[even.index("-smp") + 1] == "sockets=2,cores=4,threads=1"
    assert "-smp" not in assembled(monkeypatch, kvm=False, cpus=5, numa=2, memory="2G")


def test_arguments_for_qemu_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("-plugin", "/lib/x.so,out=/tmp")
    words = assembled(monkeypatch, kvm=False, qemu_args=given)
    assert tuple(words[-2:]) == given
    assert words.index("--qemu-opts") < len(words) - 2


# --- the agent -----------------------------------------------------------------------


@pytest.fixture
def cc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that a test writes; it is told what to make by `-o`."""
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    return tmp_path / "cc"


MAKES = 'echo "$*" >>{0}.calls; while [ "$1" != -o ]; do shift; done; echo {1} >"$2"'


def test_without_a_static_c_library_the_agent_is_linked_dynamically(cc: Path) -> None:
    program(
        cc,
        f'case "$*" in *-static*) echo "ld: cannot find -lutil: No such file" >&2; exit 1;; esac\n'
        f"{MAKES.format(cc, 'agent')}",
    )
    made = agent.program()
    assert made.read_text() == "agent\n" and made.stat().st_mode & 0o111
    assert "-static" not in Path(f"{cc}.calls").read_text()
    # The second time it is there.
    assert agent.program() == made
    assert len(Path(f"{cc}.calls").read_text().splitlines()) == 1


def test_an_agent_that_does_not_compile_leaves_nothing(cc: Path, tmp_path: Path) -> None:
    program(cc, 'echo "agent.c:1: error: as told" >&2; exit 1')
    with pytest.raises(CommandFailed, match="compiling the guest's agent") as caught:
        agent.program()
    assert "error: as told" in str(caught.value) and "headers" in str(caught.value)
    assert list((tmp_path / "build/guest-agent").iterdir()) == []
    # What was wrong has been mended.
    program(cc, MAKES.format(cc, "agent"))
    assert agent.program().read_text() == "agent\n"


def test_a_compiler_that_was_ended_is_run_again(cc: Path, tmp_path: Path) -> None:
    """The file is there, the stamp is not: it may be half of an agent."""
    half = tmp_path / "build/guest-agent/agent"
    half.parent.mkdir(parents=True)
    half.write_text("half")
    program(cc, MAKES.format(cc, "whole"))
    assert agent.program().read_text() == "whole\n"
