"""scripts/vm with a stand-in for virtme-run and QEMU (fakevm.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from fakevm import HERE, processes, wait_for

from harness.cli import vm as cli
from harness.errors import UsageError
from harness.vm import relay

pytestmark = pytest.mark.host

_DRIVER = """
import sys
from pathlib import Path
from types import SimpleNamespace
sys.path.insert(0, {root!r})
from harness import build
from harness.cli import _main, vm
from harness.vm import command
directory = Path({directory!r})
command.virtme_run = lambda: directory / "virtme-run"

def built(base, **options):
    print("build", base.name, options["flavour"], options["baseline"], file=sys.stderr)
    (directory / "bzImage").touch()
    return SimpleNamespace(image=directory / "bzImage", vmlinux=directory / "vmlinux",
                           build_dir=directory)

build.build = built
sys.exit(_main.run(vm.main))
"""


@pytest.fixture
def driver(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The command that stands for scripts/vm; afterwards nothing of it may still run."""
    script = tmp_path / "virtme-run"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{HERE / "fakevm.py"}" "$@"\n')
    script.chmod(0o755)
    (tmp_path / "driver.py").write_text(
        _DRIVER.format(root=str(HERE.parents[1]), directory=str(tmp_path))
    )
    yield [sys.executable, str(tmp_path / "driver.py")]
    assert wait_for(lambda: not processes(tmp_path)), processes(tmp_path)


@pytest.fixture(scope="session")
def agent_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli-build")


@pytest.fixture
def environment(tmp_path: Path, agent_build: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if name != "SKBHOME_LOGS"},
        "FAKE_VM_DIR": str(tmp_path),
        "SKBHOME_BUILD": str(agent_build),
        "SKBHOME_ACCEL": "tcg",
    }


def run(
    driver: list[str], environment: dict[str, str], *words: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*driver, *words],
        env=environment,
        input=stdin,
        capture_output=True,
        timeout=30,
        check=False,
    )


def test_streams_and_status_are_the_commands_own(
    driver: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    data = bytes(range(256)) * 100
    done = run(driver, environment, "--", "sh", "-c", "cat; echo err >&2; exit 7", stdin=data)
    assert done.returncode == 7
    assert done.stdout == data
    assert b"\nerr\n" in done.stderr
    (line,) = (line for line in done.stderr.decode().splitlines() if "kernel log: " in line)
    assert "TCG" in line
    log = Path(line.rpartition("kernel log: ")[2])
    assert "Brought up" in log.read_text()


def test_words_reach_the_command_as_they_are(
    driver: list[str], environment: dict[str, str]
) -> None:
    done = run(driver, environment, "--", "printf", "%s|", "a b", "", "--cpus", "$HOME", "--", "*")
    assert done.stdout == b"a b||--cpus|$HOME|--|*|"


def test_one_word_with_a_space_is_a_script(driver: list[str], environment: dict[str, str]) -> None:
    assert run(driver, environment, "--", "echo a; exit 3").stdout == b"a\n"


def test_a_signal_counts_as_in_a_shell(driver: list[str], environment: dict[str, str]) -> None:
    assert run(driver, environment, "--", "kill -TERM $$").returncode == 128 + signal.SIGTERM


def test_without_a_command_and_a_terminal_a_shell_reads_stdin(
    driver: list[str], environment: dict[str, str]
) -> None:
    done = run(driver, environment, stdin=b"echo hello\nexit 4\n")
    assert (done.returncode, done.stdout) == (4, b"hello\n")


def test_options_reach_the_build_and_the_guest(
    driver: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    words = ["v6.1", "--flavour", "debug", "--baseline", "--cpus", "4", "--numa", "2"]
    words += ["--append", "one=1 two", "--append", "three"]
    done = run(driver, environment, *words, "--", "true")
    assert done.returncode == 0, done.stderr
    assert b"build v6.1 debug True" in done.stderr
    argv = (tmp_path / "argv").read_text()
    for word in ("--cpus", "4", "--kopt=one=1", "--kopt=two", "--kopt=three", "3072M"):
        assert f'"{word}"' in argv


def test_a_splat_makes_the_status_99_and_is_shown(
    driver: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    splat = (HERE / "data" / "console" / "warn.log").read_text()
    (tmp_path / "splat").write_text(splat)
    script = f"cp {tmp_path}/splat {tmp_path}/say; while [ -e {tmp_path}/say ]; do :; done"
    done = run(driver, environment, "--", f"{script}; sleep 0.3; exit 0")
    assert done.returncode == cli.SPLAT
    assert b"WARNING: CPU" in done.stderr
    assert b"Call Trace:" in done.stderr


def test_a_panic_makes_the_status_99_and_is_shown(
    driver: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    script = f"echo '[    1.0] Kernel panic - not syncing: dead' > {tmp_path}/say; sleep 100"
    done = run(driver, environment, "--", script)
    assert done.returncode == cli.SPLAT
    assert b"the kernel panicked: dead" in done.stderr


def test_a_guest_that_fails_makes_the_status_98(
    driver: list[str], environment: dict[str, str]
) -> None:
    done = run(driver, environment, "--append", "fake=refuse", "--", "true")
    assert done.returncode == cli.GUEST
    assert b"cannot set up guest memory" in done.stderr
    done = run(driver, environment, "--", "kill -9 $PPID; sleep 100")
    assert done.returncode == cli.GUEST


def test_a_limit_for_the_command(driver: list[str], environment: dict[str, str]) -> None:
    done = run(driver, environment, "--timeout", "0.3", "--", "sleep", "100")
    assert done.returncode == cli.GUEST
    assert b"not done after" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["v9.9"], "v5.10"),
        (["--flavour", "none"], "default"),
        (["--cpus", "1000"], "64"),
        (["--memory", "much"], "512M"),
        (["--rwdir", "/no/such"], "/no/such"),
    ],
)
def test_bad_options_are_refused_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    monkeypatch.setattr(cli.build, "build", lambda *_, **__: pytest.fail("something is built"))
    with pytest.raises(UsageError, match=told):
        cli.main([*words, "--", "true"])


def test_interrupted(driver: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    with subprocess.Popen(
        [*driver, "--", "echo up; sleep 1000"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=10)
        assert child.returncode == 130


def test_a_reader_that_goes_away(driver: list[str], environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [*driver, "--", "yes"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"y\n"
        child.stdout.close()
        assert child.wait(timeout=10) == 128 + signal.SIGPIPE


def test_a_slow_reader_gets_everything(driver: list[str], environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [*driver, "--", "head -c 20000000 /dev/zero"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        assert child.stdout is not None
        total = len(child.stdout.read(1))
        wait_for(lambda: False, 0.5)
        while data := child.stdout.read(1 << 20):
            total += len(data)
        assert child.wait(timeout=10) == 0
    assert total == 20_000_000


def test_an_interactive_shell(
    driver: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    shell = pexpect.spawn(
        driver[0],
        driver[1:],
        env={**environment, "TERM": "dumb"},
        dimensions=(33, 99),
        timeout=15,
        encoding="utf-8",
    )
    try:
        shell.expect("Ctrl-] ends")
        shell.sendline("PS1=; stty size; echo $((40 + 2))")
        shell.expect("33 99")
        shell.expect("42")
        shell.setwinsize(44, 111)
        shell.sendline("sleep 0.7; stty size")
        shell.expect("44 111")
        # Ctrl-C is the guest's: it ends what runs there, not the guest.
        shell.sendline("echo a$((1))b; sleep 1000")
        shell.expect("a1b")
        shell.send("\x03")
        shell.sendline("echo still $((1 + 1)) there; exit 5")
        shell.expect("still 2 there")
        shell.expect(pexpect.EOF)
        shell.close()
        assert shell.exitstatus == 5
    finally:
        shell.close(force=True)


def test_the_escape_ends_the_session(
    driver: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    shell = pexpect.spawn(driver[0], driver[1:], env=environment, timeout=15)
    try:
        shell.expect_exact("Ctrl-] ends")
        shell.send("\x1d")
        shell.expect(pexpect.EOF)
        shell.close()
        assert shell.exitstatus == 0
    finally:
        shell.close(force=True)


def test_a_slow_reader_makes_the_guest_wait() -> None:
    class Guest:
        changed = threading.RLock()
        held: list[bool] = []

        def hold(self, on: bool) -> None:
            self.held.append(on)

    guest = Guest()
    slow = relay._Relay(guest)  # type: ignore[arg-type]
    sink = os.open(os.devnull, os.O_WRONLY)
    for _ in range(10):
        slow._on_output(sink, bytes(1 << 20))
    assert guest.held == [True, True]
    slow._write()
    assert guest.held[-1] is False
    os.close(sink)


def test_kernel_arguments_are_split_as_a_shell_does() -> None:
    assert cli.split('a=1 "b=2 3" c') == ["a=1", "b=2 3", "c"]
    with pytest.raises(UsageError, match="quote"):
        cli.split('a="')
