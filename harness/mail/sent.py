"""What was sent before: a mailbox per version beside the series, and a tag in the kernel's tree.

``patches/BASE/sent/vN.mbox`` is for keeping (commit it); the tag ``skbhome/BASE/vN`` in
build/trees/BASE/repo.git is made again from it when build/ was deleted.
"""

from __future__ import annotations

import mailbox
import re
import shutil
import tempfile
from collections.abc import Sequence
from email.header import decode_header, make_header
from email.message import Message
from pathlib import Path

from harness import git, series, stamp
from harness.bases import Base
from harness.errors import HarnessError
from harness.worktree import Home

_NUMBER = re.compile(r"\[[^\]]*?\b0*(\d+)/0*(\d+)\]")


class BrokenMailbox(HarnessError):
    """A mailbox does not hold a whole series."""


class NotComparable(HarnessError):
    """The version sent before does not apply to the source of this one."""


def directory(base: Base) -> Path:
    """Return where the mailboxes are kept."""
    return base.patches / "sent"


def path(base: Base, version: int) -> Path:
    """Return the mailbox of a version."""
    return directory(base) / f"v{version}.mbox"


def versions(base: Base) -> list[int]:
    """Return the versions that were sent, the oldest first."""
    names = (re.fullmatch(r"v(\d+)", path.stem) for path in directory(base).glob("v*.mbox"))
    return sorted(int(name[1]) for name in names if name)


def tag(base: Base, version: int) -> str:
    """Return the name of a version's tag, without refs/tags/."""
    return f"skbhome/{base.name}/v{version}"


def remember(base: Base, version: int, mails: Sequence[Path], commit: str) -> Path:
    """Keep what was sent, as a mailbox and as a tag; return the mailbox."""
    kept = path(base, version)
    stamp.write_atomic(kept, as_mbox(mails))
    git.run(Home.of(base).repo, "update-ref", f"refs/tags/{tag(base, version)}", commit)
    return kept


def as_mbox(mails: Sequence[Path]) -> bytes:
    """Return mails, as git format-patch writes them, as one mailbox (mboxrd)."""
    parts = []
    for mail in mails:
        first, _, rest = mail.read_bytes().partition(b"\n")
        assert first.startswith(b"From ")
        quoted = re.sub(rb"^(>*From )", rb">\1", rest, flags=re.M)
        parts.append(first + b"\n" + quoted.rstrip(b"\n") + b"\n\n")
    return b"".join(parts)


def commits(base: Base, version: int, start: str) -> tuple[str, str]:
    """Return a version as commits: the one below its first patch, and its last.

    Args:
        start: the commit of the present source, for a version that has no tag any more.

    Raises:
        BrokenMailbox: it is not a whole series.
        NotComparable: it does not apply to ``start``.
    """
    home = Home.of(base)
    with tempfile.TemporaryDirectory(prefix="skbhome-sent-") as scratch:
        patches = extract(path(base, version), Path(scratch))
        tip = git.resolve(home.repo, f"refs/tags/{tag(base, version)}^{{commit}}")
        below = git.resolve(home.repo, f"{tip}~{len(patches)}") if tip else None
        if tip is not None and below is not None:
            return below, tip
        made, failure = series.apply_aside(home, start, patches)
    if failure is not None:
        raise NotComparable(
            f"v{version} as it was sent does not apply to the source as it is now",
            tail=failure.what,
            hint="send this version with --no-range-diff",
        )
    git.run(home.repo, "update-ref", f"refs/tags/{tag(base, version)}", made[-1])
    return start, made[-1]


def extract(file: Path, into: Path) -> list[Path]:
    """Write the patches of a mailbox as files, in order; the cover letter is left out.

    Raises:
        BrokenMailbox: a mail is missing, or there is none.
    """
    found: dict[int, Path] = {}
    total = 0
    with file.open("rb") as raw:
        starts = raw.read(5) == b"From "
    box = mailbox.mbox(file, create=False)
    try:
        for message in box if starts else ():
            match = _NUMBER.search(subject(message))
            number, total = (int(match[1]), int(match[2])) if match else (len(found) + 1, 1)
            if number == 0:
                continue
            target = into / f"{number:04}.patch"
            text = re.sub(rb"^>(>*From )", rb"\1", message.as_bytes(unixfrom=False), flags=re.M)
            target.write_bytes(b"From 0000 Mon Sep 17 00:00:00 2001\n" + text)
            found[number] = target
    finally:
        box.close()
    missing = [str(number) for number in range(1, total + 1) if number not in found]
    if missing or not found:
        what = f"patch {', '.join(missing)} of {total} is missing" if missing else "it has no patch"
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(exist_ok=True)
        raise BrokenMailbox(
            f"{file} is damaged: {what}",
            hint="take it from where it was kept (git checkout, the list's archive) again",
        )
    return [found[number] for number in sorted(found)]


def subject(message: Message) -> str:
    """Return the subject of a mail, decoded, on one line."""
    return re.sub(r"\s+", " ", str(make_header(decode_header(message.get("Subject", "")))))
