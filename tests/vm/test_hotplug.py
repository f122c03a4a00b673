"""CPUs go and come under traffic; nothing is lost, nothing waits for a CPU that is gone."""

import shlex

import flows
import pytest
from lab import DEFER_STAT, NAP

from harness import guesttools

pytestmark = [pytest.mark.vm, pytest.mark.debug]

CPUS = "/sys/devices/system/cpu"

CYCLE = f"""
set -e
for round in $(seq $ROUNDS); do
	for cpu in 1 2 3; do echo 0 > {CPUS}/cpu$cpu/online; done
	for cpu in 3 1 2; do echo 1 > {CPUS}/cpu$cpu/online; done
done
cat {CPUS}/online
"""


@pytest.mark.limit(240)
def test_cpus_off_and_on_under_traffic(lab, report):
    """CPUs 1 to 3 are taken offline and online in a loop while connections run everywhere.

    Guards the hand-over of a dead CPU's list and the check after the add.
    Seen to fail (a list that is never drained) without the hotplug callback.
    """
    # Without RPS: v5.10 loses a CPU's backlog for good when a CPU goes offline that
    # was about to send that one, offline itself, the IPI of RPS. Nothing of ours.
    net = lab.shared_net("veth", rps=0)
    rounds = lab.scale.work(12, least=2)
    lab.drained()
    before = lab.objects()
    with lab.traffic(net, conns=8, bytes=50_000) as background:
        online = lab.sh(CYCLE.replace("$ROUNDS", str(rounds)), timeout=150)
        assert background.running, "the traffic ended by itself"
        flow = background.stop().intact()
    assert online.strip() == f"0-{lab.cpus - 1}"
    assert flow.rx["received"] == flow.tx["sent"] > 0, flow
    report.add("CPU transitions under traffic", rounds * 6)
    report.add("bytes moved meanwhile", flow.rx["received"], "B")
    lab.drained()
    if not lab.forgets_when_offline:
        kept = lab.kept(before)
        assert all(count <= lab.noise for count in kept.values()), f"left behind: {kept}"
    # Still whole: a transfer between CPUs that were gone defers and drains.
    stat = lab.defer()
    lab.flow(net, tx_cpu=2, rx_cpu=1, bytes=200_000).intact()
    assert (lab.drained() - stat)["deferred"] > 0


def test_list_of_a_cpu_that_goes(lab):
    """What waits on a CPU's list when that goes offline is freed, by another CPU.

    Guards the dead CPU's list alone: too few buffers for a kick wait on CPU 1.
    Seen to fail without the hotplug callback.
    """
    net = lab.shared_net("veth", rps=1)  # receive processing on the reader's CPU
    online = f"{CPUS}/cpu1/online"
    for _ in range(10):
        lab.drained()
        before = lab.objects()
        try:
            flow = lab.flow(
                net, tx_cpu=1, rx_cpu=0, bytes=20_000, snap=DEFER_STAT, act=f"{online}=0"
            ).intact()
            gone = lab.objects()
            # To a CPU that is away nothing is queued, and so nothing waits.
            lab.flow(net, rx_cpu=0, bytes=200_000).intact()
            lab.drained()
        finally:
            lab.sh(f"echo 1 > {online}", timeout=30)
        queued = flow.snap("all_read").queued
        assert flow.snap("acted").queued == 0, "the list was not empty when its CPU was away"
        if not lab.forgets_when_offline:
            assert all(gone[cache] <= before[cache] + 3 for cache in gone), (before, gone)
        if queued:
            return
    pytest.fail("nothing was ever waiting for the CPU when it went offline")


#: Softirqs run in ksoftirqd once an interrupt has raised one, and RCU needs none.
IN_KSOFTIRQD = ("threadirqs", "rcutree.use_softirq=0")

#: bash: what is urgent ($busy) may take all of a CPU until the script ends.
URGENT = (
    NAP
    + """
set -e
runtime=/proc/sys/kernel/sched_rt_runtime_us
read -r before < $runtime
echo -1 > $runtime
busy=
trap '[ -z "$busy" ] || kill -9 $busy 2> /dev/null || :; echo $before > $runtime' EXIT
"""
)

#: bash: have CPU 0 queue to the backlog of CPU 1, and come to interrupt that when it is offline:
#: something more urgent than ksoftirqd keeps CPU 0 for as long as that takes. Prints how many
#: packets CPU 1 had before it went: any, and it has been interrupted.
GO_BEFORE_THE_IPI = (
    URGENT
    + f"""
taskset -p c $$ > /dev/null
# RCU goes on.
chrt -f -p 50 $(pgrep -x rcuc/0)
taskset -pc 2,3 $(pgrep -x 'rcu_(sched|preempt)') > /dev/null
sent=$(mktemp -u) spins=$(mktemp -u) ksoftirqd=$(pgrep -x ksoftirqd/0)
export SEND sent spins ksoftirqd
received() {{
	mapfile -t rows < /proc/net/softnet_stat
	read -r count _ <<< "${{rows[1]}}"
	echo $((16#$count))
}}
# Also when the sender sleeps, as it does while it starts, ksoftirqd gets no time; nor may
# this sleep, as it does until what it needs of its program is in memory.
chrt -f 5 taskset -c 0 bash -c '
	for ((i = 0; i < 1000; i++)); do :; done
	: > $spins
	while :; do :; done' &
busy=$!
for i in {{1..500}}; do nap 0.01; [ ! -e $spins ] || break; done
had=$(received)
chrt -f 10 taskset -c 0 bash -c '
	# The tick wakes ksoftirqd, which does not get to run: from there on, softirqs wait for it.
	until read -r _ _ state _ < /proc/$ksoftirqd/stat; [[ $state == R ]]; do :; done
	$SEND > /dev/null
	: > $sent' &
busy+=" $!"
for i in {{1..500}}; do nap 0.01; [ ! -e $sent ] || break; done
[ -e $sent ] || {{ echo "nothing was sent" >&2; exit 1; }}
echo $(($(received) - had))
echo 0 > {CPUS}/cpu1/online
kill -9 $busy 2> /dev/null || :
nap 0.2
echo 1 > {CPUS}/cpu1/online
"""
)


#: A busy host may let ksoftirqd in once.
ATTEMPTS = 5


@pytest.mark.vm(append=IN_KSOFTIRQD)
@pytest.mark.brief
def test_backlog_of_a_cpu_that_goes(lab):
    """A CPU goes offline with an IPI of RPS due to it; when it is back, RPS may use it.

    Guards a bug of v5.10's that the series fixes: the backlog stays scheduled, nobody
    polls it, and it takes packets until it is full.
    """
    with lab.net("veth", rps=2) as net:
        lab.udp(net, count=10, window=5).complete()
        options = {**net.options(), "tx_cpu": 0, "no_receiver": True, "count": 10}
        send = flows.command(guesttools.tool("udpflow"), options, lab.scale.seconds(10))
        for _ in range(ATTEMPTS):
            early = int(lab.sh(f"SEND='{shlex.join(send)}'\n{GO_BEFORE_THE_IPI}", timeout=30))
            lab.udp(net, tx_cpu=2, rx_cpu=3, count=10).complete()
            # A thread is woken at once, and is no matter of the IPI's.
            if early == 0 or lab.sh("pgrep '^backlog_napi/'", check=False):
                return
    pytest.fail(f"each time, CPU 1 was interrupted before it went ({early} packets)")
