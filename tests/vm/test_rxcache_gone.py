"""The per-socket receive cache is gone, with its sysctl; the transmit cache stays and works."""

import pytest

pytestmark = pytest.mark.vm

IPV4 = "/proc/sys/net/ipv4"


def test_receive_cache_sysctl_is_gone(lab):
    """net.ipv4.tcp_rx_skb_cache is no more."""
    assert lab.sh(f"[ -e {IPV4}/tcp_rx_skb_cache ] || echo gone").strip() == "gone"


@pytest.mark.vm(baseline=True)
def test_receive_cache_was_there(lab):
    """The baseline has it: the name looked for is the right one."""
    assert lab.read(f"{IPV4}/tcp_rx_skb_cache").strip() == "0"


def test_transmit_cache_works(lab):
    """With tcp_tx_skb_cache on, a sender allocates fewer buffers, and the data is right.

    Seen to fail on a kernel whose sk_stream_alloc_skb() does not look into the cache.
    """
    net = lab.shared_net("veth")
    name = f"{IPV4}/tcp_tx_skb_cache"
    count = lab.scale.work(500)
    allocations = {}
    for value in (0, 1):
        lab.write(name, str(value))
        before = lab.slab_paths()
        lab.flow(net, mode="rr", tx_cpu=0, rx_cpu=1, count=count).intact()
        after = lab.slab_paths()
        allocations[value] = sum(
            (
                after[f"skbuff_fclone_cache/alloc_{path}"]
                - before[f"skbuff_fclone_cache/alloc_{path}"]
            ).total
            for path in ("fastpath", "slowpath")
        )
    lab.write(name, "0")
    lab.drained()
    assert allocations[0] >= 2 * count * 0.95
    assert allocations[1] < allocations[0] * 0.75
