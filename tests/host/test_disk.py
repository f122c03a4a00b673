from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import disk

pytestmark = pytest.mark.host


def as_nobody(body: Callable[[], None]) -> str:
    """Run ``body`` in a child without privileges; return the text of the error it ends with."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "no error"
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            body()
        except BaseException as err:
            text = f"{type(err).__name__}: {err}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text


def test_too_little_space_names_directory_and_need(tmp_path: Path) -> None:
    where = tmp_path / "not" / "there" / "yet"
    need = disk.free_mib(where) + 1000
    with pytest.raises(disk.DiskTooSmall) as caught:
        disk.need(where, need, "unpacking v5.10")
    text = str(caught.value)
    assert "unpacking v5.10" in text
    assert str(where) in text
    assert f"{need} MiB" in text
    assert "SKBHOME_BUILD" in text
    assert not where.exists()


def test_enough_space_is_no_error(tmp_path: Path) -> None:
    disk.need(tmp_path, 1, "x", files=1)


def test_too_few_inodes(tmp_path: Path) -> None:
    if not os.statvfs(tmp_path).f_files:
        pytest.skip("this file system has no fixed number of inodes")
    with pytest.raises(disk.DiskTooSmall, match="inodes"):
        disk.need(tmp_path, 1, "x", files=1 << 50)


def test_no_permission_names_a_directory(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    text = as_nobody(lambda: disk.need(closed / "deep", 1, "unpacking v5.10"))
    # Which one depends on how far up this user may look.
    assert text.startswith("NotPermitted: unpacking v5.10: no permission to write /")
    assert "SKBHOME_BUILD" in text


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EACCES, disk.NotPermitted, "no permission for /x/y"),
        (errno.EROFS, disk.NotPermitted, "no permission for /x/y"),
        (errno.ENOSPC, disk.DiskTooSmall, "no space left for /x/y"),
    ],
)
def test_errors_of_the_system_get_a_name(number: int, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words), disk.guard("unpacking"):
        raise OSError(number, os.strerror(number), "/x/y")


def test_other_errors_of_the_system_stay_as_they_are() -> None:
    with pytest.raises(FileNotFoundError), disk.guard("unpacking"):
        raise FileNotFoundError(errno.ENOENT, "none", "/x/y")
