"""Run all checks over a series, and tell each result as soon as its turn comes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness import build
from harness.bases import Base
from harness.checks import checkpatch, registry
from harness.checks.context import Context, Place
from harness.checks.model import Finding, Result
from harness.checks.waivers import Waivers
from harness.errors import HarnessError


@dataclass(frozen=True)
class Told:
    """A result, and whose.

    Attributes:
        place: the patch; None for the series.
    """

    place: Place | None
    result: Result


@dataclass
class Report:
    """All results of one run.

    Attributes:
        complete: it came to its end.
    """

    base: Base
    told: list[Told]
    complete: bool = False
    no_skips: bool = False

    @property
    def ok(self) -> bool:
        """Every check ran to its end, and nothing is to be changed."""
        return self.complete and not self.bad()

    def bad(self) -> list[Told]:
        """Return the results that fail the series."""
        return [
            each
            for each in self.told
            if not each.result.ok or (self.no_skips and each.result.skipped)
        ]

    def describe(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold.

        ``ok``, ``series`` (the series' own findings, in words) and ``patches``, of which each
        has ``patch``, ``ok``, ``broken`` (findings in words) and ``checkpatch`` (``level``,
        ``kind``, ``text``), are read by scripts/prove. ``checks`` has everything.
        """
        bad = self.bad()
        patches: dict[str, dict[str, Any]] = {}
        for each in self.told:
            if each.place is None:
                continue
            row = patches.setdefault(
                each.place.name,
                {
                    "patch": each.place.name,
                    "subject": each.place.patch.subject,
                    "ok": True,
                    "broken": [],
                    "checkpatch": [],
                    "checks": [],
                },
            )
            row["checks"].append(each.result.describe())
            row["ok"] = row["ok"] and each not in bad
            for finding in each.result.open:
                if each.result.check == checkpatch.NAME:
                    row["checkpatch"].append(
                        {name: getattr(finding, name) for name in ("level", "kind", "text")}
                    )
                else:
                    row["broken"].append(f"{each.result.check}: {finding}")
            if each in bad and each.result.ok:
                row["broken"].append(f"{each.result.check}: {each.result.skipped}")
        whole = [each for each in self.told if each.place is None]
        return {
            "base": self.base.name,
            "ok": self.ok,
            "complete": self.complete,
            "series": [
                f"{each.result.check}: {text}"
                for each in whole
                if each in bad
                for text in [str(one) for one in each.result.open] or [each.result.skipped]
            ],
            "checks": [each.result.describe() for each in whole],
            "patches": list(patches.values()),
        }


def run(context: Context, report: Report, told: Callable[[Told], None]) -> None:
    """Run every check, the patches' first, filling ``report``.

    Args:
        told: called with each result, in the order of the patches.

    Raises:
        UsageError: checks.toml is not what it should be.
    """
    waivers = Waivers.of(context.patches)

    def tell(place: Place | None, result: Result) -> None:
        subject = place.patch.subject if place else ""
        each = Told(place, waivers.apply(subject, result))
        report.told.append(each)
        told(each)

    pool = ThreadPoolExecutor(build.jobs())
    try:
        # Known before anything runs at the same time that needs it.
        if context.places:
            _ = context.commits
        soon: dict[tuple[int, str], Future[Result]] = {
            (place.number, check.name): pool.submit(_run_patch, check, place)
            for place in context.places
            for check in registry.PATCH_CHECKS
            if not check.heavy
        }
        for place in context.places:
            for check in registry.PATCH_CHECKS:
                waiting = soon.get((place.number, check.name))
                tell(place, waiting.result() if waiting else _run_patch(check, place))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    for whole in registry.SERIES_CHECKS:
        if not whole.wanted(context):
            continue
        tell(None, _guarded(whole.name, context.directory, partial(whole.run, context)))
    tell(None, _unused(waivers, {each.result.check for each in report.told if each.result.skipped}))
    report.complete = True


def _run_patch(check: registry.PatchCheck, place: Place) -> Result:
    where = place.context.directory
    return _guarded(check.name, where, partial(check.run, place))


def _guarded(name: str, directory: Path, run: Callable[[], Result]) -> Result:
    """Return the result of a check; one that could not be made is never a pass."""
    try:
        result = run()
    except HarnessError as err:
        tail = f": {err.tail.splitlines()[-1]}" if err.tail else ""
        text = f"could not be checked: {err.what}{tail}"
        if err.hint:
            text = f"{text} (next: {err.hint})"
        return Result(name, (Finding(text, kind="NOT_CHECKED"),), log=err.log or directory)
    return replace(result, check=name)


def _unused(waivers: Waivers, skipped: set[str]) -> Result:
    """Return what is waived without need, as far as the checks could tell."""
    findings = tuple(
        Finding(
            f"nothing needs the waiver of {each.kind} ({each.check}) in {each.patch!r}",
            kind="UNUSED",
        )
        for each in waivers.unused()
        if each.check not in skipped
    )
    note = f"{len(waivers.all)} in checks.toml" if waivers.all else "none"
    return Result("waivers", findings, note=note)
