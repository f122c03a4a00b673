"""The one exception family that a command line turns into a message.

Whatever can go wrong outside this program (a download, a patch, a build, a
guest) is raised as a :class:`HarnessError` that answers three questions: what
failed, where its log is, and what to do next.
"""

from __future__ import annotations

from pathlib import Path


class HarnessError(Exception):
    """A failure that a person can act upon.

    Attributes:
        what: one sentence saying what failed.
        log: the file that holds the whole story, if there is one.
        hint: what to do next, in the imperative, if anything is known.
        tail: the last lines of the log, or the lines that matter.
    """

    #: Exit status of a command that ends with this error.
    status = 1

    def __init__(
        self,
        what: str,
        *,
        log: Path | None = None,
        hint: str | None = None,
        tail: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.log = log
        self.hint = hint
        self.tail = tail

    def __str__(self) -> str:
        parts = [self.what]
        if self.tail:
            parts.append("\n".join(f"    {line}" for line in self.tail.splitlines()))
        if self.log is not None:
            parts.append(f"log: {self.log}")
        if self.hint:
            parts.append(f"next: {self.hint}")
        return "\n".join(parts)


class UsageError(HarnessError):
    """The person asked for something that does not exist."""

    status = 2


class CommandFailed(HarnessError):
    """An external command ended with a status other than 0."""

    def __init__(
        self,
        what: str,
        *,
        returncode: int,
        output: str = "",
        log: Path | None = None,
        hint: str | None = None,
        tail: str | None = None,
    ) -> None:
        super().__init__(what, log=log, hint=hint, tail=tail)
        self.returncode = returncode
        #: Everything the command wrote (stdout and stderr together).
        self.output = output


class CommandTimeout(HarnessError):
    """An external command did not end within its limit and was ended."""
