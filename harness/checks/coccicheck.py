"""The tree's own Coccinelle scripts over the functions that a patch touches.

spatch takes minutes for a large file and all scripts, nearly all of it for what nobody
changed. So it is given the touched functions alone; one process per script does all patches.
Functions that it has seen before are not looked at again. Findings are compared without line
numbers with those of the same functions in front of the patch.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness import build, process, progress, stamp
from harness.checks import cache, tools
from harness.checks.context import Context, Place, is_user_space
from harness.checks.model import Finding, Result
from harness.errors import CommandTimeout

NAME = "coccicheck"

#: Seconds for one script over all files.
TIMEOUT = 300.0

_FINDING = re.compile(r"^(?P<file>[^\s:]+):(?P<line>\d+)(?:[:-][\d-]+)*: (?P<text>.+)$", re.M)


@dataclass(frozen=True)
class _Reduced:
    """The touched functions of one version of a file."""

    path: str
    text: str

    @property
    def key(self) -> str:
        return stamp.digest([self.path, self.text])[:24]


def check(place: Place) -> Result:
    """Look at what a patch touches, in front of it and behind it."""
    if not tools.there("spatch"):
        return Result(NAME, skipped="no spatch (apt install coccinelle)")
    if not place.applies:
        return Result(NAME, skipped="it does not apply")
    scripts = sorted((place.context.tree / "scripts/coccinelle").rglob("*.cocci"))
    if not scripts:
        return Result(NAME, skipped="the tree has no scripts/coccinelle")
    run = place.context.memo.get(NAME)
    if not isinstance(run, _Run):
        run = place.context.memo[NAME] = _Run(place.context, scripts)
    pairs = run.pairs[place.number]
    if not pairs:
        return Result(NAME, note="no C file")
    said = run.over()
    findings = []
    for before, after in pairs:
        old = {text for _, text in said.get(before.key, ())} if before else set()
        findings += [
            Finding(text, kind="COCCI", file=after.path, line=line)
            for line, text in said.get(after.key, ())
            if text not in old
        ]
    late = sorted({name for _, after in pairs for name in run.gave_up.get(after.key, ())})
    return Result(
        NAME,
        tuple(findings),
        unverified=tuple(f"{name} took too long" for name in late),
        note=f"{len(scripts)} scripts",
    )


def _pairs(place: Place) -> Iterator[tuple[_Reduced | None, _Reduced]]:
    """Yield the touched functions of each C file: in front of the patch and behind it."""
    for file in place.files:
        if not file.path.endswith(".c") or is_user_space(file.path):
            continue
        after = place.after(file.path)
        if after is None:
            continue
        lines = after.decode(errors="replace").splitlines()
        added = {line.number for line in place.added((file.path,)) if line.file == file.path}
        removed = {hunk.target_start for hunk in file}
        names = {
            name
            for name, first, last in functions(lines)
            if {*range(first, last + 1)} & (added | removed)
        }
        before = place.before(file.path)
        old = None
        if before is not None:
            text = reduced(before.decode(errors="replace").splitlines(), names)
            old = _Reduced(file.path, text)
        yield old, _Reduced(file.path, reduced(lines, names))


def functions(lines: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Yield the functions of a C file in kernel style: name, first and last line."""
    start = 0
    for number, line in enumerate(lines, 1):
        if line == "{":
            start = number
        elif line == "}" and start:
            name, first = _head(lines, start)
            yield name, first, number
            start = 0


def _head(lines: Sequence[str], brace: int) -> tuple[str, int]:
    """Return the name and the first line of the function whose body begins behind a line."""
    head = ""
    first = brace
    for number in range(brace - 1, 0, -1):
        line = lines[number - 1]
        if not line.strip() or line.startswith(("}", "#", " */")) or line.endswith(";"):
            break
        head = f"{line} {head}"
        first = number
    match = re.search(r"(\w+)\s*\(", head)
    return (match[1] if match else f"line {brace}"), first


def reduced(lines: Sequence[str], names: set[str]) -> str:
    """Return a C file with these functions and nothing else; lines keep their numbers."""
    kept = [""] * len(lines)
    for name, first, last in functions(lines):
        if name in names:
            kept[first - 1 : last] = lines[first - 1 : last]
    return "\n".join(kept) + "\n"


class _Run:
    """All scripts over some files."""

    def __init__(self, context: Context, scripts: Sequence[Path]) -> None:
        self.context = context
        self.scripts = scripts
        self.key = stamp.digest([tools.version("spatch"), *scripts])
        #: The touched functions of each patch's files, by its number.
        self.pairs = {
            place.number: list(_pairs(place)) for place in context.places if place.applies
        }
        #: Names of scripts that did not come to their end, by the files' keys.
        self.gave_up: dict[str, list[str]] = {}

    def over(self) -> dict[str, list[tuple[int, str]]]:
        """Return the findings in all files, by their keys: line and text."""
        files = [each for found in self.pairs.values() for pair in found for each in pair if each]
        unknown = {each.key: each for each in files if self._recall(each) is None}
        if unknown:
            self._ask(unknown)
        return {each.key: self._recall(each) or [] for each in files}

    def _path(self, file: _Reduced) -> Path:
        return cache.directory() / NAME / f"{file.key}.json"

    def _recall(self, file: _Reduced) -> list[tuple[int, str]] | None:
        found = stamp.read(self._path(file))
        if found is None or found[0] != self.key:
            return None
        self.gave_up[file.key] = list(found[1].get("gave_up", []))
        return [(int(line), str(text)) for line, text in found[1].get("findings", [])]

    def _ask(self, files: dict[str, _Reduced]) -> None:
        top = self.context.directory / NAME / "files"
        shutil.rmtree(top, ignore_errors=True)
        for key, each in files.items():
            copy = top / key / Path(each.path).name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(each.text)
        found: dict[str, list[tuple[int, str]]] = {key: [] for key in files}
        late: list[str] = []
        line = progress.Line(NAME)
        with ThreadPoolExecutor(build.jobs()) as pool:
            outputs = pool.map(lambda script: self._spatch(script, top), self.scripts)
            for done, output in enumerate(outputs, 1):
                line.update(f"{done} of {len(self.scripts)} scripts")
                if output is None:
                    late.append(self.scripts[done - 1].name)
                    continue
                for match in _FINDING.finditer(output):
                    key = Path(match["file"]).parent.name
                    if key in found:
                        found[key].append((int(match["line"]), match["text"].strip()))
        line.clear()
        for key, each in files.items():
            facts = {"findings": sorted(set(found[key])), "gave_up": late}
            stamp.write(self._path(each), self.key, facts)

    def _spatch(self, script: Path, top: Path) -> str | None:
        """Run one script over all files below ``top``; None if it takes too long."""
        needs = re.search(r"^// Options: (.*)$", script.read_text(errors="replace"), re.M)
        options = [word for word in (needs[1].split() if needs else []) if word.startswith("--no-")]
        argv = ["spatch", "-D", "report", "--very-quiet", "--no-show-diff", "--timeout", "60"]
        try:
            done = process.run(
                [*argv, *options, "--no-includes", "--cocci-file", script, "--dir", "."],
                timeout=TIMEOUT,
                what=f"spatch {script.name}",
                cwd=top,
                log=top.parent / f"{script.stem}.log",
                check=False,
                split_stderr=True,
            )
        except CommandTimeout:
            return None
        return done.output
