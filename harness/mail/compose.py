"""Makes the mails of a version: git format-patch, and what git does not know put in.

The mails are files of git format-patch's own form, each with its Message-ID, In-Reply-To and
recipients, so that any mail program can take them from here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.header import Header
from pathlib import Path

from harness import git
from harness.checks.cover import Letter
from harness.errors import HarnessError
from harness.mail.changelog import Changelog
from harness.mail.identity import Identity

_SUBJECT = "*** SUBJECT HERE ***"
_BLURB = "*** BLURB HERE ***"


class NotComposed(HarnessError):
    """The mails could not be made."""


@dataclass(frozen=True)
class Wanted:
    """How a version is to look.

    Attributes:
        version: 1 for the first.
        prefix: the tree it is for, e.g. ``net-next``; may be empty.
        rfc: ask for comments rather than for applying.
        to: ``Name <address>`` of those it is for.
        cc: of those who are to see it.
        sender: who sends and signs it.
    """

    version: int
    prefix: str
    rfc: bool
    to: tuple[str, ...]
    cc: tuple[str, ...]
    sender: Identity

    @property
    def tag(self) -> str:
        """What stands in the brackets of a subject, but for the version and the numbers."""
        words = ["RFC"] * self.rfc + ["PATCH"] + [self.prefix] * bool(self.prefix)
        return " ".join(words)


@dataclass(frozen=True)
class Parts:
    """What the mails are made of.

    Attributes:
        repository: the kernel's, which has the commits.
        start: the commit below the first.
        commits: signed off already.
        subjects: theirs, in order.
        letter: the cover letter; None for a series of one without.
        evidence: lines for the cover letter; may be empty.
        before: the commit below, and the last commit of, the version sent before.
    """

    repository: Path
    start: str
    commits: Sequence[str]
    subjects: Sequence[str]
    letter: Letter | None
    changelog: Changelog
    evidence: str = ""
    before: tuple[str, str] | None = None


def compose(parts: Parts, wanted: Wanted, into: Path) -> list[Path]:
    """Write the mails into a directory and return them, in order.

    Raises:
        NotComposed: git made something else than one mail per patch and a cover letter.
    """
    into.mkdir(parents=True, exist_ok=True)
    mails = _format(parts, wanted, into)
    expected = len(parts.commits) + (parts.letter is not None)
    if len(mails) != expected:
        raise NotComposed(f"git made {len(mails)} mails of {len(parts.commits)} patches")
    patches = mails
    if parts.letter is not None:
        _fill_letter(mails[0], parts, wanted)
        patches = mails[1:]
    for mail, subject in zip(patches, parts.subjects, strict=True):
        below = parts.changelog.below(subject, wanted.version)
        if below:
            text = mail.read_bytes().decode(errors="surrogateescape")
            text = text.replace("\n---\n", f"\n---\n{below}\n", 1)
            mail.write_bytes(declared(text).encode(errors="surrogateescape"))
    return mails


def _format(parts: Parts, wanted: Wanted, into: Path) -> list[Path]:
    options = [
        "--output-directory",
        str(into),
        "--no-signoff",
        "--no-attach",
        "--no-base",
        "--no-notes",
        "--zero-commit",
        "--encode-email-headers",
        "--filename-max-length=64",
        "--abbrev=12",
        "--diff-algorithm=histogram",
        "--no-renames",
        "--binary",
        "--no-ext-diff",
        "--no-textconv",
        "--no-color",
        "--src-prefix=a/",
        "--dst-prefix=b/",
        "--stat=72",
        "--thread=shallow",
        f"--from={wanted.sender}",
        f"--subject-prefix={wanted.tag}",
        *(f"--to={each}" for each in wanted.to),
        *(f"--cc={each}" for each in wanted.cc),
    ]
    if wanted.version > 1:
        options.append(f"--reroll-count={wanted.version}")
    if parts.letter is not None:
        options += ["--cover-letter", "--numbered"]
        if parts.before is not None:
            below, tip = parts.before
            options.append(f"--range-diff={below}..{tip}")
    made = git.run(
        parts.repository,
        "format-patch",
        *options,
        f"{parts.start}..{parts.commits[-1]}",
        # Message-IDs name the committer.
        env={
            "GIT_COMMITTER_NAME": wanted.sender.name,
            "GIT_COMMITTER_EMAIL": wanted.sender.email,
        },
        settings=("diff.orderFile=/dev/null",),
    )
    return [Path(line) for line in made.output.splitlines()]


def _fill_letter(mail: Path, parts: Parts, wanted: Wanted) -> None:
    letter = parts.letter
    assert letter is not None
    text = mail.read_bytes().decode()
    if _SUBJECT not in text or _BLURB not in text:
        raise NotComposed("git made a cover letter of a form that is not known here")
    head, _, body = text.partition("\n\n")
    line = re.search(r"^Subject: .*(?:\n[ \t].*)*", head, re.M)
    assert line is not None
    words = line[0].replace(_SUBJECT, letter.subject)
    head = head.replace(line[0], _subject(words))
    blocks = [letter.body.rstrip(), parts.changelog.letter(wanted.version).rstrip()]
    blocks.append(parts.evidence.rstrip())
    body = body.replace(_BLURB, "\n\n".join(block for block in blocks if block), 1)
    mail.write_bytes(declared(f"{head}\n\n{body}").encode())


def _subject(line: str) -> str:
    """Return a Subject: line, folded, and encoded if it is not ASCII."""
    value = line.partition(": ")[2]
    if value.isascii():
        return f"Subject: {Header(value, header_name='Subject').encode()}"
    tag, _, rest = value.partition("] ")
    head = f"Subject: {tag}]"
    return f"{head} {Header(rest, 'utf-8', header_name=head).encode()}"


def declared(text: str) -> str:
    """Return a mail that says which characters it uses, if its body is not ASCII."""
    head, _, body = text.partition("\n\n")
    if body.isascii() or re.search(r"^Content-Type:", head, re.M | re.I):
        return text
    mime = (
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=UTF-8\n"
        "Content-Transfer-Encoding: 8bit"
    )
    return f"{head}\n{mime}\n\n{body}"
