"""What a check says: findings, or why there can be none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

#: Findings that the one line of a result names.
_NAMED = 3


class Verdict(Enum):
    """How a check ended; only ``failed`` fails the series."""

    PASSED = "ok"
    #: Something that a reviewer may ask about, and that is not wrong as such.
    HINT = "hint"
    #: It found something that the series' own checks.toml accepts, with a reason.
    WAIVED = "waived"
    #: What it would take to know is not here, such as the kernel's history.
    UNVERIFIED = "unverified"
    #: The tool that it needs is not here.
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        text: what, one line.
        kind: a short name, as a waiver gives it, e.g. checkpatch.pl's ``LONG_LINE``.
        level: how bad the tool thinks it is, where the tool says so.
        file: path in the kernel tree; empty for the message, or the series.
        line: of that file, with the patch applied; 0 if unknown.
        waived: why it is accepted; empty if it is not.
    """

    text: str
    kind: str = ""
    level: str = ""
    file: str = ""
    line: int = 0
    waived: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        kind = f"{self.kind}: " if self.kind else ""
        return f"{where}{kind}{self.text}"


@dataclass(frozen=True)
class Result:
    """What one check says about one patch, or about the series.

    Attributes:
        check: its name in the registry.
        findings: what has to change, unless it is waived.
        hints: what a reviewer may ask about.
        unverified: claims that could not be looked into, each with the reason.
        skipped: why nothing was looked at; empty if it was.
        note: what else to tell in the line of a check that found nothing.
        log: what the tool printed.
    """

    check: str
    findings: tuple[Finding, ...] = ()
    hints: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()
    skipped: str = ""
    note: str = ""
    log: Path | None = None

    @property
    def open(self) -> tuple[Finding, ...]:
        """The findings that nobody has accepted."""
        return tuple(finding for finding in self.findings if not finding.waived)

    @property
    def verdict(self) -> Verdict:
        """The worst of what is known."""
        for there, verdict in (
            (self.open, Verdict.FAILED),
            (self.skipped, Verdict.SKIPPED),
            (self.unverified, Verdict.UNVERIFIED),
            (self.findings, Verdict.WAIVED),
            (self.hints, Verdict.HINT),
        ):
            if there:
                return verdict
        return Verdict.PASSED

    @property
    def ok(self) -> bool:
        """It gives no reason to change the series."""
        return self.verdict is not Verdict.FAILED

    @property
    def summary(self) -> str:
        """What it says, in one line."""
        parts = []
        if self.open:
            parts.append(_few([_short(finding) for finding in self.open]))
        if self.skipped:
            parts.append(self.skipped)
        parts += self.unverified
        waived = [finding for finding in self.findings if finding.waived]
        if waived:
            parts.append(f"waived: {_few([_short(finding) for finding in waived])}")
        parts += self.hints
        if self.note:
            parts.append(self.note)
        return "; ".join(parts)

    def describe(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "check": self.check,
            "verdict": self.verdict.value,
            "summary": self.summary,
            "findings": [asdict(finding) for finding in self.findings],
            "hints": list(self.hints),
            "unverified": list(self.unverified),
            "skipped": self.skipped,
            "log": str(self.log) if self.log else "",
        }


def _short(finding: Finding) -> str:
    return finding.kind or finding.text


def _few(words: Iterable[str]) -> str:
    counts = Counter(words)
    named = [f"{word} x{n}" if n > 1 else word for word, n in counts.items()]
    more = len(named) - _NAMED
    return ", ".join([*named[:_NAMED], *([f"{more} more"] if more > 0 else [])])
