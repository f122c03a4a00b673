"""The report's plots."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.bench import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

#: Told apart by people who do not see red or green, and in print.
COLOURS = {"off": "#b0b0b0", "defer": "#0060a8", "threads": "#e69f00", "defer+tx": "#56b4e9"}

_DPI = 110


def draw(facts: Mapping[str, Any], directory: Path, stem: str) -> list[tuple[Path, str]]:
    """Draw what there is to draw; return each file and what it shows."""
    rows = facts["figures"]
    wanted = [
        (
            "elsewhere",
            "skbs freed away from home",
            f"{figures.TRACED}read skbs freed elsewhere, %",
            "of the skbs that were read, percent freed on another CPU than their own",
        ),
        (
            "slow",
            "slow frees of skbs",
            "skb frees, slow path",
            "slow frees of skbs by the slab allocator, per 1,000 packets",
        ),
        (
            "transfers",
            "simulated cache-line transfers",
            figures.TRANSFERS,
            "simulated cache-line transfers per packet",
        ),
    ]
    found = []
    for name, title, metric, label in wanted:
        chosen = [each for each in rows if each["metric"] == metric and each["arm"] in COLOURS]
        if not chosen:
            continue
        path = directory / f"{stem}-{name}.png"
        _save(_bars(chosen, title, label, facts), path)
        found.append((path, f"{title[:1].upper()}{title[1:]}, by workload and arm"))
    ratios = [
        each
        for each in rows
        if each["metric"] == "throughput" and each["arm"] in ("off-again", "defer", "threads")
    ]
    if ratios:
        path = directory / f"{stem}-throughput.png"
        _save(_ratios(ratios, facts), path)
        found.append((path, "Throughput against the baseline, and the machine's own spread"))
    if facts["model"].get("curves"):
        path = directory / f"{stem}-model.png"
        _save(_model(facts["model"]), path)
        found.append((path, "A model of workload 2 on more CPUs: not a measurement"))
    return found


def _save(drawing: Drawing, path: Path) -> None:
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.png")
    try:
        # No date and no version in it: the same figures give the same file.
        drawing.savefig(temporary, dpi=_DPI, metadata={"Software": None})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _empty(height: float) -> Drawing:
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second to load

    return Figure(figsize=(8.5, height), layout="constrained")


def _origin(facts: Mapping[str, Any]) -> str:
    where = facts["environment"]
    kernel = str(where.get("patched kernel", "")).partition(",")[0]
    return f"{kernel}\nQEMU, {where.get('accelerator', '?')}"


def _bars(
    rows: Sequence[Mapping[str, Any]], title: str, label: str, facts: Mapping[str, Any]
) -> Drawing:
    cases = list(dict.fromkeys(each["case"] for each in rows))
    shown = [arm for arm in COLOURS if any(each["arm"] == arm for each in rows)]
    drawing = _empty(1.3 + 0.42 * len(cases))
    axes = drawing.subplots()
    thick = 0.8 / len(shown)
    for at, arm in enumerate(shown):
        values = {each["case"]: each["value"] for each in rows if each["arm"] == arm}
        places = [
            i + (at - (len(shown) - 1) / 2) * thick for i, c in enumerate(cases) if c in values
        ]
        heights = [values[case] for case in cases if case in values]
        drawn = axes.barh(places, heights, thick, color=COLOURS[arm], label=arm)
        axes.bar_label(drawn, fmt=lambda v: f"{v:.3g}", padding=2, fontsize=6)
    axes.set_yticks(range(len(cases)), cases, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel(label, fontsize="small")
    axes.set_title(title[:1].upper() + title[1:], loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.1)
    drawing.legend(loc="outside lower right", ncols=len(shown), frameon=False, fontsize="small")
    drawing.supxlabel(_origin(facts), fontsize="x-small", x=0.01, ha="left")
    return drawing


def _ratios(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> Drawing:
    cases = list(dict.fromkeys(each["case"] for each in rows))
    drawing = _empty(1.3 + 0.32 * len(cases))
    axes = drawing.subplots()
    styles = {"off-again": ("#b0b0b0", "s"), "defer": ("#0060a8", "o"), "threads": ("#e69f00", "D")}
    for at, (arm, (colour, marker)) in enumerate(styles.items()):
        mine = [each for each in rows if each["arm"] == arm and each["ratio"] is not None]
        if not mine:
            continue
        places = [cases.index(each["case"]) + (at - 1) * 0.22 for each in mine]
        middle = [each["ratio"] for each in mine]
        below = [max(0.0, each["ratio"] - each["low"]) for each in mine]
        above = [max(0.0, each["high"] - each["ratio"]) for each in mine]
        axes.errorbar(
            middle,
            places,
            xerr=[below, above],
            fmt=marker,
            color=colour,
            markersize=4,
            linewidth=1.2,
            label=arm,
        )
    axes.axvline(1, color="#404040", linewidth=0.8)
    axes.set_yticks(range(len(cases)), cases, fontsize="small")
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xticks([0.5, 0.7, 1, 1.4, 2], ["0.5", "0.7", "1", "1.4", "2"])
    axes.minorticks_off()
    axes.set_xlabel(
        "throughput against off, median of paired rounds and 95 % interval", fontsize="small"
    )
    axes.set_title("Throughput (emulated: no caches)", loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    drawing.legend(loc="outside lower right", ncols=3, frameon=False, fontsize="small")
    drawing.supxlabel(_origin(facts), fontsize="x-small", x=0.01, ha="left")
    return drawing


def _model(model: Mapping[str, Any]) -> Drawing:
    drawing = _empty(4.2)
    axes = drawing.subplots()
    for curve in model["curves"]:
        axes.plot(
            curve["cpus"],
            curve["speed"],
            color=COLOURS.get(curve["arm"], "#404040"),
            linestyle=curve.get("style", "-"),
            label=curve["label"],
            linewidth=1.4,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(model["ticks"], [str(each) for each in model["ticks"]])
    axes.minorticks_off()
    axes.set_xlabel("CPUs", fontsize="small")
    axes.set_ylabel(model["unit"], fontsize="small")
    axes.set_title("A model, not a measurement: workload 2", loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="x-small")
    return drawing
