"""A new file says its licence where the kernel's rules want it.

Source: Documentation/process/license-rules.rst: the first line, or the second behind ``#!``;
``//`` in C sources, ``/* */`` in headers and assembler, ``#`` in scripts, ``..`` in reST.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from harness.checks.context import Place
from harness.checks.model import Finding, Result

NAME = "spdx"

_FORMS = {
    ".c": r"^// ",
    ".h": r"^/\* ",
    ".S": r"^/\* ",
    ".rst": r"^\.\. ",
    ".sh": r"^# ",
    ".py": r"^# ",
    ".pl": r"^# ",
    "Makefile": r"^# ",
    "Kconfig": r"^# ",
}
_FILES = ("GPL-2.0", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-2.0+")


def check(place: Place) -> Result:
    """Look at the first lines of the files that a patch adds."""
    new = [file for file in place.files if file.is_added_file]
    return Result(
        NAME,
        tuple(finding for file in new for finding in _of_file(file.path, _first(place, file.path))),
        note="" if new else "no new file",
    )


def _first(place: Place, path: str) -> list[str]:
    return [line.text for line in place.added() if line.file == path and line.number <= 2]


def _of_file(path: str, lines: list[str]) -> Iterator[Finding]:
    name = PurePosixPath(path)
    form = _FORMS.get(name.suffix) or _FORMS.get(name.name)
    at = 1 if lines and lines[0].startswith("#!") else 0
    line = lines[at] if len(lines) > at else ""
    match = re.search(r"SPDX-License-Identifier: (.+?)(?: \*/)?$", line)
    if match is None:
        if form is not None:
            text = f"line {at + 1} is no SPDX-License-Identifier"
            yield Finding(text, kind="NO_SPDX", file=path, line=at + 1)
        return
    if form is not None and not re.match(form, line):
        text = f"the licence is to stand in a comment like {form[1:].strip()!r}"
        yield Finding(text, kind="SPDX_FORM", file=path, line=at + 1)
    licences = re.split(r"[()\s]+|\bOR\b|\bAND\b", match[1])
    if not any(licence in _FILES for licence in licences):
        yield Finding(f"{match[1]} is not GPL-2.0", kind="LICENCE", file=path, line=at + 1)
