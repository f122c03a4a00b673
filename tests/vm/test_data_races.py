"""The same traffic without and with the series, under the data race detector."""

import re
from contextlib import contextmanager

import pytest
import racecheck

pytestmark = [pytest.mark.vm, pytest.mark.only(racecheck.FLAVOUR)]

arms = pytest.mark.parametrize(
    "arm",
    [pytest.param("baseline", marks=pytest.mark.vm(baseline=True)), "patched"],
)


#: The detector looks at every 400th access, not every 4,000th, and longer: an emulated CPU does
#: little in 80 us, and less in the 20 us that an interrupt is delayed for.
CLOSELY = {"skip_watch": 400, "udelay_task": 200, "udelay_interrupt": 100}


@contextmanager
def closely(lab):
    """Have the detector look at more for the body, which takes several times as long."""
    files = {f"/sys/module/kcsan/parameters/{name}": value for name, value in CLOSELY.items()}
    before = {file: lab.read(file).strip() for file in files}
    for file, value in files.items():
        lab.write(file, str(value))
    try:
        yield
    finally:
        if lab.vm.alive:
            for file, text in before.items():
                lab.write(file, text)


def watchpoints(lab):
    """Return at how many accesses the detector has looked; it must be on."""
    text = lab.read("/sys/kernel/debug/kcsan")
    assert "enabled: 1" in text.splitlines(), text
    return int(re.search(r"setup_watchpoints: (\d+)", text)[1])


@arms
@pytest.mark.limit(180)
def test_no_race_of_the_series(lab, report, guest, request, arm):
    """Every kind of traffic that the series concerns; tests/racecheck.py judges the reports.

    Guards the READ_ONCE() and WRITE_ONCE() of what is looked at without its lock.
    """
    amount = lab.scale.work(4 << 20)
    count = lab.scale.work(4000)
    before = watchpoints(lab)
    with closely(lab):
        for kind in ("veth", "lo"):
            net = lab.shared_net(kind, rps=0xE)
            for tx, rx in ((0, 1), (1, 0), (2, 3)):
                lab.flow(net, tx_cpu=tx, rx_cpu=rx, conns=4, bytes=amount).intact()
                lab.udp(net, flows=4, tx_cpu=tx, rx_cpu=rx, count=count, window=16).intact()
        for kind in ("tun", "tap", "vhost", "macvtap"):
            with lab.span(kind, "tun" if kind == "tun" else "tap") as (net, _):
                lab.flow(net, tx_cpu=0, rx_cpu=3, conns=2, bytes=amount).intact()
                lab.udp(net, flows=2, tx_cpu=0, rx_cpu=3, count=count, window=16).intact()
    lab.sh("sleep 1")
    guest.vm.flush_console()
    looked = watchpoints(lab) - before
    report.add("accesses that were watched", looked)
    assert looked > 10_000
    seen = request.config.skbhome.races.seen[arm]
    report.add("kinds of data races seen by now", len(seen))
