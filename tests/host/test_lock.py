from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import lock, paths

pytestmark = pytest.mark.host

_HOLD = """
import sys
from pathlib import Path
from harness import lock
with lock.held(Path(sys.argv[1]), "building the other thing"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run another process that holds the lock until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(paths.ROOT)},
    ) as proc:
        assert proc.stdout is not None
        try:
            assert proc.stdout.readline() == "held\n"
            yield proc
        finally:
            proc.kill()


def test_the_second_one_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "a.lock"
    with (
        holder(path) as proc,
        pytest.raises(lock.LockTimeout) as caught,
        lock.held(path, "my thing", timeout=0),
    ):
        raise AssertionError("the lock was given twice")
    assert f"process {proc.pid}" in str(caught.value)
    assert "building the other thing" in str(caught.value)
    assert "my thing" in str(caught.value)


def test_the_second_one_waits_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.lock"
    with holder(path) as proc:
        assert proc.stdin is not None
        threading.Timer(0.3, proc.stdin.close).start()
        started = time.monotonic()
        with lock.held(path, "my thing", timeout=20, poll=0.05):
            waited = time.monotonic() - started
    assert 0.2 < waited < 10
    assert "building the other thing" in capsys.readouterr().err


def test_a_holder_that_was_killed_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with holder(path) as proc:
        proc.kill()
        proc.wait()
        with lock.held(path, "my thing", timeout=0):
            pass


def test_it_is_free_again_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with pytest.raises(ValueError, match="x"), lock.held(path, "one"):
        raise ValueError("x")
    with lock.held(path, "two", timeout=0):
        assert f"process {os.getpid()} (two)" in path.read_text()
