"""A new knob is documented: sysctl, boot argument, option of the configuration, file in /proc."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from harness import git
from harness.checks.context import AddedLine, Place
from harness.checks.model import Finding, Result

NAME = "documented"


@dataclass(frozen=True)
class Knob:
    """A way to make a knob.

    Attributes:
        what: for people.
        pattern: a line of code that makes one; group 1 is its name.
        where: the documentation that is to name it.
    """

    what: str
    pattern: str
    where: str


KNOBS = (
    Knob("sysctl", r'\.procname\s*=\s*"([^"]+)"', "Documentation"),
    Knob(
        "boot argument",
        r'^\s*(?:__setup|early_param|__setup_param)\("(\w+)=?"',
        "Documentation/admin-guide/kernel-parameters.txt",
    ),
    Knob("file in /proc", r'proc_create\w*\("([^"]+)"', "Documentation"),
    Knob("file in debugfs", r'debugfs_create_\w+\("([^"]+)"', "Documentation"),
)


def check(place: Place) -> Result:
    """Look for the documentation of what a patch adds."""
    if not place.applies:
        return Result(NAME, skipped="it does not apply")
    findings: list[Finding] = []
    hints: list[str] = []
    found = list(_knobs(place))
    for knob, line, name in found:
        if _named(place, place.context.commits[place.number - 1], name, knob.where):
            continue
        if _named(place, place.context.commits[-1], name, knob.where):
            hints.append(f"{knob.what} {name} is documented by a later patch")
            continue
        text = f"the {knob.what} {name} is not in {knob.where}"
        findings.append(Finding(text, kind="UNDOCUMENTED", file=line.file, line=line.number))
    findings += [*_options(place), *_parameters(place)]
    note = ", ".join(sorted({name for _, _, name in found}))
    return Result(NAME, tuple(findings), hints=tuple(hints), note=note)


def _knobs(place: Place) -> Iterator[tuple[Knob, AddedLine, str]]:
    for line in place.added((".c", ".h")):
        if line.file.endswith("_test.c") or line.file.startswith("tools/"):
            continue
        for knob in KNOBS:
            match = re.search(knob.pattern, line.text)
            if match is not None and not _was_there(place, line, match[0]):
                yield knob, line, match[1]


def _was_there(place: Place, line: AddedLine, code: str) -> bool:
    """Tell whether the same knob was there before: its line was moved, or changed elsewhere."""
    return code.encode() in (place.before(line.file) or b"")


def _named(place: Place, commit: str, name: str, where: str) -> bool:
    done = git.run(
        place.context.home.repo,
        *("grep", "--quiet", "--word-regexp", "--fixed-strings", "-e", name, commit, "--", where),
        what=f"looking for {name} in {where}",
        check=False,
    )
    return done.returncode == 0


def _options(place: Place) -> Iterator[Finding]:
    for line in place.added():
        match = re.match(r"(?:menu)?config (\w+)$", line.text)
        if match is None or "Kconfig" not in line.file:
            continue
        text = (place.after(line.file) or b"").decode(errors="replace")
        entry = re.search(rf"^(?:menu)?config {match[1]}\n((?:[\t ].*\n|\n)*)", text, re.M)
        if entry is None or not re.search(r"^\s+(?:---)?help", entry[1], re.M):
            text = f"the option {match[1]} has no help text"
            yield Finding(text, kind="NO_HELP", file=line.file, line=line.number)


def _parameters(place: Place) -> Iterator[Finding]:
    for line in place.added((".c",)):
        if re.match(r"\s*module_param\w*\(", line.text):
            text = "netdev takes no new module parameters"
            yield Finding(text, kind="MODULE_PARAM", file=line.file, line=line.number)
