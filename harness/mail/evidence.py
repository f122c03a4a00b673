"""What was run, where, with which result: a section for the cover letter from the reports.

Only a report about exactly these patches counts; one about others is named, and not used.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import paths, series
from harness.bases import Base

WIDTH = 72

#: Figures that the letter has room for; the bundle has all.
MOST_FIGURES = 16
MOST_OF_A_BAR = 300

_MACHINE = ("accel", "accelerator", "cpus", "host", "guests")


@dataclass(frozen=True)
class Evidence:
    """What the reports say.

    Attributes:
        text: lines for the cover letter; empty if no report speaks for these patches.
        left_out: reports that were not used, each with the reason.
    """

    text: str
    left_out: tuple[str, ...]


def reports(command: str, base: Base) -> list[Path]:
    """Return where a report of scripts/prove or scripts/bench may be: this machine's own first.

    Args:
        command: ``proof`` or ``bench``.
    """
    return [
        paths.build_root() / command / base.name / "report.json",
        paths.ROOT / "docs" / f"{command}-{base.name}.json",
    ]


def collect(base: Base) -> Evidence:
    """Read the reports of a base."""
    digest = series.code_digest(base.patches)
    blocks: list[str] = []
    left_out: list[str] = []
    for command, script, told in (("proof", "prove", _proof), ("bench", "bench", _bench)):
        for path in reports(command, base):
            found = _load(path, left_out)
            if found is None:
                continue
            if _series(found) != digest:
                left_out.append(f"{path} is about other patches (run scripts/{script})")
                continue
            try:
                blocks.append(told(found))
                break
            except (AttributeError, KeyError, TypeError, ValueError) as err:
                left_out.append(f"{path} is of a form that is not known: {err}")
    return Evidence("\n".join(blocks), tuple(left_out))


def _load(path: Path, left_out: list[str]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as err:
        left_out.append(f"{path} cannot be read: {err}")
        return None
    if not isinstance(found, dict):
        left_out.append(f"{path} is no report")
        return None
    return found


def _series(found: Mapping[str, Any]) -> str:
    """Return the digest of the patches that a report is about."""
    for name in ("patches", "series"):
        told = found.get(name)
        if isinstance(told, dict):
            # A tree with changes of its own was measured.
            return "" if told.get("measured_sha256") else str(told.get("sha256", ""))
        if isinstance(told, str):
            return told
    return ""


def _proof(found: Mapping[str, Any]) -> str:
    machine = _pairs(found.get("machine"))
    lines = _wrapped(f"What was run on these patches ({machine}):")
    lines += _wrapped(str(found.get("verdict") or "no verdict"))
    rows = []
    for stage in found.get("stages", ()):
        counts = [f"{n} {name}" for name, n in stage.get("counts", {}).items() if n]
        rows.append((str(stage.get("stage", "")), str(stage.get("verdict", "")), ", ".join(counts)))
    return "\n".join([*lines, "", *_columns(rows)]) + "\n"


def _bench(found: Mapping[str, Any]) -> str:
    title = str(found.get("title") or "What was measured")
    lines = _wrapped(f"{title} ({_pairs(found.get('environment'))}):")
    bars = [each for each in found.get("bars") or () if isinstance(each, dict)]
    if bars:
        # What is claimed, and what was seen of it; the figures themselves are in the report.
        return "\n".join([*lines, "", *(line for each in bars for line in _bar(each))]) + "\n"
    figures = [each for each in found.get("figures", ()) if isinstance(each, dict)]
    rows = [_figure(each) for each in figures[:MOST_FIGURES]]
    if len(figures) > MOST_FIGURES:
        rows.append((f"and {len(figures) - MOST_FIGURES} more, in the report", "", ""))
    return "\n".join([*lines, "", *_columns(rows)]) + "\n"


def _bar(each: Mapping[str, Any]) -> list[str]:
    text = f"{each.get('kept', '?')}: {each.get('what', '?')}: {each.get('measured', '')}"
    short = textwrap.shorten(text, MOST_OF_A_BAR, placeholder=" ...")
    return textwrap.wrap(short, WIDTH, initial_indent="  ", subsequent_indent=" " * 6)


def _figure(each: Mapping[str, Any]) -> tuple[str, str, str]:
    words = [str(each[key]) for key in ("case", "arm", "name", "metric") if each.get(key)]
    name = " ".join(words) or "?"
    values = []
    for key in ("value", "baseline", "patched", "ratio"):
        if each.get(key) is not None:
            values.append(f"{key} {_number(each[key])}" if key != "value" else _number(each[key]))
    return name, ", ".join(values), str(each.get("unit") or "")


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _pairs(found: object) -> str:
    if not isinstance(found, dict) or not found:
        return "nothing is known of the machine"
    flat = {name: value for name, value in found.items() if isinstance(value, str | int | float)}
    # All of it is in the report; whom it matters to where it was measured wants these.
    known = {name: value for name, value in flat.items() if name.lower() in _MACHINE}
    flat = known or flat
    return ", ".join(f"{name} {value}" for name, value in flat.items())


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = "  ".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=True))
        lines += textwrap.wrap(
            cells.rstrip(), WIDTH, initial_indent="  ", subsequent_indent=" " * 6,
            drop_whitespace=False, break_on_hyphens=False,
        ) if len(cells.rstrip()) > WIDTH - 2 else [f"  {cells.rstrip()}"]  # fmt: skip
    return lines
