"""No network buffer stays behind, however its socket ended."""

import time

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.debug]

#: Objects that the rest of the guest may have taken meanwhile (timers of IPv6, uevents).
NOISE = 3

ENDINGS = {
    "all read": {},
    "receiver closes early": {"stop_after": 5000, "rx_end": "close"},
    "receiver resets early": {"stop_after": 5000, "rx_end": "rst"},
    "receiver shuts down early": {"stop_after": 5000, "rx_end": "shutdown"},
    "receiver exits early": {"stop_after": 5000, "rx_end": "exit"},
    "receiver reads nothing": {"stop_after": 1, "hold_ms": 60, "rx_end": "rst"},
    "sender resets": {"tx_end": "rst", "hold_ms": 30},
    "half a buffer read": {"stop_after": 777, "read": 777, "hold_ms": 30, "rx_end": "close"},
}


#: What the debug flavour has time for; kmemleak looks at what all of them leave.
EVERYWHERE = ("all read", "receiver resets early", "sender resets")


@pytest.mark.parametrize(
    "ending",
    [
        ending if ending in EVERYWHERE else pytest.param(ending, marks=pytest.mark.brief)
        for ending in ENDINGS
    ],
)
def test_buffers_come_back(lab, ending):
    """SLUB's counts of both buffer caches return to their start.

    Guards against an skb that is unlinked and never freed, or freed on no path.
    Seen to fail with a flush that drops one buffer of each list.
    """
    net = lab.shared_net("veth")
    lab.drained()
    before = lab.objects()
    flow = lab.flow(
        net,
        tx_cpu=0,
        rx_cpu=1,
        conns=4,
        rounds=lab.scale.work(10),
        bytes=100_000,
        **ENDINGS[ending],
    )
    flow.intact()
    assert flow.rx["conns"] > 0
    lab.drained()
    kept = lab.kept(before, noise=NOISE)
    assert all(count <= NOISE for count in kept.values()), f"left behind: {kept}"


def test_socket_memory_comes_back(lab):
    """A deferred skb charges no socket: TCP's memory returns to 0 with the lists off or on.

    Guards the early sock_rfree(). Seen to fail when no destructor is run.
    """
    net = lab.shared_net("veth")
    lab.flow(net, tx_cpu=0, rx_cpu=1, conns=8, bytes=100_000).intact()
    lab.drained()
    words = []
    for _ in range(50):
        line = next(
            line for line in lab.read("/proc/net/sockstat").splitlines() if line.startswith("TCP:")
        )
        words = line.split()
        if int(words[words.index("mem") + 1]) == 0:
            return
        time.sleep(0.1)
    pytest.fail(f"TCP still holds pages: {' '.join(words)}")
