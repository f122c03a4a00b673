"""Buffers in the ring of a tun or tap device whatever they come from, and whatever they hold."""

import re
import shlex
from contextlib import contextmanager

import pytest
import wires
from flows import command
from lab import DEFER_STAT, DRAIN_BOUND, NAP, Net, gone_after, until_gone
from test_netns import namespaces
from test_tun_lifecycle import NOISE, back, judged

from harness import guesttools
from harness.counters import DEFER_COLUMNS

pytestmark = pytest.mark.vm

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
brief = pytest.mark.brief

#: A ring that is longer than what any test sends at once: nothing is dropped.
LONG = "txqlen=4000"

#: A limit that no test gets near: neither kicks nor allocations empty a list, its age does.
HIGH = 4000


def run_in(lab, netns, script, *, timeout=20):
    """Run a bash script in a network namespace; return what it printed."""
    return lab.sh(f"ip netns exec {netns} bash -c {shlex.quote(script)}", timeout=timeout)


# --- shared: pktgen keeps a reference of its own

#: How many skbs have a user besides the reader for certain, and how many may.
SURE, STREAM = 20, 1000


def pktgen(lab, netns, devices, count, *, size=400):
    """Have CPU 0's generator send ``count`` packets for each of ``devices`` (dev@1, dev@2).

    Returns the seconds that it took for the first of them.

    It raises an skb's count of users before it hands it to the device, and keeps the last
    one of a device until nobody else has it.
    """
    lines = [
        "set -e; cd /proc/net/pktgen",
        "echo rem_device_all > kpktgend_0",
    ]
    for name in devices:
        lines.append(f"echo add_device {name} > kpktgend_0")
        settings = f"count {count}", "delay 0", f"pkt_size {size}", f"dst {wires.PEERS[4]}"
        lines += [f"echo {each} > {name}" for each in settings]
    lines += [
        "echo start > pgctrl",
        f"cat {' '.join(devices)}",
        "echo rem_device_all > kpktgend_0",
    ]
    shown = run_in(lab, netns, "\n".join(lines), timeout=30)
    sent = [int(line.split()[1]) for line in shown.splitlines() if "pkts-sofar:" in line]
    assert sent == [count] * len(devices), shown
    took = re.search(r"Result: OK: (\d+)\(", shown)
    assert took, shown
    return int(took[1]) / 1e6


@pytest.mark.parametrize("kind", ["tap", pytest.param("vhost", marks=brief)])
@pytest.mark.debug
def test_shared_with_pktgen(lab, report, kind):
    """What its sender still has a reference to loses the reader's, at once, and no more.

    Guards an skb with several users: on a list it would be freed under the others, or
    its links be those of two lists. pktgen raises the number of users of whatever it
    sends; it has no clones and no bursts for tun (IFF_TX_SKB_SHARING), and needs
    Ethernet, so that this is for devices of tun.c that have it: macvtap and ipvtap
    get no shared skb, their rx_handlers see to that. Seen to fail where a shared skb may
    wait: pktgen then waits for ever for a reference that nobody gives up.
    """
    names = [f"dev@{at}" for at in range(SURE)]
    lab.drained()
    before = lab.objects()
    with lab.sink(kind, LONG) as (net, wire):
        start = lab.drained()
        pktgen(lab, net.tx_netns, names, 1)
        between = lab.drained()
        pktgen(lab, net.tx_netns, names[:4], lab.scale.work(STREAM) // 4)
        lab.sh("sleep 0.3")
        delta = lab.drained() - between
        sunk = wire.sunk()
    sure = between - start
    report.add(f"{kind}: of {judged(delta)} in a stream, shared when read", delta["shared"])
    streamed = lab.scale.work(STREAM) // 4 * 4
    # IPv6 may have had something to say.
    others = range(sunk["other"] + 1)
    assert sure["shared"] == SURE, sure
    assert judged(sure) - SURE in others, (sure, sunk)
    # The last one of each of 4 devices is shared for certain.
    assert delta["shared"] >= 4, delta
    assert judged(delta) - streamed in others, (delta, sunk)
    assert sunk["checked"] == SURE + streamed, sunk
    back(lab, before)


# --- what an skb may hold on to while it waits

#: Too few for a kick, or for a sender to take back: they wait for their age.
FEW = 10

#: bash, in the namespace that $value needs: have a reader that waits read what $SEND sends,
#: and look at what is held until that is nothing, or lists that held something hold nothing.
#: Prints how much was held when it was sent, and then "held on-lists" whenever that changes.
WATCH = (
    NAP
    + f"""
queued() {{
	n=0
	while read -ra row; do
		[ ${{row[0]}} = {DEFER_COLUMNS[0]} ] && continue
		((n += 16#${{row[{DEFER_COLUMNS.index("deferred")}]}}))
		((n -= 16#${{row[{DEFER_COLUMNS.index("flushed")}]}}))
	done < {DEFER_STAT}
}}
taskset -p $OTHERS $$ > /dev/null
pid=$(pidof wire)
value; base=$v
$SEND > /dev/null
for i in {{1..100}}; do
	nap 0.01
	value; [ $((v - base)) -lt $HELD ] || break
done
echo $((v - base))
kill -USR1 $pid
listed=0 last=
for i in {{1..1000}}; do
	# In this order: what lists hold after the look at what is held, they held then.
	value; queued
	[ "$v $n" = "$last" ] || echo $((v - base)) $n
	last="$v $n"
	[ $n = 0 ] || listed=1
	[ $listed$n != 10 ] || break
	[ $v -gt $base -o $n -lt $COUNT ] || break
done
"""
)

#: bash: what is held, in $v.
VALUES = {
    # Of the whole kernel; the file's first number is how many dsts of IPv4 there are.
    "dst": "{ read; read v _; v=$((16#$v)); } < /proc/1/net/stat/rt_cache",
    # A closed socket is there for as long as packets are charged to it.
    "socket": "cd /sys/kernel/slab/UDP; echo 1 > shrink; read v _ < objects",
    # Each packet has an entry, and an extension with what a bridge's netfilter knows of it.
    "conntrack and extensions": "read more < /proc/sys/net/netfilter/nf_conntrack_count;"
    " cd /sys/kernel/slab/skbuff_ext_cache; echo 1 > shrink; read v _ < objects; ((v += more))",
}


@contextmanager
def with_dst(lab, kind, **more):
    """A device that keeps the dst of what it sends, as a filter by flow asks it to.

    Packets for a multicast group, of which each socket has a dst of its own.
    """
    with lab.sink(kind, "move", **more) as (_, wire):
        lab.sh(
            "tc -n sunk qdisc add dev dev root handle 1: prio;"
            "tc -n sunk filter add dev dev parent 1: protocol ip handle 1 flow hash keys dst"
            " divisor 1 baseclass 1:1"
        )
        lab.ip(["route add default dev dev"], netns="sunk")
        yield Net(kind, kind, "sunk", "sunk", {4: "239.9.9.9"}), wire


@contextmanager
def with_socket(lab, kind, **more):
    """What a veth takes to macvtap or ipvtap is still charged to its sender."""
    with lab.sink(kind, **more) as (net, wire):
        yield net, wire


@contextmanager
def with_netfilter(lab, kind, **more):
    """A macvtap on a bridge, where netfilter tracks connections and puts fragments together.

    Each packet brings an entry of its own: only what goes on from there gets confirmed,
    and is found by those that follow.
    """
    with lab.netns("sunk", "sunk-2"):
        made = wires.on_veth(kind, "sunk", "sunk-2")
        bridge = [
            "link set dev under name port",
            "link set dev port addrgenmode none",
            "link add name under type bridge",
            "link set dev port address 02:00:00:00:00:08",
            "link set dev port master under",
            "link set dev port up",
        ]
        lab.ip(made["sunk"], netns="sunk")
        lab.ip(bridge + made["sunk-2"], netns="sunk-2")
        lab.ip(wires.neighbours(), netns="sunk")
        lab.sh(f"{guesttools.tool('conntrack')} sunk-2")
        run_in(lab, "sunk-2", UNTIL_FORWARDING)
        with lab.wire(wires.behind(kind, "sunk-2", LONG), "sink", a_cpu=1, **more) as wire:
            yield Net(kind, kind, "sunk", "sunk-2", dict(wires.PEERS)), wire


#: bash: wait until the bridge takes packets from its port. The kernel looks at new carriers
#: once a second.
UNTIL_FORWARDING = (
    NAP
    + """
for i in {1..300}; do
	read -r state < /sys/class/net/port/brport/state
	[ $state != 3 ] || exit 0
	nap 0.01
done
echo "the port is in state $state" >&2
exit 1
"""
)

#: What an skb holds, how many of those, and where it does.
HOLDS = [
    ("dst", 1, "tun", with_dst),
    ("socket", 1, "macvtap", with_socket),
    ("socket", 1, "ipvtap", with_socket),
    ("conntrack and extensions", 2, "macvtap", with_netfilter),
]

#: A busy host may leave no time for a look before the lists are emptied.
ATTEMPTS = 5

#: The same where a look takes nearly as long as buffers may wait.
MANY_ATTEMPTS = 15


@pytest.mark.parametrize(
    ("what", "each", "kind", "way"),
    [pytest.param(*each, id=f"{each[0].replace(' ', '-')}-{each[2]}") for each in HOLDS],
)
def test_holds_nothing_while_it_waits(lab, report, what, each, kind, way):
    """What an skb held in the ring is released by the time that it waits on a list.

    Guards what is promised of an skb that waits: that it pins its memory and nothing else.
    Ageing frees it before a namespace or a device would be late, so this looks at counts
    of what is held at a moment when lists have all of the skbs. Seen to fail, each case,
    where nothing is released before an skb waits.
    """
    lab.drained()
    before = lab.objects()
    tries = []
    for _ in range(MANY_ATTEMPTS if lab.too_slow_to_look else ATTEMPTS):
        with way(lab, kind, stall=True) as (net, wire):
            options = {**net.options(), "tx_cpu": 0, "no_receiver": True, "flows": FEW, "count": 1}
            send = command(guesttools.tool("udpflow"), options, lab.scale.seconds(20))
            others = (1 << lab.cpus) - 2
            with lab.limit(HIGH):
                shown = run_in(
                    lab,
                    net.rx_netns,
                    f"COUNT={FEW} HELD={each * FEW} OTHERS={others:x} SEND='{shlex.join(send)}'\n"
                    f"value() {{ {VALUES[what]}; }}\n{WATCH}",
                    timeout=40,
                )
                assert wire.sunk()["checked"] == FEW
                lab.drained()
        sent, *seen = shown.splitlines()
        assert int(sent) >= each * FEW, f"in the ring, {sent} are held: this tests nothing"
        tries.append([tuple(map(int, line.split())) for line in seen])
        if found(tries[-1]):
            break
    report.add(f"{what}, {kind}: attempts until lists were seen with all", len(tries))
    assert found(tries[-1]), f"(held, on lists): {tries}"
    back(lab, before)


def found(seen):
    """Tell whether nothing was held when all were on lists, perhaps with others (IPv6's own)."""
    return any(held <= 0 and listed >= FEW for held, listed in seen)


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        pytest.param("tun", with_dst, id="dst-tun"),
        pytest.param("macvtap", with_netfilter, id="conntrack-macvtap"),
    ],
)
def test_namespace_goes(lab, report, kind, way):
    """The namespaces of skbs that had a dst or a conntrack entry go while they are listed.

    Guards the end of a namespace, which waits for its conntrack entries: it is not held up
    for longer than a buffer may wait.
    """
    lab.drained()
    before = lab.objects()
    if kind == "macvtap":
        # The first one leaves an object of a namespace behind for good, on any kernel.
        with way(lab, kind) as (net, _):
            lab.udp(net, no_receiver=True, tx_cpu=0, count=1).intact()
        lab.sh("sleep 0.5")
    listed, took = end_of_namespace(lab, kind, way, HIGH)
    # Without lists, which is how long it takes on this machine now.
    _, plain = end_of_namespace(lab, kind, way, 0)
    report.add(f"{kind}: netns gone after", took * 1000, "ms")
    report.add(f"{kind}: netns gone after (skb_defer_max=0)", plain * 1000, "ms")
    assert listed, "no list held anything"
    assert took <= plain + DRAIN_BOUND + lab.scale.seconds(1)
    back(lab, before)


def end_of_namespace(lab, kind, way, limit):
    """Delete namespaces, with buffers on lists if the limit lets them; how many, seconds."""
    spaces = namespaces(lab)
    with way(lab, kind) as (net, _), lab.limit(limit):
        names = " ".join(dict.fromkeys((net.tx_netns, net.rx_netns)))
        # What wire has open keeps the namespace of a macvtap.
        go = f"kill -9 $(pidof wire); for each in {names}; do ip netns del $each; done"
        # A sender that has not ended yet delays that of its namespace, with lists or without.
        gone = not lab.too_slow_to_look
        listed, shown = lab.list_then(net, until_gone(go, spaces), gone=gone, flows=FEW, count=1)
    return listed, gone_after(shown, spaces)


#: Packets, of which a socket with the smallest buffer has about four on their way.
QUEUED = 300


@pytest.mark.parametrize(
    ("kind", "family"), [("macvtap", 4), ("ipvtap", 6)], ids=["macvtap-ipv4", "ipvtap-ipv6"]
)
def test_sender_is_not_held_up(lab, report, kind, family):
    """A sender may send again when its packets were read, not when their memory is freed.

    Guards the destructor of what comes to tap.c by veth, whose memory its sender's socket
    is charged for: the sender, of few packets at a time, would wait for lists to get old.
    Seen to fail (5.6 s) where nothing is released before an skb waits.
    """
    lab.drained()
    before = lab.objects()
    count = lab.scale.work(QUEUED)
    with lab.sink(kind, LONG) as (net, wire), lab.limit(HIGH):
        lab.udp(net, family, no_receiver=True, tx_cpu=0, count=2).intact()
        start = lab.drained()
        sent = lab.udp(
            net, family, no_receiver=True, tx_cpu=0, count=count, sndbuf=1, timeout=40
        ).intact()
        lab.sh("sleep 0.3")
        delta = lab.drained() - start
        sunk = wire.sunk()
    report.add(f"{kind}, ipv{family}: {QUEUED} packets of few at a time took", sent["seconds"], "s")
    assert sunk["checked"] == count + 2, sunk
    assert delta["deferred"] >= 0.9 * count, delta
    # Lists get old after 80 ms.
    assert sent["seconds"] < lab.scale.seconds(count / 10 * 0.08), delta
    back(lab, before)


# --- fragments

#: Bytes of a datagram that takes three packets.
DATAGRAM = 4000


@families
@pytest.mark.debug
def test_put_together_behind_a_bridge(lab, family):
    """Fragments that netfilter put together are read as one packet and freed at once.

    Guards an skb with a frag_list, whose members may hold what nobody looks for. Seen to
    fail where such an skb may wait.
    """
    lab.drained()
    before = lab.objects()
    count = lab.scale.work(200)
    with with_netfilter(lab, "macvtap") as (net, wire):
        start = lab.drained()
        sent = {"no_receiver": True, "tx_cpu": 0, "burst": 4, "gap_us": 2000}
        lab.udp(net, family, count=count, size=DATAGRAM, fragment=True, **sent).intact()
        lab.sh("sleep 0.3")
        delta = lab.drained() - start
        sunk = wire.sunk()
    assert sunk["checked"] == count, sunk
    assert delta["fraglist"] == count, delta
    back(lab, before)


@pytest.mark.parametrize(("kind", "family"), [("tun", 4), ("tap", 6)], ids=["tun-ipv4", "tap-ipv6"])
def test_fragments_of_tracked_connections(lab, report, kind, family):
    """Datagrams in fragments pass a wire between namespaces that track connections.

    Guards what conntrack and defragmentation leave in what is read: data arrive whole,
    and both namespaces go at once.
    """
    lab.drained()
    before = lab.objects()
    spaces = namespaces(lab)
    count = lab.scale.work(200)
    go = until_gone("ip netns del near; ip netns del far", spaces)
    # With nothing sent, which is how long it takes on this machine now.
    with lab.span(kind, kind) as (net, wire):
        wire.report()
        plain = gone_after(lab.sh(go), spaces)
    with lab.span(kind, kind) as (net, wire):
        for netns in (net.tx_netns, net.rx_netns):
            lab.sh(f"{guesttools.tool('conntrack')} {netns}")
        start = lab.drained()
        common = {"tx_cpu": 0, "rx_cpu": 3, "timeout": 30}
        lab.udp(
            net, family, count=count, size=DATAGRAM, fragment=True, window=8, **common
        ).intact().complete()
        tracked = run_in(lab, net.rx_netns, "cat /proc/sys/net/netfilter/nf_conntrack_count")
        delta = lab.drained() - start
        read = wire.report()["a"]["frames_read"]
        took = gone_after(lab.sh(go), spaces)
    report.add(f"{kind}, ipv{family}: netns gone after", took * 1000, "ms")
    report.add(f"{kind}, ipv{family}: netns gone after (nothing sent)", plain * 1000, "ms")
    assert int(tracked) > 0, "nothing was tracked"
    assert read >= 3 * count
    assert delta["deferred"] >= 3 * 0.9 * count, delta
    assert took <= plain + DRAIN_BOUND + lab.scale.seconds(1)
    back(lab, before)


def test_merged_by_gro(lab, report):
    """What GRO merged into frag_lists, a router sends on into a tun.

    Guards the frag_lists that reach the ring of tun.c: they are read as one large packet,
    and freed at once. Seen to fail where they may wait. The GRO is veth's, not tun's own
    (IFF_NAPI): v5.10 merges skbs that their socket is charged for, and then takes the
    charge back twice, with no patch at all.
    """
    lab.drained()
    before = lab.objects()
    with lab.netns("near", "far", "end"):
        lab.ip(["link add name tx netns near type veth peer name dev netns far"])
        lab.ip(
            [
                "addr add 10.9.8.1/24 dev tx",
                "link set dev tx up",
                "route add default via 10.9.8.2",
            ],
            netns="near",
        )
        lab.ip(["addr add 10.9.8.2/24 dev dev", "link set dev dev up"], netns="far")
        run_in(lab, "far", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        out = "tun:out@far,addr4=10.9.7.1/24,tso"
        end = "tun:dev@end,addr4=10.9.7.2/24,tso"
        # What arrives within 10 ms may be merged, however slowly the sender gets on: only an
        # skb that has no room for another page gets a frag_list.
        run_in(lab, "far", "echo 10000000 > /sys/class/net/dev/gro_flush_timeout")
        # As many at a time as make a large packet: a slow path is given few otherwise.
        run_in(lab, "near", "echo 44 > /proc/sys/net/ipv4/tcp_min_tso_segs")
        # With a program, veth receives by NAPI and GRO, and its peer sends no large packets.
        with lab.wire(out, end, a_cpu=2, b_cpu=1) as wire, xdp(lab, "far", "pass"):
            lab.ip(["route add default dev dev"], netns="end")
            net = Net("gro", "veth", "near", "end", {4: "10.9.7.2"})
            start = lab.drained()
            size = lab.scale.work(3_000_000)
            flow = lab.flow(net, tx_cpu=0, rx_cpu=3, bytes=size, timeout=60).intact()
            delta = lab.drained() - start
            carried = wire.report()
    report.add("frag_lists in a transfer of 3 MB", delta["fraglist"])
    assert flow.rx["received"] == size
    assert not carried["error"], carried
    assert delta["fraglist"] > 0, delta
    back(lab, before)


# --- XDP: frames in the ring that are no skbs

#: How many frames meet an XDP program.
FRAMES = 500

#: The device with the program, and whether what it redirects stays without an skb:
#: a copy that was made for XDP does, an skb that there was before it does not.
RECEIVERS = {"tap": True, "vhost": True, "tun": False, "tap,napi,frags": False}


@contextmanager
def xdp(lab, netns, verdict, *target):
    """Have the program's verdict passed on all that ``dev`` receives during the body."""
    tool = guesttools.tool("xdp")
    lab.sh(f"{tool} {netns} dev {verdict} {' '.join(target)}")
    yield
    if lab.vm.alive:
        lab.sh(f"{tool} {netns} dev off")


def sender_for(kind):
    """Return what can be at the other end of a wire."""
    return "tun" if kind == "tun" else "tap"


@pytest.mark.parametrize(
    "kind", ["tap", *(pytest.param(each, marks=brief) for each in RECEIVERS if each != "tap")]
)
@pytest.mark.debug
def test_xdp_redirects(lab, kind):
    """Frames that XDP sends from one device to another are read there as they were sent.

    Guards what is in a ring and no skb, told by a bit of its address: nobody takes it for
    one. The lists hear only of skbs.
    """
    other = sender_for(kind)
    start = lab.drained()
    before = lab.objects()
    count = lab.scale.work(FRAMES)
    with lab.span(f"{other},{LONG}", kind) as (net, wire):
        if other == "tap":
            lab.ip(wires.neighbours(), netns="near")
        with (
            lab.wire(f"{other}:out@far,{LONG}", "sink", a_cpu=2) as out,
            xdp(lab, "far", "redirect", "out"),
        ):
            for family in (4, 6):
                lab.udp(net, family, no_receiver=True, tx_cpu=0, count=count).intact()
            lab.sh("sleep 0.1")
            sunk, read = out.sunk(), out.report()["a"]["frames_read"]
        carried = wire.report()
    # What was staged when the reader was told to stop is queued by its age.
    lab.sh("sleep 0.3")
    delta = lab.drained() - start
    assert not carried["error"], carried
    assert sunk["checked"] == 2 * count, (sunk, carried)
    skbs = carried["a"]["frames_read"] + carried["b"]["frames_read"]
    skbs += sunk["other"] if RECEIVERS[kind] else read
    # vhost-net's thread may have read what nobody took from it.
    assert abs(judged(delta) - skbs) <= NOISE, (delta, sunk, carried)
    back(lab, before)


@pytest.mark.parametrize(
    ("verdict", "kind"),
    [
        ("pass", "tap"),
        pytest.param("pass", "tun", marks=brief),
        pytest.param("drop", "tap", marks=brief),
        pytest.param("drop", "tun", marks=brief),
    ],
)
@pytest.mark.debug
def test_xdp_passes_or_drops(lab, verdict, kind):
    """What a program lets pass arrives, what it drops is gone, and all memory returns.

    Guards both ways of what is written into a device with a program: as a frame that may
    become an skb, and as an skb that the program is shown.
    """
    lab.drained()
    before = lab.objects()
    count = lab.scale.work(FRAMES)
    with lab.span(sender_for(kind), kind) as (net, wire):
        common = {"tx_cpu": 0, "rx_cpu": 3, "timeout": 30}
        # Neighbours are known by then.
        assert lab.udp(net, count=2, window=1, **common).intact().rx["received"] == 2
        start = lab.drained()
        with xdp(lab, "far", verdict):
            pace = {"window": 16} if verdict == "pass" else {"burst": 16, "gap_us": 2000}
            flow = lab.udp(net, count=count, **pace, **common).intact()
        delta = lab.drained() - start
        carried = wire.report()
    assert not carried["error"], carried
    if verdict == "pass":
        flow.complete()
    else:
        assert flow.rx["received"] == 0, flow
    assert carried["b"]["frames_written"] >= count, carried
    assert judged(delta) >= 0.9 * count, delta
    back(lab, before)
