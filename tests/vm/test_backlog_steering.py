"""Tunnels, RFS, busy polling, and a kernel whose threads could not be created."""

import statistics
from itertools import product

import pytest
from lab import FEW, NAP
from test_backlog_threads import ASKED, CHOSEN, RPS_IPI, everything, slept, steered, threads

from harness import guesttools

pytestmark = [pytest.mark.vm(append=ASKED), pytest.mark.debug]

#: RPS's choice for what comes out of a tunnel that CHOSEN takes apart.
INNER = 3


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        pytest.param("vxlan", 6, marks=pytest.mark.brief),
        pytest.param("vxlan", 4, marks=pytest.mark.brief),
        pytest.param("gre", 4, marks=pytest.mark.brief),
    ],
)
def test_tunnel(lab, kind, family):
    """A packet is steered twice, from thread to thread: as it came, and without its tunnel.

    Guards a thread that schedules the backlog of another CPU while it polls its own.
    """
    with lab.net(kind, rps=1 << CHOSEN, inner=1 << INNER) as net:
        before = [slept(lab, cpu) for cpu in (CHOSEN, INNER)]
        with lab.calls(RPS_IPI) as calls:
            everything(lab, net, family)
        after = [slept(lab, cpu) for cpu in (CHOSEN, INNER)]
    assert calls[RPS_IPI] == 0
    assert all(b > a for a, b in zip(before, after, strict=True)), (before, after)


#: bash, on the sender's CPU: move the tcpflow that reads on CPU 1 over CPUs 1 to 3 until it ends;
#: how often. The thread of the CPU that it leaves gets no time for a moment before that and
#: after: what was queued there waits, and must not be overtaken.
WANDER = (
    NAP
    + """
busy='echo; for ((end = ${EPOCHREALTIME/./} + 100000; ${EPOCHREALTIME/./} < end; )); do :; done'
taskset -p 1 $$ > /dev/null
reader=
for try in {1..100}; do
	for task in /proc/[0-9]*/task/*; do
		read -r name < $task/comm && [ "$name" = tcpflow ] || continue
		mapfile -t lines < $task/status
		[[ "${lines[*]}" =~ Cpus_allowed_list:[[:space:]]1[[:space:]] ]] && reader+=" ${task##*/}"
	done 2> /dev/null
	[ -z "$reader" ] || break
	nap 0.02
done
moves=0 at=1
while :; do
	for cpu in 2 3 1; do
		exec 8< <(exec taskset -c $at chrt -f 10 bash -c "$busy")
		read -ru 8
		for task in $reader; do taskset -pc $cpu $task > /dev/null 2>&1 || break 3; done
		((++moves))
		# Until that ends.
		read -ru 8
		at=$cpu
		nap 0.03
	done
done
echo $moves
"""
)

#: Of the packets of a flow, the share that a CPU has when RFS followed the reader there.
FOLLOWED = 0.1

#: RFS's tables: of all flows, and of a queue's.
ENTRIES, QUEUE_ENTRIES = "/proc/sys/net/core/rps_sock_flow_entries", "rps_flow_cnt"


@pytest.mark.brief
def test_rfs_keeps_the_order(lab, report):
    """RFS follows a reader from CPU to CPU, and no packet is overtaken.

    A flow changes its CPU when that CPU's queue has passed the flow's last packet, which
    whoever polls the backlog counts (input_queue_head). TCP counts what came too early.
    """
    with lab.net("veth", rps=(1 << lab.cpus) - 1) as net:
        inside = f"ip netns exec {net.rx_netns}"
        queue = "/sys/class/net/rx/queues/rx-0"
        # What is sent back is received on the sender's CPU, and not counted with the rest.
        back = "/sys/class/net/tx/queues/rx-0"
        lab.sh(f"ip netns exec {net.tx_netns} sh -c 'echo 1 > {back}/rps_cpus'")
        lab.write(ENTRIES, "4096")
        lab.sh(f"{inside} sh -c 'echo 4096 > {queue}/{QUEUE_ENTRIES}'")
        try:
            before = processed(lab)
            # A window of fewer packets than the backlog holds: none is lost. As fast as it
            # goes, so that there are always some in a queue that the flow leaves.
            window = {"rcvbuf": 1 << 18}
            with (
                lab.calls(RPS_IPI) as calls,
                lab.traffic(
                    net, rounds=1, tx_cpu=0, rx_cpu=1, bytes=lab.scale.work(256 << 20), **window
                ) as background,
            ):
                moves = int(lab.sh(WANDER, timeout=60))
                flow = background.stop().intact()
            after = processed(lab)
            early = netstat(lab, net.rx_netns, "TCPOFOQueue")
            lost = netstat(lab, net.tx_netns, "TCPLostRetransmit")
        finally:
            lab.write(ENTRIES, "0")
    assert flow.rx["received"] == flow.tx["sent"] > 0
    counts = [b - a for a, b in zip(before, after, strict=True)][1:4]
    report.add("RFS: reader moved", moves)
    report.add("RFS: packets that came too early", early)
    assert moves >= 3, "the reader was not moved: this tests nothing"
    there = sum(count > FOLLOWED * sum(counts) for count in counts)
    assert there >= 2, f"RFS did not follow the reader: packets by CPU, from 1 on: {counts}"
    assert calls[RPS_IPI] == 0
    assert (early, lost) == (0, 0), f"{early} packets overtook others, {lost} were lost"


def processed(lab):
    """Return how many packets each CPU has received."""
    rows = lab.read("/proc/net/softnet_stat").splitlines()
    return [int(row.split()[0], 16) for row in rows]


def netstat(lab, netns, name):
    """Return one of TCP's extended counters of a namespace."""
    shown = lab.sh(f"ip netns exec {netns} cat /proc/net/netstat")
    names, numbers = (line.split() for line in shown.splitlines() if line.startswith("TcpExt:"))
    return int(numbers[names.index(name)])


@pytest.mark.brief
def test_busy_polling(lab, report):
    """Who busy polls a device steers what it finds there to a thread, and gets it from there.

    Guards the wake-up from process context with softirqs off. A backlog itself is never
    busy polled: it has no NAPI ID.
    """
    sysctl = "/proc/sys/net/core/busy_read"
    if lab.sh(f"ls {sysctl}", check=False) == "":
        pytest.skip("the kernel has no busy polling")
    with lab.net("veth", rps=1 << CHOSEN) as net:
        # With an XDP program, veth has a NAPI instance of its own.
        for netns, device in ((net.tx_netns, "tx"), (net.rx_netns, "rx")):
            lab.sh(f"{guesttools.tool('xdp')} {netns} {device} pass")
        lab.write(sysctl, "500")
        try:
            with lab.calls(RPS_IPI) as calls:
                common = {"tx_cpu": 0, "rx_cpu": 1}
                count = lab.scale.work(1000)
                lab.udp(net, count=count, window=1, **common).ordered().complete()
                # Each packet takes a page: more of them would not find room at the socket.
                lab.udp(net, 6, flows=4, count=count, window=8, **common).ordered().complete()
                lab.flow(net, conns=2, bytes=lab.scale.work(1 << 20), **common).intact()
        finally:
            lab.write(sysctl, "0")
        polled = netstat(lab, net.rx_netns, "BusyPollRxPackets")
    report.add("busy polling: packets found", polled)
    assert polled > 0, "nobody found anything by busy polling: this tests nothing"
    assert calls[RPS_IPI] == 0


#: A busy host may be late once; microseconds that a reader polls for.
ATTEMPTS, LONG = 5, 1_500_000


@pytest.mark.vm(append=())
@pytest.mark.brief
def test_busy_polling_empties_the_list(lab):
    """A CPU whose reader busy polls a device empties its list meanwhile: nobody has to kick.

    The reader on CPU 1 waits for packets. What CPU 1 sent before is read, on CPU 2.
    """
    sysctl = "/proc/sys/net/core/busy_read"
    if lab.sh(f"ls {sysctl}", check=False) == "":
        pytest.skip("the kernel has no busy polling")
    tries = []
    with lab.net("veth", rps=0) as net:
        for netns, device in ((net.tx_netns, "tx"), (net.rx_netns, "rx")):
            lab.sh(f"{guesttools.tool('xdp')} {netns} {device} pass")
        lab.write(sysctl, str(LONG))
        try:
            with lab.udp_traffic(net, receive_only=True, rx_cpu=1) as background:
                # From its first packet on, the socket knows what to poll.
                lab.udp(net, no_receiver=True, tx_cpu=0, count=10).intact()
                while len(tries) < ATTEMPTS:
                    with lab.sink("tun", stall=True, reader=2) as (tun, wire):
                        lab.udp(tun, no_receiver=True, tx_cpu=1, count=FEW).intact()
                        before = lab.drained()
                        wire.go()
                        delta = lab.settled(before)
                        wire.sunk()
                    tries.append((delta["deferred"], delta["aged"]))
                    if delta["deferred"] >= FEW and not delta["aged"]:
                        break
                background.stop().intact()
        finally:
            lab.write(sysctl, "0")
    deferred, aged = tries[-1]
    assert deferred >= FEW, f"hardly anything was deferred: this tests nothing: {tries}"
    assert not aged, f"the list was left to ageing each time: (deferred, aged): {tries}"


@pytest.mark.vm(append=(*ASKED, "initcall_blacklist=backlog_threads_init"))
@pytest.mark.brief
def test_interrupts_where_there_are_no_threads(lab):
    """Threads were asked for and are not there: IPIs are sent, and everything arrives.

    Stands for what a failed registration leaves behind, and for the time before it.
    """
    assert threads(lab) == {}
    with lab.calls(RPS_IPI) as calls:
        everything(lab, steered(lab, "veth"))
    assert calls[RPS_IPI] > 10


PAIRS = 3

#: Both kinds of guest in turn, the first one changing.
RUNS = [
    (pair, arm)
    for pair in range(PAIRS)
    for arm in (("interrupts", "threads"), ("threads", "interrupts"))[pair % 2]
]


@pytest.mark.slow
@pytest.mark.brief
@pytest.mark.parametrize(
    ("pair", "arm"),
    [
        pytest.param(
            pair, arm, marks=pytest.mark.vm(own=True, append=ASKED if arm == "threads" else ())
        )
        for pair, arm in RUNS
    ],
)
def test_loopback_throughput(lab, report, memo, pair, arm):
    """UDP over loopback, with RPS and without, in guests with threads and without, in turn.

    An emulated machine measures work done, not what interrupts cost a real one, so this
    reports the median ratio, and fails only for something pathological.
    """
    for rps in (1 << CHOSEN, 0):
        net = lab.shared_net("lo", rps=rps)
        rates = []
        for _ in range(3):
            flow = lab.udp(net, tx_cpu=0, rx_cpu=1, count=lab.scale.work(40_000), size=64).intact()
            rates.append(flow.rx["received"] / flow["seconds"])
        memo["loopback", bool(rps), arm, pair] = statistics.median(rates)
    if (pair, arm) != RUNS[-1]:
        return
    for rps in (True, False):
        rate = {
            key: memo.get(("loopback", rps, *key))
            for key in product(("interrupts", "threads"), range(PAIRS))
        }
        if None in rate.values():
            pytest.skip("not all runs of the comparison are there")
        ratio = statistics.median(
            rate["threads", pair] / rate["interrupts", pair] for pair in range(PAIRS)
        )
        name = "with RPS" if rps else "without RPS"
        report.add(f"UDP over loopback {name}: threads / interrupts", ratio, "x")
        assert ratio > 0.4, rate
