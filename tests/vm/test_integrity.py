"""Every byte arrives as it was sent, however it is read, while buffers are deferred."""

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.debug]

READERS = {
    "large reads": {},
    "odd reads": {"read": 777},
    "one byte short of a segment": {"read": 4043},
    "peek": {"peek": True, "read": 3000},
    "discard every third": {"trunc": 3, "read": 2000},
    "splice": {"splice": True},
    "small window": {"rcvbuf": 8192},
    "many connections": {"conns": 16},
    "odd writes": {"write": 1237, "nodelay": True},
}


#: What the debug flavour has time for.
EVERYWHERE = ("large reads", "peek", "splice", "many connections")


@pytest.mark.parametrize(
    "reader",
    [
        reader if reader in EVERYWHERE else pytest.param(reader, marks=pytest.mark.brief)
        for reader in READERS
    ],
)
@pytest.mark.parametrize(
    "family", [4, pytest.param(6, marks=pytest.mark.brief)], ids=["ipv4", "ipv6"]
)
def test_bulk(lab, family, reader):
    """A seeded pattern, compared byte by byte.

    Guards against a buffer freed while somebody still reads it (its page is
    reused and the data is another's). Seen to fail with one byte sent wrong
    (tcpflow --corrupt; tests/host/test_guesttools.py keeps that true).
    """
    net = lab.shared_net("veth")
    options = READERS[reader]
    amount = lab.scale.work(2 << 20) // options.get("conns", 1)
    before = lab.defer()
    flow = lab.flow(net, family, tx_cpu=0, rx_cpu=1, bytes=amount, seed=family, **options)
    flow.intact()
    assert flow.rx["received"] == amount * options.get("conns", 1)
    assert flow.rx["eofs"] == options.get("conns", 1)
    assert (lab.drained() - before)["deferred"] > 0, "nothing was deferred: this tests nothing"


@pytest.mark.parametrize(
    "size",
    [pytest.param(1, marks=pytest.mark.brief), 64, pytest.param(9000, marks=pytest.mark.brief)],
)
def test_request_response(lab, size):
    """Both directions checked; each end frees the other's buffers."""
    net = lab.shared_net("veth")
    count = lab.scale.work(400)
    before = lab.defer()
    flow = lab.flow(
        net, mode="rr", tx_cpu=0, rx_cpu=1, count=count, req=size, rsp=size, conns=2, nodelay=True
    ).intact()
    assert flow.tx["trips"] == flow.rx["trips"] == 2 * count
    assert (lab.drained() - before)["deferred"] >= count


def test_many_cpus(lab):
    """Unpinned senders and readers on all CPUs, receive processing spread over them."""
    net = lab.shared_net("veth", rps=15)
    flow = lab.flow(net, conns=12, bytes=lab.scale.work(1 << 20)).intact()
    assert flow.rx["eofs"] == 12
    lab.drained()
