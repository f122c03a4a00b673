"""What goes through tun, tap, macvtap, ipvtap and vhost-net arrives as it was sent."""

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.debug]

#: Objects that the rest of the guest may have taken meanwhile (timers of IPv6, uevents).
NOISE = 3

#: Kinds of the ends, queues, IP version, how frames are read. Every kind meets one and
#: two queues, both versions and both ways to read.
WAYS = [
    ("tun", "tun", 1, 4, "read"),
    ("tun", "tun", 2, 6, "readv"),
    ("tun,tso", "tun,tso", 1, 6, "read"),
    ("tap", "tap", 1, 6, "readv"),
    ("tap,tso", "tap,tso", 2, 4, "read"),
    ("macvtap", "tap", 1, 4, "readv"),
    ("macvtap", "tap", 2, 6, "read"),
    ("ipvtap", "vhost", 1, 4, "read"),
    ("vhost", "tap", 2, 6, "read"),
    ("vhost", "vhost", 1, 6, "read"),
    ("vhost", "vhost", 2, 4, "readv"),
]

#: What the debug flavour has time for.
EVERYWHERE = (WAYS[8],)


def name(way):
    a, b, queues, family, how = way
    return f"{a}-{b}-{queues}q-ipv{family}-{how}".replace(",", "+")


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, id=name(way), marks=[] if way in EVERYWHERE else pytest.mark.brief)
        for way in WAYS
    ],
)
def test_intact_and_in_order(lab, way):
    """UDP and TCP pass a wire whose ends are read on other CPUs than the senders'.

    Guards what a reader gets, from rings of one queue and of two: nothing is wrong, lost
    or overtaken, what was read waits for the CPU that sent it, and all memory returns.
    """
    a, b, queues, family, how = way
    cpus = ("1", "2") if queues == 1 else ("1,3", "2,3")
    with lab.span(a, b, queues=queues, cpus=cpus, how=how) as (net, wire):
        # Neighbours and routes exist from the first packet on.
        assert lab.udp(net, family, count=2, window=1, timeout=10).intact().rx["received"]
        stat = lab.drained()
        before = lab.objects()
        count = lab.scale.work(800)
        common = {"tx_cpu": 0, "rx_cpu": 3, "timeout": 30}
        udp = lab.udp(net, family, flows=4, count=count, size=1000, window=16, **common).ordered()
        between = lab.defer()
        size = lab.scale.work(400_000)
        tcp = lab.flow(net, family, conns=2, bytes=size, **common).intact()
        after = lab.drained()
        kept = lab.kept(before, noise=NOISE)
        carried = wire.report()
    assert udp.complete().tx["sent"] == 4 * count
    assert tcp.rx["received"] == tcp.tx["sent"] == 2 * size
    assert (between - stat)["batched"] > count, between - stat
    assert (between - stat)["deferred"] > count, between - stat
    assert (after - between)["batched"] > 0, after - between
    assert not carried["error"], carried
    assert all(count <= NOISE for count in kept.values()), f"left behind: {kept}"
    if queues > 1:
        used = [sum(queue["read"] for queue in carried[end]["queues"]) for end in "ab"]
        assert all(used), carried
