"""A sanity check of speed: with the lists on, traffic is not much slower than with them off."""

import pytest

pytestmark = pytest.mark.vm

#: What no load of the host's explains in most of 15 pairs.
FLOOR = 0.5


@pytest.mark.parametrize("pattern", ["bulk", "rr"])
def test_on_against_off(lab, report, pattern):
    """Pairs of runs in one guest, on and off in turn; the median of their ratios.

    An emulated machine measures work done, not caches missed, so this reports,
    and fails only for something pathological (an IPI per buffer, say).
    """
    net = lab.shared_net("veth")
    options = {"tx_cpu": 0, "rx_cpu": 1, "no_verify": True}
    if pattern == "bulk":
        options["bytes"] = lab.scale.work(4 << 20)
    else:
        options |= {"mode": "rr", "count": lab.scale.work(1000)}
    ratio = lab.on_against_off(
        lambda: 1 / lab.flow(net, **options).intact()["seconds"], floor=FLOOR
    )
    report.add(f"speed with lists on / off ({pattern})", ratio, "x")
