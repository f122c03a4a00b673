"""The benchmark's report and its bars: they say what the samples say, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.bench import bars, figures, idle, model, plots, report, workloads
from harness.bench.bars import Kept
from harness.bench.figures import Table
from harness.bench.samples import Samples

pytestmark = pytest.mark.host

CASES = {case.name: case for case in workloads.all_cases()}
TUN = CASES["udp-tun-out-400"]


def samples(
    *,
    ratio: float = 1.2,
    noise: float = 0.01,
    rounds: int = 6,
    elsewhere: float = 0.0,
    transfers: float = 20.0,
    instructions: float = 1000.0,
) -> Samples:
    """A case whose arms all differ from the reference by ``ratio``."""
    found = Samples()
    for at in range(rounds):
        base = 1000.0 * (1 + 0.3 * (at % 2))
        wobble = 1 + noise * (1 if at % 2 else -1)
        values = {"off": {"throughput": base, "skb frees, slow path": 990.0}}
        values["off-again"] = {"throughput": base * wobble, "skb frees, slow path": 991.0}
        for arm in ("defer", "threads", "limit-0"):
            values[arm] = {"throughput": base * ratio, "skb frees, slow path": 12.0}
        found.rounds.append(values)
    for arm, percent in (("off", 100.0), ("defer", elsewhere)):
        found.traced[arm] = {"values": {"read skbs freed elsewhere, %": percent}}
    for arm, moved, executed in (("off", 30.0, 1000.0), ("defer", transfers, instructions)):
        found.lines[arm] = {"values": {figures.TRANSFERS: moved, figures.BOTH: executed}}
    return found


def idle_run(after: int, waiting: list[tuple[float, int]]) -> dict[str, Any]:
    return {
        "opened": 1000,
        "at_once": after,
        "after": after,
        "waiting": waiting,
        "total_kib": 5000,
        "connections": 10000,
    }


def facts(known: Samples, **more: Any) -> dict[str, Any]:
    cases = [TUN, CASES["stream-veth"]] if more.get("other", False) else [TUN]
    return report.facts(
        base="v5.10",
        environment={"accelerator": "TCG", "patched kernel": "5.10.262"},
        series={"sha256": "abc", "patches": 15},
        cases=cases,
        known={TUN.name: known, "stream-veth": Samples()},
        idle_runs=more.get("idle_runs", {}),
        profiles=more.get("profiles", {}),
        model=more.get("model", {}),
        effort={"rounds": 6},
        notes=more.get("notes", ""),
    )


def bar(found: dict[str, Any], start: str) -> dict[str, Any]:
    return next(each for each in found["bars"] if each["what"].startswith(start))


def test_figures_are_medians_and_paired_ratios() -> None:
    found = facts(samples(ratio=1.2))["figures"]
    one = next(f for f in found if f["arm"] == "defer" and f["metric"] == "throughput")
    assert one["unit"] == "packets/s" and one["workload"] == 5
    assert one["value"] == pytest.approx(1.2 * 1150) and one["baseline"] == pytest.approx(1150)
    assert one["ratio"] == pytest.approx(1.2) and one["low"] <= 1.2 <= one["high"]
    assert one["verdict"] == "more"
    slow = next(f for f in found if f["arm"] == "defer" and f["metric"] == "skb frees, slow path")
    assert (slow["value"], slow["baseline"], slow["unit"]) == (12.0, 990.0, "per 1,000 packets")
    json.loads(report.as_json(facts(samples())))


def test_a_ratio_inside_the_machines_spread_is_no_difference() -> None:
    found = facts(samples(ratio=1.04, noise=0.1))["figures"]
    one = next(f for f in found if f["arm"] == "defer" and f["metric"] == "throughput")
    assert one["verdict"] == "no difference"


def test_what_was_not_measured_is_said() -> None:
    known = Samples(failures=["defer: it broke"], rounds=[{"off": {"throughput": 1.0}}])
    found = facts(known, other=True)
    assert "stream-veth was not run" in found["not_measured"]
    assert f"{TUN.name}, defer: it broke" in found["not_measured"]
    assert f"{TUN.name}: simulated line transfers, instructions" in found["not_measured"]
    assert "workload 7 was not run" in found["not_measured"]
    text = report.as_markdown(found)
    assert "- stream-veth was not run" in text and "| defer | not measured |" in text


def test_the_markdown_has_every_arm_and_its_counts() -> None:
    text = report.as_markdown(facts(samples(), other=True))
    assert "| defer | 1,380 | 1.20 | 1.20 to 1.20 | more |" in text
    row = next(line for line in text.splitlines() if line.startswith("| off | 100 % "))
    assert "| 990 |" in row
    assert "two equal arms differ here by up to 1.0 %" in text
    assert "Not run." in text


@pytest.mark.parametrize(("elsewhere", "kept"), [(0.4, "kept"), (1.4, "MISSED")])
def test_the_bar_of_reads(elsewhere: float, kept: str) -> None:
    found = bar(facts(samples(elsewhere=elsewhere)), "Of the skbs that were read")
    assert found["kept"] == kept
    assert bool(found["misses"]) is (kept == "MISSED")


@pytest.mark.parametrize(("transfers", "kept"), [(20.9, "kept"), (21.2, "MISSED")])
def test_the_bar_of_transfers(transfers: float, kept: str) -> None:
    found = bar(facts(samples(transfers=transfers)), "Simulated cache-line transfers")
    assert found["kept"] == kept


@pytest.mark.parametrize(("instructions", "kept"), [(1009.0, "kept"), (1011.0, "MISSED")])
def test_the_bar_of_instructions(instructions: float, kept: str) -> None:
    found = bar(facts(samples(instructions=instructions)), "Instructions per packet")
    assert found["kept"] == kept


def test_the_bar_of_throughput() -> None:
    # A loss that is a difference is a miss; one inside the machine's spread is told, and no miss.
    assert bar(facts(samples(ratio=0.9)), "The throughput")["misses"]
    quiet = bar(facts(samples(ratio=0.97, noise=0.1)), "The throughput")
    assert "3 below 0.98, of which 0 are differences" in quiet["measured"]
    # One workload with a gain is not two.
    assert bar(facts(samples(ratio=1.2)), "The throughput")["kept"] == "MISSED"


def test_workload_5_is_slower_nowhere() -> None:
    assert bar(facts(samples(ratio=1.0)), "Workload 5")["kept"] == "kept"
    assert bar(facts(samples(ratio=0.9)), "Workload 5")["kept"] == "MISSED"


def test_a_bar_is_kept_only_as_far_as_it_was_measured() -> None:
    found = bar(facts(samples(), other=True), "Of the skbs that were read")
    assert found["kept"] == "kept as far as measured"
    assert "(1 of 2 cases measured)" in found["measured"]


def test_two_rounds_keep_no_bar() -> None:
    found = facts(samples(ratio=0.5, rounds=2))
    for start in ("Workload 5", "The throughput"):
        assert bar(found, start)["kept"] == "not shown"


def test_without_figures_no_bar_is_kept() -> None:
    for each in facts(Samples())["bars"]:
        assert each["kept"] == Kept.UNKNOWN.value, each


def test_the_bar_of_idle_memory() -> None:
    runs = {
        "off": [idle_run(1_000_000, [])],
        "defer": [idle_run(1_100_000, [(0.0, 9), (0.1, 9), (0.2, 0), (0.3, 0)])],
    }
    found = bar(facts(samples(), idle_runs=runs), "Memory that 10,000")
    assert found["kept"] == "kept" and "+98 KiB" in found["measured"]
    runs["defer"] = [idle_run(9_000_000, [(0.0, 9), (1.0, 9)])]
    assert len(bar(facts(samples(), idle_runs=runs), "Memory that 10,000")["misses"]) == 2


@pytest.mark.parametrize(
    ("waiting", "after"),
    [([], 0.0), ([(0.0, 0)], 0.0), ([(0.0, 3), (0.1, 0)], 0.1), ([(0.0, 3), (0.1, 1)], None)],
)
def test_until_when_skbs_wait(waiting: list[tuple[float, int]], after: float | None) -> None:
    assert idle.stranded_after(waiting) == after


def test_plots_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    drawn = plots.draw(facts(samples()), tmp_path, "bench")
    names = {path.name for path, _ in drawn}
    assert names == {f"bench-{n}.png" for n in ("elsewhere", "slow", "transfers", "throughput")}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path, _ in drawn)
    text = report.as_markdown(facts(samples()), [(path.name, what) for path, what in drawn])
    assert "](bench-slow.png)" in text


def test_tables_look_up_figures() -> None:
    table = Table(figures.of_case(TUN, samples()))
    assert table.get(TUN.name, "off", "throughput") is not None
    assert table.get(TUN.name, "rx", "throughput") is None
    assert bars.transfers(Table([]), [TUN]).kept is Kept.UNKNOWN


def test_a_persons_words_stand_with_the_bars() -> None:
    text = report.as_markdown(facts(samples(), notes="The list is full because ...\n"))
    assert text.index("## Bars") < text.index("The list is full") < text.index("## Workload 1")


def test_what_found_its_list_full_is_told() -> None:
    known = samples()
    for each in known.rounds:
        each["defer"] |= {"lists: full": 25.0, "lists: deferred": 975.0}
        each["limit-0"] |= {"lists: full": 0.0, "lists: deferred": 0.0}
    figures.add_full(known)
    found = [f for f in figures.of_case(TUN, known) if f.metric == figures.FULL]
    assert [(f.arm, f.value, f.unit) for f in found] == [("defer", 2.5, "%")]
    assert "found the list full" in report.as_markdown(facts(known))


def test_units() -> None:
    assert figures.unit(TUN, "wake-ups") == "per 1,000 packets"
    assert figures.unit(TUN, "latency p99.9") == "us"
    assert figures.unit(TUN, "throughput") == "packets/s"
    assert figures.unit(TUN, figures.TRANSFERS) == "per packet"
    assert figures.unit(TUN, "tx cache hits, %") == "%"


# --- the model ------------------------------------------------------------------


def test_a_network_without_a_queue_is_linear() -> None:
    demand = model.Demand(delay=100.0, lock=0.0)
    assert model.throughput(demand, 64, 2) == pytest.approx(64 / 100)


def test_a_network_with_a_queue_is_bounded_by_it() -> None:
    demand = model.Demand(delay=100.0, lock=10.0)
    # One customer waits for nobody; many are served as fast as both locks are.
    assert model.throughput(demand, 1, 2) == pytest.approx(1 / 110)
    assert model.throughput(demand, 2000, 2) == pytest.approx(2 / 10, rel=0.01)
    # Two customers, no delay to speak of, one queue: it is always busy.
    assert model.throughput(model.Demand(1e-9, 10.0), 2, 1) == pytest.approx(0.1)


def test_a_fit_finds_what_was_put_in() -> None:
    cpus = [2, 4, 8, 16]
    assert model.fit(cpus, [1 + 3 * (1 - 1 / n) for n in cpus]) == pytest.approx((1.0, 3.0))
    assert model.fit([4], [2.0]) == (2.0, 0.0)
    # What falls with more CPUs is not extrapolated to less than nothing.
    assert model.fit(cpus, [4.0, 3.0, 2.0, 1.0]) == (2.5, 0.0)
    assert model.at((1.0, 3.0), 640) == pytest.approx(1 + 3 * (1 - 1 / 640))


def test_the_model_tells_what_it_assumes() -> None:
    counted = {
        f"{arm} {cpus}": {
            "arm": arm,
            "cpus": cpus,
            "packets": 1000,
            "zone": zone,
            "transfers": moved,
            "remote": moved / 2,
            "instructions": 9000.0,
        }
        for arm, zone, moved in (("off", 0.2, 40.0), ("defer", 0.05, 25.0))
        for cpus in (4, 8)
    }
    found = model.predict(counted)
    assert found["ratio_at_640"] > 1.5
    assert [row[0] for row in found["rows"]] == ["64", "128", "320", "640"]
    text = report.as_markdown(facts(samples(), model=found))
    assert "a model, not a measurement" in text and "two zones" in text
    assert model.predict({"off 4": counted["off 4"]}) == {}
