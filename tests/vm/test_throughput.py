"""A sanity check of speed: with the lists on, traffic is not much slower than with them off."""

import statistics

import pytest
from lab import DEFER_MAX

pytestmark = pytest.mark.vm

PAIRS = 5


@pytest.mark.parametrize("pattern", ["bulk", "rr"])
def test_on_against_off(lab, report, pattern):
    """Pairs of runs in one guest, on and off in turn; the median of their ratios.

    An emulated machine measures work done, not caches missed, so this reports,
    and fails only for something pathological (an IPI per buffer, say).
    """
    net = lab.shared_net("veth")
    options = {"tx_cpu": 0, "rx_cpu": 1, "no_verify": True}
    if pattern == "bulk":
        options["bytes"] = 4 << 20
    else:
        options |= {"mode": "rr", "count": 1000}
    ratios = []
    for at in range(PAIRS):
        seconds = {}
        for value in ((64, 0), (0, 64))[at % 2]:
            lab.write(DEFER_MAX, str(value))
            seconds[value] = lab.flow(net, **options).intact()["seconds"]
        ratios.append(seconds[0] / seconds[64])
    lab.write(DEFER_MAX, "64")
    report.add(f"speed with lists on / off ({pattern})", statistics.median(ratios), "x")
    assert statistics.median(ratios) > 0.5, f"ratios: {[f'{r:.2f}' for r in ratios]}"
