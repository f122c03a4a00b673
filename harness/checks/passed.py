"""Which state of a series has passed its checks: a stamp that an edit makes void."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness import paths, stamp
from harness.bases import Base
from harness.checks.context import fingerprint
from harness.checks.run import Report


@dataclass(frozen=True)
class Passed:
    """What was checked.

    Attributes:
        when: UTC.
        not_checked: names of checks that were skipped, each with the reason.
        unverified: claims that nobody could look into.
        waived: findings that are accepted, with the reasons.
    """

    when: str
    not_checked: tuple[str, ...]
    unverified: tuple[str, ...]
    waived: tuple[str, ...]


def path(base: Base) -> Path:
    """Return where it is kept."""
    return paths.build_root() / "checks" / base.name / "passed.json"


def remember(report: Report, before: str, when: str) -> bool:
    """Keep that a series passed; forget what passed before if it did not.

    Args:
        before: the series' fingerprint when the checks began.

    Returns:
        Whether it is kept: it is not if the series was changed meanwhile.
    """
    file = path(report.base)
    file.unlink(missing_ok=True)
    if not report.ok or fingerprint(report.base) != before:
        return False
    told = report.told
    skipped = {
        f"{each.result.check}: {each.result.skipped}" for each in told if each.result.skipped
    }
    stamp.write(
        file,
        before,
        {
            "when": when,
            "not_checked": sorted(skipped),
            "unverified": sorted({text for each in told for text in each.result.unverified}),
            "waived": sorted(
                {
                    f"{finding.kind}: {finding.waived}"
                    for each in told
                    for finding in each.result.findings
                    if finding.waived
                }
            ),
        },
    )
    return True


def of(base: Base) -> Passed | None:
    """Return what is known of the series exactly as it is now; None if it has not passed."""
    found = stamp.read(path(base))
    if found is None or found[0] != fingerprint(base):
        return None
    facts = found[1]
    try:
        return Passed(
            str(facts["when"]),
            tuple(facts["not_checked"]),
            tuple(facts["unverified"]),
            tuple(facts["waived"]),
        )
    except (KeyError, TypeError):
        return None
