from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness import process
from harness.errors import CommandFailed, CommandTimeout

pytestmark = pytest.mark.host


def gone(pid: int) -> bool:
    """Wait a moment for a process to be gone (or a zombie that its new parent will reap)."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_output_and_stderr_come_together_by_default() -> None:
    done = process.run(["sh", "-c", "echo one; echo two >&2"], timeout=10)
    assert done.output == "one\ntwo\n"
    assert done.stderr == ""
    assert done.returncode == 0


def test_stderr_can_be_kept_apart(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = process.run(
        ["sh", "-c", "echo one; echo two >&2"], timeout=10, split_stderr=True, log=log
    )
    assert (done.output, done.stderr) == ("one\n", "two\n")
    assert sorted(log.read_text().split()) == ["one", "two"]


def test_log_is_appended_to(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log"
    for word in ("first", "second"):
        process.run(["echo", word], timeout=10, log=log)
    assert log.read_text() == "first\nsecond\n"


def test_failure_names_the_command_and_shows_the_tail(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(CommandFailed) as caught:
        process.run(
            ["sh", "-c", "seq 100; exit 3"],
            timeout=10,
            what="counting",
            hint="count slower",
            log=log,
        )
    err = caught.value
    assert err.returncode == 3
    assert err.output.startswith("1\n2\n")
    text = str(err)
    assert "counting: exit status 3" in text
    assert "100" in text
    assert "\n    50\n" not in text
    assert str(log) in text
    assert "count slower" in text


def test_unchecked_failure_is_returned() -> None:
    assert process.run(["sh", "-c", "exit 3"], timeout=10, check=False).returncode == 3


def test_death_by_signal_is_negative() -> None:
    done = process.run(["sh", "-c", "kill -TERM $$"], timeout=10, check=False)
    assert done.returncode == -15


def test_missing_command_is_a_failure_of_its_own() -> None:
    with pytest.raises(CommandFailed, match="no-such-command-anywhere was not found") as caught:
        process.run(["no-such-command-anywhere"], timeout=10)
    assert caught.value.returncode == 127


def test_timeout_ends_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    started = time.monotonic()
    with pytest.raises(CommandTimeout, match="not done after"):
        process.run(
            ["sh", "-c", f"sleep 60 & echo $$ $! > {pids}; wait"], timeout=0.5, what="sleeping"
        )
    assert time.monotonic() - started < 8
    assert all(gone(int(pid)) for pid in pids.read_text().split())


def test_a_group_that_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"
    monkeypatch.setattr(process.end_group, "__kwdefaults__", {"grace": 0.3})
    with pytest.raises(CommandTimeout):
        process.run(
            ["sh", "-c", f"trap '' TERM; echo $$ > {pids}; while :; do sleep 0.1; done"],
            timeout=0.5,
        )
    assert gone(int(pids.read_text()))


def test_an_exception_in_the_callback_ends_the_command(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.run(
            ["sh", "-c", f"echo $$ > {pids}; echo go; sleep 60"], timeout=30, on_line=interrupt
        )
    assert gone(int(pids.read_text()))


def test_a_signal_while_it_is_started_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(Exception):
        pass

    def end(_signum: int, _frame: object) -> None:
        raise Ended

    started: list[int] = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self.pid)
            # Nobody knows of the process yet.
            signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", Popen)
            with pytest.raises(Ended):
                process.run(["sleep", "60"], timeout=30)
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)
    assert gone(started[0])


def test_a_child_that_keeps_the_pipe_open_does_not_hold_us_for_ever(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(CommandTimeout):
        process.run(["sh", "-c", f"sleep 60 & echo $! > {pids}"], timeout=0.5)
    assert gone(int(pids.read_text()))


def test_large_input_and_output_do_not_block() -> None:
    data = os.urandom(300_000).hex().encode() + b"\n"
    done = process.run(["cat"], timeout=20, stdin=data)
    assert done.output.encode() == data


def test_input_that_nobody_reads_is_no_error() -> None:
    done = process.run(["true"], timeout=10, stdin=b"x" * 1_000_000)
    assert done.returncode == 0


def test_without_input_there_is_none() -> None:
    assert process.run(["cat"], timeout=10).output == ""


def test_lines_come_whole() -> None:
    lines: list[str] = []
    program = (
        "import sys,time\n"
        "for part in ('al', 'pha\\nbe', 'ta\\n', 'gamma'):\n"
        "    sys.stdout.write(part); sys.stdout.flush(); time.sleep(0.05)\n"
    )
    process.run([sys.executable, "-c", program], timeout=20, on_line=lines.append)
    assert lines == ["alpha", "beta", "gamma"]


def test_environment_adds_replaces_and_removes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKB_OLD", "old")
    monkeypatch.setenv("SKB_GONE", "there")
    done = process.run(
        ["sh", "-c", 'echo "$SKB_OLD ${SKB_GONE-none} $SKB_NEW"'],
        timeout=10,
        env={"SKB_OLD": "changed", "SKB_GONE": None, "SKB_NEW": "new"},
    )
    assert done.output == "changed none new\n"


def test_tail_is_the_end() -> None:
    assert process.tail("a\nb\nc\n", 2) == "b\nc"
