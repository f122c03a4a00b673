"""One guest's console: a log file, a text that grows, and the splats found in it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from harness import process
from harness.console import patterns
from harness.console.patterns import Splat
from harness.console.stream import Detector
from harness.errors import HarnessError, UsageError

#: Reports that are decoded at a time: the first ones say most, the rest follow from them.
DECODED = 4


class Mark(int):
    """A place in the console's text (bytes from its start)."""


class ExpectedSplatMissing(HarnessError):
    """A splat that had to come did not."""


class Console:
    """The console of one guest. Any thread may read it; one thread feeds it.

    Attributes:
        log: the file that holds everything the console has shown.
    """

    def __init__(
        self,
        log: Path,
        *,
        flush: Callable[[], object] = lambda: None,
        decode: Callable[[str], tuple[str | None, str]] | None = None,
    ) -> None:
        """Start an empty console.

        Args:
            flush: waits until everything the kernel has logged has been fed.
            decode: turns a report into one with files and lines, or None and a reason.
        """
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = log.open("wb", buffering=0)
        self._text = bytearray()
        self._held = b""
        self._changed = threading.Condition()
        self._detector = Detector()
        self._allowed: list[tuple[int, int | None, frozenset[str]]] = []
        self._flush = flush
        self._decode = decode
        self._panic: int | None = None

    def attach(
        self,
        *,
        flush: Callable[[], object],
        decode: Callable[[str], tuple[str | None, str]] | None = None,
    ) -> None:
        """Set what the guest can do for its console (see the constructor)."""
        self._flush = flush
        self._decode = decode

    # The side of the guest.

    def feed(self, data: bytes) -> None:
        """Take what the console has just shown."""
        # A serial line ends its lines with \r\n, and a terminal adds another \r;
        # hold a \r at the end of a piece back until what follows is known.
        data = self._held + data
        kept = data.rstrip(b"\r")
        self._held = data[len(kept) :]
        while b"\r\n" in kept:
            kept = kept.replace(b"\r\n", b"\n")
        with self._changed:
            if not self._file.closed:
                self._file.write(kept)
            searched = max(len(self._text) - len(_PANIC), 0)
            self._text += kept
            self._detector.feed(kept)
            if self._panic is None and (at := self._text.find(_PANIC, searched)) >= 0:
                self._panic = at
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more; the text stays readable."""
        with self._changed:
            if not self._file.closed:
                self._file.close()
            self._changed.notify_all()

    # What it has shown.

    def mark(self, *, flush: bool = True) -> Mark:
        """Return the present end of the text, after everything logged so far has come."""
        if flush:
            self._flush()
        with self._changed:
            return Mark(len(self._text))

    def since(self, mark: int = 0) -> str:
        """Return the text from ``mark`` on."""
        with self._changed:
            return self._text[mark:].decode(errors="replace")

    def tail(self, lines: int = 25) -> str:
        """Return the last lines of the text."""
        with self._changed:
            return process.tail(self._text[-32768:].decode(errors="replace"), lines)

    @property
    def empty(self) -> bool:
        """Whether it has shown nothing yet."""
        with self._changed:
            return not self._text

    @property
    def panic(self) -> str | None:
        """What the kernel panicked about, or None."""
        with self._changed:
            if self._panic is None:
                return None
            end = self._text.find(b"\n", self._panic)
            line = self._text[self._panic : end if end >= 0 else None]
        return line[len(_PANIC) :].decode(errors="replace").strip(" :\r") or "no reason given"

    def shows(self, pattern: bytes) -> bool:
        """Tell whether a regular expression matches the text."""
        with self._changed:
            return re.search(pattern, self._text, re.MULTILINE) is not None

    def wait_for(self, text: bytes, *, since: int = 0, timeout: float) -> bool:
        """Wait until ``text`` is shown at or after ``since``; false if it was not in time."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._text.find(text, since) < 0:
                left = deadline - time.monotonic()
                if left <= 0 or self._file.closed:
                    return False
                self._changed.wait(left)
        return True

    # Splats.

    def splats(self, since: int = 0, *, decode: bool = True, flush: bool = True) -> list[Splat]:
        """Return the splats that began at or after ``since`` and were not allowed.

        Args:
            since: a mark; the start of the console unless given.
            decode: add files and lines to the first few (takes seconds, for each).
            flush: first let everything come that the kernel has logged so far.
        """
        return self._collect(since, decode=decode, flush=flush, allowed=False)

    def _collect(self, since: int, *, decode: bool, flush: bool, allowed: bool) -> list[Splat]:
        if flush:
            self._flush()
        with self._changed:
            found = [
                Splat(
                    report.kind,
                    report.title,
                    self._text[report.start : report.end].decode(errors="replace"),
                    start=report.start,
                )
                for report in self._detector.reports()
                if report.splat
                and report.start >= since
                and (allowed or not self._is_allowed(report.kind, report.start))
            ]
        if decode and self._decode is not None:
            found = [
                splat.with_decoded(*self._decode(splat.text))
                if index < DECODED
                else splat.with_decoded(None, f"only the first {DECODED} are")
                for index, splat in enumerate(found)
            ]
        return found

    def _is_allowed(self, kind: str, start: int) -> bool:
        return any(
            begin <= start and (end is None or start < end) and (kind in kinds or "*" in kinds)
            for begin, end, kinds in self._allowed
        )

    @contextmanager
    def allow(self, *kinds: str) -> Iterator[list[Splat]]:
        """Do not count splats of these kinds (``*``: any) that begin in the body.

        Yields:
            a list that holds those splats once the body has ended.

        Raises:
            UsageError: a kind that does not exist.
        """
        unknown = set(kinds) - patterns.NAMES - {"*"}
        if unknown or not kinds:
            raise UsageError(
                f"unknown kind of splat {', '.join(sorted(unknown)) or '(none given)'}; "
                f"known: {', '.join(sorted(patterns.NAMES))}"
            )
        chosen = frozenset(kinds)
        begin = self.mark()
        entry = (begin, None, chosen)
        seen: list[Splat] = []
        with self._changed:
            self._allowed.append(entry)
        try:
            yield seen
        finally:
            end = self.mark()
            with self._changed:
                self._allowed.remove(entry)
                self._allowed.append((begin, end, chosen))
            seen += [
                splat
                for splat in self._collect(begin, decode=False, flush=False, allowed=True)
                if splat.start < end and (splat.kind in chosen or "*" in chosen)
            ]

    @contextmanager
    def expect(self, *kinds: str) -> Iterator[list[Splat]]:
        """Like :meth:`allow`, and each of the kinds has to come.

        Raises:
            ExpectedSplatMissing: one did not, and the body ended without an error.
        """
        with self.allow(*kinds) as seen:
            yield seen
        missing = set(kinds) - {"*"} - {splat.kind for splat in seen}
        if missing:
            raise ExpectedSplatMissing(
                f"no {', '.join(sorted(missing))} splat came",
                log=self.log,
                tail=self.tail(),
            )


_PANIC = b"Kernel panic - not syncing"
