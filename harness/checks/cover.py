"""The cover letter: it is there, and what it says about the patches is true.

Diffstat and list of patches are made when the series is sent. A letter that has one of its
own, or that sums patches up by their numbers (`` 2- 5  are the lists``), is held to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.checks.context import Context
from harness.checks.model import Finding, Result
from harness.errors import UsageError

NAME = "cover-letter"

#: From that many patches on, people want to be told what the whole is for.
NEEDED_FROM = 2
MAX_SUBJECT = 75
MAX_WIDTH = 75
_NAMES = ("cover-letter", "0000-cover-letter.patch")


@dataclass(frozen=True)
class Letter:
    """A cover letter.

    Attributes:
        subject: without ``[PATCH 0/N]``.
        body: the text.
    """

    path: Path
    subject: str
    body: str


def path_of(directory: Path) -> Path | None:
    """Return the file of a series' cover letter, if there is one."""
    return next((directory / name for name in _NAMES if (directory / name).is_file()), None)


def read(directory: Path) -> Letter | None:
    """Return the cover letter of a directory of patches, if it has one.

    The file begins with ``Subject: ...``, a blank line follows, then the text.

    Raises:
        UsageError: it has no subject, or is not UTF-8.
    """
    path = path_of(directory)
    if path is None:
        return None
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as err:
        raise UsageError(f"{path} is not UTF-8: {err.reason} at byte {err.start}") from err
    match = re.match(r"(?:.+\n)*?Subject: (?P<subject>.+)\n(?:.+\n)*\n+(?P<body>[\s\S]*)", text)
    if match is None:
        raise UsageError(
            f"{path} does not begin with a subject",
            hint="its first line is `Subject: ...`, then comes an empty line, then the text",
        )
    subject = re.sub(r"^\s*(?:\[[^\]]*\]\s*)+", "", match["subject"]).strip()
    return Letter(path, subject, match["body"].rstrip() + "\n")


def check(context: Context) -> Result:
    """Look at the cover letter of a series."""
    count = len(context.places)
    try:
        letter = read(context.patches)
    except UsageError as err:
        return Result(NAME, (Finding(err.what, kind="FORM"),))
    if letter is None:
        if count < NEEDED_FROM:
            return Result(NAME, note="none, none is needed")
        text = f"there is no {context.patches}/cover-letter, and {count} patches need one"
        return Result(NAME, (Finding(text, kind="MISSING"),))
    files = [file for place in context.places for file in place.files]
    found = [
        *_form(letter),
        *_numbers(letter.body, count),
        *_shortlog(letter.body, [place.patch.subject for place in context.places]),
        *_diffstat(letter.body, {file.path for file in files}),
    ]
    hints = []
    if context.commits:
        claimed = set(re.findall(rf"\b{re.escape(context.base.series)}\.\d+\b", letter.body))
        if claimed and context.source.version not in claimed:
            hints.append(
                f"speaks of {', '.join(sorted(claimed))}, the source is {context.source.version}"
            )
    return Result(NAME, tuple(found), hints=tuple(hints), note=letter.path.name)


def _form(letter: Letter) -> Iterator[Finding]:
    if len(letter.subject) > MAX_SUBJECT:
        text = f"subject of {len(letter.subject)} characters, at most {MAX_SUBJECT}"
        yield Finding(text, kind="LONG_SUBJECT")
    if not letter.body.strip():
        yield Finding("it is empty", kind="EMPTY")
    if "\r" in letter.body:
        yield Finding("it has lines that end in CR LF", kind="CRLF")
    for line in letter.body.splitlines():
        if len(line) > MAX_WIDTH and " " in line.strip() and not line.startswith(" "):
            text = f"a line of {len(line)} characters, at most {MAX_WIDTH}: {line}"
            yield Finding(text, kind="LONG_LINE")
        if re.match(r"\*\*\* (?:SUBJECT|BLURB) HERE", line):
            yield Finding(f"is not written yet: {line}", kind="BLURB")
    if re.search(r"^Signed-off-by:", letter.body, re.M):
        yield Finding("has a Signed-off-by", kind="SIGNED_OFF")


def _numbers(body: str, count: int) -> Iterator[Finding]:
    """Yield what is wrong with a list of patches by their numbers: it names each one once."""
    rows = re.findall(r"^ {0,3}(\d+)(?:, ?(\d+)|- ?(\d+))? {2,}\S", body, re.M)
    if not rows:
        return
    named: list[int] = []
    for first, other, last in rows:
        named += [int(first), int(other)] if other else range(int(first), int(last or first) + 1)
    wrong = sorted(set(named) ^ set(range(1, count + 1)))
    if wrong:
        text = f"its list of patches and the {count} patches differ at {_words(wrong)}"
        yield Finding(text, kind="LIST")
    elif len(named) != count:
        yield Finding("its list of patches names one twice", kind="LIST")


def _shortlog(body: str, subjects: Sequence[str]) -> Iterator[Finding]:
    """Yield where a list like git shortlog's is not that of the patches."""
    listed: list[str] = []
    for block in re.findall(r"^\S.* \(\d+\):\n((?:  \S.*\n(?:    .*\n)*)+)", body, re.M):
        joined = re.sub(r"\n {4,}", " ", block)
        listed += [line.strip() for line in joined.splitlines()]
    if listed and sorted(listed) != sorted(subjects):
        odd = sorted(set(listed) ^ set(subjects))
        yield Finding(f"its list of subjects is not that of the patches: {odd[0]!r}", kind="LIST")


def _diffstat(body: str, files: set[str]) -> Iterator[Finding]:
    listed = set(re.findall(r"^ (\S+/\S+|[A-Z]\w+) +\| +\d+ [+-]+$", body, re.M))
    total = re.search(r"^ (\d+) files? changed", body, re.M)
    odd = sorted(listed ^ files) if listed else []
    if odd:
        yield Finding(f"its diffstat is not that of the patches: {odd[0]}", kind="DIFFSTAT")
    elif total is not None and int(total[1]) != len(files):
        text = f"it says that {total[1]} files change; {len(files)} do"
        yield Finding(text, kind="DIFFSTAT")


def _words(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
