"""netdevsim takes what is sent through it, in 5.10 as a device that has no other side."""

import re
from contextlib import contextmanager

import pytest
import wires
from lab import FEW, Net
from test_tun_lifecycle import back

pytestmark = [pytest.mark.vm, pytest.mark.debug]

BUS = "/sys/bus/netdevsim"

#: The device's number, and the CPUs of its sender and of another one's reader.
NUMBER, HOME, READER = 9, 0, 1


@contextmanager
def netdevsim(lab):
    """A netdevsim device ``dev`` in a namespace; it may be gone when the body ends."""
    with lab.netns("sim"):
        lab.sh(f"echo '{NUMBER} 1' > {BUS}/new_device")
        try:
            name = lab.sh(f"ls {BUS}/devices/netdevsim{NUMBER}/net").strip()
            lab.ip([f"link set dev {name} netns sim name dev"])
            up = [f"addr add {each} dev dev" for each in wires.addresses()]
            lab.ip([*up, "link set dev dev up", *wires.neighbours()], netns="sim")
            yield Net("sim", "netdevsim", "sim", "sim", dict(wires.PEERS))
        finally:
            if lab.vm.alive:
                lab.sh(f"echo {NUMBER} > {BUS}/del_device", check=False)


def sent_by_device(lab):
    """Return how many packets the device has taken."""
    shown = lab.sh("ip -n sim -s link show dev dev")
    return int(re.search(r"TX: .*\n\s*\d+\s+(\d+)", shown)[1])


@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.brief
def test_takes_what_is_sent(lab, family):
    """Every packet is counted and freed where it was sent: no list has anything to do with it."""
    before = lab.objects()
    with netdevsim(lab) as net:
        stat, start = lab.drained(), sent_by_device(lab)
        count = lab.scale.work(1000)
        lab.udp(net, family, no_receiver=True, tx_cpu=HOME, count=count).intact()
        # IPv6 may have had something to say.
        assert count <= sent_by_device(lab) - start <= count + 20
        assert (lab.drained() - stat)["deferred"] <= 5
    back(lab, before)


@pytest.mark.parametrize("what", ["device", pytest.param("netns", marks=pytest.mark.brief)])
def test_goes_under_load(lab, report, what):
    """The device, or its namespace, goes while packets stream into it and lists hold others.

    Guards a device's removal against buffers that wait: what it was the device of is freed
    at once, and what waits holds no device.
    """
    before = lab.objects()
    go = {
        "device": f"echo {NUMBER} > {BUS}/del_device",
        "netns": "ip netns del sim",
    }[what]
    with (
        lab.sink("tap", netns="listed", reader=READER) as (listed, wire),
        netdevsim(lab) as net,
        lab.udp_traffic(net, no_receiver=True, tx_cpu=2),
    ):
        held, _ = lab.list_then(listed, go, count=FEW)
        wire.sunk()
    report.add(f"netdevsim, {what}: on lists when it went", held)
    assert held or lab.too_slow_to_look, "no list held anything"
    assert lab.sh(f"ls {BUS}/devices", check=False).strip() == ""
    back(lab, before)
