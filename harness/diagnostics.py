"""Compiler warnings as sets, so that two builds can be compared.

A warning is known by its file, function, flag and message. Line numbers are
left out: an edit above a warning moves it without making it new. Counts are
left out too: a warning that takes the place of another one is new.

The accepted format is the output of the kernel's build when each target's
output is kept together (``make --output-sync=target``)::

      CC      net/core/skbuff.o
    ../net/core/skbuff.c: In function ‘skb_put’:
    ../net/core/skbuff.c:12:6: warning: unused variable ‘x’ [-Wunused-variable]
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: ``  CC      net/core/skbuff.o``, ``  CC [M]  net/foo.o``, ``  LD      vmlinux``
_TARGET = re.compile(r"^ {2}(?P<verb>[A-Z][A-Z0-9_-]*)(?: \[M\])?\s+(?P<target>\S+)$")
_IN_FUNCTION = re.compile(r"^(?P<file>\S+?): In (?:member )?function ['‘](?P<name>[^'’]+)['’]:")
_AT_TOP = re.compile(r"^(?P<file>\S+?): At top level:")
_WARNING = re.compile(
    r"^(?P<file>[^\s:][^:]*):(?P<line>\d+):(?:\d+:)? warning: (?P<text>.*?)"
    r"(?: \[(?P<flag>-W[^\]]+)\])?$"
)
_TOOL = re.compile(r"^(?P<file>\S+?): warning: objtool: (?P<text>.*)$")
_MODPOST = re.compile(r"^WARNING: (?:modpost: )?(?P<text>.*)$")
_ERROR = re.compile(
    r"(^\S+:\d+(?::\d+)?: (?:fatal )?error: )|(: undefined reference to )|(^ld: )|"
    r"(^(?:\S*/)?(?:cc1|gcc|as|ld|collect2|objtool|fixdep): (?:fatal )?error)|"
    r"(^ERROR: )|(^BTF: )|(: multiple definition of )|(No rule to make target)|"
    r"(No space left on device)|(Killed)"
)
#: What comes after all that belongs to one error.
_END = re.compile(r"^make(\[\d+\])?: | {2}[A-Z][A-Z0-9_-]* ")
_ADDRESS = re.compile(r"\+?0x[0-9a-f]+(?:/0x[0-9a-f]+)?")
_QUOTES = str.maketrans("‘’", "''")


@dataclass(frozen=True, order=True)
class CompilerWarning:
    """One compiler warning, without where in the file it stands.

    Attributes:
        file: path below the source tree, e.g. ``net/core/skbuff.c``.
        function: the function it is in; empty outside of functions.
        flag: the option that controls it, e.g. ``-Wunused-variable``; ``objtool``
            or ``modpost`` for those tools; empty for a warning without one.
        message: the text.
    """

    file: str
    function: str
    flag: str
    message: str

    def __str__(self) -> str:
        where = f" in {self.function}()" if self.function else ""
        flag = f" [{self.flag}]" if self.flag else ""
        return f"{self.file}{where}: {self.message}{flag}"


#: The warnings of each target at its last compilation; targets without any are absent.
Record = dict[str, frozenset[CompilerWarning]]


def parse(
    lines: Iterable[str], before: Mapping[str, frozenset[CompilerWarning]] | None = None
) -> Record:
    """Return the warnings that stand after a build whose output is ``lines``.

    Args:
        before: the record of earlier builds in the same directory. A target that
            is made again loses the warnings it had; others keep them.
    """
    record: dict[str, set[CompilerWarning]] = {
        target: set(warnings) for target, warnings in (before or {}).items()
    }
    target = ""
    function: tuple[str, str] = ("", "")
    for raw in lines:
        line = raw.rstrip("\r\n").translate(_QUOTES)
        if match := _TARGET.match(line):
            target, function = match["target"], ("", "")
            record.pop(target, None)
        elif match := _IN_FUNCTION.match(line):
            function = (match["file"], match["name"])
        elif match := _AT_TOP.match(line):
            function = ("", "")
        elif match := _WARNING.match(line):
            name = function[1] if function[0] == match["file"] else ""
            warning = CompilerWarning(
                _below(match["file"]), name, match["flag"] or "", match["text"]
            )
            record.setdefault(target, set()).add(warning)
        elif match := _TOOL.match(line):
            message = _ADDRESS.sub("", match["text"])
            record.setdefault(target, set()).add(
                CompilerWarning(_below(match["file"]), "", "objtool", message)
            )
        elif match := _MODPOST.match(line):
            message = _ADDRESS.sub("", match["text"])
            record.setdefault(target, set()).add(CompilerWarning("vmlinux", "", "modpost", message))
    return {target: frozenset(found) for target, found in record.items() if found}


def target_of(line: str) -> str | None:
    """Return the target that a line of the build's output says is made, or None."""
    match = _TARGET.match(line)
    return match["target"] if match else None


def _below(file: str) -> str:
    """Return the path below the source tree of a file named from the object directory."""
    while file.startswith("../"):
        file = file[3:]
    return file.removeprefix("./")


def all_of(record: Mapping[str, frozenset[CompilerWarning]]) -> frozenset[CompilerWarning]:
    """Return the warnings of all targets; one in a header counts once."""
    return frozenset().union(*record.values()) if record else frozenset()


def to_json(record: Mapping[str, frozenset[CompilerWarning]]) -> dict[str, list[dict[str, str]]]:
    """Return a record in a form that JSON can hold."""
    return {
        target: [asdict(warning) for warning in sorted(found)]
        for target, found in sorted(record.items())
    }


def from_json(loaded: Any) -> Record:
    """Return the record that :func:`to_json` made.

    Raises:
        ValueError: it was not made by it.
    """
    try:
        return {
            str(target): frozenset(CompilerWarning(**entry) for entry in found)
            for target, found in loaded.items()
        }
    except (AttributeError, TypeError) as err:
        raise ValueError(f"not a record of warnings: {err}") from err


def first_error(output: str, context: int = 8) -> str:
    """Return the first error in a build's output and the lines that explain it.

    With several jobs at once what stands at the end of the output is seldom
    what went wrong first. The empty string means: no error was recognised.
    """
    lines = output.translate(_QUOTES).splitlines()
    for number, line in enumerate(lines):
        if not _ERROR.search(line):
            continue
        # The line that names the function belongs to the error.
        start = number - 1 if number and _IN_FUNCTION.match(lines[number - 1]) else number
        end = number + 1
        while end < min(number + context, len(lines)) and not _END.match(lines[end]):
            end += 1
        return "\n".join(lines[start:end])
    return ""
