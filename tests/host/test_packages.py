"""Debian packages: what lacks, and how it is installed. dpkg-query, apt-get and sudo are fakes."""

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import packages
from harness.errors import CommandTimeout, HarnessError
from harness.packages import Package, PackagesMissing

pytestmark = pytest.mark.host

WANTED = (Package("one", "this"), Package("two", "that"))


class Machine:
    """Fakes in PATH; installed packages are the lines of a file."""

    def __init__(self, top: Path) -> None:
        self.tools = top / "tools"
        self.tools.mkdir()
        self.installed = top / "installed"
        self.installed.write_text("")
        self.calls = top / "calls"
        self.calls.write_text("")
        self.tool(
            "dpkg-query",
            'for name in "$@"; do grep -qx "$name" INSTALLED && echo "installed $name"; done\n'
            'echo "config-files two"; echo "no packages found" >&2; exit 1',
        )
        self.tool(
            "apt-get",
            'echo "apt-get $* [$DEBIAN_FRONTEND]" >>CALLS\n'
            'case $* in *" install "*) for word; do case $word in one|two) echo $word >>INSTALLED;;'
            " esac; done;; esac",
        )

    def tool(self, name: str, body: str) -> None:
        body = body.replace("INSTALLED", str(self.installed)).replace("CALLS", str(self.calls))
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(stat.S_IRWXU)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("PATH", f"{machine.tools}:{os.environ['PATH']}")
    return machine


def as_user(monkeypatch: pytest.MonkeyPatch, machine: Machine, sudo: str | None) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    if sudo is not None:
        machine.tool("sudo", sudo)
    real = packages.shutil.which
    monkeypatch.setattr(
        packages.shutil,
        "which",
        lambda name: None if name == "sudo" and sudo is None else real(name),
    )


def test_what_is_missing_is_found(machine: Machine) -> None:
    machine.installed.write_text("one\n")
    # A package that was removed but left its configuration is not installed.
    assert [package.name for package in packages.missing(WANTED)] == ["two"]


def test_nothing_is_run_if_all_is_there(machine: Machine) -> None:
    machine.installed.write_text("one\ntwo\n")
    assert packages.ensure(WANTED) == []
    assert machine.calls.read_text() == ""


def test_root_installs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    machine.installed.write_text("one\n")
    assert [package.name for package in packages.ensure(WANTED)] == ["two"]
    update, install = machine.calls.read_text().splitlines()
    assert "update" in update
    assert install.endswith("install --no-install-recommends two [noninteractive]")
    assert "DPkg::Lock::Timeout=300" in install


def test_a_user_with_sudo_installs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, machine, 'while [ "$1" != -- ] && [ "$1" != true ]; do shift; done\n'
            '[ "$1" = true ] || shift; echo "sudo" >>CALLS; "$@"')  # fmt: skip
    packages.ensure(WANTED)
    assert "sudo" in machine.calls.read_text() and "install" in machine.calls.read_text()


@pytest.mark.parametrize("sudo", [None, "exit 1"])
def test_without_the_right_the_command_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, sudo: str | None
) -> None:
    as_user(monkeypatch, machine, sudo)
    with pytest.raises(PackagesMissing) as caught:
        packages.ensure(WANTED)
    assert "as root: apt-get update && apt-get install --no-install-recommends one two" in str(
        caught.value
    )
    assert "apt-get" not in machine.calls.read_text()


def test_what_is_optional_is_done_without(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_user(monkeypatch, machine, None)
    machine.installed.write_text("one\n")
    wanted = (WANTED[0], Package("two", "that", optional=True))
    assert packages.ensure(wanted) == []
    assert "could not install two" in capsys.readouterr().err
    machine.installed.write_text("")
    with pytest.raises(PackagesMissing):
        packages.ensure(wanted)


def test_old_lists_are_no_failure_if_the_packages_come(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    machine.tool(
        "apt-get", 'case $* in *update*) exit 100;; esac; printf "one\\ntwo\\n" >INSTALLED'
    )
    assert len(packages.ensure(WANTED)) == 2


def test_an_install_that_fails_shows_why(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    machine.tool("apt-get", 'echo "E: Could not get lock"; exit 100')
    with pytest.raises(PackagesMissing, match="Could not get lock"):
        packages.ensure(WANTED)


def test_an_install_that_lies_is_found_out(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    machine.tool("apt-get", "exit 0")
    with pytest.raises(PackagesMissing, match="still missing after apt-get: one two"):
        packages.ensure(WANTED)


def test_elsewhere_than_on_debian_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(HarnessError, match="not a Debian system") as caught:
        packages.ensure(WANTED)
    assert "one two" in str(caught.value)


def test_every_package_says_what_for() -> None:
    names = [package.name for package in packages.PACKAGES]
    assert len(names) == len(set(names))
    assert all(package.needed_for for package in packages.PACKAGES)


@pytest.mark.parametrize(
    ("sudo", "installed"),
    [
        # Asks for a password without -n, and is given it.
        ('[ "$1" != -n ] || exit 1; shift; echo asked >>CALLS; "$@"', True),
        ('[ "$1" != -n ] || exit 1; exit 1', False),
    ],
    ids=["right", "wrong"],
)
def test_at_a_terminal_sudo_may_ask(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, sudo: str, installed: bool
) -> None:
    as_user(monkeypatch, machine, sudo)
    monkeypatch.setattr(packages.sys, "stdin", SimpleNamespace(isatty=lambda: True))
    if installed:
        assert len(packages.ensure(WANTED)) == 2
        assert "asked" in machine.calls.read_text()
        return
    with pytest.raises(HarnessError, match="exit status 1"):
        packages.ensure(WANTED)
    assert "apt-get" not in machine.calls.read_text()


def test_a_password_that_nobody_types(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, machine, '[ "$1" != -n ] || exit 1; exec sleep 60')
    monkeypatch.setattr(packages.sys, "stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(CommandTimeout, match="not done after 1 s"):
        packages._as_root(["apt-get", "update"], timeout=1.0, log=None)
