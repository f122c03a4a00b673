"""What the kernel says about the lists is complete and adds up."""

from collections import Counter

import pytest
from lab import DEFER_STAT

from harness import counters, traces

pytestmark = [pytest.mark.vm, pytest.mark.debug]


def test_format(lab):
    """lnstat's format: names, then a line of 8-digit hexadecimal numbers per possible CPU."""
    text = lab.read(DEFER_STAT)
    stat = counters.parse_defer_stat(text)
    assert stat.columns == counters.DEFER_COLUMNS
    assert len(stat.rows) == lab.cpus
    # A CPU that is away keeps its line, and so the sums stay what they are.
    cpu = "/sys/devices/system/cpu/cpu3/online"
    lab.sh(f"echo 0 > {cpu}")
    try:
        assert len(lab.defer().rows) == lab.cpus
    finally:
        lab.sh(f"echo 1 > {cpu}")
    assert all(len(word) == 8 for line in text.splitlines()[1:] for word in line.split())


@pytest.mark.brief
def test_sums(lab):
    """deferred == flushed once nothing waits; every kick belongs to a deferral."""
    net = lab.shared_net("veth")
    before = lab.drained()
    lab.flow(net, tx_cpu=0, rx_cpu=1, bytes=lab.scale.work(1 << 20)).intact()
    delta = lab.drained() - before
    assert delta["deferred"] == delta["flushed"] > 0
    assert 0 < delta["flushes"] <= delta["flushed"]
    assert delta["kicks"] <= delta["deferred"]
    assert delta["kick_failed"] == 0


def test_counted_on_the_right_cpu(lab):
    """Deferrals count on the reader's CPU, flushes on the CPU that got its buffers back."""
    net = lab.shared_net("veth", rps=4)
    before = lab.drained()
    lab.flow(net, tx_cpu=2, rx_cpu=3, bytes=lab.scale.work(1 << 20)).intact()
    after = lab.drained()

    def growth(column):
        return [after.on(cpu, column) - before.on(cpu, column) for cpu in range(lab.cpus)]

    deferred, flushed = growth("deferred"), growth("flushed")
    assert deferred[3] >= 0.95 * sum(deferred) > 0, deferred
    assert flushed[2] >= 0.95 * sum(flushed) > 0, flushed


@pytest.mark.brief
def test_tracepoints_agree(lab):
    """Every outcome and every flush is traced, with the numbers that are counted."""
    net = lab.shared_net("veth")
    before = lab.drained()
    with lab.events("skb/skb_defer_free", "skb/skb_defer_flush", kilobytes=8192) as recorded:
        lab.flow(net, tx_cpu=0, rx_cpu=1, bytes=lab.scale.work(1 << 20)).intact()
        after = lab.drained()
    delta = after - before
    assert recorded[0].lost == 0
    found = traces.list_history(recorded[0])
    assert found.verdicts == {name: delta[name] for name in counters.DEFER_VERDICTS if delta[name]}
    assert (found.flushes, found.flushed) == (delta["flushes"], delta["flushed"])
    assert not found.waiting


def test_counters_agree_with_the_trace_of_buffers(lab):
    """The kernel's own count of deferrals is what following each buffer shows."""
    net = lab.shared_net("veth")
    before = lab.drained()
    with lab.follow_skbs() as recorded:
        lab.flow(net, tx_cpu=0, rx_cpu=1, bytes=lab.scale.work(1 << 20)).intact()
        after = lab.drained()
    delta = after - before
    found = lab.locality(recorded[0])
    handed = sum(delta[name] for name in counters.DEFER_VERDICTS)
    # The last buffer of a connection (its FIN) is eaten without being read from.
    assert found.received <= handed <= found.received * 1.05 + 10
    assert found.pairs[0, 0] <= delta["deferred"]


@pytest.mark.brief
def test_consumers_are_traced(lab):
    """skb:consume_skb fires where a reader is done with a buffer, not where its memory goes.

    Guards what tools that look for consumers see of a buffer that waits.
    """
    with lab.sink("tun", reader=1) as (net, wire):
        before = lab.drained()
        with lab.events("skb/consume_skb") as recorded:
            lab.udp(net, no_receiver=True, tx_cpu=0, count=300, burst=8, gap_us=1000).intact()
            delta = lab.settled(before)
            lab.drained()
        wire.sunk()
    assert recorded[0].lost == 0
    assert delta["deferred"] > 100
    seen = Counter(event.cpu for event in recorded[0].events)
    assert seen[1] >= delta["deferred"], f"consumed (by CPU): {dict(seen)}"
    assert seen[0] <= delta["deferred"] // 10, f"consumed (by CPU): {dict(seen)}"
