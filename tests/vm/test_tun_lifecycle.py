"""tun and tap devices, their queues and readers come and go while buffers wait."""

import time

import pytest
from lab import DEFER_STAT, DRAIN_BOUND, FEW, NAP, gone_after, until_gone
from test_netns import namespaces

from harness import counters
from harness.counters import DEFER_VERDICTS

pytestmark = [pytest.mark.vm, pytest.mark.debug]

#: Objects that the rest of the guest may have taken meanwhile (timers of IPv6, uevents).
NOISE = 3

#: A ring's length, and more packets than anything holds that nobody reads (vhost-net
#: takes 64 from the ring, and 256 find a place with its driver). How many the ring turns
#: away while vhost-net's thread waits for a CPU is not known: more may be needed.
RING, PLENTY, REPEATS = 64, 500, 20


#: More packets than a reader can have read before it hears that it should stop.
MANY = 4000


def judged(delta):
    """Return of how many buffers it was decided what becomes of them."""
    return sum(delta[verdict] for verdict in DEFER_VERDICTS)


def fresh(lab, kind):
    """Make a device, have 50 packets read from it."""
    with lab.sink(kind, checked=50) as (net, wire):
        lab.udp(net, no_receiver=True, tx_cpu=0, count=50).intact()
        wire.done()
        assert wire.sunk()["checked"] == 50


def back(lab, before):
    """Assert that lists get empty and that all buffers return."""
    lab.drained()
    kept = lab.kept(before, noise=NOISE, seconds=40)
    assert all(count <= NOISE for count in kept.values()), f"left behind: {kept}"


def filled(lab, net, before):
    """Send until a ring that nobody reads is full; return how many buffers are held."""
    held = 0
    for _ in range(REPEATS):
        lab.udp(net, no_receiver=True, tx_cpu=0, count=PLENTY, burst=16, gap_us=500).intact()
        lab.drained()
        held = lab.objects("skbuff_head_cache")["skbuff_head_cache"] - before["skbuff_head_cache"]
        if held >= RING:
            break
    return held


ENDINGS = [
    ("tun", "device"),
    ("tap", "netns"),
    ("vhost", "netns"),
    ("macvtap", "device"),
    ("tun", "reader"),
    ("vhost", "reader"),
    ("macvtap", "reader"),
]

#: What the debug flavour has time for.
EVERYWHERE = [("vhost", "netns"), ("macvtap", "device")]


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        pytest.param(*ending, marks=[] if ending in EVERYWHERE else pytest.mark.brief)
        for ending in ENDINGS
    ],
)
def test_goes_with_a_full_ring(lab, report, kind, what):
    """A device, its namespace or its reader goes while its ring is full and lists hold buffers.

    Guards what nobody will read any more, and against a listed buffer that keeps a
    namespace: that is gone within the time that a buffer may wait.
    """
    lab.drained()
    before = lab.objects()
    # Who sends through veth receives there, on the same CPU, which frees what waits.
    with lab.sink("tap" if kind == "macvtap" else kind, netns="listed") as (net, wire):
        spaces = namespaces(lab) if what == "netns" else 0
        options = [] if kind == "macvtap" else ["move"]
        with lab.sink(kind, f"txqlen={RING}", *options, netns="full", stall=True) as (full, stuck):
            assert filled(lab, full, before) >= RING, "the ring is not full: this tests nothing"
            device = "full-2 link del over" if kind == "macvtap" else "full link del dev dev"
            end = {
                "device": f"ip -n {device}",
                "netns": until_gone("ip netns del full", spaces),
                "reader": ":",
            }[what]
            # The other reader's buffers, from the same CPU, are on its list meanwhile.
            listed, shown = lab.list_then(net, end, count=FEW)
            if what == "reader":
                stuck.kill()
                wire.kill()
            elif what == "netns":
                took = gone_after(shown, spaces)
                report.add(f"{kind}: netns gone after", took * 1000, "ms")
                assert took <= DRAIN_BOUND + lab.scale.seconds(1.5)
            report.add(f"{kind}, {what}: on lists when it went", listed)
            assert listed or lab.too_slow_to_look, "no list held anything"
            lab.drained()
            if what != "reader":
                # It goes on, without a device.
                stuck.go()
                assert stuck.report()["a"]["gone"] <= 1
    lab.drained()
    fresh(lab, kind)
    back(lab, before)


@pytest.mark.parametrize(
    ("kind", "peer"),
    [
        ("tun", "tun"),
        pytest.param("vhost", "tap", marks=pytest.mark.brief),
        pytest.param("macvtap", "tap", marks=pytest.mark.brief),
    ],
)
def test_queues_come_and_go(lab, kind, peer):
    """Queues leave their devices and return to them under UDP and TCP traffic.

    Guards what lies in the ring of a queue that is away, and a reader that finds it
    empty or not, with something staged, when the queue changes hands.
    """
    lab.drained()
    before = lab.objects()
    cpus = ("1,3", "2,3")
    with lab.span(kind, peer, queues=2, cpus=cpus, churn=5) as (net, wire):
        # TCP goes on after losses; the packets of UDP change queues and may be overtaken.
        with lab.traffic(net, tx_cpu=0, rx_cpu=3, bytes=100_000, patience=100) as background:
            stat = lab.defer()
            udp = lab.udp(
                net, 6, flows=8, tx_cpu=0, rx_cpu=3, count=lab.scale.work(300), burst=8, gap_us=500
            ).intact()
            # A connection that lost the same packet several times waits for long.
            wire.calm()
            tcp = background.stop().intact()
        # Not before: a sender that has closed its connection is such a socket, too, and what it
        # has lost would not be sent again.
        lab.give_up_soon(net)
        # On Ethernet, a queue that comes or goes makes neighbours talk: not before its end.
        carried = wire.report()
        delta = lab.drained() - stat
    assert carried["churns"] > 5, carried
    assert not carried["error"], carried
    assert all(queue["read"] for queue in carried["a"]["queues"]), carried
    # A queue that is away takes with it what is in its ring.
    assert udp.rx["received"] > udp.tx["sent"] / 4, udp
    assert tcp.rx["received"] == tcp.tx["sent"] > 0, tcp
    assert delta["batched"] > 0, delta
    fresh(lab, kind)
    back(lab, before)


@pytest.mark.parametrize(
    ("kind", "what"), [("tun", "device"), ("vhost", "device"), ("macvtap", "reader")]
)
@pytest.mark.brief
def test_goes_under_traffic(lab, kind, what):
    """A device is deleted, or its reader killed, while packets stream in.

    Guards the moment between a reader's last buffer and the push of what it staged.
    """
    stat = lab.drained()
    before = lab.objects()
    with lab.sink(kind) as (net, wire), lab.udp_traffic(net, no_receiver=True, tx_cpu=0):
        deadline = time.monotonic() + lab.scale.seconds(20)
        while not (lab.defer() - stat)["batched"]:
            assert time.monotonic() < deadline, "nothing streams in"
            time.sleep(0.1)
        if what == "reader":
            wire.kill()
        else:
            lab.sh("ip -n sunk link del dev dev")
        time.sleep(0.1)
    fresh(lab, kind)
    back(lab, before)


@pytest.mark.parametrize("what", ["nothing", pytest.param("offline", marks=pytest.mark.brief)])
def test_reader_never_finds_its_ring_empty(lab, report, what):
    """A reader leaves in the middle: what it staged is queued, and freed, all the same.

    Guards the stage of a CPU where nobody reads any more, and that of one which goes
    offline; nothing else has those buffers.
    """
    online = "/sys/devices/system/cpu/cpu1/online"
    off = f"echo 0 > {online}" if what == "offline" else ":"
    stat = lab.drained()
    before = lab.objects()
    read = staged = 0
    for _ in range(5):
        try:
            # No list is ever full: that would spare its CPU's buffers the stage.
            with (
                lab.limit(4 * MANY),
                lab.sink("tun", f"txqlen={MANY}", stall=True, frames=20) as (net, wire),
            ):
                lab.udp(net, no_receiver=True, tx_cpu=0, count=MANY).intact()
                # No program is started meanwhile: what is staged waits for 160 ms at the most.
                show = f"mapfile -t rows < {DEFER_STAT}; printf '%s\\n' \"${{rows[@]}}\""
                go = f"{NAP} pid=$(pidof wire); kill -USR1 $pid; nap 0.03; {show}; {off}"
                then = lab.sh(go, timeout=30)
                wire.done()
                read += wire.report()["a"]["frames_read"]
        finally:
            lab.sh(f"echo 1 > {online}", timeout=30)
        # What is staged has yet to be judged.
        staged = read - judged(counters.parse_defer_stat(then) - stat)
        if staged:
            break
    assert staged, "nothing was staged each time: this tests nothing"
    report.add(f"{what}: staged when it left", staged)
    if what != "offline" or not lab.forgets_when_offline:
        back(lab, before)
    delta = lab.drained() - stat
    assert judged(delta) == read, delta
