"""TCP queues together what one read leaves behind."""

import pytest

pytestmark = [pytest.mark.vm]

#: More than the reader's window holds: it takes all there is.
ALL_THERE_IS = 1 << 20

#: More buffers than a flow here has in flight.
NEVER_FULL = 4096


@pytest.mark.brief
def test_reader_that_finds_many(lab, report):
    """A reader that comes late finds many buffers, and locks its peer's list for 16 at a time.

    Guards the batches: TCP, which knows when it has read all there is.
    """
    net = lab.shared_net("veth")
    before = lab.drained()
    pause = int(lab.scale.seconds(10_000))
    late = {"read": ALL_THERE_IS, "rcvbuf": ALL_THERE_IS, "pause_us": pause}
    # What finds the list full was not kept for long; a CPU that its host lets wait empties none.
    with lab.limit(NEVER_FULL):
        lab.flow(net, tx_cpu=0, rx_cpu=1, bytes=lab.scale.work(8 << 20), **late).intact()
    delta = lab.drained() - before
    together = delta["batched"] / max(delta["batches"], 1)
    report.add("TCP, late reader: buffers queued together", together)
    assert delta["batched"] > 0.9 * (delta["deferred"] + delta["full"]), delta
    assert together > 8, delta


@pytest.mark.brief
def test_reader_that_finds_one(lab):
    """Of a request that fits into one buffer nothing is kept: who answers may not come back."""
    net = lab.shared_net("veth")
    before = lab.drained()
    lab.flow(net, tx_cpu=0, rx_cpu=1, mode="rr", count=lab.scale.work(300)).intact()
    delta = lab.drained() - before
    assert delta["deferred"] > 0
    assert delta["batched"] <= 0.05 * delta["deferred"], delta
