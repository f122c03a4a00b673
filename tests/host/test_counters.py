"""harness.counters against what real guests printed (data/counters)."""

from pathlib import Path

import pytest

from harness import counters
from harness.counters import BadCounter

pytestmark = pytest.mark.host

DATA = Path(__file__).with_name("data") / "counters"


def data(name):
    return (DATA / name).read_text()


# --- SLUB


def test_slab_stat():
    found = counters.parse_slab_stat("848 C0=252 C1=596\n")
    assert found.total == 848
    assert found.on(1) == 596
    assert found.on(7) == 0


def test_slab_stat_without_events():
    assert counters.parse_slab_stat("0\n").per_cpu == {}


def test_slab_stat_difference():
    before = counters.parse_slab_stat("10 C0=10")
    after = counters.parse_slab_stat("25 C0=12 C3=13")
    grown = after - before
    assert (grown.total, grown.on(0), grown.on(3)) == (15, 2, 13)


@pytest.mark.parametrize("text", ["", "x", "5 C0", "5 C0=x"])
def test_slab_stat_bad(text):
    with pytest.raises(BadCounter):
        counters.parse_slab_stat(text)


def test_slab_objects():
    assert counters.parse_slab_objects("1032 N0=520 N1=512\n") == 1032
    with pytest.raises(BadCounter):
        counters.parse_slab_objects("")


# --- /proc/net/softnet_stat


def test_softnet_stat():
    first = "000000ff 00000002 00000001 " + "00000000 " * 6 + "00000010 00000003 00000000 00000000"
    second = "00000001 00000000 00000000 " + "00000000 " * 6 + "00000001 00000000 00000000 00000001"
    assert counters.parse_softnet_stat(f"{first}\n{second}\n") == {
        "processed": 256,
        "dropped": 2,
        "time_squeeze": 1,
        "received_rps": 17,
        "flow_limit": 3,
    }


@pytest.mark.parametrize("text", ["", "0 0 0", "x " * 13])
def test_softnet_stat_bad(text):
    with pytest.raises(BadCounter):
        counters.parse_softnet_stat(text)


# --- /proc/net/stat/skb_defer


def stat(*rows):
    return counters.parse_defer_stat("\n".join([" ".join(counters.DEFER_COLUMNS), *rows]) + "\n")


def row(**values):
    return " ".join(f"{values.get(name, 0):08x}" for name in counters.DEFER_COLUMNS)


def test_defer_stat():
    found = stat(row(deferred=16, local=1, kicks=2), row(aged=1, flushes=3, flushed=15))
    assert found.total("deferred") == 16
    assert found.on(1, "flushed") == 15
    assert found.queued == 1
    assert (found - stat(row()))["kicks"] == 2


def test_defer_stat_unknown_column():
    with pytest.raises(BadCounter, match="no column 'lost'"):
        stat(row()).total("lost")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "deferred local\n",
        "deferred local\n00000001\n",
        "deferred local\n1 2\n",
        "deferred local\n00000001 0000000g\n",
    ],
)
def test_defer_stat_bad(text):
    with pytest.raises(BadCounter):
        counters.parse_defer_stat(text)


# --- tables per CPU


def test_interrupts_with_a_cpu_offline():
    table = counters.parse_per_cpu_table(data("interrupts-cpu2-offline.txt"))
    assert table["CAL"] == {0: 1686, 1: 2294, 3: 379}
    assert table["21"][3] == 9490
    assert table["ERR"] == {0: 0}


def test_softirqs():
    table = counters.parse_per_cpu_table(data("softirqs.txt"))
    assert set(table["NET_RX"]) == {0, 1, 2, 3}
    assert table["NET_RX"][0] > 0


def test_table_bad():
    with pytest.raises(BadCounter):
        counters.parse_per_cpu_table("no header\n")


def test_bundle():
    found = counters.parse_bundle("==> /a b <==\n1\n\n==> /c <==\n2\n3\n")
    assert found == {"/a b": "1\n", "/c": "2\n3\n"}
