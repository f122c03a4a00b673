"""The allocating CPU is kicked once per threshold, and hardly ever when it is busy anyway."""

import pytest
from lab import DEFER_MAX

pytestmark = [pytest.mark.vm, pytest.mark.debug]

LIMIT = 64


def test_one_kick_per_threshold(lab, report):
    """kicks <= deferred / (limit / 2), on a CPU that nothing else makes flush.

    Receive processing runs on the reader's CPU, so CPU 0 drains its list only
    when it is kicked. Guards "exactly once until it has served the kick".
    """
    net = lab.shared_net("veth", rps=2)
    before = lab.drained()
    calls = lab.interrupts()["CAL"]
    lab.flow(net, tx_cpu=0, rx_cpu=1, bytes=lab.scale.work(4 << 20)).intact()
    after = lab.interrupts()["CAL"]
    delta = lab.drained() - before
    threshold = (LIMIT + 1) // 2
    report.add("deferred (RX on the reader's CPU)", delta["deferred"])
    report.add("kicks (RX on the reader's CPU)", delta["kicks"])
    report.add("function-call IPIs to CPU 0 meanwhile", after[0] - calls[0])
    assert delta["deferred"] > 4 * threshold
    assert delta["kicks"] > 0
    assert delta["kicks"] <= delta["deferred"] // threshold + delta["aged"]


def test_few_kicks_for_a_busy_cpu(lab, report):
    """Where receive processing runs anyway, it drains the list before a kick is due."""
    net = lab.shared_net("veth")
    before = lab.drained()
    lab.flow(net, tx_cpu=0, rx_cpu=1, bytes=lab.scale.work(4 << 20), rcvbuf=32768).intact()
    delta = lab.drained() - before
    share = 1000 * delta["kicks"] / max(delta["deferred"], 1)
    report.add("kicks per 1000 deferrals (RX on the allocating CPU)", share)
    assert delta["deferred"] > 0
    assert share <= 1000 / ((LIMIT + 1) // 2)


#: bash, on a CPU that takes no part: have every list that holds something kicked, for 2 seconds.
KICK_ALL = f"""
taskset -p 8 $$ > /dev/null
for ((end = ${{EPOCHREALTIME/./}} + 2000000; ${{EPOCHREALTIME/./}} < end; )); do
	echo 64 > {DEFER_MAX}
done
"""


@pytest.mark.brief
def test_one_cpu_kicks_at_a_time(lab, report):
    """Two CPUs want a third one to empty its list: one of them sends the IPI.

    Guards the claim on the IPI's call_single_data: a second sender finds it in use, and
    counts a kick that failed. That never happens but for a CPU that is offline.
    """
    # Receive processing on the reader's CPU: nothing but kicks empties CPU 0's list.
    net = lab.shared_net("veth", rps=2)
    before = lab.drained()
    with lab.traffic(net, tx_cpu=0, rx_cpu=1, bytes=1 << 20) as background:
        lab.sh(KICK_ALL)
        background.stop().intact()
    delta = lab.drained() - before
    report.add("kicks by two CPUs", delta["kicks"])
    assert delta["kicks"] > lab.scale.work(100), "hardly any kick was sent: this tests nothing"
    assert delta["kick_failed"] == 0, "a kick met another one"
