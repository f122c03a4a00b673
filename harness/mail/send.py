"""Hands mails to git send-email, one at a time, so that it is known which have gone.

The person's own configuration (sendemail.*) says how mail leaves this machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import process
from harness.errors import CommandFailed, CommandTimeout, HarnessError
from harness.mail.compose import Wanted
from harness.mail.outbox import Outbox

#: Seconds for one mail to a slow server.
TIMEOUT = 180.0
#: Seconds for a look at all of them that sends nothing.
DRY_TIMEOUT = 300.0

_PASSWORD = re.compile(r"[Pp]assword|Authentication|AUTH|535|530 ")
_UNREACHABLE = re.compile(
    r"Unable to initialize SMTP|Connection refused|timed? ?out|Name or service|Network is unreach|"
    r"Temporary failure in name|Can't connect|No such file or directory"
)


_INSTALL = "apt-get install git-email libmailtools-perl"


class NoSendEmail(HarnessError):
    """git send-email is not installed."""


class NotSent(HarnessError):
    """A mail did not go."""


def require(repository: Path) -> None:
    """Make sure that git has send-email.

    Raises:
        NoSendEmail: it has not.
    """
    done = process.run(
        ["git", "-C", repository, "send-email", "--dump-aliases"], timeout=60, check=False
    )
    if "is not a git command" in done.output or "cannot run" in done.output:
        raise NoSendEmail(
            "there is no git send-email",
            hint=f"as root: {_INSTALL}",
        )


def command(repository: Path, wanted: Wanted, mails: Sequence[Path], *, dry: bool) -> list[str]:
    """Return the command that sends these mails as they are, to these recipients and no others."""
    return [
        *("git", "-C", str(repository), "send-email"),
        *(["--dry-run"] if dry else []),
        "--confirm=never",
        # Who gets it, and what answers what, is decided and in the files.
        "--suppress-cc=all",
        # Those of the person's configuration are in no summary. Their Bcc is their own matter.
        "--no-to",
        "--no-cc",
        "--to-cmd=true",
        "--no-thread",
        "--no-chain-reply-to",
        "--no-signed-off-by-cc",
        "--no-annotate",
        "--no-format-patch",
        "--8bit-encoding=UTF-8",
        # A line of more than 998 bytes, or one with a CR, is encoded; nothing else is.
        "--transfer-encoding=auto",
        f"--from={wanted.sender}",
        *(f"--to={each}" for each in wanted.to),
        *(f"--cc={each}" for each in wanted.cc),
        *(str(mail) for mail in mails),
    ]


def dry_run(repository: Path, box: Outbox, wanted: Wanted) -> str:
    """Let git send-email look at all mails without sending any; return what it says.

    Raises:
        NotSent: it would refuse one of them.
    """
    log = box.path / "dry-run.log"
    log.unlink(missing_ok=True)
    try:
        done = process.run(
            command(repository, wanted, box.mails, dry=True),
            timeout=DRY_TIMEOUT,
            what="git send-email --dry-run",
            log=log,
        )
    except (CommandFailed, CommandTimeout) as err:
        raise NotSent(
            "git send-email --dry-run refuses the mails; nothing was sent",
            log=log,
            tail=err.tail,
            hint=f"as root: {_INSTALL}" if "LoadCPAN" in (err.tail or "") else None,
        ) from err
    return done.output


def send(repository: Path, box: Outbox, wanted: Wanted, told: Callable[[Path], None]) -> None:
    """Send what has not gone yet, in order; stop at the first that does not go.

    Args:
        told: called with each mail that went.

    Raises:
        NotSent: naming the mail, how many have gone, and how to go on.
    """
    log = box.path / "send.log"
    for mail in box.waiting:
        try:
            process.run(
                command(repository, wanted, [mail], dry=False),
                timeout=TIMEOUT,
                what=f"git send-email {mail.name}",
                log=log,
            )
        except (CommandFailed, CommandTimeout) as err:
            raise _failure(box, mail, err, log) from err
        box.note(mail)
        told(mail)


def _failure(box: Outbox, mail: Path, err: CommandFailed | CommandTimeout, log: Path) -> NotSent:
    said = err.output if isinstance(err, CommandFailed) else err.tail or ""
    gone, total = len(box.gone), len(box.digests)
    hint = "see what the server said; then the same command again sends the rest"
    if _UNREACHABLE.search(said):
        hint = (
            "the server cannot be reached: look at `git config --get-regexp sendemail`; then the "
            "same command again"
        )
    elif _PASSWORD.search(said):
        hint = (
            "the server wants a password, and nobody can be asked for one here: set up a git "
            "credential helper or sendemail.sendmailCmd; then the same command again"
        )
    unsure = ""
    if isinstance(err, CommandTimeout):
        unsure = "; it may have gone all the same, and would go again with the same Message-ID"
    already = "nothing was sent" if not gone else f"{gone} of {total} have gone and stay sent"
    return NotSent(
        f"{mail.name} was not sent ({already}{unsure})",
        log=log,
        tail=process.tail(said, 6),
        hint=hint,
    )
