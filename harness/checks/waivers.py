"""Findings that have been judged acceptable: data beside the series, each with its reason.

``patches/BASE/checks.toml``::

    [[waive]]
    patch = "net: tell what the defer lists do"     # its subject; "*" for every patch
    check = "checkpatch"
    kind = "COMPLEX_MACRO"                          # as the finding names it
    text = "Macros with complex values"             # how its text begins
    count = 1                                       # so many, no more; may be left out
    reason = "a list of names, used with different definitions of EM()"

A waived finding is reported as such, and never silently dropped. One that waives nothing is
a finding itself, so that none outlives what it was written for.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.checks.model import Finding, Result
from harness.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

NAME = "checks.toml"
_NEEDED = ("patch", "check", "kind", "text", "reason")


@dataclass(frozen=True)
class Waiver:
    """One kind of finding that is accepted.

    Attributes:
        patch: the subject of the patch; ``*`` for all, empty for the series as a whole.
        check: the name of the check.
        kind: of the finding.
        text: how the text of the finding begins: another of its kind is another matter.
        reason: why it is acceptable.
        count: how many findings it covers, at most; 0 for any number.
    """

    patch: str
    check: str
    kind: str
    text: str
    reason: str
    count: int = 0

    def covers(self, subject: str, check: str, finding: Finding) -> bool:
        """Tell whether it is about this finding."""
        return (
            self.patch in ("*", subject)
            and self.check == check
            and self.kind == finding.kind
            and finding.text.startswith(self.text)
        )


class Waivers:
    """Those of one series, and how often each was used."""

    def __init__(self, found: Iterable[Waiver] = ()) -> None:
        self.all = list(found)
        self._used: Counter[Waiver] = Counter()

    @classmethod
    def of(cls, directory: Path) -> Waivers:
        """Read those of a directory of patches; none if it has no such file.

        Raises:
            UsageError: the file is not what it should be.
        """
        path = directory / NAME
        if not path.is_file():
            return cls()
        try:
            rows = tomllib.loads(path.read_text()).get("waive", [])
            found = [Waiver(**row) for row in rows]
        except (tomllib.TOMLDecodeError, TypeError, ValueError) as err:
            raise UsageError(
                f"{path}: {err}", hint=f"each [[waive]] has {', '.join(_NEEDED)}"
            ) from err
        for waiver in found:
            if not waiver.reason.strip() or not waiver.text.strip():
                raise UsageError(f"{path}: a waiver of {waiver.kind} lacks a text or a reason")
        return cls(found)

    def apply(self, subject: str, result: Result) -> Result:
        """Return a result with the findings marked that are accepted.

        Args:
            subject: of the patch; empty for the series.
        """
        return replace(
            result,
            findings=tuple(
                self._mark(subject, result.check, finding) for finding in result.findings
            ),
        )

    def unused(self) -> list[Waiver]:
        """Return those that no finding needed."""
        return [waiver for waiver in self.all if not self._used[waiver]]

    def _mark(self, subject: str, check: str, finding: Finding) -> Finding:
        for waiver in self.all:
            free = not waiver.count or self._used[waiver] < waiver.count
            if free and waiver.covers(subject, check, finding):
                self._used[waiver] += 1
                return replace(finding, waived=waiver.reason)
        return finding
