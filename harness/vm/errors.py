"""What can go wrong with a guest, one name per kind."""

from __future__ import annotations

from pathlib import Path

from harness.errors import HarnessError


class GuestError(HarnessError):
    """Anything that goes wrong with a guest; `tail` is the end of its console."""


class GuestBootFailed(GuestError):
    """The guest never came up.

    Attributes:
        stage: how far it came: ``"start"`` (QEMU ended before the kernel printed
            anything), ``"silent"`` (the kernel printed nothing in time), ``"panic"``
            (it panicked), ``"gone"`` (QEMU ended later) or ``"agent"`` (the kernel
            runs, but the agent did not answer in time).
    """

    def __init__(
        self,
        what: str,
        *,
        stage: str,
        log: Path | None = None,
        hint: str | None = None,
        tail: str | None = None,
    ) -> None:
        super().__init__(what, log=log, hint=hint, tail=tail)
        self.stage = stage


class GuestPanic(GuestError):
    """The kernel panicked."""


class GuestHang(GuestError):
    """The guest no longer answers; the log ends with where its CPUs are."""


class GuestGone(GuestError):
    """QEMU ended, or the agent did, without a panic."""


class GuestCommandTimeout(GuestError):
    """The guest answers, but a command did not end within its limit; it was killed."""


class GuestCommandFailed(GuestError):
    """A command in the guest ended with a status other than 0.

    Attributes:
        returncode: the exit status; a signal's number, negated.
        stdout, stderr: what the command wrote.
    """

    def __init__(
        self,
        what: str,
        *,
        returncode: int,
        stdout: str,
        stderr: str,
        log: Path | None = None,
        hint: str | None = None,
        tail: str | None = None,
    ) -> None:
        super().__init__(what, log=log, hint=hint, tail=tail)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
