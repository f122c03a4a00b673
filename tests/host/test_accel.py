"""The probe of KVM, with stand-ins for QEMU and /dev/kvm."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness import accel
from harness.errors import UsageError

pytestmark = pytest.mark.host


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for QEMU, counting its runs; a /dev/kvm that can be opened."""
    monkeypatch.delenv(accel.VARIABLE, raising=False)
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path / "build"))
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accel, "_DEVICE", device)
    monkeypatch.setattr(accel, "QEMU", str(tmp_path / "qemu"))
    monkeypatch.setattr(accel.platform, "machine", lambda: "x86_64")
    behave(tmp_path / "qemu", "exit 85")
    return tmp_path / "qemu"


def behave(script: Path, action: str, version: str = "7.2") -> None:
    script.write_text(
        f"#!/bin/sh\n[ $1 = --version ] && {{ echo QEMU {version}; exit; }}\n"
        f"echo run >>{script}.runs\n{action}\n"
    )
    script.chmod(0o755)


def runs(script: Path) -> int:
    path = Path(f"{script}.runs")
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_sector_that_runs_means_kvm(qemu: Path) -> None:
    found = accel.probe()
    assert (found.name, found.proven) == ("kvm", False)


def test_the_answer_is_remembered(qemu: Path) -> None:
    first = accel.probe()
    assert accel.probe() == first
    assert runs(qemu) == 1
    assert accel.probe(fresh=True) == first
    assert runs(qemu) == 2


def test_another_qemu_is_asked_again(qemu: Path) -> None:
    accel.probe()
    behave(qemu, "exit 1", version="9.0")
    assert accel.probe().name == "tcg"


def test_an_abort_means_tcg_and_says_what_qemu_said(qemu: Path) -> None:
    behave(qemu, "echo 'qemu: error: failed to set MSR 0x10a' >&2; kill -ABRT $$")
    found = accel.probe()
    assert found.name == "tcg"
    assert "failed to set MSR 0x10a" in found.reason


def test_a_hang_means_tcg_within_the_limit(qemu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "LIMIT", 0.3)
    behave(qemu, "exec sleep 100")
    started = time.monotonic()
    found = accel.probe()
    assert found.name == "tcg"
    assert "did not run" in found.reason
    assert time.monotonic() - started < 5


def test_a_damaged_memory_is_no_answer(qemu: Path) -> None:
    accel.probe()
    accel._cache().write_text("{")
    assert accel.probe().name == "kvm"
    assert runs(qemu) == 2


def test_no_device(qemu: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(accel, "_DEVICE", tmp_path / "missing")
    assert accel.probe() == accel.Accel("tcg", "there is no /dev/kvm", proven=True)
    assert runs(qemu) == 0


def test_no_permission(qemu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(accel.os, "open", refuse)
    found = accel.probe()
    assert found.name == "tcg"
    assert "Permission denied" in found.reason


def test_no_qemu(qemu: Path) -> None:
    qemu.unlink()
    found = accel.probe()
    assert found.name == "tcg"
    assert "not found" in found.reason


@pytest.mark.parametrize("name", ["kvm", "tcg"])
def test_the_person_decides(qemu: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(accel.VARIABLE, name)
    assert accel.probe().name == name
    assert runs(qemu) == 0


def test_the_person_is_wrong(qemu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(accel.VARIABLE, "hvf")
    with pytest.raises(UsageError, match="kvm or tcg"):
        accel.probe()


def test_what_a_kernel_showed_is_remembered(qemu: Path) -> None:
    assert accel.probe().name == "kvm"
    accel.remember_failure("a kernel printed nothing")
    found = accel.probe()
    assert (found.name, found.proven) == ("tcg", True)
    assert "a kernel printed nothing" in found.reason
    accel.remember_success()
    assert accel.probe() == accel.Accel("kvm", "a kernel has booted with it", proven=True)
    assert runs(qemu) == 1


def test_a_directory_that_cannot_be_written_is_no_error(
    qemu: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path / "file" / "build"))
    assert accel.probe().name == "kvm"
    accel.remember_failure("whatever")
