"""A list on an idle CPU is drained in time."""

import pytest
from lab import DRAIN_BOUND, DRAIN_SLACK

from harness import traces

pytestmark = [pytest.mark.vm, pytest.mark.debug]


@pytest.mark.parametrize("cpu", [pytest.param(0, marks=pytest.mark.brief), 2])
def test_idle_cpu_drains(lab, report, cpu):
    """Fewer buffers than make a kick wait on a CPU with nothing to do: gone within 200 ms.

    Guards the age limit ("no requirement on how fast" let buffers sit for hours).
    Seen to fail with the timer taken out: the list then stays as it is.
    """
    report.add(f"oldest buffer on idle CPU {cpu}", drained_in_time(lab, cpu) * 1000, "ms")


@pytest.mark.vm(append=("thread_backlog_napi",))
@pytest.mark.brief
def test_thread_of_an_idle_cpu_drains(lab):
    """As before, where the CPU's thread is woken for it: that has nothing else to do, either.

    Guards the thread that empties the list; seen to fail where it only polls.
    """
    drained_in_time(lab, 2)


def drained_in_time(lab, cpu):
    """Leave buffers to an idle CPU, again and again; return the greatest age of one, in seconds."""
    # Receive processing on the reader's CPU leaves the sender's with nothing to do.
    net = lab.shared_net("veth", rps=2)
    before = lab.defer()
    with lab.events("skb/skb_defer_free", "skb/skb_defer_flush") as recorded:
        for _ in range(5):
            lab.flow(net, tx_cpu=cpu, rx_cpu=1, bytes=25_000).intact()
            lab.sh(f"sleep {lab.scale.seconds(0.3):.1f}")
    found = traces.list_history(recorded[0])
    assert not found.waiting, f"buffers still wait (by CPU): {found.waiting}"
    assert cpu in found.oldest, "nothing was deferred to the idle CPU"
    assert (lab.defer() - before)["aged"] > 0, "no list became old: this tests nothing"
    worst = max(found.oldest.values())
    assert worst <= DRAIN_BOUND + lab.scale.seconds(DRAIN_SLACK)
    return worst


@pytest.mark.brief
def test_many_small_exchanges(lab, report):
    """Request and response with pauses: every list is drained in time, not just the last."""
    net = lab.shared_net("veth", rps=2)
    before = lab.defer()
    with lab.events("skb/skb_defer_free", "skb/skb_defer_flush") as recorded:
        lab.flow(
            net, mode="rr", tx_cpu=0, rx_cpu=1, count=lab.scale.work(20), pause_us=40_000
        ).intact()
        lab.sh(f"sleep {lab.scale.seconds(0.4):.1f}")
    found = traces.list_history(recorded[0])
    assert not found.waiting
    worst = max(found.oldest.values())
    report.add("oldest buffer in slow exchanges", worst * 1000, "ms")
    assert worst <= DRAIN_BOUND + lab.scale.seconds(DRAIN_SLACK)
    assert (lab.defer() - before)["deferred"] > 0
