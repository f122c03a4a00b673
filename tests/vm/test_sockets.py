"""Uses of a socket that touch a buffer's life in unusual ways."""

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.debug]


@pytest.mark.parametrize(
    "family", [4, pytest.param(6, marks=pytest.mark.brief)], ids=["ipv4", "ipv6"]
)
@pytest.mark.parametrize("kind", ["veth", pytest.param("lo", marks=pytest.mark.brief)])
def test_zerocopy_sender(lab, kind, family):
    """MSG_ZEROCOPY: every notification arrives, none is held up in a list.

    Guards what a MSG_ZEROCOPY sender waits for. On these ways the kernel copies before
    the receiver's queue, so that it is for the KUnit tests to see that a buffer with a
    sender's pages never waits: this was seen to pass where it may.
    """
    net = lab.shared_net(kind, segments=0)
    flow = lab.flow(
        net,
        family,
        tx_cpu=0,
        rx_cpu=1,
        bytes=lab.scale.work(4 << 20),
        write=16384,
        zerocopy=True,
    ).intact()
    assert flow.tx["zc_sends"] > 0
    assert flow.tx["zc_done"] == flow.tx["zc_sends"]
    lab.drained()


def test_peek_and_discard(lab):
    """MSG_PEEK leaves a buffer in the queue, MSG_TRUNC takes it without reading."""
    net = lab.shared_net("veth")
    amount = lab.scale.work(1 << 20)
    before = lab.defer()
    flow = lab.flow(net, tx_cpu=0, rx_cpu=1, bytes=amount, peek=True, trunc=2, read=5000).intact()
    # A peek shows what is there at that moment, the read after it may find more.
    assert flow.rx["peeked"] > amount // 2
    assert 0 < flow.rx["truncated"] < amount
    assert flow.rx["received"] == amount
    assert (lab.drained() - before)["deferred"] > 0


@pytest.mark.parametrize(
    "end",
    ["close", "rst", *(pytest.param(end, marks=pytest.mark.brief) for end in ("shutdown", "exit"))],
)
def test_closed_with_data_queued(lab, end):
    """The receiver goes with data unread, in each way there is."""
    net = lab.shared_net("veth")
    flow = lab.flow(
        net,
        tx_cpu=0,
        rx_cpu=1,
        conns=4,
        rounds=lab.scale.work(5),
        # What has to wait for the process's end must fit into the sockets' buffers.
        bytes=50_000 if end == "exit" else 200_000,
        stop_after=3000,
        hold_ms=20,
        rx_end=end,
    ).intact()
    assert flow.rx["received"] == 3000 * flow.rx["conns"]
    lab.drained()


def test_reset_by_the_sender(lab):
    """The connection is reset while its data is read."""
    net = lab.shared_net("veth")
    flow = lab.flow(
        net,
        tx_cpu=0,
        rx_cpu=1,
        conns=4,
        rounds=lab.scale.work(5),
        bytes=200_000,
        hold_ms=20,
        tx_end="rst",
    ).intact()
    assert flow.rx["resets"] > 0
    lab.drained()


def test_loss_and_reordering(lab, report):
    """netem drops, delays and reorders: out-of-order queue and retransmissions.

    Guards buffers that the receiver merges, trims or drops before they are read,
    and the sender's waiting for a transmitted clone (skb_fclone_busy): a clone
    on a list must not look as if it were still in a device's queue.
    """
    with lab.net("veth", name="lossy") as net:
        lab.sh(
            "tc -n lossy-tx qdisc add dev tx root netem delay 3ms 2ms loss 3% reorder 20% 50%"
            " limit 10000"
        )
        before = lab.defer()
        flow = lab.flow(
            net, tx_cpu=0, rx_cpu=1, conns=4, bytes=lab.scale.work(400_000), timeout=60
        ).intact()
        stats = lab.sh("ip netns exec lossy-tx cat /proc/net/netstat /proc/net/snmp")
        rx_stats = lab.sh("ip netns exec lossy-rx cat /proc/net/netstat")
    delta = lab.drained() - before
    resent = field(stats, "Tcp", "RetransSegs")
    late = field(rx_stats, "TcpExt", "TCPOFOQueue")
    report.add("segments sent again under netem", resent)
    report.add("segments out of order under netem", late)
    assert flow.rx["eofs"] == 4
    assert resent > 0
    assert late > 0
    assert delta["deferred"] > 0


def field(text, group, name):
    """Return one counter of /proc/net/snmp or netstat (a line of names, a line of numbers)."""
    names, numbers = (line.split() for line in text.splitlines() if line.startswith(f"{group}:"))
    return int(numbers[names.index(name)])
