"""A case of the benchmark, run in both guests: its report says what the kernels' counters say."""

import pytest

from harness.bench import arms, measure, networks, report, workloads
from harness.bench.guests import Guest
from harness.bench.samples import Samples

pytestmark = pytest.mark.vm

CASE = next(case for case in workloads.all_cases() if case.name == "udp-tun-out-400")
PATHS = ("skbuff_head_cache/free_slowpath", "skbuff_fclone_cache/free_slowpath")

#: What happens beside a window: the traffic's beginning and its end.
BESIDE = 3.0


@pytest.mark.parametrize(
    "arm",
    [
        pytest.param("off", marks=pytest.mark.vm(baseline=True)),
        pytest.param("defer", marks=pytest.mark.vm),
    ],
)
def test_the_report_says_what_the_counters_say(lab, memo, arm):
    """Slow frees and lists of a window are those that a look from outside sees as well.

    Guards the way from a counter to a line of the report, on both kernels; and that the
    benchmark sees what the series does.
    """
    guest = Guest("baseline" if arm == "off" else "patched", lab.vm)
    guest.apply(arms.BY_NAME[arm])
    with networks.network(guest, CASE.network) as path:
        slow = lab.slab_paths()
        lists = None if arm == "off" else lab.drained()
        window = measure.run(guest, CASE, path, seconds=1.0, warm=0.1)
        found = measure.evaluate(CASE, path, window)
        after = lab.slab_paths()
        seen = sum((after[name] - slow[name]).total for name in PATHS)
        events = measure.define_probes(guest)
        traced = measure.follow(guest, CASE, path, events)
        deferred = (lab.drained() - lists)["deferred"] if lists else 0
    said = found.values["skb frees, slow path"] * found.packets / 1000
    assert found.packets > 500
    assert 0 < found.values["throughput"] == pytest.approx(found.packets / found.seconds)
    assert said <= seen <= BESIDE * said + 2000
    # So little is sent meanwhile on a slow flavour that it may need no new page.
    assert traced.values["zone-lock takings"] > 0 or lab.scale.slow > 2
    elsewhere = traced.values["read skbs freed elsewhere, %"]
    if arm == "off":
        assert elsewhere > 95
        assert not any(name.startswith("lists: ") for name in found.values)
    else:
        # A list that is full for want of time on a busy host frees elsewhere, and says so.
        full = found.values["lists: full"] + found.values["lists: deferred"]
        assert full == pytest.approx(1000, rel=0.05)
        assert 0 < found.values["lists: deferred"] * found.packets / 1000 <= deferred
        assert elsewhere < 90
    known = memo.setdefault("bench", Samples(rounds=[{}]))
    known.rounds[0][arm] = found.values
    known.traced[arm] = {"values": traced.values}
    text = report.as_markdown(_facts(known))
    shown = [line for line in text.splitlines() if line.startswith(f"| {arm} | ")]
    assert any(f" {report.number(found.values['throughput'])} " in line for line in shown)
    assert any(f" {report.number(found.values['skb frees, slow path'])} " in line for line in shown)
    if known.series("off", "throughput")[0] and arm == "defer":
        ratio = found.values["throughput"] / known.rounds[0]["off"]["throughput"]
        assert any(f" {ratio:.2f} " in line for line in shown), shown


def _facts(known):
    return report.facts(
        base="x",
        environment={},
        series={},
        cases=[CASE],
        known={CASE.name: known},
        idle_runs={},
        profiles={},
        model={},
        effort={},
    )
