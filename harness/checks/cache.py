"""What a tool said about the same bytes before: build/checks/cache, a file per question."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from harness import paths, stamp

#: Raised when what is kept changes its form.
_FORMAT = "1"


def directory() -> Path:
    """Return where the answers are kept."""
    return paths.build_root() / "checks" / "cache"


def text(name: str, key: Iterable[str | bytes | Path], ask: Callable[[], str]) -> str:
    """Return a tool's output, from the last time if it was asked exactly the same.

    Args:
        name: the tool.
        key: all that decides the answer: the tool's own files or version, options, input.
        ask: runs the tool. What it raises is not remembered.
    """
    inputs = stamp.digest([_FORMAT, name, *key])
    path = directory() / name / f"{inputs[:40]}.json"
    found = stamp.read(path)
    if found is not None and found[0] == inputs and isinstance(found[1].get("text"), str):
        return str(found[1]["text"])
    said = ask()
    stamp.write(path, inputs, {"text": said})
    return said
