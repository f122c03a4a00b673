"""Read traces: tracefs's text and its raw ring buffer, and what they tell about buffers.

Two questions are answered. Where was each network buffer freed that a reader
has consumed (:func:`locality`), and what did the defer lists hold
(:func:`list_history`).
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from harness.counters import parse_bundle
from harness.errors import HarnessError


class BadTrace(HarnessError):
    """A trace does not have the format it should have."""


@dataclass(frozen=True)
class TraceEvent:
    """One event: where, when (in units of the trace clock), what, with what.

    The values of ``fields`` are words where the trace was read as text, and
    integers where it was read raw.
    """

    cpu: int
    time: float
    task: int
    name: str
    fields: Mapping[str, str | int]


@dataclass(frozen=True)
class Trace:
    """The events of a trace in the order of time, and how many the buffer lost."""

    events: tuple[TraceEvent, ...]
    lost: int


# --- as text ---------------------------------------------------------------

_LINE = re.compile(
    r"^\s*.+-(?P<task>\d+)\s+\[(?P<cpu>\d+)\]\s+(?:\S+\s+)?(?P<time>\d+(?:\.\d+)?): "
    r"(?P<name>\w+): (?P<rest>.*)$"
)
_FIELD = re.compile(r"(\w+)=(\S+)")
_TOTALS = re.compile(r"^# entries-in-buffer/entries-written: (\d+)/(\d+)")


def parse_text(text: str) -> Trace:
    """Parse tracefs's ``trace`` file.

    The format of a line is ``TASK-PID [CPU] FLAGS TIME: EVENT: ... name=value ...``.
    """
    events: list[TraceEvent] = []
    lost = 0
    for line in text.splitlines():
        if line.startswith("#"):
            totals = _TOTALS.match(line)
            if totals:
                lost = max(lost, int(totals[2]) - int(totals[1]))
            continue
        found = _LINE.match(line)
        if found is None:
            dropped = re.match(r"CPU:\d+ \[LOST (\d+)?", line)
            if dropped:
                lost += int(dropped[1] or 1)
            continue
        events.append(
            TraceEvent(
                int(found["cpu"]),
                float(found["time"]),
                int(found["task"]),
                found["name"],
                dict(_FIELD.findall(found["rest"])),
            )
        )
    events.sort(key=lambda event: event.time)
    return Trace(tuple(events), lost)


# --- raw -------------------------------------------------------------------

#: Header of a page of the ring buffer: time of its first event, bytes used (and flags).
_PAGE_HEADER = struct.Struct("<QQ")
_PAGE_SIZE = 4096
_COMMIT_MASK = 0xFFFFF
#: What every event begins with: its type, flags, preemption count, task.
_ENTRY = struct.Struct("<HBBi")
#: Kinds of records in a page that are not data of up to 112 bytes.
_LONG, _PADDING, _TIME_EXTEND, _TIME_STAMP = 0, 29, 30, 31

_NUMBER = {
    (1, False): "B",
    (1, True): "b",
    (2, False): "H",
    (2, True): "h",
    (4, False): "I",
    (4, True): "i",
    (8, False): "Q",
    (8, True): "q",
}


@dataclass(frozen=True)
class _Format:
    name: str
    fields: tuple[tuple[str, int, str], ...]  # name, offset, struct's letter


def _parse_format(text: str) -> tuple[int, _Format]:
    """Parse an event's ``format`` file; fields that are not numbers are left out."""
    name = re.search(r"^name: (\w+)$", text, re.MULTILINE)
    number = re.search(r"^ID: (\d+)$", text, re.MULTILINE)
    if name is None or number is None:
        raise BadTrace(f"not the format of an event: {text[:80]!r}")
    fields = []
    for found in re.finditer(
        r"field:[^;]*?(\w+);\s*offset:(\d+);\s*size:(\d+);\s*signed:([01]);", text
    ):
        letter = _NUMBER.get((int(found[3]), found[4] == "1"))
        if letter and not found[1].startswith("common_"):
            fields.append((found[1], int(found[2]), letter))
    return int(number[1]), _Format(name[1], tuple(fields))


def _records(page: bytes) -> Iterator[tuple[int, bytes]]:
    """Return (time, payload) of the events in one page."""
    time, commit = _PAGE_HEADER.unpack_from(page)
    at = _PAGE_HEADER.size
    end = at + (commit & _COMMIT_MASK)
    while at + 4 <= end:
        (word,) = struct.unpack_from("<I", page, at)
        kind, delta = word & 31, word >> 5
        at += 4
        if kind in (_PADDING, _LONG, _TIME_EXTEND, _TIME_STAMP):
            if kind == _PADDING and not delta:
                return  # the rest of the page is empty
            (value,) = struct.unpack_from("<I", page, at)
            if kind == _TIME_EXTEND:
                time += delta + (value << 27)
                at += 4
            elif kind == _TIME_STAMP:
                time = delta + (value << 27)
                at += 4
            else:
                # The length counts its own word.
                time += delta
                if kind == _LONG:
                    yield time, page[at + 4 : at + value]
                at += value
            continue
        time += delta
        yield time, page[at : at + 4 * kind]
        at += 4 * kind


def parse_raw(text: str) -> Trace:
    """Parse the sections that ``tests/guest/ringdump.c`` prints.

    ``==> format ... <==`` holds an event's format file, ``==> cpu N <==`` the
    pages of that CPU's ``trace_pipe_raw`` in base64, ``==> stats N <==`` its
    ``stats`` file, ``==> missed <==`` tracefs's ``kprobe_profile``. Raw, because
    the text of a trace has pointers hashed, and because formatting takes a slow
    guest longer than anything else.
    """
    formats: dict[int, _Format] = {}
    events: list[TraceEvent] = []
    lost = 0
    sections = parse_bundle(text)
    for title, body in sections.items():
        if title.startswith("format "):
            number, parsed = _parse_format(body)
            formats[number] = parsed
    for title, body in sections.items():
        kind, _, rest = title.partition(" ")
        if kind == "stats":
            for found in re.finditer(r"^(?:overrun|dropped events): (\d+)$", body, re.MULTILINE):
                lost += int(found[1])
        elif kind == "missed":
            # Lines of kprobe_profile: event, hits, misses. Others may have probes of their own,
            # which leave nothing in this trace, and whose misses are never forgotten.
            rows = (words for words in map(str.split, body.splitlines()) if words)
            lost += sum(int(words[2]) for words in rows if words[0] in _PROBES)
        elif kind == "cpu":
            try:
                pages = base64.b64decode(body, validate=False)
            except binascii.Error as err:
                raise BadTrace(f"CPU {rest}: not base64: {err}") from err
            if len(pages) % _PAGE_SIZE:
                raise BadTrace(f"CPU {rest}: {len(pages)} bytes are no whole pages")
            for start in range(0, len(pages), _PAGE_SIZE):
                for time, payload in _records(pages[start : start + _PAGE_SIZE]):
                    number, _, _, task = _ENTRY.unpack_from(payload)
                    known = formats.get(number)
                    if known is None:
                        continue
                    values: dict[str, str | int] = {
                        name: struct.unpack_from(f"<{letter}", payload, offset)[0]
                        for name, offset, letter in known.fields
                    }
                    events.append(TraceEvent(int(rest), time, task, known.name, values))
    events.sort(key=lambda event: event.time)
    return Trace(tuple(events), lost)


# --- where buffers were freed ----------------------------------------------


@dataclass
class Locality:
    """Where the buffers that a reader consumed were freed.

    Attributes:
        pairs: (CPU that allocated, CPU that freed) to the number of buffers.
        unknown: consumed buffers whose allocation the trace does not show.
        unfreed: consumed buffers that the trace does not see freed.
    """

    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    unknown: int = 0
    unfreed: int = 0

    @property
    def received(self) -> int:
        """Consumed buffers of which both the allocation and the free were seen."""
        return sum(self.pairs.values())

    @property
    def home(self) -> int:
        """Those of them freed on the CPU that allocated them."""
        return sum(count for (alloc, free), count in self.pairs.items() if alloc == free)

    @property
    def percent_home(self) -> float:
        """``home`` in percent of ``received``; 0 when nothing was received."""
        return 100.0 * self.home / self.received if self.received else 0.0


#: The events that tests/guest/skbtrace records; not every kernel has each of them.
SKB_EVENTS = (
    "kmem/kmem_cache_alloc",
    "kmem/kmem_cache_alloc_node",
    "skb/skb_copy_datagram_iovec",
    "skbhome/clone",
    "skbhome/free",
    "skbhome/bulk",
)

_PROBES = {name.partition("/")[2] for name in SKB_EVENTS if name.startswith("skbhome/")}

#: An allocation whose call lies this close behind skb_clone's entry is skb_clone's.
_CLONE_CODE = 0x400


def locality(trace: Trace, *, skb_size: int, pair_size: int) -> Locality:
    """Follow each buffer from its allocation over recvmsg() to its release.

    The events, as ``tests/guest/skbtrace`` records them: ``kmem_cache_alloc``
    and ``kmem_cache_alloc_node`` (``call_site``, ``ptr``, ``bytes_req``),
    ``skb_copy_datagram_iovec`` (data was taken out of ``skbaddr``), ``clone``
    (``skb_clone``, about at ``__probe_ip``, was called for ``skb``), ``free``
    and ``bulk`` (``skb_release_data`` or ``__kfree_skb_bulk``: ``skb`` is given up).

    TCP sends buffers that are allocated in pairs, as one object; what travels
    is the second half, a clone of the first that belongs where the pair was
    allocated. So does a clone with memory of its own: it shares the data.

    Args:
        skb_size: ``sizeof(struct sk_buff)``, skbuff_head_cache's ``object_size``.
        pair_size: size of a pair, skbuff_fclone_cache's ``object_size``.
    """
    home: dict[int, int] = {}
    read: set[int] = set()
    cloning: dict[tuple[int, int], tuple[int, int]] = {}
    result = Locality()

    def number(event: TraceEvent, name: str) -> int:
        return int(event.fields[name])

    def born(skb: int, cpu: int) -> None:
        if skb in read:
            # Its memory is used again, and its release was not seen.
            read.discard(skb)
            result.unfreed += 1
        home[skb] = cpu

    for event in trace.events:
        if event.name in ("kmem_cache_alloc", "kmem_cache_alloc_node"):
            size, first = number(event, "bytes_req"), number(event, "ptr")
            if size == pair_size:
                born(first, event.cpu)
                born(first + skb_size, event.cpu)
            elif size == skb_size:
                origin, inside = cloning.get((event.cpu, event.task), (0, 0))
                own = not 0 < number(event, "call_site") - inside < _CLONE_CODE
                born(first, event.cpu if own else home.get(origin, event.cpu))
        elif event.name == "clone":
            # One of a pair clones into the other half, without an allocation,
            # unless that is still in use.
            cloning[event.cpu, event.task] = number(event, "skb"), number(event, "__probe_ip")
        elif event.name == "skb_copy_datagram_iovec":
            read.add(number(event, "skbaddr"))
        elif event.name in ("free", "bulk"):
            skb = number(event, "skb")
            if skb in read:
                read.discard(skb)
                if skb in home:
                    result.pairs[home[skb], event.cpu] += 1
                else:
                    result.unknown += 1
    result.unfreed += len(read)
    return result


# --- what the defer lists held ---------------------------------------------


@dataclass
class ListHistory:
    """What the tracepoints tell about the lists, per CPU that owns one.

    Attributes:
        longest: the most skbs that one flush found, which is the most that the
            list held since the flush before: lists are emptied at once.
        oldest: the greatest age of an skb when the flush that took it was done,
            in units of the trace clock.
        waiting: how many skbs were queued and not flushed.
        verdicts: outcomes of all skbs, queued or not.
    """

    longest: dict[int, int] = field(default_factory=dict)
    oldest: dict[int, float] = field(default_factory=dict)
    waiting: dict[int, int] = field(default_factory=dict)
    verdicts: Counter[str] = field(default_factory=Counter)
    flushes: int = 0
    flushed: int = 0


def list_history(trace: Trace) -> ListHistory:
    """Replay ``skb_defer_free`` (alloc_cpu, verdict) and ``skb_defer_flush`` (cpu, count)."""
    queues: defaultdict[int, deque[float]] = defaultdict(deque)
    result = ListHistory()
    for event in trace.events:
        if event.name == "skb_defer_free":
            verdict = str(event.fields["verdict"])
            result.verdicts[verdict] += 1
            if verdict == "deferred":
                queues[int(event.fields["alloc_cpu"])].append(event.time)
        elif event.name == "skb_defer_flush":
            cpu, count = int(event.fields["cpu"]), int(event.fields["count"])
            result.flushes += 1
            result.flushed += count
            result.longest[cpu] = max(result.longest.get(cpu, 0), count)
            # A flush is traced when it is done: what was queued meanwhile is
            # younger than what it took, and stays.
            queue = queues[cpu]
            if queue:
                result.oldest[cpu] = max(result.oldest.get(cpu, 0.0), event.time - queue[0])
            for _ in range(min(count, len(queue))):
                queue.popleft()
    result.waiting = {cpu: len(queue) for cpu, queue in queues.items() if queue}
    return result
