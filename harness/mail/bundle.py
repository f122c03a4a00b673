"""The evidence as one file for those who ask: reports, logs, JUnit XML, plots.

No symbolic links, no paths of this machine, and always the same bytes for the same files.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from harness import paths, stamp
from harness.bases import Base
from harness.proof.results import plain

_TEXT = (".json", ".xml", ".md", ".log", ".txt", ".csv", ".toml")
_OTHER = (".png", ".svg", ".pdf")

#: MiB from which a file is left out, and named as such.
MOST_MIB = 20


def write(base: Base, target: Path) -> list[str]:
    """Write the bundle of a base and return the names in it.

    Args:
        target: a ``.tar.gz``.
    """
    raw = io.BytesIO()
    names = []
    left_out = []
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, path in sorted(_files(base)):
            if path.stat().st_size > MOST_MIB << 20:
                left_out.append(f"{name}: {path.stat().st_size >> 20} MiB")
                continue
            data = path.read_bytes()
            if path.suffix in _TEXT:
                data = plain(data.decode(errors="replace")).encode()
            _add(tar, f"{base.name}/{name}", data)
            names.append(name)
        if left_out:
            _add(tar, f"{base.name}/LEFT-OUT", "\n".join([*left_out, ""]).encode())
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as out:
        out.write(raw.getvalue())
    stamp.write_atomic(target, packed.getvalue())
    return names


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    entry.mode = 0o644
    tar.addfile(entry, io.BytesIO(data))


def _files(base: Base) -> Iterator[tuple[str, Path]]:
    """Yield the files of the reports, with the names that they get."""
    for name in ("proof", "bench", "checks"):
        top = paths.build_root() / name / base.name
        for path in sorted(top.rglob("*")):
            # What a link points to may be anywhere; the file itself is listed where it is.
            if path.is_symlink() or not path.is_file():
                continue
            if path.suffix in (*_TEXT, *_OTHER):
                yield f"{name}/{path.relative_to(top)}", path
    for path in sorted((paths.ROOT / "docs").glob(f"*{base.name}*")):
        if path.is_file() and path.suffix in (*_TEXT, *_OTHER):
            yield f"docs/{path.name}", path
