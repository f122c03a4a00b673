"""Faults in an order that a seed decides: what is promised holds whatever happens meanwhile.

They run with --faults (scripts/prove does), each with the seed that --seed gives.
"""

import json
import os
import shlex
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import pytest
from flows import Flow
from storms import Balance, Steps, carry_out, hotplug
from test_backlog_threads import threads

from harness import guesttools

pytestmark = [pytest.mark.vm, pytest.mark.faults]

CACHES = ("skbuff_head_cache", "skbuff_fclone_cache")
MARKED = (f"slub_debug=A,{','.join(CACHES)}",)

#: A guest with two nodes and threads.
NODES = {"numa": 2, "append": ("thread_backlog_napi",)}

#: bash: have allocations of the programs that make traffic fail, if any are to.
MAKE_IT_FAIL = """
for program in tcpflow udpflow wire; do
	for pid in $(pgrep -x $program); do
		for task in /proc/$pid/task/*; do echo 1 > $task/make-it-fail; done
	done
done
true
"""

#: A cgroup for what must not have much.
GROUP = "/sys/fs/cgroup/storm"

#: What carries the traffic, and the other end of its wire if it has one.
KINDS = {"tcp": "", "udp": "", "tun": "tun", "tap": "tap", "vhost": "tap"}


@contextmanager
def traffic(lab, kind, **options):
    """Traffic of one kind that runs while the body does; what arrives is checked afterwards."""
    with ExitStack() as stack:
        if not KINDS[kind]:
            net = stack.enter_context(lab.net("veth", name="storm"))
            lab.give_up_soon(net)
        else:
            net, _ = stack.enter_context(lab.span(kind, KINDS[kind]))
        if kind == "udp":
            running = stack.enter_context(
                lab.udp_traffic(net, flows=4, tx_cpu=0, rx_cpu=1, gap_us=200, **options)
            )
        else:
            common = {"tx_cpu": 0, "rx_cpu": 3, "conns": 4, "bytes": 50_000, "no_eof": True}
            running = stack.enter_context(lab.traffic(net, **{**common, **options}))
        yield running


def right(found):
    """Assert that nothing that arrived is wrong, and that something did."""
    if isinstance(found, Flow):
        assert found.rx["mismatches"] == found.tx["mismatches"] == 0, found
    else:
        assert found.rx["corrupt"] == found.rx["duplicates"] == 0, found
    assert found.rx["received"] > 0, found


@pytest.mark.vm(own=True, append=MARKED)
@pytest.mark.limit(300)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["failslab", "fail_page_alloc"])
def test_allocations_fail_more_and_more(lab, seeded, kind, fault):
    """Network buffers, or the pages of sender and receiver, fail at 1, 5 and 20 %."""
    filters = {
        # Whoever allocates a buffer, softirqs included.
        "failslab": {"task_filter": "N", "cache_filter": "Y", "ignore_gfp_wait": "N"},
        # Of a page nobody can say what it is for: only the programs of the traffic.
        "fail_page_alloc": {"task_filter": "Y", "min_order": 0, "ignore_gfp_wait": "N"},
    }
    after = lab.shared_net("veth")
    # v5.10 sends no FIN, ever, if it gets no memory for it, and such a socket stays. It does so
    # with the lists off, too: seen with failslab.
    balance = Balance(lab, sockets_stay=True)
    allowed = lab.vm.console.allow("PAGE_ALLOC", "KMEMLEAK")
    with allowed, traffic(lab, kind, timeout=60) as running:
        lab.sh(MAKE_IT_FAIL)
        for probability in (1, 5, 20):
            settings = {"interval": 1, "times": -1, "probability": probability}
            with lab.fault(fault, verbose=0, **settings, **filters[fault]):
                lab.sh("sleep 3")
        lab.sh("sleep 1")
        right(running.stop())
    lab.flow(after, tx_cpu=0, rx_cpu=1, bytes=200_000).intact()
    balance.restored(seconds=90)


@pytest.mark.limit(900)
@pytest.mark.parametrize(
    "cpus",
    [pytest.param(cpus, marks=pytest.mark.vm(cpus=cpus, **NODES)) for cpus in (4, 8)],
)
def test_hotplug_storm(lab, report, seeded, cpus):
    """CPUs go and come in any order, now and then all but one, under TCP, UDP and a tun."""
    lines = hotplug(seeded, cpus, lab.scale.work(400, least=40))
    balance = Balance(lab)
    with (
        lab.net("veth", name="storm", rps=(1 << cpus) - 2) as net,
        lab.span("vhost", "tap") as (through, _),
        lab.traffic(net, conns=8, bytes=50_000, timeout=800) as near,
        lab.traffic(through, conns=4, bytes=50_000, timeout=800) as far,
        lab.udp_traffic(net, flows=4, gap_us=500, port=9000, timeout=800) as udp,
    ):
        for at in range(0, len(lines), 40):
            carry_out(lab, lines[at : at + 40], timeout=120)
            assert near.running and far.running and udp.running
        for found in (near.stop().intact(), far.stop().intact()):
            assert found.rx["received"] == found.tx["sent"] > 0, found
        right(udp.stop())
    report.add(f"{cpus} CPUs on 2 nodes: offline or online", len(lines))
    if not lab.forgets_when_offline:
        balance.restored()


@pytest.mark.vm(own=True, append=("thread_backlog_napi",))
@pytest.mark.limit(2400)
def test_random_steps(lab, report, seeded):
    """What an administrator may change, in any order, under traffic: 10,000 steps."""
    count, chunk = lab.scale.work(10_000), 100
    balance = Balance(lab)
    with lab.net("veth", name="storm") as net:
        steps = Steps(seeded, lab.cpus, net, threads(lab))
        source = iter(steps)
        done = 0
        while done < count:
            lines = [next(source) for _ in range(min(chunk, count - done))]
            # Few connections: with thousands, TIME_WAIT has no room for all of them, and v5.10
            # resets some that were not accepted yet. It does so with the lists off, too.
            with lab.traffic(net, conns=4, bytes=1_000_000, timeout=300) as tcp:
                carry_out(lab, lines, timeout=240)
                found = tcp.stop().intact()
            assert found.rx["received"] == found.tx["sent"] > 0, found
            done += len(lines)
        carry_out(lab, steps.undo(), timeout=60)
    report.add("random steps", done)
    balance.restored(seconds=120)


@pytest.mark.vm(memory="512M", own=True)
@pytest.mark.limit(300)
@pytest.mark.parametrize("where", ["guest", "cgroup"])
def test_memory_gets_scarce(lab, report, seeded, where):
    """Receivers that do not read until memory is scarce, and then all close at once.

    Guards the bound of the lists, in skbs and in bytes: CPUs x the limit, whatever is freed.
    """
    balance = Balance(lab)
    conns = lab.scale.work(200, least=20)
    with lab.net("veth", name="storm") as net, ExitStack() as stack:
        if where == "cgroup":
            stack.enter_context(confined(lab, megabytes=48))
        with lab.traffic(
            net,
            conns=conns,
            bytes=1 << 20,
            stop_after=1,
            hold_ms=3000,
            rx_end="close",
            tx_cpu=0,
            rx_cpu=1,
            rounds=1,
            no_eof=True,
            timeout=120,
        ) as running:
            most = 0
            if where == "cgroup":
                lab.sh(f"for i in $(pgrep -x tcpflow); do echo $i > {GROUP}/cgroup.procs; done")
            for _ in range(60):
                if not running.running:
                    break
                most = max(most, lab.defer().queued)
                lab.sh("sleep 0.1")
            running.stop()
    report.add(f"most buffers on lists at once ({where})", most)
    # Each CPU's list, and what its readers have in hand for another's.
    assert most <= lab.cpus * (64 + 16 * lab.cpus)
    balance.restored()


@contextmanager
def confined(lab, *, megabytes):
    """A memory cgroup of a size."""
    lab.sh(
        "mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup; "
        "echo +memory > /sys/fs/cgroup/cgroup.subtree_control; "
        f"mkdir -p {GROUP}; echo {megabytes}M > {GROUP}/memory.max"
    )
    try:
        yield
    finally:
        lab.sh(f"rmdir {GROUP}", check=False)


@pytest.mark.vm(cpus=16, own=True)
@pytest.mark.limit(600)
def test_starved_cpus(lab, report, seeded):
    """More CPUs than the host has, which is busy besides: IPIs and kicks come late.

    Guards the promise that a list waits 200 ms at most of its CPU's own time, and that
    nothing depends on who is first.
    """
    balance = Balance(lab)
    hogs = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(len(os.sched_getaffinity(0)))
    ]
    try:
        before = lab.defer()
        # Routes are kept for each CPU; they go with the network.
        with lab.net("veth", name="storm", rps=0xFFFE) as net:
            for _ in range(5):
                tx, rx = seeded.sample(range(lab.cpus), 2)
                flow = lab.flow(
                    net, tx_cpu=tx, rx_cpu=rx, conns=8, bytes=lab.scale.work(100_000), timeout=120
                ).intact()
                assert flow.rx["received"] == flow.tx["sent"] > 0
        delta = lab.drained(timeout=30) - before
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    report.add("deferred on 16 starved CPUs", delta["deferred"])
    assert delta["deferred"] == delta["flushed"] > 0
    balance.restored()


@pytest.mark.limit(600)
@pytest.mark.debug
@pytest.mark.parametrize("device", ["tun", "macvtap"])
def test_anything_a_program_can_do(lab, report, seeded, device):
    """ioctls, reads and writes of tun's and macvtap's devices in any order, with any content."""
    balance = Balance(lab)
    program = guesttools.tool("tunfuzz")
    count, rounds = lab.scale.work(5_000), 10
    totals: dict[str, list[int]] = {}
    with ExitStack() as stack:
        tap = ""
        if device == "macvtap":
            # The character device is made by devtmpfs for devices of the first namespace only.
            lab.ip(
                [
                    "link add fuzzed type dummy",
                    "link set fuzzed up",
                    "link add link fuzzed name over type macvtap mode bridge",
                    "link set over up",
                ]
            )
            stack.callback(lab.ip, ["link del fuzzed"], check=False)
            tap = f"/dev/tap{lab.sh('cat /sys/class/net/over/ifindex').strip()}"
        for _ in range(rounds):
            seed = seeded.randrange(1 << 32)
            shown = lab.sh(f"{program} {seed} {count // rounds} {shlex.quote(tap)}", timeout=60)
            found = json.loads(shown)
            del found["steps"]
            for kind, pair in found.items():
                sums = totals.setdefault(kind, [0, 0])
                sums[0] += pair[0]
                sums[1] += pair[1]
    for kind in ("setiff", "queue", "read", "write", "send", "feature"):
        report.add(f"{device}: {kind} accepted", totals[kind][1])
        assert totals[kind][1] > 0, f"no {kind} was ever accepted: this tests little"
    balance.restored()
