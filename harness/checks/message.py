"""Subject and message: what reviewers read first.

Source: Documentation/process/submitting-patches.rst and netdev-FAQ.rst of the kernel tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.checks.context import Place
from harness.checks.model import Finding, Result
from harness.patchfile import PatchFile

NAME = "message"

MAX_SUBJECT = 75
MAX_WIDTH = 75

_PREFIX = re.compile(r"^[a-z0-9][\w.,/ -]*: \S", re.I)
_TRAILER = re.compile(r"^[A-Z][a-z]+(?:-[a-z]+)+: |^(?:Fixes|Link|Closes|Cc): ")


def check(place: Place) -> Result:
    """Look at the subject and the message of a patch."""
    return Result(NAME, tuple(of_patch(place.patch)), hints=tuple(_hints(place.patch)))


def of_patch(patch: PatchFile) -> Iterator[Finding]:
    """Yield the rules that a patch's message does not keep."""
    subject = patch.subject
    if not subject:
        yield Finding("has no subject", kind="NO_SUBJECT")
        return
    if len(subject) > MAX_SUBJECT:
        text = f"subject of {len(subject)} characters, at most {MAX_SUBJECT}"
        yield Finding(text, kind="LONG_SUBJECT")
    if not _PREFIX.match(subject):
        text = f"subject does not begin with a subsystem and a colon: {subject!r}"
        yield Finding(text, kind="SUBSYSTEM")
    if subject.endswith("."):
        yield Finding("subject ends with a full stop", kind="FULL_STOP")
    if re.match(r"(fixup|squash|amend)!", subject):
        text = "is still to be put into another patch (git rebase -i --autosquash base)"
        yield Finding(text, kind="FIXUP")
    prose = [line for line in patch.body.splitlines() if line.strip()]
    if not [line for line in prose if not _TRAILER.match(line)]:
        yield Finding("does not say why: the message is empty", kind="NO_MESSAGE")
    for line in prose:
        if len(line) > MAX_WIDTH and not _may_be_long(line):
            text = f"message has a line of {len(line)} characters, at most {MAX_WIDTH}: {line}"
            yield Finding(text, kind="LONG_MESSAGE_LINE")


def _may_be_long(line: str) -> bool:
    # Trailers, quoted output, addresses and names of files are not to be broken.
    return bool(_TRAILER.match(line) or line.startswith((" ", "\t")) or " " not in line.strip())


def _hints(patch: PatchFile) -> Iterator[str]:
    words = re.findall(r"\b(?:[Tt]his (?:patch|commit)|[Ii]n this (?:patch|commit))\b", patch.body)
    if words:
        yield f"says {words[0]!r}: the imperative needs no such words"
    what = patch.subject.rpartition(": ")[2]
    if re.match(r"\w+(?:ed|ing)\b", what) and not re.match(r"(?:need|embed|feed|bring)\b", what):
        yield f"subject is not in the imperative: {what.split()[0]!r}"
