"""Signs a series: the sender's Signed-off-by on every commit, and their name where nobody's is.

A patch whose author's address no mail can reach (``.invalid``) was written by no person; who
sends it answers for it and becomes its author. Any other author stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness import git, process
from harness.errors import HarnessError
from harness.mail.identity import Identity, nobody

TRAILER = "Signed-off-by"


class NotSigned(HarnessError):
    """A patch lacks the sender's sign-off."""


def commits(repository: Path, start: str, unsigned: Sequence[str], sender: Identity) -> list[str]:
    """Return the same commits on top of ``start``, signed off by ``sender``; no ref is moved."""
    below = start
    made = []
    for commit in unsigned:
        form = "--format=%T%n%an%n%ae%n%ad%n%B"
        told = git.read(repository, "log", "-1", "--date=raw", form, commit)
        tree, name, email, date, message = told.split("\n", 4)
        author = sender if nobody(email) else Identity(name, email)
        below = _commit(repository, tree, below, _signed(message, sender), author, date)
        made.append(below)
    return made


def _signed(message: str, sender: Identity) -> str:
    """Return a message with the sign-off as its last trailer, once."""
    done = process.run(
        [
            *("git", "interpret-trailers", "--no-divider", "--where=end"),
            *("--if-exists=addIfDifferent", "--trailer", f"{TRAILER}: {sender}"),
        ],
        timeout=60,
        stdin=f"{message.rstrip()}\n".encode(),
        env=git.environment(),
    )
    return done.output


def _commit(
    repository: Path, tree: str, parent: str, message: str, author: Identity, date: str
) -> str:
    env = {
        "GIT_AUTHOR_NAME": author.name,
        "GIT_AUTHOR_EMAIL": author.email,
        "GIT_AUTHOR_DATE": date,
        # The same series signed by the same person gives the same commits.
        "GIT_COMMITTER_DATE": date,
    }
    return git.read(repository, "commit-tree", tree, "-p", parent, "-m", message.rstrip(), env=env)


def require(messages: Sequence[str], sender: Identity) -> None:
    """Make sure that every message has the sender's sign-off.

    Raises:
        NotSigned: naming the first that has not.
    """
    wanted = f"{TRAILER}: {sender}"
    for number, message in enumerate(messages, 1):
        if wanted not in message.splitlines():
            raise NotSigned(
                f"patch {number} lacks your sign-off ({wanted})",
                hint="answer yes when asked to sign off, or give --yes-sign-off",
            )
