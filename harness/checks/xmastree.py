"""Reverse xmas tree: netdev wants local variables declared from the longest line to the shortest.

Only pairs of lines of which the patch adds one count, and a variable whose initialiser needs
the one above it may stand below it.

Source: Documentation/networking/netdev-FAQ.rst (later Documentation/process/maintainer-netdev.rst).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.checks.context import Place
from harness.checks.model import Finding, Result

NAME = "xmas-tree"

_OTHER = r"(?!(?:return|goto|else|case|break|continue|typedef|extern|do|if|for|while|switch)\b)"
_DECLARATION = re.compile(
    rf"^\t+{_OTHER}(?:(?:const|volatile|static|register|unsigned|signed|struct|union|enum)\s+)*"
    r"[A-Za-z_]\w*(?:\s+(?:__\w+|int|long|char|short|const))*\s+"
    r"(?P<rest>\**\s*[A-Za-z_]\w*\s*(?:\[[^\]]*\]\s*)*(?:[=,].*)?);(?:\s*/\*.*\*/)?$"
)
_NAME = re.compile(r"(?:^|,)\s*\**\s*([A-Za-z_]\w*)")


@dataclass(frozen=True)
class _Line:
    number: int
    text: str
    names: frozenset[str]

    @property
    def length(self) -> int:
        return len(self.text.strip())


def check(place: Place) -> Result:
    """Look at the declarations that a patch adds, in the file as it is behind the patch."""
    if not place.applies:
        return Result(NAME, skipped="it does not apply")
    findings: list[Finding] = []
    for path in place.paths:
        content = place.after(path) if path.endswith(".c") else None
        if content is None:
            continue
        added = {line.number for line in place.added((path,)) if line.file == path}
        for upper, lower in out_of_order(content.decode(errors="replace").splitlines()):
            if upper.number in added or lower.number in added:
                text = f"{lower.text.strip()!r} is longer than the declaration above it"
                findings.append(Finding(text, kind="XMAS_TREE", file=path, line=lower.number))
    return Result(NAME, tuple(findings))


def out_of_order(lines: Sequence[str]) -> Iterator[tuple[_Line, _Line]]:
    """Yield pairs of declarations in which the lower one is longer, without need."""
    for block in _blocks(lines):
        for above, (upper, lower) in enumerate(zip(block, block[1:], strict=False), 1):
            known = frozenset[str]().union(*(line.names for line in block[:above]))
            value = lower.text.partition("=")[2]
            needs = known & set(re.findall(r"\w+", value))
            if lower.length > upper.length and not needs:
                yield upper, lower


def _blocks(lines: Sequence[str]) -> Iterator[list[_Line]]:
    """Yield the runs of declarations that begin a function or an inner block."""
    block: list[_Line] = []
    inside = False
    for number, text in enumerate([*lines, ""], 1):
        match = _DECLARATION.match(text) if inside else None
        if match is not None:
            block.append(_Line(number, text, frozenset(_declared(match["rest"]))))
            continue
        if len(block) > 1:
            yield block
        block = []
        # In kernel style, a struct or an initialiser ends its first line with a brace as well;
        # a function's own brace stands alone.
        inside = text == "{" or bool(re.match(r"^\t.*\) \{$|^\t+(?:\} else|do) \{$", text))


def _declared(rest: str) -> list[str]:
    # An initialiser's commas are not those between variables, unless it has no parentheses.
    plain = re.sub(r"\([^()]*\)|\{[^{}]*\}", "", rest)
    return _NAME.findall(plain)
