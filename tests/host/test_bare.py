"""A guest of one program: QEMU is a script here, the program and its archive are real."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import accel, flavours, paths
from harness.errors import UsageError
from harness.vm import GuestBootFailed, GuestPanic, VmOptions, bare

pytestmark = pytest.mark.host


@dataclass
class Image:
    image: Path
    vmlinux: Path
    build_dir: Path


@pytest.fixture
def kernel(tmp_path: Path) -> Image:
    return Image(tmp_path / "bzImage", tmp_path / "vmlinux", tmp_path)


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script in QEMU's place, which says what the test puts into ``console``."""
    script = tmp_path / "qemu"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat {tmp_path}/console\n')
    script.chmod(0o755)
    monkeypatch.setattr(accel, "QEMU", str(script))
    monkeypatch.setattr(bare, "initramfs", lambda bits: tmp_path / f"archive-{bits}")
    return tmp_path / "console"


TCG = VmOptions(cpus=3, accel="tcg", append=("extra=1",))


def test_a_kernel_that_gets_to_its_program(kernel: Image, qemu: Path, tmp_path: Path) -> None:
    qemu.write_bytes(b"[    0.0] Linux version\r\nskbhome: init runs on 5.10.9-x\r\n")
    found = bare.boot(kernel, tmp_path / "logs", bits=32, options=TCG)
    assert (found.release, found.accel) == ("5.10.9-x", "tcg")
    assert "Linux version" in found.console.log.read_text()
    assert found.console.splats() == []
    arguments = (tmp_path / "arguments").read_text()
    assert "-smp 3" in arguments and "archive-32" in arguments
    assert "extra=1 rdinit=/init" in arguments and "-no-reboot" in arguments


def test_a_splat_is_found(kernel: Image, qemu: Path, tmp_path: Path) -> None:
    qemu.write_text(
        "[    0.1] WARNING: CPU: 0 PID: 1 at net/core/skb_defer.c:1 x+0x1/0x2\n"
        "[    0.1] ---[ end trace 0 ]---\nskbhome: init runs on 5.10.9-x\n"
    )
    found = bare.boot(kernel, tmp_path / "logs", options=TCG)
    assert [each.kind for each in found.console.splats(decode=False)] == ["WARNING"]


def test_a_panic_is_told_as_one(kernel: Image, qemu: Path, tmp_path: Path) -> None:
    qemu.write_text("[    0.1] Kernel panic - not syncing: VFS: no root\n")
    with pytest.raises(GuestPanic, match="VFS: no root"):
        bare.boot(kernel, tmp_path / "logs", options=TCG)


@pytest.mark.parametrize(("said", "stage"), [("", "silent"), ("[    0.1] Linux\n", "agent")])
def test_a_kernel_that_does_not_get_there(
    kernel: Image, qemu: Path, tmp_path: Path, said: str, stage: str
) -> None:
    qemu.write_text(said)
    with pytest.raises(GuestBootFailed, match="did not get to its program") as err:
        bare.boot(kernel, tmp_path / "logs", options=TCG)
    assert err.value.stage == stage and err.value.log is not None


def test_a_guest_that_does_not_end(
    kernel: Image, qemu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu.write_text("skbhome: init runs on 5.10.9-x\n")
    with (tmp_path / "qemu").open("a") as script:
        script.write("exec sleep 60\n")
    monkeypatch.setattr(bare, "LIMIT", 3.0)
    with pytest.raises(GuestBootFailed, match="did not end in 3 s"):
        bare.boot(kernel, tmp_path / "logs", options=TCG)


@pytest.mark.parametrize("bits", [64, 32])
def test_the_archive_holds_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    monkeypatch.setattr(paths, "build_root", lambda: tmp_path)
    monkeypatch.setattr(paths, "locks", lambda: tmp_path / "locks")
    made = bare.initramfs(bits)
    first = made.stat().st_mtime_ns
    assert bare.initramfs(bits).stat().st_mtime_ns == first
    subprocess.run(
        ["cpio", "--extract", "--quiet", f"--file={made}"], cwd=tmp_path, check=True, timeout=60
    )
    # The fifth byte of an ELF file: 1 for 32 bits, 2 for 64.
    assert (tmp_path / "init").read_bytes()[:5] == b"\x7fELF" + bytes([bits // 32])


def test_commands_are_refused() -> None:
    assert flavours.for_commands("default").name == "default"
    with pytest.raises(UsageError, match="'noinet' runs no commands"):
        flavours.for_commands("noinet")
