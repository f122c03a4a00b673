"""What a window's readings say, from what ``load`` printed in real guests (data/bench)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from harness.bench import counts, measure, workloads
from harness.bench.counts import BadCounter, Window
from harness.bench.networks import Path as Way

pytestmark = pytest.mark.host

DATA = Path(__file__).with_name("data") / "bench"
CASE = next(case for case in workloads.all_cases() if case.name == "udp-tun-out-400")
WAY = Way("b1n", "b1n", "10.9.8.2", "dev", "dev")


def report(arm: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / f"load-{arm}.json").read_text())
    return found


def between(text: list[str], line: str, column: int) -> int:
    """Return how much a number of a file's line has grown, found in another way than counts."""
    values = []
    for look in (text[0], text[-1]):
        row = next(r for r in look.splitlines() if r.strip().startswith(line))
        values.append(int(row.replace(":", " ").split()[column]))
    return values[1] - values[0]


@pytest.mark.parametrize("arm", ["off", "defer"])
def test_packets_and_rate(arm: str) -> None:
    raw = report(arm)
    found = counts.window(raw)
    read = between(raw["files"]["tx:/proc/thread-self/net/dev"], "dev:", 10)
    assert read > 1000
    assert measure.packets(CASE, WAY, found) == read
    assert found.seconds == raw["looks"][1]["at"] - raw["looks"][0]["at"]
    said = measure.evaluate(CASE, WAY, found)
    assert said.values["throughput"] == pytest.approx(read / found.seconds)
    assert said.packets == read


def test_a_stream_is_counted_in_segments() -> None:
    raw = report("off")
    raw["looks"][0]["received_bytes"], raw["looks"][1]["received_bytes"] = 1000, 401_000
    named = {case.name: case for case in workloads.all_cases()}
    assert measure.segments(named["flows-16"], WAY, counts.window(raw)) == 1000
    assert measure.segments(named["stream-veth"], WAY, counts.window(raw)) == 400_000 / 1448
    assert measure.segments(CASE, WAY, counts.window(raw)) == measure.packets(
        CASE, WAY, counts.window(raw)
    )


@pytest.mark.parametrize("arm", ["off", "defer"])
def test_counts_for_1000_packets(arm: str) -> None:
    raw = report(arm)
    found = counts.window(raw)
    said = measure.evaluate(CASE, WAY, found)
    stat = raw["files"]["/proc/stat"]
    switched = between(stat, "ctxt", 1)
    assert said.values["context switches"] == pytest.approx(1000 * switched / said.packets)
    freed = between(raw["files"]["/proc/vmstat"], "pgfree ", 1)
    assert said.values["pages freed"] == pytest.approx(1000 * freed / said.packets)
    slow = 0
    for cache in counts.SKB_CACHES:
        before, after = raw["files"][f"/sys/kernel/slab/{cache}/free_slowpath"]
        slow += int(after.split()[0]) - int(before.split()[0])
    assert said.values["skb frees, slow path"] == pytest.approx(1000 * slow / said.packets)


def test_only_the_series_has_lists() -> None:
    off, defer = (counts.totals(counts.window(report(arm))) for arm in ("off", "defer"))
    assert not any(name.startswith("lists: ") for name in off)
    assert defer["lists: deferred"] > 100
    outcomes = sum(defer[f"lists: {name}"] for name in ("deferred", "local", "full", "disabled"))
    packets = measure.packets(CASE, WAY, counts.window(report("defer")))
    # Looks are not at one moment: what was read meanwhile is in some of them.
    assert outcomes == pytest.approx(packets, rel=0.2)


def test_events_are_summed_over_cpus() -> None:
    raw = report("off")
    found = counts.events(counts.window(raw), pages_at_once=63)
    assert found["wake-ups"] == sum(raw["events"]["sched/sched_wakeup"])
    parts = [sum(cpus) for name, cpus in raw["events"].items() if "order > 0" in name]
    bulk = sum(raw["events"]["bench/free_pcppages_bulk"])
    taken = sum(raw["events"]["kmem/mm_page_alloc_zone_locked:order == 0"]) / 63
    assert found["zone-lock takings"] == pytest.approx(sum(parts) + bulk + taken)
    del raw["events"]["bench/free_pcppages_bulk"]
    assert "zone-lock takings" not in counts.events(counts.window(raw), 63), "a part is missing"


def test_hits_of_the_tx_cache() -> None:
    raw = copy.deepcopy(report("off"))
    assert counts.tx_cache_hits(counts.window(raw)) is None, "UDP asks for none"
    raw["events"]["bench/sk_stream_alloc_skb"] = [100, 0, 0, 0]
    for path, grown in (("alloc_fastpath", 20), ("alloc_slowpath", 5)):
        name = f"/sys/kernel/slab/skbuff_fclone_cache/{path}"
        raw["files"][name] = ["7 C0=7\n", f"{7 + grown} C0={7 + grown}\n"]
    assert counts.tx_cache_hits(counts.window(raw)) == pytest.approx(75.0)


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (counts.snmp("Ip", "InReceives"), "Ip: Forwarding InReceives\nIp: 1 42\n", 42),
        (counts.vmstat("pgfree"), "pgfree 7\npgfree_x 9\n", 7),
        (counts.switches, "cpu 1\nctxt 12\n", 12),
        (counts.device("dev", "tx_packets"), "dev: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n", 10),
    ],
)
def test_lines_of_files(read: Any, text: str, value: float) -> None:
    assert read(text) == value
    with pytest.raises(BadCounter):
        read("nothing of that\n")


@pytest.mark.parametrize("missing", ["looks", "files"])
def test_a_report_that_lacks_something(missing: str) -> None:
    raw = report("off")
    del raw[missing]
    with pytest.raises(BadCounter):
        counts.window(raw)


def test_one_look_is_no_window() -> None:
    raw = report("off")
    raw["looks"] = raw["looks"][:1]
    with pytest.raises(BadCounter):
        counts.window(raw)


def test_a_run_in_which_nothing_went_through_is_none() -> None:
    raw = report("off")
    files = raw["files"]
    files["tx:/proc/thread-self/net/dev"] = [files["tx:/proc/thread-self/net/dev"][0]] * 2
    with pytest.raises(measure.LoadFailed, match="0 packets"):
        measure.evaluate(CASE, WAY, Window(1.0, raw))


def test_how_many_pages_are_taken_at_a_time() -> None:
    assert counts.batch((DATA / "zoneinfo").read_text()) in (31, 63)
