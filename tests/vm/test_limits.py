"""net.core.skb_defer_max: any value, at any time, and no list is ever wedged."""

import pytest
from lab import DEFER_MAX, DEFER_STAT, NAP

from harness import traces

pytestmark = pytest.mark.vm


def defers_and_drains(lab, net):
    """A transfer defers, and everything it deferred is freed."""
    before = lab.defer()
    lab.flow(net, tx_cpu=0, rx_cpu=1, bytes=lab.scale.work(500_000), rcvbuf=32768).intact()
    delta = lab.drained() - before
    assert delta["deferred"] > 0
    assert delta["flushed"] == delta["deferred"]
    return delta


def test_default(lab):
    """64, as documented."""
    assert lab.read(DEFER_MAX).strip() == "64"


@pytest.mark.debug
@pytest.mark.parametrize(
    "value", [0, 1, *(pytest.param(value, marks=pytest.mark.brief) for value in (2, 3, 64, 4096))]
)
def test_value(lab, value):
    """Each value by itself: 0 defers nothing, every other defers and drains all of it."""
    net = lab.shared_net("veth")
    with lab.limit(value):
        if value:
            delta = defers_and_drains(lab, net)
            assert delta["disabled"] == 0
        else:
            before = lab.defer()
            lab.flow(net, tx_cpu=0, rx_cpu=1, bytes=200_000).intact()
            delta = lab.defer() - before
            assert delta["deferred"] == 0
            assert delta["disabled"] > 0
    defers_and_drains(lab, net)


@pytest.mark.parametrize("value", ["-1", "x", "32769", "99999999999"])
def test_refused(lab, value):
    """What is not a limit is refused, and the old one stays."""
    before = lab.read(DEFER_MAX)
    done = lab.vm.run(f"echo {value} > {DEFER_MAX}", timeout=20, check=False)
    assert done.returncode != 0
    assert lab.read(DEFER_MAX) == before


@pytest.mark.debug
def test_switched_under_traffic(lab, report):
    """0, 1, 2, 64 and 4096 in turn while connections run; afterwards nothing is stuck.

    Guards the counting of queued buffers across a change: a count that drifts
    leaves a list in its no-defer state for good.
    """
    net = lab.shared_net("veth")
    rounds = lab.scale.work(30, least=5)
    with lab.traffic(net, tx_cpu=0, rx_cpu=1, conns=2, bytes=100_000) as background:
        lab.sh(
            f"{NAP} for i in $(seq {rounds}); do for v in 0 1 2 64 4096 1 0 64 2; do"
            f" echo $v > {DEFER_MAX}; nap 0.01; done; done; echo 64 > {DEFER_MAX}",
            timeout=60,
        )
        flow = background.stop().intact()
    report.add("changes of the limit under traffic", rounds * 9)
    assert flow.rx["received"] == flow.tx["sent"] > 0
    lab.drained()
    defers_and_drains(lab, net)


@pytest.mark.debug
@pytest.mark.parametrize(
    "value", [1, *(pytest.param(value, marks=pytest.mark.brief) for value in (2, 64))]
)
def test_never_more_than_the_limit(lab, value):
    """No list ever holds more than the limit: a flush, which takes all, never finds more.

    Seen to fail with the comparison off by one.
    """
    net = lab.shared_net("veth")
    with lab.limit(value), lab.events("skb/skb_defer_flush") as recorded:
        lab.flow(net, tx_cpu=0, rx_cpu=1, bytes=lab.scale.work(1 << 20)).intact()
        lab.drained()
    found = traces.list_history(recorded[0])
    assert found.flushed > 0, "nothing was deferred"
    assert max(found.longest.values()) <= value


def test_zero_drains_what_is_queued(lab):
    """Writing 0 frees what waits, without waiting for the age limit.

    Guards the sysctl's handler. Seen to fail with a handler that only stores the value.
    """
    # Receive processing on the reader's CPU: nothing but a kick or age empties CPU 0's list.
    net = lab.shared_net("veth", rps=2)
    tries = []
    for _ in range(10):
        lab.drained()
        flow = lab.flow(
            net, tx_cpu=0, rx_cpu=1, bytes=30_000, snap=DEFER_STAT, act=f"{DEFER_MAX}=0", act_ms=20
        ).intact()
        lab.write(DEFER_MAX, "64")
        start, end = flow.snap("all_read"), flow.snap("acted")
        tries.append((start.queued, end.queued))
        # Otherwise it was age that emptied the list, before or meanwhile.
        if start.queued and not (end - start)["aged"]:
            break
    lab.drained()
    queued, left = tries[-1]
    assert queued > 0, f"nothing was ever waiting when 0 was written: {tries}"
    # The sysctl's handler kicks the list's CPU and does not wait for it.
    assert left == 0, f"{left} of {queued} buffers still wait"
