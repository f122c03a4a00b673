"""Who sends: the person's own git identity, which is also who signs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from harness import process
from harness.errors import HarnessError


class IdentityMissing(HarnessError):
    """Git does not know who its user is, or not in a form that mail can use."""


@dataclass(frozen=True)
class Identity:
    """A person with an address."""

    name: str
    email: str

    def __str__(self) -> str:
        return f"{self.name} <{self.email}>"


def of(repository: Path) -> Identity:
    """Return the identity that git has for commits in ``repository``.

    The person's own configuration decides, and GIT_AUTHOR_NAME and GIT_AUTHOR_EMAIL before it.
    Nothing is guessed from the name of the machine.

    Raises:
        IdentityMissing: a part is missing, or is no address that can get mail.
    """
    name = os.environ.get("GIT_AUTHOR_NAME") or setting(repository, "user.name")
    email = os.environ.get("GIT_AUTHOR_EMAIL") or setting(repository, "user.email")
    hint = 'git config --global user.name "..." and git config --global user.email ...@...'
    if not name or not email:
        missing = " and ".join(
            word for word, there in (("user.name", name), ("user.email", email)) if not there
        )
        raise IdentityMissing(f"git has no {missing}: nobody is the sender", hint=hint)
    if nobody(email) or not re.fullmatch(r"[^@\s<>]+@[^@\s<>]+\.[^@\s<>]+", email):
        raise IdentityMissing(f"user.email is {email!r}, which nobody can answer to", hint=hint)
    if re.search(r"[<>\n]", name):
        raise IdentityMissing(f"user.name is {name!r}, which no mail can carry", hint=hint)
    return Identity(name.strip(), email)


def nobody(email: str) -> bool:
    """Tell whether an address is one that no mail can reach (RFC 2606), such as the project's."""
    domain = email.rpartition("@")[2].lower()
    return domain == "localhost" or domain.rpartition(".")[2] in ("invalid", "localhost", "test")


def setting(repository: Path, name: str) -> str:
    """Return a setting of the person's git; empty if it is not set."""
    done = process.run(
        ["git", "-C", repository, "config", "--get", name],
        timeout=30,
        check=False,
        split_stderr=True,
    )
    return done.output.strip() if done.returncode == 0 else ""
