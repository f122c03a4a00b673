"""The frames that travel between the harness and its agent in the guest.

A frame is a header (magic, kind, channel, length of the payload; big endian)
and a payload of bytes. A channel is one command; channel 0 is the connection
itself. The other end is harness/guest/agent.c.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from harness.errors import HarnessError

HEADER = struct.Struct(">BBII")
MAGIC = 0xA7

#: Largest payload of one frame; a stream is cut into frames of this size.
LIMIT = 1 << 16

#: Bytes of standard input that may be on their way to a command unacknowledged.
WINDOW = 1 << 18

# From the harness to the agent.
PING = 1  # payload: anything; comes back in a PONG
START = 2  # payload: see start()
STDIN = 3  # payload: bytes for the command; empty: end of file
SIGNAL = 4  # payload: number, sent to the command's process group
RESIZE = 5  # payload: rows and columns of the command's terminal, 16 bits each
POWEROFF = 6
MARK = 7  # payload: text, put into the kernel log as a line

# From the agent to the harness.
HELLO = 16  # payload: lines of NAME=VALUE about the guest; the first frame
PONG = 17
STARTED = 18  # payload: number, the process id
STDOUT = 19
STDERR = 20
EXIT = 21  # payload: number, the exit status; a signal's number, negated
CREDIT = 22  # payload: number of STDIN bytes that the command has taken
FAILED = 23  # payload: text; the command could not be started

_NUMBER = struct.Struct(">i")
_SIZE = struct.Struct(">HH")
_START = struct.Struct(">cBHHHH")

#: What a START frame asks for.
EXECUTE, READ, WRITE = b"x", b"r", b"w"


class BadCommand(HarnessError):
    """A command that cannot be sent to the guest."""


def number(payload: bytes) -> int:
    """Return the number that a payload is."""
    return int(_NUMBER.unpack(payload)[0])


def of_number(value: int) -> bytes:
    """Return a number as a payload."""
    return _NUMBER.pack(value)


def of_size(rows: int, columns: int) -> bytes:
    """Return a terminal's size as a payload."""
    return _SIZE.pack(min(rows, 0xFFFF), min(columns, 0xFFFF))


def start(
    argv: Sequence[str],
    *,
    mode: bytes = EXECUTE,
    cwd: str = "/",
    env: Mapping[str, str] | None = None,
    stdin: bool = False,
    tty: tuple[int, int] | None = None,
) -> bytes:
    """Return the payload of a START frame.

    Raises:
        BadCommand: it is too long, empty, or has a zero byte in it.
    """
    words = [cwd, *argv, *(f"{name}={value}" for name, value in (env or {}).items())]
    raw = [word.encode(errors="surrogateescape") for word in words]
    rows, columns = tty or (0, 0)
    flags = (1 if stdin else 0) | (2 if tty else 0)
    head = _START.pack(
        mode, flags, min(rows, 0xFFFF), min(columns, 0xFFFF), len(argv), len(env or {})
    )
    payload = head + b"".join(word + b"\0" for word in raw)
    if not argv or any(b"\0" in word for word in raw):
        raise BadCommand("a command needs a name, and no word of it may hold a zero byte")
    if len(payload) > LIMIT:
        raise BadCommand(
            f"a command and its environment may have {LIMIT} bytes, not {len(payload)}",
            hint="write the script to a file and run that",
        )
    return payload


class WireError(Exception):
    """What arrived is not a frame: the two ends have lost each other."""


def pack(kind: int, channel: int = 0, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return HEADER.pack(MAGIC, kind, channel, len(payload)) + payload


class Unpacker:
    """Turns a stream of bytes, cut anywhere, into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Take more bytes and return the frames (kind, channel, payload) they complete.

        Raises:
            WireError: the bytes are not frames.
        """
        buffer = self._buffer
        buffer += data
        frames = []
        at = 0
        while len(buffer) - at >= HEADER.size:
            magic, kind, channel, length = HEADER.unpack_from(buffer, at)
            if magic != MAGIC or length > LIMIT:
                raise WireError(f"not a frame: {bytes(buffer[at : at + 32])!r}")
            end = at + HEADER.size + length
            if len(buffer) < end:
                break
            frames.append((kind, channel, bytes(buffer[at + HEADER.size : end])))
            at = end
        del buffer[:at]
        return frames
