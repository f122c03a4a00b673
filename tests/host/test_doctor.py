"""What doctor says of machines that lack something."""

import json
import os
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from harness import doctor, packages
from harness.cli import doctor as cli
from harness.doctor import Finding, Status
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
