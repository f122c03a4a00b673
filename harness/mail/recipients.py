"""To whom: addresses, and the person's own aliases, which git send-email knows."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from email.header import decode_header, make_header
from email.utils import formataddr, getaddresses
from pathlib import Path

from harness import process
from harness.errors import HarnessError

_ADDRESS = re.compile(r"[^@\s<>,]+@[^@\s<>,]+\.[^@\s<>,]+")

TIMEOUT = 60.0


class UnknownRecipient(HarnessError):
    """A recipient is neither an address nor an alias."""


def resolve(repository: Path, given: Sequence[str]) -> list[str]:
    """Return recipients as ``Name <address>``, aliases looked up, each one once.

    Raises:
        UnknownRecipient: naming it, and the aliases there are.
    """
    found: dict[str, str] = {}
    for text in given:
        for name, address in _parse(repository, text):
            found.setdefault(address.lower(), formataddr((name, address), charset="utf-8"))
    return list(found.values())


def shown(recipient: str) -> str:
    """Return a recipient for people, whose name may be encoded for mail."""
    return str(make_header(decode_header(recipient)))


def addresses(recipients: Sequence[str]) -> set[str]:
    """Return the bare addresses, in lower case."""
    return {address.lower() for _, address in getaddresses(list(recipients))}


def _parse(repository: Path, text: str) -> list[tuple[str, str]]:
    pairs = getaddresses([text])
    if pairs and all(_ADDRESS.fullmatch(address) for _, address in pairs):
        return [(name, address) for name, address in pairs]
    known = aliases(repository)
    if text not in known:
        there = f"known aliases: {', '.join(sorted(known))}" if known else "git knows no aliases"
        raise UnknownRecipient(
            f"{text!r} is neither an address nor an alias",
            hint=f"{there}; sendemail.aliasesFile and sendemail.aliasFileType name the file",
        )
    return _expand(repository, text)


def aliases(repository: Path) -> set[str]:
    """Return the names of the aliases that git send-email knows; none if it is not there."""
    done = _send_email(repository, ["--dump-aliases"])
    return set(done.output.split()) if done.returncode == 0 else set()


def _expand(repository: Path, alias: str) -> list[tuple[str, str]]:
    """Ask git send-email, which reads seven formats of alias files, what an alias stands for."""
    with tempfile.NamedTemporaryFile("w", prefix="skbhome-", suffix=".patch") as mail:
        mail.write("From: nobody <nobody@example.org>\nSubject: none\n\nnone\n")
        mail.flush()
        done = _send_email(
            repository,
            [
                *("--dry-run", "--confirm=never", "--suppress-cc=all", "--no-validate"),
                *("--from=nobody@example.org", f"--to={alias}", "--no-cc", "--no-bcc", mail.name),
            ],
        )
    lines = re.findall(r"^To: (.*(?:\n[ \t]+.*)*)", done.output, re.M)
    pairs = getaddresses([re.sub(r"\s+", " ", line) for line in lines])
    if done.returncode != 0 or not pairs:
        raise UnknownRecipient(
            f"git send-email cannot say what the alias {alias!r} stands for",
            tail=process.tail(done.output + done.stderr),
        )
    return [(name, address) for name, address in pairs]


def _send_email(repository: Path, words: Sequence[str]) -> process.Completed:
    return process.run(
        ["git", "-C", repository, "send-email", *words],
        timeout=TIMEOUT,
        what="git send-email",
        check=False,
        split_stderr=True,
    )
