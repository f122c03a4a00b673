"""RPS wakes a thread of the CPU that it has chosen, if asked to, and sends no interrupt."""

import re
import shlex

import flows
import pytest
from test_hotplug import CPUS, CYCLE, URGENT

from harness import counters, guesttools

ASKED = ("thread_backlog_napi",)

pytestmark = [pytest.mark.vm(append=ASKED), pytest.mark.debug]

#: RPS's choice, a CPU that neither sends nor reads here.
CHOSEN = 2

#: What the interrupt of RPS calls on the CPU that it is sent to.
RPS_IPI = "rps_trigger_softirq"

#: What the interrupt for a defer list calls there.
DEFER_IPI = "skb_defer_kick_func"

families = pytest.mark.parametrize(
    "family", [4, pytest.param(6, marks=pytest.mark.brief)], ids=["ipv4", "ipv6"]
)
kinds = pytest.mark.parametrize("kind", ["veth", "lo"])


def threads(lab):
    """Return the threads' process numbers, by CPU."""
    shown = lab.sh("grep -H ^backlog_napi/ /proc/[0-9]*/comm", check=False)
    found = re.findall(r"/proc/(\d+)/comm:backlog_napi/(\d+)", shown)
    return {int(cpu): int(pid) for pid, cpu in found}


def slept(lab, cpu):
    """Return how often the thread of a CPU went to sleep: after each time that it was woken."""
    status = lab.read(f"/proc/{threads(lab)[cpu]}/status")
    return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)$", status, re.MULTILINE)[1])


def steered(lab, kind):
    """Return a network whose packets RPS gives to CPU CHOSEN."""
    return lab.shared_net(kind, rps=1 << CHOSEN)


def everything(lab, net, family=4):
    """Send UDP and TCP; return the report of UDP."""
    count = lab.scale.work(1000)
    common = {"tx_cpu": 0, "rx_cpu": 1}
    udp = lab.udp(net, family, flows=4, count=count, window=16, **common).ordered()
    assert udp.complete().tx["sent"] == 4 * count
    tcp = lab.flow(net, family, conns=2, bytes=lab.scale.work(1 << 20), **common).intact()
    assert tcp.rx["received"] == tcp.tx["sent"] > 0
    return udp


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(asked, marks=pytest.mark.vm(append=asked), id=" ".join(asked) or "nothing")
        for asked in ((), ("thread_backlog_napi=0",))
    ],
)
@pytest.mark.brief
def test_no_threads_unless_asked_for(lab, asked):
    """PREEMPT_RT always has them: nothing else takes over from ksoftirqd there."""
    assert sorted(threads(lab)) == (list(range(lab.cpus)) if lab.rt else [])


def test_a_thread_for_each_cpu(lab):
    """Guards that there is one thread per CPU, and that nothing moves it from there."""
    found = threads(lab)
    assert sorted(found) == list(range(lab.cpus))
    for cpu, pid in found.items():
        status = lab.read(f"/proc/{pid}/status")
        assert re.search(rf"^Cpus_allowed_list:\s+{cpu}$", status, re.MULTILINE), status
        moved = lab.sh(f"taskset -pc {(cpu + 1) % lab.cpus} {pid} && echo moved", check=False)
        assert "moved" not in moved


@pytest.mark.vm(append=())
@kinds
@pytest.mark.brief
def test_rps_interrupts_without_threads(lab, report, kind):
    """Without the argument RPS sends IPIs, which shows that the tests below would see them."""
    if lab.rt:
        pytest.skip("PREEMPT_RT always has threads")
    net = steered(lab, kind)
    before = lab.softnet()
    with lab.calls(RPS_IPI) as calls:
        everything(lab, net)
    report.add(f"{kind}: RPS IPIs (no threads)", calls[RPS_IPI])
    assert calls[RPS_IPI] > 10
    assert lab.softnet()["received_rps"] - before["received_rps"] >= calls[RPS_IPI]


@families
@kinds
def test_no_interrupt_with_threads(lab, report, kind, family):
    """RPS sends no IPI, packets keep the order of their flow, and all of it is counted.

    Guards the decision who polls a backlog: everything arrives, by the thread alone.
    """
    net = steered(lab, kind)
    before = lab.softnet()
    asleep = slept(lab, CHOSEN)
    with lab.calls(RPS_IPI) as calls:
        udp = everything(lab, net, family)
    after = lab.softnet()
    report.add(f"{kind}: RPS IPIs (threads)", calls[RPS_IPI])
    assert calls[RPS_IPI] == 0
    assert after["received_rps"] > before["received_rps"], "the thread's rounds are not counted"
    assert slept(lab, CHOSEN) > asleep, "the thread did not sleep once"
    assert after["processed"] - before["processed"] >= udp.rx["received"]
    assert after["dropped"] == before["dropped"]


#: Of 1,000 packets, how many may take a NET_RX softirq on the CPU that RPS chose.
SOFTIRQS = 20


@pytest.mark.parametrize(
    "arm", ["patched", pytest.param("baseline", marks=pytest.mark.vm(baseline=True, append=()))]
)
@pytest.mark.brief
def test_rps_takes_no_softirq_on_rt(lab, report, arm):
    """On PREEMPT_RT, what RPS steers to a CPU takes no softirq there.

    Guards what threads are for: an interrupt has to wake ksoftirqd, which then does
    whatever any softirq was left with. On the baseline RPS does that for most packets.
    """
    if not lab.rt:
        pytest.skip("the kernel is not a PREEMPT_RT one")
    net = steered(lab, "veth")
    count = lab.scale.work(2000)
    lab.udp(net, count=10, window=5).complete()
    before = counters.parse_per_cpu_table(lab.read("/proc/softirqs"))["NET_RX"]
    sent = lab.udp(net, flows=2, tx_cpu=0, rx_cpu=1, count=count, window=8).complete().tx["sent"]
    after = counters.parse_per_cpu_table(lab.read("/proc/softirqs"))["NET_RX"]
    share = 1000 * (after[CHOSEN] - before[CHOSEN]) / sent
    report.add("NET_RX softirqs on the CPU that RPS chose, of 1,000 packets", share)
    if arm == "patched":
        assert share <= SOFTIRQS, (before, after)
    else:
        assert share > 2 * SOFTIRQS, "the baseline takes none: this tests nothing"


@pytest.mark.brief
def test_local_backlog_stays_in_softirq(lab):
    """What a CPU queues to its own backlog wakes no thread.

    Guards the throughput of the loopback, for which every wake-up would be in vain.
    """
    net = lab.shared_net("lo", rps=0)
    before = lab.softnet()
    lab.udp(net, flows=2, tx_cpu=3, rx_cpu=3, count=lab.scale.work(1000), window=16).complete()
    assert lab.softnet()["received_rps"] == before["received_rps"]


def test_defer_list_is_kicked_through_the_thread(lab, report):
    """A CPU that must empty its list is told through its thread, and not interrupted."""
    # Receive processing on the reader's CPU: the sender's empties its list only when told.
    net = lab.shared_net("veth", rps=2)
    before = lab.drained()
    with lab.calls(DEFER_IPI) as calls:
        lab.flow(net, tx_cpu=0, rx_cpu=1, bytes=lab.scale.work(4 << 20)).intact()
        delta = lab.drained() - before
    report.add("threads woken to empty a list", delta["woken"])
    assert delta["deferred"] > 0
    assert delta["woken"] > 0
    assert delta["kicks"] == delta["woken"], "an interrupt was sent"
    assert calls[DEFER_IPI] == 0
    # Once for half a list, as with IPIs.
    assert delta["woken"] <= delta["deferred"] // 32 + delta["aged"]


SCHEDULING = {
    "fifo": "chrt -f -p 10 $pid",
    "nice": "renice -n 19 -p $pid",
    "batch": "chrt -b -p 0 $pid",
}


@pytest.mark.parametrize("how", SCHEDULING)
@pytest.mark.brief
def test_scheduled_otherwise(lab, how):
    """An administrator may give the thread another priority or class."""
    net = steered(lab, "veth")
    pid = threads(lab)[CHOSEN]
    try:
        lab.sh(f"pid={pid}; {SCHEDULING[how]}")
        everything(lab, net)
    finally:
        lab.sh(f"chrt -o -p 0 {pid}; renice -n 0 -p {pid}", check=False)


@pytest.mark.brief
def test_budget_is_heeded(lab):
    """A thread that has used up its budget says so, as the softirq does, and goes on."""
    sysctls = "/proc/sys/net/core/{dev_weight,netdev_budget}"
    net = steered(lab, "veth")
    before = squeezed(lab)
    lab.sh(f"for each in {sysctls}; do echo 2 > $each; done")
    try:
        # UDP, to which nobody answers: that would be softirq's to poll now and then.
        count = lab.scale.work(1000)
        lab.udp(net, flows=4, tx_cpu=0, rx_cpu=1, count=count, window=16).ordered().complete()
    finally:
        lab.sh(
            "echo 64 > /proc/sys/net/core/dev_weight; echo 300 > /proc/sys/net/core/netdev_budget"
        )
    assert squeezed(lab) > before, "two packets at a time were always enough, or nobody counted"


def squeezed(lab):
    """Return how often CPU CHOSEN had to leave packets for later."""
    rows = lab.read("/proc/net/softnet_stat").splitlines()
    return int(rows[CHOSEN].split()[2], 16)


def test_overflow_is_counted(lab):
    """What finds the backlog full is dropped and counted, every packet of it."""
    sysctl = "/proc/sys/net/core/netdev_max_backlog"
    net = steered(lab, "veth")
    lab.udp(net, count=10, window=5).complete()
    limit = lab.read(sysctl).strip()
    before = lab.softnet()
    try:
        lab.write(sysctl, "4")
        # Large enough a buffer that nothing is lost at the socket, small enough a number.
        flow = lab.udp(
            net, flows=4, tx_cpu=0, rx_cpu=1, count=lab.scale.work(500), rcvbuf=8 << 20
        ).intact()
    finally:
        lab.write(sysctl, limit)
    dropped = lab.softnet()["dropped"] - before["dropped"]
    missing = flow.tx["sent"] - flow.rx["received"] - flow.rx["drops"]
    assert missing > 0, "nothing overflowed: this tests nothing"
    # A packet of somebody else's (neighbours, multicast) may have been dropped as well.
    assert missing <= dropped <= missing + 5, f"{missing} packets are missing, {dropped} counted"


#: bash: take CPU $CPU offline while its thread has a backlog to poll and gets no time to, and
#: bring it back. What takes it offline there, and the threads that park before this one, are
#: more urgent than what keeps it from running: it is told to park before it can poll.
PARK = (
    URGENT
    + f"""
hotplug=$(pgrep -x cpuhp/$CPU)
taskset -p $OTHERS $$ > /dev/null
chrt -f -p 20 $hotplug
for each in $(pgrep -x "(ksoftirqd|rcuc|idle_inject)/$CPU"); do chrt -f -p 15 $each; done
softirqs=$(pgrep -x ksoftirqd/$CPU)
exec 8< <(exec taskset -c $CPU chrt -f 10 bash -c 'echo; while :; do :; done')
busy=$!
read -ru 8
$SEND > /dev/null
(echo 0 > {CPUS}/cpu$CPU/online) &
off=$!
for i in {{1..500}}; do
	nap 0.01
	read -r _ _ state _ < /proc/$softirqs/stat
	stack=$(< /proc/$hotplug/stack)
	[[ $state != P || $stack != *kthread_park* ]] || break
done
kill -9 $busy
wait $off
echo 1 > {CPUS}/cpu$CPU/online
chrt -o -p 0 $hotplug
for each in $(pgrep -x "(ksoftirqd|rcuc|idle_inject)/$CPU"); do chrt -o -p 0 $each; done
[ $i -lt 500 ]
"""
)


@pytest.mark.brief
def test_parks_with_a_backlog(lab):
    """A thread that must park before it has polled its backlog leaves that to the softirq.

    Guards the hand-over: a backlog that stays scheduled and that nobody polls takes what is
    steered to it once the CPU is back, and never gives it to anybody.
    """
    with lab.net("veth", rps=1 << CHOSEN) as net:
        lab.udp(net, count=10, window=5).complete()
        options = {**net.options(), "tx_cpu": 0, "no_receiver": True, "count": 10}
        send = flows.command(guesttools.tool("udpflow"), options, lab.scale.seconds(10))
        others = (1 << lab.cpus) - 1 - (1 << CHOSEN)
        lab.sh(f"CPU={CHOSEN} OTHERS={others:x} SEND='{shlex.join(send)}'\n{PARK}", timeout=30)
        lab.udp(net, tx_cpu=0, rx_cpu=1, count=10).complete()


#: CPUs of the guest, and how often one of them goes offline and comes back.
CYCLES = [(4, 36), (4, 200), (8, 200)]


@pytest.mark.limit(500)
@pytest.mark.parametrize(
    ("cpus", "cycles"),
    [
        pytest.param(
            cpus,
            cycles,
            marks=[pytest.mark.vm(cpus=cpus, append=ASKED), *[pytest.mark.slow] * (cycles > 50)],
        )
        for cpus, cycles in CYCLES
    ],
)
@pytest.mark.brief
def test_cpus_off_and_on(lab, report, cpus, cycles):
    """CPUs go offline and come back under RPS traffic to them; connections survive.

    Guards the hand-over of what a thread was to poll when it parks, and of a backlog
    that is left to a CPU which is gone (see the next test).
    """
    rounds = lab.scale.work(-(-cycles // 3), least=4)
    before = lab.drained()
    with lab.net("veth", rps=(1 << cpus) - 2) as net:
        with lab.traffic(net, conns=8, bytes=50_000, timeout=400) as background:
            online = lab.sh(CYCLE.replace("$ROUNDS", str(rounds)), timeout=400)
            assert background.running, "the traffic ended by itself"
            flow = background.stop().intact()
        assert online.strip() == f"0-{cpus - 1}"
        assert flow.rx["received"] == flow.tx["sent"] > 0, flow
        report.add(f"{cpus} CPUs: offline and back under RPS traffic", 3 * rounds)
        assert (lab.drained() - before)["deferred"] > 0
        assert sorted(threads(lab)) == list(range(cpus))
        # All of them still poll what is steered to them.
        for cpu in range(1, 4):
            steer = f"echo {1 << cpu:x} > /sys/class/net/rx/queues/rx-0/rps_cpus"
            lab.sh(f"ip netns exec {net.rx_netns} sh -c '{steer}'")
            lab.udp(net, tx_cpu=0, rx_cpu=0, count=200, window=8).complete()
