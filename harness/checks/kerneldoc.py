"""What the tree's own kernel-doc says about a touched file that it did not say before.

Complaints are compared as sets, without line numbers, as compiler warnings are.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from harness import process
from harness.checks import cache
from harness.checks.context import Place
from harness.checks.model import Finding, Result

NAME = "kernel-doc"

TIMEOUT = 120.0

#: What -v of an old kernel-doc says of any free text above a section, and no -Wall does.
_NOISE = "contents before sections"

_LINE = re.compile(
    r"^(?:(?:Warning|Error): )?(?P<file>\S+?):(?P<line>\d+):? (?:warning|error): (?P<text>.*)$",
    re.M,
)


def check(place: Place) -> Result:
    """Run kernel-doc over the C files that a patch touches, as they were and as they are."""
    if not place.applies:
        return Result(NAME, skipped="it does not apply")
    script = place.context.tree / "scripts/kernel-doc"
    if not script.is_file():
        return Result(NAME, skipped="the tree has no scripts/kernel-doc")
    logs = place.context.directory / NAME / place.patch.path.stem
    findings: list[Finding] = []
    files = [path for path in place.paths if path.endswith((".c", ".h"))]
    for path in files:
        after = place.after(path)
        if after is None:
            continue
        before = place.before(path)
        old = {text for _, text in _complaints(script, path, before, logs)} if before else set()
        findings += [
            Finding(text, kind="KERNEL_DOC", file=path, line=line)
            for line, text in _complaints(script, path, after, logs)
            if text not in old
        ]
    return Result(NAME, tuple(findings), note="" if files else "no C file")


def _complaints(script: Path, path: str, content: bytes, logs: Path) -> list[tuple[int, str]]:
    """Return what kernel-doc says about a file: line and text."""
    own = script.read_bytes()
    # Trees differ in how all warnings are asked for.
    options = ["-none", "-Wall"] if b"Wall" in own else ["-none", "-v"]

    def ask() -> str:
        copy = logs / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
        start = [script] if os.access(script, os.X_OK) else ["perl", script]
        done = process.run(
            [*start, *options, path],
            timeout=TIMEOUT,
            what=f"kernel-doc {path}",
            cwd=logs,
            env={"LC_ALL": "C.UTF-8", "KBUILD_VERBOSE": None},
            check=False,
        )
        return done.output

    said = cache.text(NAME, [*options, own, path, content], ask)
    return [
        (int(match["line"]), match["text"].strip())
        for match in _LINE.finditer(said)
        if match["text"].strip() != _NOISE
    ]
