"""The figure of counts: which figures it takes, and what it says when there are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import figure
from harness.cli import figure as figure_command
from harness.errors import HarnessError
from harness.figure import Bar, Panel

pytestmark = pytest.mark.host

PANELS = (
    Panel("one", "%", (Bar("home", r"test_home\[veth-", "at home", less_from=100),)),
    Panel("two", "of 1,000", (Bar("slow", r"test_slow", "slow"), Bar("more", r"test_slow", "m"))),
)


def row(test: str, metric: str, baseline: float, patched: float, **more: object) -> dict:
    kernel = {"source": {"version": "5.10.262-1"}}
    return {
        "test": test,
        "metric": metric,
        "baseline": baseline,
        "patched": patched,
        "flavour": "default",
        "cpus": 4,
        "accel": "tcg",
        "kernel": {"baseline": kernel, "patched": kernel},
        **more,
    }


ROWS = [
    row("test_home[veth-ipv4]", "at home", 0.5, 100.0),
    row("test_home[veth-ipv6]", "at home", 0.0, 99.9),
    row("test_home[lo-ipv6]", "at home", 50.0, 50.0),
    row("test_home[veth-ipv6]", "at home", 0.0, 10.0, flavour="debug"),
    row("test_slow", "slow", 995.0, 0),
    row("test_slow", "m", 990, 3.25),
]


def test_each_bar_is_the_worst_of_what_fits() -> None:
    drawn = figure.draw(ROWS, PANELS)
    widths = [[round(patch.get_width(), 2) for patch in axes.patches] for axes in drawn.axes]
    # All bars of the baseline, then those of the patched kernel.
    assert widths == [[100, 0.1], [995, 990, 0, 3.25]]
    texts = [[text.get_text() for text in axes.texts] for axes in drawn.axes]
    assert texts == [["100", "0.1"], ["995", "990", "0", "3.2"]]
    ticks = [[label.get_text() for label in axes.get_yticklabels()] for axes in drawn.axes]
    assert ticks == [["home"], ["slow", "more"]]
    assert "5.10.262-1" in drawn.get_supxlabel() and "TCG" in drawn.get_supxlabel()


def test_a_report_without_the_other_kernel() -> None:
    rows = [{**each, "baseline": None} for each in ROWS]
    with pytest.raises(HarnessError, match="“at home” for baseline") as failure:
        figure.draw(rows, PANELS)
    assert "scripts/test" in str(failure.value.hint)


def test_the_command_writes_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure, "PANELS", PANELS)
    report, out = tmp_path / "report.json", tmp_path / "new" / "out.png"
    report.write_text(json.dumps(ROWS))
    arguments = [str(report), "--output", str(out)]
    assert figure_command.main(arguments) == 0
    first = out.read_bytes()
    assert first.startswith(b"\x89PNG")
    assert figure_command.main(arguments) == 0
    assert out.read_bytes() == first
    assert [path.name for path in out.parent.iterdir()] == ["out.png"]


@pytest.mark.parametrize("text", [None, "", "{", "{}", "[1]"])
def test_no_report(tmp_path: Path, text: str | None) -> None:
    report = tmp_path / "report.json"
    if text is not None:
        report.write_text(text)
    with pytest.raises(HarnessError, match="report.json"):
        figure_command.main([str(report), "--output", str(tmp_path / "out.png")])
    assert not (tmp_path / "out.png").exists()
