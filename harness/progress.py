"""What is being done and how long it took, for a person at a terminal and for a log.

On a terminal a running step has one line that is redrawn; elsewhere a line is
written every now and then, so that a log shows that something still moves.
All of it goes to stderr: stdout belongs to results.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

#: Seconds between two updates of the line, on a terminal and in a log.
EVERY_TTY = 0.5
EVERY_LOG = 15.0


@dataclass(frozen=True)
class Step:
    """One finished step of a run.

    Attributes:
        name: what was done, e.g. ``"build"``.
        seconds: wall-clock time.
        note: what came of it, in a few words; may be empty.
    """

    name: str
    seconds: float
    note: str = ""


class Line:
    """One line of progress, redrawn on a terminal, repeated now and then elsewhere."""

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self._label = label
        self._stream = sys.stderr if stream is None else stream
        self._tty = self._stream.isatty()
        self._last = time.monotonic() if not self._tty else 0.0
        self._drawn = False

    def update(self, text: str) -> None:
        """Show ``text`` as the present state, unless the last update was just now."""
        now = time.monotonic()
        if now - self._last < (EVERY_TTY if self._tty else EVERY_LOG):
            return
        self._last = now
        line = f"{self._label}: {text}"
        if self._tty:
            line = line[: shutil.get_terminal_size().columns - 1]
            self._stream.write(f"\r\x1b[K{line}")
            self._drawn = True
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def clear(self) -> None:
        """Take the line off the terminal."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False


@dataclass
class Steps:
    """The steps of one run, in order."""

    quiet: bool = False
    done: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Time the body as one step and say when it is done.

        Yields:
            a list; what the body appends to it is said with the step's time.
        """
        notes: list[str] = []
        started = time.monotonic()
        yield notes
        self.add(Step(name, time.monotonic() - started, ", ".join(notes)))

    def add(self, step: Step) -> None:
        """Take over a step that is already done, and say so."""
        self.done.append(step)
        if not self.quiet:
            note = f"  {step.note}" if step.note else ""
            print(f"{step.name:<10} {seconds(step.seconds):>9}{note}", file=sys.stderr, flush=True)


def seconds(value: float) -> str:
    """Return a time for people: ``0.4 s``, ``12 s``, ``4 min 5 s``."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 60:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s"


def say(text: str, *, indent: str = "") -> None:
    """Write lines for people to stderr."""
    for line in text.splitlines():
        print(f"{indent}{line}", file=sys.stderr, flush=True)
