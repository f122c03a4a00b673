"""The folder of one version's mails, and which of them have gone: build/mail/BASE/vN.

The mails keep their Message-IDs for as long as they are made from the same things, so that
sending can go on after a failure, and none goes out under two names.
"""

from __future__ import annotations

import email
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import paths, stamp
from harness.bases import Base
from harness.errors import HarnessError
from harness.mail import sent

_STATE = "state.json"
_MAILS = "mails"


class AlreadySent(HarnessError):
    """This version, or a part of it, has gone out."""


@dataclass
class Outbox:
    """The mails of one version.

    Attributes:
        key: a digest of what they were made from.
        extra: a digest of what may change between the first mail and the last without making
            the rest another version, such as a report that is finished meanwhile.
        tip: the last of the signed commits.
        gone: the time that each mail was sent, by its file's name.
        digests: of the mails as they were made.
    """

    base: Base
    version: int
    key: str = ""
    extra: str = ""
    tip: str = ""
    gone: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The folder of this version."""
        return paths.build_root() / "mail" / self.base.name / f"v{self.version}"

    @property
    def mails(self) -> list[Path]:
        """The mails, the cover letter first."""
        return [self.path / _MAILS / name for name in sorted(self.digests)]

    @property
    def waiting(self) -> list[Path]:
        """Those that have not gone."""
        return [mail for mail in self.mails if mail.name not in self.gone]

    @property
    def mbox(self) -> Path:
        """All of them as one mailbox."""
        return self.path / "series.mbox"

    def subject(self, mail: Path) -> str:
        """Return the subject of a mail, decoded."""
        return sent.subject(email.message_from_bytes(_headers(mail)))

    def save(self) -> None:
        """Write down what has gone."""
        facts: dict[str, Any] = {
            "extra": self.extra,
            "tip": self.tip,
            "gone": self.gone,
            "digests": self.digests,
        }
        stamp.write(self.path / _STATE, self.key, facts)

    def note(self, mail: Path) -> None:
        """Remember that a mail has gone."""
        self.gone[mail.name] = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self.save()

    def edited(self) -> list[str]:
        """Return the names of mails that are not as they were made, or not there."""
        return [
            mail.name
            for mail in self.mails
            if not mail.is_file() or stamp.digest([mail]) != self.digests[mail.name]
        ]


def load(base: Base, version: int) -> Outbox | None:
    """Return the outbox of a version; None if there is none that is whole."""
    box = Outbox(base, version)
    found = stamp.read(box.path / _STATE)
    if found is None:
        return None
    box.key, facts = found
    try:
        box.extra = str(facts["extra"])
        box.tip = str(facts["tip"])
        box.gone = dict(facts["gone"])
        box.digests = dict(facts["digests"])
    except (KeyError, TypeError, ValueError):
        return None
    return box


def prepare(
    base: Base,
    version: int,
    key: str,
    make: Callable[[Path], tuple[list[Path], str]],
    *,
    extra: str = "",
) -> Outbox:
    """Return the outbox of a version, its mails made unless they are there already.

    Args:
        key, extra: see :class:`Outbox`.
        make: writes the mails into a directory; returns them and the last signed commit.

    Raises:
        AlreadySent: some of the version's mails have gone, made from something else.
    """
    box = load(base, version)
    same = box is not None and box.key == key and bool(box.gone or box.extra == extra)
    if box is not None and same and not box.edited():
        return box
    if box is not None and box.gone:
        what = f"its mails were edited ({box.edited()[0]})" if same else "it has changed since"
        raise AlreadySent(
            f"{len(box.gone)} of the {len(box.digests)} mails of v{version} have gone, and {what}",
            hint=f"take that back and send the rest, or send it anew as --version {version + 1}",
        )
    fresh = Outbox(base, version, key, extra)
    new = fresh.path.with_name(f".{fresh.path.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        mails, fresh.tip = make(new / _MAILS)
        (new / "series.mbox").write_bytes(sent.as_mbox(mails))
        fresh.digests = {mail.name: stamp.digest([mail]) for mail in mails}
        shutil.rmtree(fresh.path, ignore_errors=True)
        new.rename(fresh.path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    fresh.save()
    return fresh


def _headers(mail: Path) -> bytes:
    return mail.read_bytes().partition(b"\n")[2].partition(b"\n\n")[0] + b"\n\n"
