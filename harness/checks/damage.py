"""Is the patch whole, and would it survive the mail? What git am would stumble over, or keep."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.checks.context import Place
from harness.checks.model import Finding, Result

NAME = "whole"


def check(place: Place) -> Result:
    """Look at the bytes of the patch file."""
    return Result(NAME, tuple(_findings(place)))


def _findings(place: Place) -> Iterator[Finding]:
    raw = place.patch.path.read_bytes()
    if place.damage:
        yield Finding(place.damage, kind="DAMAGED")
    if not re.search(rb"^From: \S", raw, re.M):
        yield Finding("it has no From: line, so nobody is its author", kind="NO_AUTHOR")
    carriage = [line for line in raw.split(b"\n") if line.endswith(b"\r")]
    if carriage:
        text = f"{len(carriage)} lines end in CR LF; kernel files end theirs in LF"
        yield Finding(text, kind="CRLF")
    if b"\0" in raw:
        yield Finding("it holds a NUL byte, which no mail can carry", kind="NUL")
    if re.search(rb"^GIT binary patch$", raw, re.M):
        yield Finding("it changes a binary file", kind="BINARY")
    try:
        raw.decode()
    except UnicodeDecodeError:
        yield Finding("it is not UTF-8", kind="ENCODING")
    for line in place.added():
        if re.search(r"[ \t]+\r?$", line.text):
            yield Finding(
                "trailing whitespace", kind="TRAILING_WHITESPACE", file=line.file, line=line.number
            )
