"""Results that are either whole or absent.

A step writes its stamp last, atomically, with a digest of everything that the
result was made from. A stamp that is missing, unreadable or made from other
inputs means: do the step again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the whole new one.

    The temporary file is in the same directory, and both it and the rename
    reach the disk before this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as out:
            out.write(raw)
            out.flush()
            os.fsync(out.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def digest(parts: Iterable[str | bytes | Path]) -> str:
    """Return a SHA-256 over strings, bytes and the contents of files, in order.

    Each part is preceded by its length, so that parts cannot run together.
    """
    total = hashlib.sha256()
    for part in parts:
        raw = part.read_bytes() if isinstance(part, Path) else part
        raw = raw.encode() if isinstance(raw, str) else raw
        total.update(f"{len(raw)}:".encode())
        total.update(raw)
    return total.hexdigest()


def write(path: Path, inputs: str, facts: Mapping[str, Any] | None = None) -> None:
    """Record that the result beside ``path`` is whole and was made from ``inputs``.

    Args:
        inputs: a digest, as :func:`digest` returns it.
        facts: what else to remember (JSON-serialisable).
    """
    write_atomic(path, json.dumps({"inputs": inputs, "facts": dict(facts or {})}, indent=1) + "\n")


def read(path: Path) -> tuple[str, dict[str, Any]] | None:
    """Return the inputs digest and the facts of a stamp, or None if it cannot be trusted."""
    try:
        loaded = json.loads(path.read_text())
        inputs, facts = loaded["inputs"], loaded["facts"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(inputs, str) or not isinstance(facts, dict):
        return None
    return inputs, facts


def fresh(path: Path, inputs: str) -> bool:
    """Tell whether the stamp exists and was made from exactly these inputs."""
    found = read(path)
    return found is not None and found[0] == inputs
