"""The guest's life and death, with a stand-in for virtme-run and QEMU (fakevm.py)."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakevm import HERE, processes, wait_for

from harness import accel
from harness.errors import UsageError
from harness.vm import (
    GuestBootFailed,
    GuestCommandFailed,
    GuestCommandTimeout,
    GuestGone,
    GuestHang,
    GuestPanic,
    Vm,
    VmOptions,
    autopsy,
    boot,
    command,
)
from harness.vm import vm as vm_module

pytestmark = pytest.mark.host

boot_module = sys.modules["harness.vm.boot"]


@dataclass(frozen=True)
class Image:
    image: Path
    vmlinux: Path
    build_dir: Path


@pytest.fixture(scope="session")
def agent_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the agent is compiled once for all tests."""
    return tmp_path_factory.mktemp("build")


@pytest.fixture
def fake(tmp_path: Path, agent_build: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The stand-in's directory; afterwards nothing of it may still run."""
    directory = tmp_path / "fake"
    directory.mkdir()
    script = tmp_path / "virtme-run"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{HERE / "fakevm.py"}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("FAKE_VM_DIR", str(directory))
    monkeypatch.setenv("SKBHOME_BUILD", str(agent_build))
    monkeypatch.setenv("SKBHOME_ACCEL", "tcg")
    monkeypatch.setattr(command, "virtme_run", lambda: script)
    yield directory
    assert wait_for(lambda: not processes(directory)), processes(directory)


def start(tmp_path: Path, name: str = "ok", **options: object) -> Vm:
    image = tmp_path / "bzImage"
    image.touch()
    kernel = Image(image, tmp_path / "vmlinux", tmp_path)
    chosen = VmOptions(append=(f"fake={name}",), **options)  # type: ignore[arg-type]
    return boot(kernel, chosen, log_dir=tmp_path / "log")


@pytest.fixture
def vm(fake: Path, tmp_path: Path) -> Iterator[Vm]:
    with start(tmp_path) as booted:
        yield booted


# Commands.


def test_boot_tells_what_came_up(vm: Vm) -> None:
    assert vm.alive
    assert vm.accel == "tcg"
    assert vm.release == os.uname().release
    assert "Brought up 1 node" in vm.console_log.read_text()
    assert "\r" not in vm.console_log.read_text()
    assert vm.notes == []


def test_stdout_and_stderr_come_apart_and_exact(vm: Vm) -> None:
    data = bytes(range(256)) * 40
    result = vm.run("cat; printf 'e\\r\\n' >&2", stdin=data, timeout=10)
    assert result.stdout_bytes == data
    assert result.stderr_bytes == b"e\r\n"


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", -9), ("kill -TERM $$", -15)],
)
def test_exit_status_is_exact(vm: Vm, script: str, status: int) -> None:
    assert vm.run(script, timeout=10, check=False).returncode == status


def test_a_failing_command_carries_what_it_wrote(vm: Vm) -> None:
    with pytest.raises(GuestCommandFailed) as caught:
        vm.run("echo out; echo err >&2; exit 3", timeout=10)
    assert (caught.value.returncode, caught.value.stdout, caught.value.stderr) == (
        3,
        "out\n",
        "err\n",
    )
    assert caught.value.log == vm.console_log
    assert "err" in str(caught.value)


def test_a_command_that_is_not_there(vm: Vm) -> None:
    result = vm.run(["/no/such/thing"], timeout=10, check=False)
    assert result.returncode == 127
    assert "/no/such/thing" in result.stderr
    assert vm.run(["true"], cwd="/no/such", timeout=10, check=False).returncode == 126


def test_working_directory_and_environment(vm: Vm) -> None:
    result = vm.run('echo "$PWD $A $HOME"', cwd="/usr", env={"A": "x y"}, timeout=10)
    assert result.stdout == "/usr x y /root\n"


def test_much_output_and_input_arrive_whole(vm: Vm) -> None:
    data = os.urandom(1 << 16) * 160
    result = vm.run(["cat"], stdin=data, timeout=30)
    assert hashlib.sha256(result.stdout_bytes).digest() == hashlib.sha256(data).digest()


def test_input_that_is_not_read_does_not_block(vm: Vm) -> None:
    assert vm.run("exec 0<&-; echo done", stdin=b"x" * (1 << 20), timeout=10).stdout == "done\n"


def test_several_commands_at_once(vm: Vm) -> None:
    waiting = vm.start("read line; echo got $line", stdin=True)
    others = [vm.start(["echo", str(number)]) for number in range(5)]
    assert [other.wait(10).stdout for other in others] == [f"{number}\n" for number in range(5)]
    assert waiting.poll() is None
    waiting.write(b"it\n")
    assert waiting.wait(10).stdout == "got it\n"


def test_output_can_be_read_while_it_comes_and_the_command_killed(vm: Vm) -> None:
    running = vm.start("echo first; exec sleep 100")
    assert wait_for(lambda: running.stdout == "first\n")
    running.kill()
    assert running.wait(10).returncode == -signal.SIGTERM


def test_what_a_command_leaves_behind_does_not_hold_it_up(vm: Vm) -> None:
    started = time.monotonic()
    assert vm.run("(sleep 100; echo never) & echo now", timeout=10).stdout == "now\n"
    assert time.monotonic() - started < 5


def test_last_words_are_not_lost_while_nobody_listens(vm: Vm) -> None:
    vm.hold(True)
    filler = vm.start("head -c 5000000 /dev/zero")
    time.sleep(0.2)
    quick = vm.start("echo last words")
    time.sleep(0.6)  # it has ended, and its pipe was not read
    vm.hold(False)
    assert quick.wait(10).stdout == "last words\n"
    assert len(filler.wait(10).stdout_bytes) == 5_000_000


def test_files(vm: Vm, tmp_path: Path) -> None:
    path = tmp_path / "a file"
    vm.write_file(path, "text\n")
    assert vm.read_file(path) == "text\n"
    with pytest.raises(GuestCommandFailed, match="No such file"):
        vm.read_file(tmp_path / "missing")
    with pytest.raises(GuestCommandFailed, match=r"directory"):
        vm.write_file(tmp_path, "text")


def test_a_terminal(vm: Vm) -> None:
    pieces: list[bytes] = []
    shell = vm.start(
        ["sh", "-c", "test -t 0 && test -t 2 && stty size; read x; echo $x; cat"],
        tty=(11, 77),
        stdin=True,
        on_output=lambda _stream, data: pieces.append(data),
    )
    shell.write(b"hello\n")
    shell.close_stdin()
    assert shell.wait(10).returncode == 0
    text = b"".join(pieces)
    assert b"11 77\r\n" in text
    assert text.count(b"hello\r\n") == 2  # the echo and the answer


def test_a_command_too_long_is_refused(vm: Vm) -> None:
    with pytest.raises(Exception, match="65536 bytes"):
        vm.run("x" * 70000, timeout=10)


def test_a_late_command_is_killed_and_the_guest_stays(vm: Vm) -> None:
    with pytest.raises(GuestCommandTimeout) as caught:
        vm.run("echo so far; exec sleep 100", timeout=0.2)
    assert "so far" in str(caught.value)
    assert vm.run(["echo", "on"], timeout=10).stdout == "on\n"


# The guest's death.


def test_a_panic_is_told_at_once(vm: Vm, fake: Path) -> None:
    started = time.monotonic()
    text = "[    9.1] Kernel panic - not syncing: Fatal exception\\n[    9.2] CPU: 0 PID: 1\\n"
    with pytest.raises(GuestPanic, match="Fatal exception") as caught:
        vm.run(f"printf '{text}' > {fake}/say; exec sleep 100", timeout=60)
    assert time.monotonic() - started < 5
    assert "CPU: 0 PID: 1" in str(caught.value)
    assert not vm.alive
    with pytest.raises(GuestPanic):
        vm.run(["true"], timeout=10)
    assert [splat.kind for splat in vm.console.splats()] == ["PANIC"]


def test_a_panic_is_told_even_if_qemu_stays(
    vm: Vm, fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vm_module, "PANIC_GRACE", 0.2)
    text = "[    9.1] Kernel panic - not syncing: it stays"
    with pytest.raises(GuestPanic, match="it stays"):
        vm.run(f"echo '{text}' > {fake}/say; exec sleep 100", timeout=20)


def test_a_hang_is_told_with_where_the_cpus_are(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autopsy, "NMI_GRACE", 0.2)
    with start(tmp_path, hang_after=0.2) as vm:
        with pytest.raises(GuestHang, match="no sign of life") as caught:
            vm.run("kill -STOP $PPID; exec sleep 100", timeout=60)
        assert "CPU 0: ffffffff81000010" in str(caught.value)
        assert "CPU 1: 00007f0000001000 (user space), halted" in str(caught.value)
        # The answer to the NMI reads like a panic; the guest hung all the same.
        with pytest.raises(GuestHang):
            vm.run(["true"], timeout=10)


def test_a_late_command_in_a_guest_that_does_not_answer(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vm_module, "ANSWER_GRACE", 0.1)
    monkeypatch.setattr(autopsy, "NMI_GRACE", 0.1)
    with start(tmp_path) as vm, pytest.raises(GuestHang, match="did not answer within"):
        vm.run("kill -STOP $PPID; exec sleep 100", timeout=0.2)


def test_the_agent_ends(vm: Vm) -> None:
    with pytest.raises(GuestGone):
        vm.run("kill -9 $PPID; exec sleep 100", timeout=60)
    assert not vm.alive


def test_qemu_ends(vm: Vm, fake: Path) -> None:
    with pytest.raises(GuestGone, match="QEMU ended|closed"):
        vm.run(f"kill -9 $(cat {fake}/pid); exec sleep 100", timeout=60)


def test_closing_twice_and_after_death(vm: Vm, fake: Path) -> None:
    os.kill(int((fake / "pid").read_text()), signal.SIGKILL)
    vm.close()
    vm.close()
    assert not vm.alive
    assert not vm.flush_console()


def test_closing_ends_what_ignores_polite_signals(fake: Path, tmp_path: Path) -> None:
    with start(tmp_path, "stubborn") as vm:
        pid = int((fake / "pid").read_text())
        started = time.monotonic()
        vm.close()
        assert not Path(f"/proc/{pid}").exists()
        assert time.monotonic() - started < 3


# Boots that fail.


@pytest.mark.parametrize(
    ("name", "stage", "what"),
    [
        ("refuse", "start", "cannot set up guest memory"),
        ("gone", "gone", "ended while it was booting"),
        ("babble", "agent", "the agent sent not a frame: b'a login prompt"),
        ("hangup", "agent", "the connection to the agent closed"),
        ("panic", "panic", "Attempted to kill init"),
        ("noroot", "panic", "Unable to mount root fs"),
        ("mute", "agent", "printed nothing for 0 s"),
        ("silent", "silent", "printed nothing within 0 s"),
    ],
)
def test_boot_failures_are_told_apart(
    fake: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    stage: str,
    what: str,
) -> None:
    if name in ("babble", "hangup"):
        monkeypatch.setattr(boot_module, "_PANIC_GRACE", 0.2)
    monkeypatch.setattr(boot_module, "STALL", 0.3 if name == "mute" else 30)
    monkeypatch.setattr(boot_module, "SILENT", {"tcg": 0.2 if name == "silent" else 30})
    with pytest.raises(GuestBootFailed, match=what) as caught:
        start(tmp_path, name)
    assert caught.value.stage == stage
    assert caught.value.log == tmp_path / "log" / "console.log"
    if name == "noroot":
        assert "CONFIG_9P_FS" in str(caught.value)
    if name == "refuse":
        assert "--memory" in str(caught.value)


def test_boot_timeout_of_the_options(fake: Path, tmp_path: Path) -> None:
    with pytest.raises(GuestBootFailed, match="within 0 s"):
        start(tmp_path, "mute", boot_timeout=0.3)


def test_a_silent_boot_is_tried_once_more_and_told(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(boot_module, "SILENT", {"tcg": 1.0})
    with start(tmp_path, "twice") as vm:
        assert vm.run(["echo", "up"], timeout=10).stdout == "up\n"
        assert len(vm.notes) == 1
    assert "trying once more" in capfd.readouterr().err
    assert (tmp_path / "log" / "first-console.log").exists()


def test_the_first_kernel_under_kvm_proves_it(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    remembered: list[str] = []

    def remember(reason: str) -> accel.Accel:
        remembered.append(reason)
        return accel.Accel("tcg", reason, proven=True)

    # Enough for the first one to say that it was started, which the second one goes by.
    monkeypatch.setattr(boot_module, "UNPROVEN", 1.5)
    monkeypatch.setattr(accel, "probe", lambda: accel.Accel("kvm", "a sector runs"))
    monkeypatch.setattr(accel, "remember_failure", remember)
    with start(tmp_path, "twice") as vm:
        assert vm.accel == "tcg"
    assert "printed nothing" in remembered[0]
    assert "KVM does not work here" in capfd.readouterr().err
    first, second = (fake / "argv").read_text().splitlines()
    assert "--disable-kvm" not in first
    assert "--disable-kvm" in second
    # A hypervisor has a clock of its own for its guests.
    assert "tsc=reliable" not in first
    assert "tsc=reliable" in second


# Interruptions.

_CHILD = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {here!r}]
from harness.vm import VmOptions, boot, command
from test_vm import Image
command.virtme_run = lambda: Path({script!r})
directory = Path({directory!r})
(directory / "bzImage").touch()
image = Image(directory / "bzImage", directory / "vmlinux", directory)
print("booting", flush=True)
with boot(image, VmOptions(append=("fake={name}",)), log_dir=directory) as vm:
    print("up", flush=True)
    vm.run("sleep 1000", timeout=1000)
"""


@pytest.mark.parametrize("stage", ["silent", "mute", "ok"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_leaves_nothing(
    fake: Path, tmp_path: Path, stage: str, number: signal.Signals
) -> None:
    text = _CHILD.format(
        root=str(HERE.parents[1]),
        here=str(HERE),
        script=str(tmp_path / "virtme-run"),
        directory=str(tmp_path),
        name=stage,
    )
    with subprocess.Popen(
        [sys.executable, "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        if stage == "ok":
            assert child.stdout.readline() == "booting\n"
            assert child.stdout.readline() == "up\n", child.stderr and child.stderr.read()
            assert wait_for(lambda: any("sleep" in line for line in processes(fake)))
        else:
            assert wait_for((fake / "pid").exists)
            time.sleep(0.1)
        os.kill(child.pid, number)
        child.communicate(timeout=10)
        assert child.returncode != 0
    # The fixture sees that nothing is left.


def test_an_interruption_that_leaves_the_lock_taken(fake: Path, tmp_path: Path) -> None:
    with start(tmp_path) as vm:
        vm.run("true", timeout=10)
        vm.changed.acquire()
        # What the guest says about it, its thread here cannot pass on.
        vm.start("true")
        time.sleep(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 5


# The command line.


def test_qemu_is_given_what_was_asked_for(fake: Path, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    with start(tmp_path, cpus=5, memory="3G", numa=2, rwdirs=(share,)):
        pass
    argv = (fake / "argv").read_text()
    for words in (
        '"--cpus", "5"',
        '"--memory", "3072M"',
        '"--numa", "1536M,cpus=0-1", "--numa", "1536M,cpus=2-4"',
        f'"--rwdir={share}"',
        '"--force-9p"',
        '"--disable-kvm"',
        '"--kopt=panic=-1"',
        '"-no-reboot"',
    ):
        assert words in argv


@pytest.mark.parametrize("cpus", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("numa", [1, 2, 3])
@pytest.mark.parametrize("memory", ["512M", "1G", "2050M"])
def test_numa_nodes_sum_up(cpus: int, numa: int, memory: str) -> None:
    if numa > cpus:
        with pytest.raises(UsageError):
            VmOptions(cpus=cpus, numa=numa, memory=memory)
        return
    options = VmOptions(cpus=cpus, numa=numa, memory=memory)
    nodes = options.nodes()
    assert len(nodes) == numa
    assert sum(size for size, _ in nodes) == options.megabytes
    listed: list[int] = []
    for size, text in nodes:
        assert size > 0
        first, _, last = text.removeprefix("cpus=").partition("-")
        listed += range(int(first), int(last or first) + 1)
    assert listed == list(range(cpus))


@pytest.mark.parametrize(
    "wrong",
    [
        {"cpus": 0},
        {"cpus": 65},
        {"memory": "lots"},
        {"memory": "64M"},
        {"numa": -1},
        {"append": ('a="b c"',)},
        {"rwdirs": (Path("/no/such/directory"),)},
    ],
)
def test_options_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        VmOptions(**wrong)  # type: ignore[arg-type]


def test_too_long_a_command_line_is_refused(fake: Path, tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.touch()
    options = VmOptions(append=("x" * 2000,))
    with pytest.raises(Exception, match="command line would have"):
        boot(Image(image, image, tmp_path), options, log_dir=tmp_path / "log")
