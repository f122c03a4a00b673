"""Trailers: those that must be there, those that must not be yet, and claims about history.

A patch file of this repository is signed off by whoever sends it, when they do. Nobody has
reviewed or tested what was not sent yet, so such trailers need one who gave them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness import git
from harness.checks.context import Place
from harness.checks.model import Finding, Result

NAME = "trailers"

_FIXES = re.compile(r"^(?P<commit>[0-9a-f]{12,40}) \(\"(?P<subject>.+)\"\)$")
_GIVEN = ("Reviewed-by", "Acked-by", "Tested-by", "Reported-by", "Suggested-by")
_PERSON = re.compile(r"^\S.* <[^<>@\s]+@[^<>@\s]+>$")


def check(place: Place) -> Result:
    """Look at the trailers of a patch."""
    return Result(NAME, tuple(_findings(place)), unverified=tuple(_unverified(place)))


def _findings(place: Place) -> Iterator[Finding]:
    patch = place.patch
    if patch.trailers("Signed-off-by"):
        yield Finding("has a Signed-off-by", kind="SIGNED_OFF")
    assisted = patch.trailers("Assisted-by")
    if not assisted:
        yield Finding("has no Assisted-by", kind="NO_ASSISTED_BY")
    for value in patch.trailers("Fixes"):
        if not _FIXES.match(value):
            text = f'is not of the form: Fixes: 123456789abc ("subject"): {value}'
            yield Finding(text, kind="FIXES_FORM")
    for name in _GIVEN:
        for value in patch.trailers(name):
            if not _PERSON.match(value):
                yield Finding(f"names nobody: {name}: {value}", kind="NOBODY")
    order = re.findall(r"^(Fixes|Link|Assisted-by|Signed-off-by):", patch.body, re.M)
    if "Fixes" in order and order[0] != "Fixes":
        yield Finding("Fixes: is not the first trailer", kind="FIXES_ORDER")


def _unverified(place: Place) -> Iterator[str]:
    for value in place.patch.trailers("Fixes"):
        match = _FIXES.match(value)
        if match is None:
            continue
        known = _subject(place, match["commit"])
        if known is None:
            yield f"Fixes: {match['commit'][:12]}: no history here that would have it"
        elif known != match["subject"]:
            yield f"Fixes: {match['commit'][:12]} is called {known!r} in {place.context.onto}"
    for name in _GIVEN:
        for value in place.patch.trailers(name):
            yield f"{name}: {value}: nobody here can know whether it was given"


def _subject(place: Place, commit: str) -> str | None:
    """Return the subject of a commit of the kernel's, where ``--onto`` has one with history."""
    if place.context.onto is None:
        return None
    done = git.run(place.context.onto, "log", "-1", "--format=%s", commit, "--", check=False)
    return done.output.strip() if done.returncode == 0 else None
