"""What doctor says of machines that lack something."""

import json
import os
import shutil
import socket
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from harness import accel, doctor, packages
from harness.cli import doctor as cli
from harness.doctor import Finding, Status
from harness.errors import HarnessError
from harness.packages import Package

pytestmark = pytest.mark.host


def lacking(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name in names else real(name))


def test_a_lack_has_a_cost_and_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, "gcc", "git", "qemu-system-x86_64", "vng", "virtme-ng")
    for check in (doctor.compiler, doctor.git, doctor.qemu, doctor.virtme):
        finding = check()
        assert finding.status is Status.FAIL and finding.cost and finding.mend, finding


def test_packages_that_lack_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "missing", lambda wanted: [Package("flex", "building a kernel")])
    finding = doctor.required_packages()
    assert finding.status is Status.FAIL
    assert "flex" in finding.found and "building a kernel" in finding.cost
    assert "apt-get install flex" in finding.mend
    assert doctor.optional_packages().status is Status.WARN


def test_a_small_disk_fails_and_a_used_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path / "not/there/yet"))
    usage = namedtuple("usage", "total used free")  # noqa: PYI024
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 3 << 30))
    assert doctor.disk().status is Status.FAIL
    # What the trees take already is part of the 6 GiB.
    monkeypatch.setattr(doctor, "_used_mib", lambda path: 4096)
    assert doctor.disk().status is Status.OK
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 1 << 30))
    assert doctor.disk().status is Status.WARN


def test_a_directory_that_is_not_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    finding = doctor.disk()
    assert finding.status is Status.FAIL and "SKBHOME_BUILD" in finding.mend


def test_one_cpu_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert doctor.cpus().status is Status.WARN
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert doctor.cpus().status is Status.OK


def test_another_processor_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, "machine", lambda: "aarch64")
    assert doctor.system().status is Status.FAIL


@pytest.mark.parametrize("answers", [True, False])
def test_the_network_is_tried(monkeypatch: pytest.MonkeyPatch, answers: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not answers:
            server.close()
        monkeypatch.setattr(doctor, "_mirrors", lambda: iter([("127.0.0.1", port)]))
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        finding = doctor.network()
    assert finding.status is (Status.OK if answers else Status.WARN)
    if not answers:
        assert "--tree" in finding.mend and finding.cost


def test_a_check_that_breaks_hides_no_other_one() -> None:
    def broken() -> Finding:
        raise RuntimeError("bug")

    first, second = doctor.run([broken, doctor.cpus])
    assert first.status is Status.WARN and "bug" in first.found
    assert second.name == "cpus"


def test_require_raises_for_failures_alone() -> None:
    def warns() -> Finding:
        return Finding("slow", Status.WARN, "x", "time", "buy")

    def fails() -> Finding:
        return Finding("gone", Status.FAIL, "nothing", "all", "get it")

    assert doctor.require([warns])[0].name == "slow"
    with pytest.raises(doctor.Unfit, match="gone") as caught:
        doctor.require([warns, fails])
    assert "mend:  get it" in str(caught.value) and "slow" not in str(caught.value)


def test_the_status_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warns() -> Finding:
        return Finding("slow", Status.WARN, "x", "time", "buy")

    def fails() -> Finding:
        return Finding("gone", Status.FAIL, "nothing", "all", "get it")

    monkeypatch.setattr(doctor, "CHECKS", (warns,))
    assert cli.main([]) == 0
    assert "ready: scripts/apply-and-build" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "CHECKS", (warns, fails))
    assert cli.main([]) == 1
    assert "not ready: gone" in capsys.readouterr().out
    assert cli.main(["--json"]) == 1
    assert [f["status"] for f in json.loads(capsys.readouterr().out)] == ["warn", "fail"]


# --- what is there, and of which kind: programs that say what a test wants ----------


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all of PATH."""
    directory = tmp_path / "tools"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def says(tools: Path, name: str, text: str, status: int = 0) -> None:
    (tools / name).write_text(f"#!/bin/sh\necho '{text}'\necho more\nexit {status}\n")
    (tools / name).chmod(0o755)


def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **files: str | None) -> None:
    """Have the checks read other files in place of the machine's own; None: there is none."""
    for name, text in files.items():
        if text is not None:
            (tmp_path / name).write_text(text)
    monkeypatch.setattr(
        doctor,
        "Path",
        lambda path: tmp_path / Path(path).name if Path(path).name in files else Path(path),
    )


MEMINFO = "MemTotal:       16384000 kB\nMemFree:  1 kB\nMemAvailable:   {} kB\n"


@pytest.mark.parametrize(
    ("text", "status", "found"),
    [
        (MEMINFO.format(8 << 20), Status.OK, "8.0 GiB available"),
        (MEMINFO.format(1 << 20), Status.WARN, "1.0 GiB available"),
        ("MemTotal: 1 kB\n", Status.WARN, "unknown"),
        ("garbage\n", Status.WARN, "unknown"),
        (None, Status.WARN, "unknown"),
    ],
    ids=["enough", "little", "old-kernel", "garbage", "no-file"],
)
def test_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    status: Status,
    found: str,
) -> None:
    reads(monkeypatch, tmp_path, meminfo=text)
    finding = doctor.memory()
    assert (finding.status, finding.found) == (status, found)
    assert finding.status is Status.OK or finding.cost


@pytest.mark.parametrize(
    ("release", "apt", "status"),
    [
        ('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n', True, Status.OK),
        ('PRETTY_NAME="Mint"\nID=linuxmint\n\nID_LIKE="ubuntu debian"\n', True, Status.OK),
        ('PRETTY_NAME="Fedora Linux 40"\nID=fedora\n', True, Status.WARN),
        ("ID=debian\n", False, Status.WARN),
        ("no assignment\n", True, Status.WARN),
        (None, True, Status.WARN),
    ],
    ids=["debian", "like-debian", "fedora", "no-apt", "garbage", "no-file"],
)
def test_distributions(
    tools: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    release: str | None,
    apt: bool,
    status: Status,
) -> None:
    reads(monkeypatch, tmp_path, **{"os-release": release})
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    if apt:
        says(tools, "apt-get", "apt 2.6")
    finding = doctor.system()
    assert finding.status is status
    assert finding.found.endswith(", x86_64")
    assert ("Debian 12" in finding.mend) is (status is Status.WARN)


def test_a_compiler_that_cannot_link(tools: Path) -> None:
    says(tools, "gcc", "gcc (Test) 12.2.0", status=1)
    finding = doctor.compiler()
    assert finding.status is Status.FAIL
    assert finding.found == "gcc (Test) 12.2.0, which cannot link a program"
    says(tools, "gcc", "gcc (Test) 12.2.0")
    assert doctor.compiler() == Finding("compiler", Status.OK, "gcc (Test) 12.2.0")


@pytest.mark.parametrize(
    ("version", "status"),
    [("2.17.1", Status.FAIL), ("2.25.0", Status.OK), ("2.39.5", Status.OK), ("3.0", Status.OK)],
)
def test_an_old_git(tools: Path, version: str, status: Status) -> None:
    says(tools, "git", f"git version {version}")
    finding = doctor.git()
    assert (finding.status, finding.found) == (status, f"git version {version}")


def test_programs_that_are_there_tell_their_version(tools: Path) -> None:
    says(tools, "qemu-system-x86_64", "QEMU emulator version 7.2.19")
    assert doctor.qemu() == Finding("qemu", Status.OK, "QEMU emulator version 7.2.19")
    says(tools, "virtme-ng", "virtme-ng 1.42")
    assert doctor.virtme() == Finding("virtme-ng", Status.OK, "virtme-ng 1.42")


def test_python_of_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path))
    finding = doctor.python()
    assert finding.status is Status.WARN and "scripts/" in finding.mend
    (tmp_path / "venv").symlink_to(sys.prefix)
    assert doctor.python().status is Status.OK


@pytest.mark.parametrize(
    ("probed", "status", "found"),
    [
        (accel.Accel("kvm", "works"), Status.OK, "works"),
        (accel.Accel("tcg", "there is no /dev/kvm"), Status.WARN, "not used: there is no /dev/kvm"),
        (HarnessError("SKBHOME_ACCEL is 'x'", hint="kvm or tcg"), Status.WARN, "SKBHOME_ACCEL is"),
    ],
    ids=["kvm", "tcg", "wrong"],
)
def test_kvm_as_it_was_probed(
    tools: Path, monkeypatch: pytest.MonkeyPatch, probed: object, status: Status, found: str
) -> None:
    def probe() -> object:
        if isinstance(probed, HarnessError):
            raise probed
        return probed

    monkeypatch.setattr(accel, "probe", probe)
    # Without QEMU nothing is tried.
    assert doctor.kvm().found.startswith("unknown")
    says(tools, "qemu-system-x86_64", "QEMU")
    finding = doctor.kvm()
    assert finding.status is status and finding.found.startswith(found)


def test_packages_that_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(wanted: object) -> list[Package]:
        raise HarnessError("dpkg-query was not found", hint="use Debian")

    monkeypatch.setattr(packages, "missing", missing)
    finding = doctor.required_packages()
    assert (finding.status, finding.found) == (Status.WARN, "dpkg-query was not found")
    assert finding.mend == "use Debian"
    monkeypatch.setattr(packages, "missing", lambda wanted: [])
    assert doctor.optional_packages().status is Status.OK


TARGETS = """http://deb.example.org/debian
https://sec.example.org/debian-security
http://deb.example.org/debian
http://third.example.org:8080/x
cdrom://[Debian GNU/Linux 12.5.0 - Official]/
"""


def test_mirrors_are_those_of_apt(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(doctor._mirrors()) == []
    assert doctor.network().found == "apt names no mirror"
    (tools / "apt-get").write_text(f"#!/bin/sh\n/bin/cat <<'E'\n{TARGETS}E\n")
    (tools / "apt-get").chmod(0o755)
    assert list(doctor._mirrors()) == [
        ("deb.example.org", 80),
        ("sec.example.org", 443),
        ("third.example.org", 8080),
    ]

    def refuse(address: object, timeout: float) -> socket.socket:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", refuse)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    finding = doctor.network()
    assert finding.status is Status.WARN
    assert finding.found == "not reached: deb.example.org (timed out), sec.example.org (timed out)"
    # Behind a proxy nobody can connect by himself.
    monkeypatch.setenv("https_proxy", "http://proxy.example.org:3128")
    assert doctor.network() == Finding("network", Status.OK, "reached through a proxy")


def test_a_disk_that_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(path: Path) -> object:
        raise OSError(5, "Input/output error")

    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", usage)
    finding = doctor.disk()
    assert finding.status is Status.FAIL and "Input/output error" in finding.found


def test_what_trees_take_is_counted_or_nothing(tmp_path: Path, tools: Path) -> None:
    assert doctor._used_mib(tmp_path / "none") == 0
    says(tools, "du", "4711 trees")
    assert doctor._used_mib(tmp_path) == 4711
    says(tools, "du", "")
    assert doctor._used_mib(tmp_path) == 0
    (tools / "du").unlink()
    assert doctor._used_mib(tmp_path) == 0
