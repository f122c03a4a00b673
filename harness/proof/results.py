"""What came of a stage: a value, and a file that is whole or counts for nothing."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from harness import paths, stamp


class Verdict(Enum):
    """How a stage ended."""

    PASSED = "passed"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    #: There is nothing to try here, or no means to: never a pass.
    NOT_APPLICABLE = "not applicable"
    #: Not tried, or not to its end.
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Result:
    """What came of one stage.

    Attributes:
        why: what kept it from a pass, or from being run, in words.
        counts: how many passed, failed, were skipped ...: by name, in order.
        seconds: wall-clock time.
        when: it ended then, UTC, ``2024-03-01 12:00``.
        log: its log, relative to build/.
        failures: what failed, a line each.
        unsteady: what failed once and passed the second time.
        skipped: what was not tried, each with the reason.
        kernels: those that it ran, as :func:`harness.proof.inputs.kernels` gives them.
        notes: what else a reader must know: the seed, the accelerator.
        details: more for the JSON report.
        key: the digest of all that it speaks for (:func:`harness.proof.inputs.key`).
        known: it is of an earlier run.
    """

    verdict: Verdict
    why: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    when: str = ""
    log: str = ""
    failures: tuple[str, ...] = ()
    unsteady: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    kernels: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    known: bool = False

    @property
    def ok(self) -> bool:
        """It passed, or there was nothing to try."""
        return self.verdict in (Verdict.PASSED, Verdict.NOT_APPLICABLE)

    def failed(self, why: str) -> Result:
        """Return it as a failure for one more reason."""
        because = f"{self.why}; {why}" if self.why else why
        worse = self.verdict if self.verdict is Verdict.TIMED_OUT else Verdict.FAILED
        return replace(self, verdict=worse, why=because)

    def describe(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {**asdict(self), "verdict": self.verdict.value}


def save(path: Path, result: Result) -> None:
    """Keep a result; ``result.key`` says what it speaks for."""
    stamp.write(path, result.key, result.describe())


def load(path: Path, key: str) -> Result | None:
    """Return the result that was kept for exactly this key, if there is one and it is whole."""
    found = stamp.read(path)
    if found is None or found[0] != key:
        return None
    return _restored(found[1], key)


def from_report(path: Path, name: str, key: str) -> Result | None:
    """Return what a report of another clone or machine says of a stage, if it is for this key.

    Args:
        path: the JSON that ``scripts/prove --keep`` wrote; it need not exist.
        name: the stage's.
    """
    try:
        stages = json.loads(path.read_text())["stages"]
        facts: dict[str, Any] = next((each for each in stages if each["stage"] == name), {})
        return _restored(facts, key) if facts.get("key") == key else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _restored(facts: Mapping[str, Any], key: str) -> Result | None:
    try:
        rows = ("failures", "unsteady", "skipped", "kernels", "notes")
        given: dict[str, Any] = {name: tuple(facts[name]) for name in rows}
        for name in ("why", "counts", "seconds", "when", "log", "details"):
            given[name] = facts[name]
        return Result(verdict=Verdict(facts["verdict"]), key=key, known=True, **given)
    except (KeyError, ValueError, TypeError):
        return None


def plain(text: str) -> str:
    """Return a text without this machine's own directories, for a report that others read."""
    for path, name in (
        (paths.build_root(), "build"),
        (paths.ROOT, "."),
        (Path(tempfile.gettempdir()), "TMP"),
        (Path.home(), "~"),
    ):
        if len(path.parts) > 1:
            text = re.sub(rf"{re.escape(str(path))}(?![\w.-])", name, text)
    return text
