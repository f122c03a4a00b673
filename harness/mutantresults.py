"""What earlier runs found of mutants: on this machine, and as kept in the repository.

``docs/mutants-BASE.json`` holds what somebody kept (``scripts/test --mutants --keep``). A result
counts for exactly the inputs that it was found with, wherever that was; so all mutants need not
be tried on one machine, or in one go.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import paths, stamp
from harness.bases import Base
from harness.worktree import Home

_INPUTS = "inputs"


def kept_file(base: Base) -> Path:
    """Return the file of the repository that holds results of a base's mutants."""
    return paths.ROOT / "docs" / f"mutants-{base.name}.json"


class Results:
    """Results of mutants, and of tests that pass without a bug, each with a digest of its inputs.

    Args:
        base: whose mutants.
        keep: what is found, or was before and is asked for, is also written to the file of the
            repository, in which a name has one result.
    """

    def __init__(self, base: Base, *, keep: bool = False) -> None:
        self._here = Home.of(base).path / "mutants"
        self._file = kept_file(base)
        self._keep = keep
        self._kept = _read(self._file)

    def find(self, name: str, inputs: str) -> dict[str, Any] | None:
        """Return what is known for exactly these inputs, or None."""
        here = stamp.read(self._stamp(inputs))
        if here is not None and here[0] == inputs:
            facts = here[1]
        elif self._kept.get(name, {}).get(_INPUTS) == inputs:
            facts = {word: fact for word, fact in self._kept[name].items() if word != _INPUTS}
        else:
            return None
        self._remember(name, inputs, facts)
        return facts

    def store(self, name: str, inputs: str, facts: Mapping[str, Any]) -> None:
        """Remember what was found."""
        stamp.write(self._stamp(inputs), inputs, facts)
        self._remember(name, inputs, facts)

    def _stamp(self, inputs: str) -> Path:
        return self._here / f"{inputs[:32]}.json"

    def _remember(self, name: str, inputs: str, facts: Mapping[str, Any]) -> None:
        entry = {_INPUTS: inputs, **facts}
        if not self._keep or self._kept.get(name) == entry:
            return
        self._kept[name] = entry
        stamp.write_atomic(self._file, json.dumps(self._kept, indent=1, sort_keys=True) + "\n")


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """Return what was kept; a file that is not whole says nothing."""
    try:
        loaded = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(loaded, dict):
        return {}
    return {name: facts for name, facts in loaded.items() if isinstance(facts, dict)}
