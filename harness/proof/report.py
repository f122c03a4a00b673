"""One report of all stages, as Markdown and as JSON, without this machine's own paths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness import progress
from harness.proof.results import Verdict

if TYPE_CHECKING:
    from harness.proof.runner import Proof

#: Skipped tests of a stage that the Markdown lists; the JSON has them all.
MOST_SKIPPED = 40


def facts(proof: Proof) -> dict[str, Any]:
    """Return all that is known: ``base``, ``patches``, ``machine``, ``verdict`` and ``stages``."""
    stages = []
    for stage in proof.stages:
        result = proof.known[stage.name]
        stages.append({"stage": stage.name, "title": stage.title, **result.describe()})
    return {
        "base": proof.base.name,
        "patches": {"count": proof.patches, "sha256": proof.series},
        "machine": proof.machine,
        "verdict": _verdict(stages),
        "kernels": _kernels(stages),
        "stages": stages,
    }


def as_json(found: Mapping[str, Any]) -> str:
    """Return the facts as JSON."""
    return json.dumps(found, indent=1) + "\n"


def as_markdown(found: Mapping[str, Any]) -> str:
    """Return the facts for people."""
    stages = found["stages"]
    patches, machine = found["patches"], found["machine"]
    lines = [
        f"# Proof of {found['base']}",
        "",
        f"**{found['verdict']}** `scripts/prove {found['base']}` wrote this; the JSON beside it "
        "has more.",
        "",
        *_table(
            ("what it speaks for", ""),
            [
                ("patches", f"{patches['count']}, SHA-256 `{patches['sha256']}`"),
                *((name, str(value)) for name, value in machine.items()),
            ],
        ),
        "",
        "## Stages",
        "",
        *_table(
            ("stage", "what", "verdict", "counts", "time", "ended (UTC)", "log below build/"),
            [_row(stage) for stage in stages],
        ),
        "",
    ]
    if found["kernels"]:
        lines += ["## Kernels", "", *kernels(stages), ""]
    lines += _lists("What failed", stages, "failures", why=(Verdict.FAILED, Verdict.TIMED_OUT))
    lines += _lists("Not steady", stages, "unsteady")
    lines += _lists(
        "What was not run, and why",
        stages,
        "skipped",
        why=(Verdict.NOT_RUN, Verdict.NOT_APPLICABLE),
        most=MOST_SKIPPED,
    )
    lines += _mutants(stages) + _coverage(stages) + _figures(stages)
    return "\n".join(lines).rstrip("\n") + "\n"


def _verdict(stages: Sequence[Mapping[str, Any]]) -> str:
    def count(*verdicts: Verdict) -> int:
        return sum(stage["verdict"] in [each.value for each in verdicts] for stage in stages)

    passed, idle = count(Verdict.PASSED), count(Verdict.NOT_APPLICABLE)
    bad, left = count(Verdict.FAILED, Verdict.TIMED_OUT), count(Verdict.NOT_RUN)
    words = [f"{passed} of {len(stages)} stages passed"]
    words += [f"{bad} failed"] * bool(bad) + [f"{left} not run"] * bool(left)
    words += [f"{idle} not applicable here"] * bool(idle)
    head = "Proved" if not bad and not left and passed else "Not proved"
    return f"{head}: {', '.join(words)}."


def _kernels(stages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for stage in stages:
        found += [each for each in stage["kernels"] if each not in found]
    return found


def kernels(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the kernels of stages as a table."""
    names = ("flavour", "arm", "release", "compiler", "config_sha256")
    return _table(
        ("flavour", "kernel", "release", "compiler", "SHA-256 of its configuration"),
        [tuple(each[name] for name in names) for each in _kernels(stages)],
    )


def _row(stage: Mapping[str, Any]) -> tuple[str, ...]:
    counts = [f"{number} {name}" for name, number in stage["counts"].items() if number]
    return (
        stage["stage"],
        stage["title"],
        stage["verdict"],
        ", ".join([*counts, *stage["notes"]]),
        progress.seconds(stage["seconds"]) if stage["seconds"] else "",
        stage["when"],
        stage["log"],
    )


def _lists(
    title: str,
    stages: Sequence[Mapping[str, Any]],
    field: str,
    *,
    why: Sequence[Verdict] = (),
    most: int | None = None,
) -> list[str]:
    """Return a section with a list for each stage that has something there."""
    lines = []
    for stage in stages:
        told = stage["why"] if stage["verdict"] in [each.value for each in why] else ""
        found = stage[field]
        if not told and not found:
            continue
        lines.append(f"- {stage['stage']}{f': {_one_line(told)}' if told else ''}")
        lines += [f"  - {_one_line(each)}" for each in found[:most]]
        if most is not None and len(found) > most:
            lines.append(f"  - and {len(found) - most} more, which the JSON names")
    return [f"## {title}", "", *lines, ""] if lines else []


def _details(stages: Sequence[Mapping[str, Any]], name: str) -> Any:
    return next((stage["details"][name] for stage in stages if name in stage["details"]), None)


def _mutants(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = _details(stages, "mutants")
    if not rows:
        return []
    head = ("mutant", "bug", "verdict", "by", "seconds", "what it said")
    body = [
        (
            *(str(row[name]) for name in ("name", "bug", "verdict", "by")),
            f"{row['seconds']:.0f}",
            str(row["how"])[:160],
        )
        for row in rows
    ]
    return ["## Mutants", "", *_table(head, body), ""]


def _coverage(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    found = _details(stages, "coverage")
    if not found:
        return []
    body = [(row["file"], f"{row['percent']:.1f}", row["missing"]) for row in found["rest"]]
    return [
        "## Lines of harness/ that the host tests do not reach",
        "",
        f"They reach {found['percent']:.1f} % of all.",
        "",
        *_table(("file", "% reached", "the rest"), body),
        "",
    ]


def _figures(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = _details(stages, "figures")
    return ["## Figures", "", *measured(rows), ""] if rows else []


def measured(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the figures of tests as a table."""
    names = ("test", "metric", "baseline", "patched", "unit", "flavour", "cpus", "accel")
    return _table(names, [tuple(_figure(row[name]) for name in names) for row in rows])


def _figure(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [_cells(head), "|" + "---|" * len(head), *(_cells(row) for row in body)]


def _cells(words: Sequence[str]) -> str:
    return "| " + " | ".join(_one_line(word).replace("|", "\\|") for word in words) + " |"


def _one_line(text: str) -> str:
    return " ".join(text.split())
