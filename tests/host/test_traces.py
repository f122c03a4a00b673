"""harness.traces against what real guests recorded (data/traces) and small made-up traces."""

import base64
import re
import struct
from collections import Counter
from pathlib import Path

import pytest

from harness import traces
from harness.traces import BadTrace, Locality, Trace, TraceEvent

pytestmark = pytest.mark.host

DATA = Path(__file__).with_name("data") / "traces"

SKB, PAIR = 0xE0, 0x1C8


def data(name):
    return (DATA / name).read_text()


# --- as text

TEXT = """\
# tracer: nop
#
# entries-in-buffer/entries-written: 2/2   #P:4
#
#           TASK-PID     CPU#  ||||   TIMESTAMP  FUNCTION
#              | |         |   ||||      |         |
          <idle>-0     [002] ..s.    12.345678: skb_defer_flush: cpu=2 count=5
    tcp flow-x-77      [001] ....    12.100000: skb_defer_free: skbaddr=0000 alloc_cpu=2
"""


def test_text():
    trace = traces.parse_text(TEXT)
    first, second = trace.events
    assert trace.lost == 0
    assert (first.cpu, first.time, first.name, first.task) == (1, 12.1, "skb_defer_free", 77)
    assert second.fields == {"cpu": "2", "count": "5"}


def test_text_with_a_clock_that_counts():
    line = " a-1  [000] d...            3: free: (skb_release_data+0x0/0x160) skb=0xffff80\n"
    assert traces.parse_text(line).events[0].time == 3


def test_text_that_lost_events():
    head = "# entries-in-buffer/entries-written: 100/130   #P:4\n"
    assert traces.parse_text(head).lost == 30
    assert traces.parse_text("CPU:1 [LOST 12 EVENTS]\n").lost == 12
    assert traces.parse_text("CPU:1 [LOST EVENTS]\n").lost == 1


# --- raw


def test_raw():
    trace = traces.parse_raw(data("raw-baseline.txt"))
    assert trace.lost == 0
    names = Counter(event.name for event in trace.events)
    assert set(names) >= {"kmem_cache_alloc_node", "clone", "free", "skb_copy_datagram_iovec"}
    # The kernel's own count of the probes' hits, up to the end of the recording.
    hits = re.search(r"^\s*clone\s+(\d+)", data("raw-baseline.txt"), re.MULTILINE)
    assert names["clone"] == int(hits[1])
    times = [event.time for event in trace.events]
    assert times == sorted(times)
    assert len(set(times)) == len(times), "the clock counts events: no two are at one time"
    assert all(
        int(event.fields["ptr"]) >> 40 == 0xFFFF88
        for event in trace.events
        if event.name == "kmem_cache_alloc_node"
    )


def test_raw_counts_what_was_lost():
    text = data("raw-baseline.txt")
    assert traces.parse_raw(text.replace("overrun: 0", "overrun: 7", 1)).lost == 7
    missed = re.sub(r"(?m)^(\s*free\s+\d+\s+)0$", r"\g<1>5", text)
    assert traces.parse_raw(missed).lost == 5
    # A probe of somebody else's records nothing here.
    others = re.sub(r"(?m)^(\s*free\s+\d+\s+0)$", r"\g<1>\n  free_pcppages_bulk 12 7", text)
    assert others != text and traces.parse_raw(others).lost == 0


def test_raw_cut_short():
    text = data("raw-baseline.txt")
    at = text.index("==> cpu 0 <==") + 2000
    rest = text.index("\n==> stats 1")
    with pytest.raises(BadTrace, match="CPU 0"):
        traces.parse_raw(text[:at] + text[rest:])


@pytest.mark.parametrize(
    "arm, pair, count, skb_size, pair_size",
    [("baseline", (0, 1), 10, 224, 456), ("patched", (0, 0), 14, 232, 472)],
)
def test_locality_of_real_runs(arm, pair, count, skb_size, pair_size):
    """Sender on CPU 0, reader on CPU 1: freed there, and at home with the series."""
    trace = traces.parse_raw(data(f"raw-{arm}.txt"))
    found = traces.locality(trace, skb_size=skb_size, pair_size=pair_size)
    assert found.pairs == {pair: count}
    assert (found.unknown, found.unfreed) == (0, 0)


# --- following buffers

PROBE = 0x100005


def trace_of(*events):
    """Make a trace of (cpu, name, skb) in the order of time; names as locality() has them."""
    made = []
    for at, (cpu, name, skb, *rest) in enumerate(events):
        fields = {"skb": skb, "__probe_ip": PROBE}
        if name == "read":
            name, fields = "skb_copy_datagram_iovec", {"skbaddr": skb}
        elif name in ("alloc", "pair", "clone_alloc"):
            size = PAIR if name == "pair" else SKB
            site = PROBE + 0x90 if name == "clone_alloc" else 0x400000
            name, fields = "kmem_cache_alloc", {"ptr": skb, "bytes_req": size, "call_site": site}
        made.append(TraceEvent(cpu, float(at), rest[0] if rest else 1, name, fields))
    return Trace(tuple(made), 0)


def follow(*events):
    return traces.locality(trace_of(*events), skb_size=SKB, pair_size=PAIR)


def test_a_plain_buffer():
    found = follow((0, "alloc", 0x1000), (1, "read", 0x1000), (0, "free", 0x1000))
    assert found.pairs == {(0, 0): 1}


def test_a_buffer_whose_head_is_freed_in_bulk():
    found = follow((0, "alloc", 0x1000), (1, "read", 0x1000), (1, "bulk", 0x1000))
    assert found.pairs == {(0, 1): 1}


def test_what_was_not_read_does_not_count():
    assert follow((0, "alloc", 0x1000), (1, "free", 0x1000)).pairs == {}


def test_second_half_of_a_pair():
    """No event of its own tells of the second half: it came with the first."""
    second = 0x1000 + SKB
    found = follow(
        (2, "pair", 0x1000), (2, "free", 0x1000), (1, "read", second), (1, "free", second)
    )
    assert found.pairs == {(2, 1): 1}


def test_a_clone_belongs_where_the_original_does():
    """Cloned on CPU 3 (in an ACK's softirq, say), allocated on CPU 0."""
    found = follow(
        (0, "alloc", 0x1000),
        (3, "clone", 0x1000),
        (3, "clone_alloc", 0x7000),
        (1, "read", 0x7000),
        (0, "free", 0x7000),
    )
    assert found.pairs == {(0, 0): 1}


def test_an_allocation_after_cloning_is_not_the_clone():
    """The clone was the pair's second half; what is allocated next is an ACK."""
    found = follow(
        (0, "pair", 0x1000),
        (3, "clone", 0x1000),
        (3, "alloc", 0x7000),
        (1, "read", 0x7000),
        (3, "free", 0x7000),
    )
    assert found.pairs == {(3, 3): 1}


def test_two_tasks_clone_at_the_same_time():
    found = follow(
        (0, "alloc", 0x1000),
        (2, "alloc", 0x2000),
        (3, "clone", 0x1000, 10),
        (3, "clone", 0x2000, 11),
        (3, "clone_alloc", 0x7000, 10),
        (3, "clone_alloc", 0x8000, 11),
        (1, "read", 0x7000),
        (1, "free", 0x7000),
        (1, "read", 0x8000),
        (1, "free", 0x8000),
    )
    assert found.pairs == {(0, 1): 1, (2, 1): 1}


def test_an_address_used_again():
    found = follow(
        (0, "alloc", 0x1000),
        (1, "read", 0x1000),
        (1, "free", 0x1000),
        (2, "alloc", 0x1000),
        (1, "read", 0x1000),
        (2, "free", 0x1000),
    )
    assert found.pairs == {(0, 1): 1, (2, 2): 1}


def test_a_release_that_was_not_seen():
    """The memory is used again: it was freed somewhere, which counts as not known."""
    found = follow(
        (0, "alloc", 0x1000), (1, "read", 0x1000), (0, "alloc", 0x1000), (1, "free", 0x1000)
    )
    assert (found.received, found.unfreed) == (0, 1)


def test_unknown_and_unfreed():
    found = follow(
        (1, "read", 0x1000), (1, "free", 0x1000), (0, "alloc", 0x2000), (1, "read", 0x2000)
    )
    assert (found.received, found.unknown, found.unfreed) == (0, 1, 1)


def test_percent():
    assert Locality(Counter({(0, 0): 99, (0, 1): 1})).percent_home == 99.0
    assert Locality().percent_home == 0.0


# --- the lists


def queued(at, cpu, verdict="deferred"):
    return f"  t-1 [001] .... {at}: skb_defer_free: skbaddr=0 alloc_cpu={cpu} verdict={verdict}\n"


def flushed(at, cpu, count):
    return f"  t-1 [{cpu:03}] .... {at}: skb_defer_flush: cpu={cpu} count={count}\n"


def history(*lines):
    return traces.list_history(traces.parse_text("".join(lines)))


def test_list_history():
    found = history(
        queued(1.0, 0),
        queued(1.5, 0),
        queued(1.6, 2),
        queued(1.7, 3, "full"),
        flushed(2.0, 0, 2),
        queued(3.0, 0),
        flushed(3.25, 0, 1),
    )
    assert found.longest == {0: 2}
    assert found.oldest == {0: 1.0}
    assert found.waiting == {2: 1}
    assert found.verdicts == {"deferred": 4, "full": 1}
    assert (found.flushes, found.flushed) == (2, 3)


def test_queued_while_a_flush_is_under_way():
    """The flush took one; the second came after that, and nobody has flushed it."""
    found = history(queued(1.0, 0), queued(1.9, 0), flushed(2.0, 0, 1))
    assert found.waiting == {0: 1}
    assert found.oldest == {0: 1.0}


# --- the ring buffer's own records (include/linux/ring_buffer.h), which short runs lack


FORMAT = """==> format x/y <==
name: y
ID: 7
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:unsigned int value;\toffset:8;\tsize:4;\tsigned:0;

print fmt: "value=%u", REC->value
"""


def event(value, number=7):
    return struct.pack("<HBBiI", number, 0, 0, 4711, value)


def record(kind, delta, *words):
    return struct.pack("<I", kind | delta << 5) + b"".join(
        word if isinstance(word, bytes) else struct.pack("<I", word) for word in words
    )


def raw(*records, start=1000):
    data = b"".join(records)
    page = (struct.pack("<QQ", start, len(data)) + data).ljust(4096, b"\0")
    return traces.parse_raw(f"{FORMAT}==> cpu 2 <==\n{base64.b64encode(page).decode()}\n")


def test_raw_records_of_every_kind():
    short = len(event(0)) // 4
    trace = raw(
        record(short, 5, event(1)),
        # A pause too long for the 27 bits of a record's own time.
        record(30, 1, 2),
        record(short, 3, event(2)),
        # What was reserved and given up, with its length behind the header.
        record(29, 4, 8, b"x" * 4),
        # A record too long for its head to say.
        record(0, 6, 4 + len(event(3)), event(3)),
        # The time anew.
        record(31, 9, 5),
        record(short, 1, event(4)),
        record(29, 0),
        b"what is behind the end of a page was never written",
    )
    assert [(each.time, each.fields["value"]) for each in trace.events] == [
        (1005, 1),
        (1005 + 1 + (2 << 27) + 3, 2),
        (1005 + 1 + (2 << 27) + 3 + 4 + 6, 3),
        (9 + (5 << 27) + 1, 4),
    ]
    assert {(each.cpu, each.task, each.name) for each in trace.events} == {(2, 4711, "y")}


def test_raw_events_of_another_number_are_left_out():
    short = len(event(0)) // 4
    trace = raw(record(short, 1, event(1, number=8)), record(short, 1, event(2)))
    assert [each.fields["value"] for each in trace.events] == [2]


@pytest.mark.parametrize("body", ["QUJ", "QUJD"], ids=["no-base64", "no-page"])
def test_raw_damaged_on_its_way(body):
    with pytest.raises(BadTrace, match="CPU 2: "):
        traces.parse_raw(f"{FORMAT}==> cpu 2 <==\n{body}\n")
