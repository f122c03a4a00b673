"""What a stage's result speaks for: files, as a digest, and kernels, as their stamps tell."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import build, kconfig, paths, series, stamp
from harness.bases import Base
from harness.checks.context import fingerprint
from harness.flavours import Flavour
from harness.proof.stages import Part, Stage
from harness.worktree import Arm, Home

#: Raised when what a stage does, or how it is read, changes: earlier results are void then.
_RECIPE = "1"

#: What decides which tests are run, and not how one ends.
_NO_EFFECT = frozenset({"known.py"})

_IMPORT = re.compile(r"^\s*(?:from|import)\s+(test_\w+)", re.M)

#: What tells one kernel from another.
FACTS = ("release", "compiler", "config_sha256")


def key(base: Base, stage: Stage) -> str:
    """Return a digest of all files that decide how a stage ends, and of the compilers.

    Raises:
        SeriesError: patches/BASE is not a proper series.
        CommandFailed: a compiler cannot be asked.
    """
    return stamp.digest(_words(base, stage, stage.parts))


def files(base: Base, stage: Stage) -> dict[str, str]:
    """Return the files of VM tests, each with a digest of all that decides how its tests end.

    Raises:
        SeriesError: patches/BASE is not a proper series.
        CommandFailed: a compiler cannot be asked.
    """
    words = _words(base, stage, [part for part in stage.parts if part is not Part.VM_TESTS])
    shared = [path for path in _vm_files() if not _is_test(path) and path.name not in _NO_EFFECT]
    words += [*stage.argv, _digest(*shared)]
    return {
        str(path.relative_to(paths.ROOT)): stamp.digest([*words, path, *_imported(path)])
        for path in _vm_files()
        if _is_test(path)
    }


def _imported(test: Path) -> list[Path]:
    """Return the files of tests that one takes something from, directly or not."""
    found: set[Path] = set()
    left = [test]
    while left:
        for name in _IMPORT.findall(left.pop().read_text()):
            path = test.with_name(f"{name}.py")
            if path.is_file() and path not in found and path != test:
                found.add(path)
                left.append(path)
    return sorted(found)


def _words(base: Base, stage: Stage, parts: Iterable[Part]) -> list[str | bytes | Path]:
    words: list[str | bytes | Path] = [_RECIPE, base.name, stage.kind.value]
    for part in parts:
        words += [part.value, _PARTS[part](base)]
        if part is Part.SOURCE and any(flavour.rt for flavour in stage.flavours):
            words += [_source(base.under_rt())]
    for flavour in stage.flavours:
        requests = "\n".join(request.line for request in kconfig.merge(flavour.files()))
        words += [flavour.name, requests, build.compiler(flavour.compiler)]
        # How it is compiled, and how much work a test gives it.
        words += [str(flavour.bits), str(flavour.slow)]
    return words


def kernels(base: Base, stage: Stage) -> list[dict[str, Any]]:
    """Return what the stamps say of the kernels of a stage, those that are there.

    Each has ``flavour``, ``arm``, ``release``, ``compiler`` and ``config_sha256``.
    """
    found = []
    for flavour in stage.flavours:
        home = _home(base, flavour)
        arms: tuple[Arm, ...] = ("patched", "baseline")
        for arm in arms:
            facts = build.recorded(home.worktree(arm), flavour) if arm in stage.arms else None
            if facts is not None:
                own = {name: str(facts.get(name, "")) for name in FACTS}
                found.append({"flavour": flavour.name, "arm": arm, **own})
    return found


def contradicted(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a kernel is there that is not the one that a result was had with.

    One that is no longer there contradicts nothing: the same files give the same kernel.
    """
    before = {(each["flavour"], each["arm"]): each for each in then}
    return any(
        before.get((each["flavour"], each["arm"]), each).get(name) != each[name]
        for each in now
        for name in FACTS
    )


def _home(base: Base, flavour: Flavour) -> Home:
    return Home.of(base.under_rt() if flavour.rt else base)


def _files(*tops: Path) -> Iterator[Path]:
    for top in tops:
        below = sorted(top.rglob("*")) if top.is_dir() else [top]
        yield from (p for p in below if p.is_file() and "__pycache__" not in p.parts)


def _digest(*tops: Path) -> str:
    words: list[str | bytes | Path] = []
    for path in _files(*tops):
        words += [str(path.relative_to(paths.ROOT)), path]
    return stamp.digest(words)


def _vm_tests(_base: Base) -> str:
    return _digest(*_vm_files())


def _vm_files() -> list[Path]:
    return list(
        _files(
            *sorted(paths.TESTS.glob("*.py")),
            paths.TESTS / "vm",
            paths.TESTS / "guest",
            # It names the kernel's own selftests that are run.
            paths.ROOT / "harness/selftests.toml",
        )
    )


def _is_test(path: Path) -> bool:
    return path.parent == paths.TESTS / "vm" and path.name.startswith("test_")


def _host_tests(_base: Base) -> str:
    shared = sorted(paths.TESTS.glob("*.py"))
    own = ("tests/host", "scripts", "pyproject.toml", "requirements.txt")
    return _digest(*shared, *(paths.ROOT / name for name in own))


def _source(base: Base) -> str:
    """Return which source is unpacked."""
    found = stamp.read(Home.of(base).source_stamp)
    return "" if found is None else found[0]


_PARTS: dict[Part, Callable[[Base], str]] = {
    Part.PATCHES: lambda base: series.code_digest(base.patches),
    Part.BESIDE: fingerprint,
    Part.HARNESS: lambda _base: _digest(paths.ROOT / "harness"),
    Part.HOST_TESTS: _host_tests,
    Part.VM_TESTS: _vm_tests,
    Part.MUTANTS: lambda base: _digest(paths.TESTS / "mutants" / base.name),
    Part.SOURCE: _source,
}
