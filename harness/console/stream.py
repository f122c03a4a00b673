"""Finds reports of trouble in a kernel's log while it is being written.

The log comes in pieces cut anywhere; what is found depends on its lines alone,
never on where the pieces were cut or on when they came.
"""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass

from harness.console import patterns
from harness.console.patterns import Kind

#: Seconds on the kernel's clock after which a line no longer belongs to the report before it.
GAP = 5.0

#: Lines of something else that a report may have between two lines of its own.
STRAY = 8

#: Longest report, in lines; what never ends is cut.
LONGEST = 1500

#: Lines behind the head in which a more telling line can still change the kind.
REFINE = 12

#: Lines kept for what precedes a head.
MEMORY = 8


@dataclass
class Report:
    """One report: its kind, its title and where it is in the log (bytes)."""

    kind: str
    title: str
    start: int
    end: int
    splat: bool


@dataclass
class _Line:
    start: int
    end: int
    stamp: float | None
    message: str


@dataclass
class _Open:
    report: Report
    kind: Kind
    #: A rank below 0 was given by a `cut here` alone.
    rank: int
    lines: int = 1
    stray: int = 0
    stamp: float | None = None
    traced: bool = False
    ended: bool = False


class Detector:
    """Takes a log and keeps the reports found in it."""

    def __init__(self) -> None:
        self._partial = b""
        self._offset = 0
        self._recent: deque[_Line] = deque(maxlen=MEMORY)
        self._open: _Open | None = None
        self._closed: list[Report] = []

    def feed(self, data: bytes) -> None:
        """Take the next piece of the log."""
        *whole, self._partial = (self._partial + data).split(b"\n")
        for raw in whole:
            self._take(raw, 1)

    def reports(self) -> list[Report]:
        """Return all reports so far, one that is still being written included."""
        if not self._partial and self._open is None:
            return list(self._closed)
        # What is half there is looked at by a copy, so that looking changes nothing.
        view = Detector()
        view._offset = self._offset
        view._recent = deque(self._recent, MEMORY)
        view._open = copy.deepcopy(self._open)
        view._closed = list(self._closed)
        if self._partial:
            view._take(self._partial, 0)
        view._close()
        return view._closed

    # Lines.

    def _take(self, raw: bytes, newline: int) -> None:
        start, self._offset = self._offset, self._offset + len(raw) + newline
        text = raw.rstrip(b"\r").decode("latin-1")
        cuts = [0]
        if patterns.INNER_STAMP.search(text):
            cuts += [match.start() for match in patterns.INNER_STAMP.finditer(text)]
        for index, cut in enumerate(cuts):
            last = index + 1 == len(cuts)
            piece = text[cut:] if last else text[cut : cuts[index + 1]]
            stamp, message = patterns.strip(piece)
            end = self._offset if last else start + cuts[index + 1]
            self._line(_Line(start + cut, end, stamp, message))

    def _line(self, line: _Line) -> None:
        current = self._open
        kind = patterns.classify(line.message)
        if current is not None and self._far(current, line):
            self._close()
            current = None
        if current is not None and self._continues(current, kind, line):
            self._recent.append(line)
            return
        if kind is not None and not (kind.rank == 0 and current is not None):
            self._begin(kind, kind.rank, line)
        elif patterns.CUT_HERE.match(line.message):
            self._begin(_CUT, -1, line)
        elif current is not None:
            current.stray += 1
            if current.stray > STRAY:
                self._close()
        self._recent.append(line)

    def _far(self, current: _Open, line: _Line) -> bool:
        return (
            line.stamp is not None
            and current.stamp is not None
            and line.stamp - current.stamp > GAP
        ) or current.lines >= LONGEST

    def _continues(self, current: _Open, kind: Kind | None, line: _Line) -> bool:
        """Add the line to the open report if it belongs there."""
        message = line.message
        refining = current.lines <= REFINE and not current.traced
        if patterns.CUT_HERE.match(message):
            # A line that says what is wrong may precede the warning that it is part of.
            if current.rank < 0 or current.traced or current.lines > 3 or current.ended:
                return False
        elif kind is not None and kind.rank > 0:
            same = current.kind.name == "SYSRQ" and kind.rank == 1 and kind.name == "OOPS"
            sequel = patterns.SEQUELS.get(current.kind.name)
            if sequel is not None and sequel.match(message):
                pass
            elif current.ended:
                if not patterns.AFTERMATH.match(message):
                    return False
            elif current.kind.until is not None and kind.name in _BANNERS:
                pass
            elif refining and self._refines(current, kind):
                if kind.rank > current.rank or current.rank < 0:
                    current.kind, current.rank = kind, kind.rank
                    current.report.kind, current.report.splat = kind.name, kind.splat
                    current.report.title = message.strip()
            elif not same:
                return False
        elif (
            current.ended
            and not patterns.AFTERMATH.match(message)
            or (
                current.kind.until is None
                and current.traced
                and not current.ended
                and current.kind.name != "SYSRQ"
                and not patterns.BODY.match(message)
            )
        ):
            return False
        self._add(current, line)
        return True

    @staticmethod
    def _refines(current: _Open, kind: Kind) -> bool:
        """Tell whether a head within the first lines of a report is about the same thing."""
        if current.rank < 0:
            return True
        if kind.name in _BANNERS:
            return True
        # `cut here`, a message that says what it is, and then the general head.
        return current.rank == 2 and kind.rank == 1 and kind.name == "WARNING"

    def _add(self, current: _Open, line: _Line) -> None:
        current.report.end = line.end
        current.lines += 1
        current.stray = 0
        if line.stamp is not None:
            current.stamp = line.stamp
        if patterns.CALL_TRACE.match(line.message):
            current.traced = True
        until = current.kind.until
        if until is not None and current.lines > 2 and until.match(line.message):
            self._close()
        elif patterns.END_TRACE.match(line.message):
            current.ended = True

    def _begin(self, kind: Kind, rank: int, line: _Line) -> None:
        self._close()
        start, title = line.start, line.message.strip()
        before = list(self._recent)
        if kind.name == "CALL_TRACE":
            start, title = _headless(before, line)
        else:
            for earlier in reversed(before[-2:]):
                if not patterns.PRELUDE.match(earlier.message) or earlier.start < self._floor():
                    break
                start = earlier.start
        report = Report(kind.name, title, start, line.end, kind.splat)
        self._open = _Open(report, kind, rank, stamp=line.stamp)
        if kind.name == "CALL_TRACE":
            self._open.traced = True
        if kind.single:
            self._close()

    def _floor(self) -> int:
        """Return where the last report ended: the next one cannot begin before that."""
        return self._closed[-1].end if self._closed else 0

    def _close(self) -> None:
        current, self._open = self._open, None
        if current is not None and current.rank >= 0 or current is not None and current.traced:
            self._closed.append(current.report)


#: A report that has said `cut here` and nothing else yet.
_CUT = Kind("WARNING", patterns.CUT_HERE)

#: Heads that repeat what the report is about, within it.
_BANNERS = frozenset(
    {"OOPS", "GENERAL_PROTECTION", "DOUBLE_FAULT", "KERNEL_BUG", "STACK_OVERFLOW", "RIP"}
)


def _headless(before: list[_Line], line: _Line) -> tuple[int, str]:
    """Return start and title of a call trace that no known head precedes."""
    start, title = line.start, line.message.strip()
    for index in range(len(before) - 1, max(len(before) - 5, -1), -1):
        if before[index].message.startswith("CPU: "):
            start = before[index].start
            title = before[index].message
            if index > 0 and before[index].stamp is not None:
                earlier = before[index - 1]
                if earlier.stamp is not None and before[index].stamp - earlier.stamp < 0.1:  # type: ignore[operator]
                    start, title = earlier.start, earlier.message
            break
    return start, title.strip()
