"""kmemleak's opinion, on flavours that have it, after other tests have run in the guest."""

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.debug]

KMEMLEAK = "/sys/kernel/debug/kmemleak"


@pytest.mark.limit(300)
def test_kmemleak(lab):
    """Nothing is unreferenced: a lost buffer's data shows here, which SLUB's counts do not tell.

    What it would catch, a flush that drops one buffer of each list, test_leaks was seen to.
    """
    if lab.sh(f"[ -e {KMEMLEAK} ] && echo yes", check=False).strip() != "yes":
        pytest.skip("this flavour has no kmemleak")
    net = lab.shared_net("veth")
    lab.flow(net, tx_cpu=0, rx_cpu=1, conns=4, bytes=100_000).intact()
    lab.drained()
    # An object has to be unreferenced in two scans, some seconds old, to be reported.
    for _ in range(2):
        lab.sh(f"sleep 6; echo scan > {KMEMLEAK}", timeout=90)
    found = lab.read(KMEMLEAK)
    assert "unreferenced object" not in found, found[:8000]
