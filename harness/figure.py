"""Draw what a series does: counts before and after, from a test run's report.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Told apart by people who do not see red or green, and in print.
COLOURS = {"baseline": "#b0b0b0", "patched": "#0060a8"}


@dataclass(frozen=True)
class Bar:
    """A row of the figure.

    Attributes:
        label: what it is called there.
        test: a regular expression for the names of the tests that measured it; with several,
            the worst figure is taken.
        metric: the metric's name in the report.
        less_from: what the figure is to be subtracted from, if the report has its opposite.
    """

    label: str
    test: str
    metric: str
    less_from: float | None = None


@dataclass(frozen=True)
class Panel:
    """One set of axes, whose bars have the same unit."""

    title: str
    unit: str
    bars: tuple[Bar, ...]


def _tcp(label: str, device: str) -> Bar:
    return Bar(label, rf"test_freed_at_home\[{device}-", "freed at home", less_from=100)


def _kinds(metric: str) -> tuple[Bar, ...]:
    labels = {"tun": "UDP into tun", "tap": "UDP into tap", "vhost": "UDP into vhost-net"}
    return tuple(
        Bar(label, rf"test_(freed_at_home|slow_paths_and_kicks)\[{kind}\]", f"{kind}: {metric}")
        for kind, label in labels.items()
    )


#: What the README shows of the v5.10 series.
PANELS = (
    Panel(
        "skbs freed on another CPU than the one that allocated them",
        "% of all that were received",
        (
            _tcp("TCP over veth", "veth"),
            _tcp("TCP over loopback", "lo"),
            *_kinds("freed on another CPU"),
        ),
    ),
    Panel(
        "slow frees of skbuff_head_cache on the reader's CPU",
        "of 1,000 packets read",
        _kinds("free_slowpath on the reader's CPU, of 1,000 packets"),
    ),
)

Row = Mapping[str, Any]


def read(path: Path) -> list[Row]:
    """Return the rows of a report.json.

    Raises:
        HarnessError: it can't be read, or is something else.
    """
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError) as err:
        raise HarnessError(
            f"{path} cannot be read: {err}", hint="name the report.json of a run of scripts/test"
        ) from err
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise HarnessError(f"{path} is not a report of scripts/test")
    return rows


def value(rows: Sequence[Row], bar: Bar, arm: str) -> float:
    """Return a bar's figure for ``baseline`` or ``patched``: the worst of those that fit.

    Raises:
        HarnessError: nothing in the report fits.
    """
    found = [
        float(row[arm])
        for row in rows
        if row["metric"] == bar.metric
        and row[arm] is not None
        and row["flavour"] == "default"
        and re.match(bar.test, row["test"])
    ]
    if not found:
        raise HarnessError(
            f"the report has nothing of “{bar.metric}” for {arm}",
            hint="run scripts/test with both kernels: -m vm -k 'freed_at_home or slow_paths'",
        )
    if bar.less_from is not None:
        found = [bar.less_from - each for each in found]
    return max(found)


def draw(rows: Sequence[Row], panels: Sequence[Panel] | None = None) -> Figure:
    """Return the figure: for each bar of each panel (PANELS), the counts before and after.

    Raises:
        HarnessError: the report lacks something.
    """
    # Takes half a second, which only this need pay for.
    from matplotlib.figure import Figure  # noqa: PLC0415

    panels = PANELS if panels is None else panels
    heights = [len(panel.bars) for panel in panels]
    figure = Figure(figsize=(8, 0.55 * sum(heights) + 1.1 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for at, panel in enumerate(panels):
        _panel(axes[at][0], rows, panel)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2, frameon=False)
    figure.supxlabel(_origin(rows), fontsize="x-small", x=0.01, ha="left")
    return figure


def _panel(axes: Axes, rows: Sequence[Row], panel: Panel) -> None:
    thickness = 0.38
    for shift, (arm, colour) in enumerate(COLOURS.items()):
        values = [value(rows, bar, arm) for bar in panel.bars]
        places = [at + (shift - 0.5) * thickness for at in range(len(panel.bars))]
        drawn = axes.barh(places, values, thickness, color=colour, label=arm)
        axes.bar_label(drawn, labels=[_figure(each) for each in values], padding=3)
    axes.set_yticks(range(len(panel.bars)), [bar.label for bar in panel.bars])
    axes.invert_yaxis()
    axes.set_title(panel.title, loc="left", fontsize="medium")
    axes.set_xlabel(panel.unit)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)


def _figure(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def _origin(rows: Sequence[Row]) -> str:
    """Say what measured it, as far as all rows agree."""
    first = rows[0]
    kernels = [kernel for row in rows for kernel in row["kernel"].values()]
    release = sorted({kernel["source"]["version"] for kernel in kernels if "source" in kernel})
    return (
        f"Linux {', '.join(release) or '?'}, QEMU guest, {first['cpus']} CPUs, "
        f"{first['accel'].upper()}"
    )
