"""What a patch in ``git format-patch`` form says: its subject, its message, its diff."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email import message_from_string
from email.header import decode_header, make_header
from pathlib import Path

_TAG = re.compile(r"^\s*(?:\[[^\]]*\]\s*)+")


@dataclass(frozen=True)
class PatchFile:
    """One patch of a series.

    Attributes:
        path: the file.
        subject: the first line of the commit's message, without ``[PATCH]``.
        body: the rest of the message, trailers included.
        diff: everything from the first line that a file's change begins with.
    """

    path: Path
    subject: str
    body: str
    diff: str

    def trailers(self, name: str) -> list[str]:
        """Return the values of every trailer ``name: VALUE``, in order."""
        found = re.findall(rf"^{re.escape(name)}:[ \t]*(\S.*)$", self.body, re.M | re.I)
        return [str(value).rstrip() for value in found]


def read(path: Path) -> PatchFile:
    """Return what the patch file says; what a damaged one lacks is empty.

    Line ends and bytes that are no UTF-8 stay as they are in the diff.
    """
    text = path.read_bytes().decode(errors="surrogateescape")
    mail, diff = _divide(text)
    parsed = message_from_string(mail)
    # A long header is folded, and one that is not ASCII is encoded.
    header = re.sub(r"\r?\n(?=[ \t])", "", parsed.get("Subject", ""))
    subject = _TAG.sub("", str(make_header(decode_header(header)))).strip()
    body = str(parsed.get_payload())
    # Below the first "---" stands what no commit keeps: notes, and the list of changed files.
    return PatchFile(path, subject, re.split(r"^---$", body, maxsplit=1, flags=re.M)[0], diff)


def _divide(text: str) -> tuple[str, str]:
    # A message may hold a line that begins like a change without git's own first line.
    begins = re.search(r"^diff --git ", text, re.M) or re.search(r"^--- \S", text, re.M)
    at = begins.start() if begins else len(text)
    # The signature that format-patch adds holds git's own version.
    diff = re.sub(r"^-- \n[^\n]*\n*\Z", "", text[at:], flags=re.M)
    return text[:at], diff
