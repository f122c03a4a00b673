"""Compiles what a series touches, prefix by prefix, with all warnings on, and sparse beside it.

A worktree and object directory of its own (build/trees/BASE/checks) moves from one prefix to
the next; make compiles what that changes of the objects that the series touches anywhere. The
warnings that stand at a prefix are remembered for as long as the source, the patches up to
there, the configuration and the tools stay the same, so that nothing is compiled twice.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import diagnostics, flavours, lock, paths, prefixes, progress, stamp
from harness.build import Builder
from harness.checks import cache, tools
from harness.checks.context import Context, is_user_space
from harness.diagnostics import CompilerWarning
from harness.errors import HarnessError
from harness.flavours import Flavour
from harness.prefixtree import PrefixTree
from harness.tree import Tree

#: Raised when what is done to a prefix changes.
_RECIPE = "2"

#: Seconds to wait for another run that compiles for checks of the same base.
LOCK_TIMEOUT = 3600.0

#: The flag that tells sparse's words from the compiler's.
SPARSE_FLAG = "-Wsparse"

#: Says sparse's words in the compiler's form. Its errors do not keep the compiler from going on.
_WRAPPER = r"""#!/bin/sh
sparse "$@" 2>&1 | sed -E -e 's/: error: /: warning: error: /' \
    -e 's/ \((originally|previously) declared at [^)]*\)//' \
    -e 's/(: warning: .*)$/\1 [-Wsparse]/' >&2
exit 0
"""


_ERROR = re.compile(r"\S+?:\d+(?::\d+)?: (?:fatal )?error: ")


@dataclass(frozen=True)
class Standing:
    """What a prefix is like, compiled.

    Attributes:
        warnings: those of all objects that the series touches.
        errors: what did not compile, a line each.
        absent: sources that the configuration does not compile.
    """

    warnings: frozenset[CompilerWarning]
    errors: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


class Compiled:
    """The prefixes of one series in one flavour, compiled as far as somebody asks for them."""

    def __init__(self, context: Context, flavour: Flavour) -> None:
        self.context = context
        self.flavour = flavour
        self.sparse = tools.version("sparse") if flavour.compiler == "gcc" else ""
        self._known: dict[int, Standing] = {}
        self._worktree = PrefixTree(context.base, "checks")
        sources = {
            path
            for place in context.places
            for path in place.paths
            if path.endswith(".c") and not is_user_space(path)
        }
        self.sources = sorted(sources)

    def at(self, number: int) -> Standing:
        """Return how the prefix of ``number`` patches stands; 0 is the unpatched source.

        Raises:
            HarnessError: it could not be compiled for reasons that are not the patch's.
        """
        if number not in self._known:
            # Forward only: each step back would be compiled as a step forward again.
            before = self.at(number - 1) if number else None
            if before is not None and not self._matters(number):
                self._known[number] = before
            else:
                self._known[number] = self._recall(number) or self._compile(number)
        return self._known[number]

    def added(self, number: int) -> frozenset[CompilerWarning]:
        """Return the warnings behind a patch that are not in front of it."""
        return self.at(number).warnings - self.at(number - 1).warnings

    def _matters(self, number: int) -> bool:
        """Tell whether a patch can change what is compiled."""
        paths = self.context.places[number - 1].paths
        return not all(is_user_space(path) for path in paths)

    def _builder(self, number: int) -> Builder:
        digest = prefixes.of(self.context.base)[number - 1].digest if number else ""
        tree = Tree(
            self.context.base, "checks", self._worktree.path, self.context.source, "", digest
        )
        return Builder(tree, self.flavour)

    def _key(self, number: int) -> str:
        inputs = self._builder(number).inputs()
        return stamp.digest([_RECIPE, inputs, self.sparse, _WRAPPER, *self.sources])

    def _path(self, key: str) -> Path:
        return cache.directory() / "compiled" / f"{key[:40]}.json"

    def _recall(self, number: int) -> Standing | None:
        key = self._key(number)
        found = stamp.read(self._path(key))
        if found is None or found[0] != key:
            return None
        try:
            record = diagnostics.from_json(found[1]["warnings"])
            return Standing(diagnostics.all_of(record), absent=tuple(found[1]["absent"]))
        except (KeyError, ValueError):
            return None

    def _compile(self, number: int) -> Standing:
        context = self.context
        commit = context.commits[number - 1] if number else context.start
        purpose = f"compiling prefixes of {context.base.name} for checks"
        held = paths.locks() / f"checks-{context.base.name}.lock"
        with lock.held(held, purpose, timeout=LOCK_TIMEOUT):
            self._worktree.checkout(commit)
            builder = self._builder(number)
            self._configure(builder, number)
            words = self._variables(builder.build_dir)
            there = [path for path in self.sources if (self._worktree.path / path).is_file()]
            objects = [str(Path(path).with_suffix(".o")) for path in there]
            if not objects:
                return Standing(frozenset())
            made = builder.make([*words, *objects], whole=False, keep_going=True)
            log = builder.log.with_suffix(".last.log")
            kept = context.directory / "compiled" / f"{self.flavour.name}-{number:02}.log"
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, kept)
            # Kbuild says what sparse looks at by the name of the source.
            wanted = frozenset([*objects, *(f"../{path}" for path in there)])
            record = {target: made.record[target] for target in made.record if target in wanted}
        missing, absent, errors = _missing(builder, there, kept, ok=made.ok)
        if not made.ok and not errors and (missing or not absent):
            raise HarnessError(
                f"make failed on prefix {number}, and not for the series' sake",
                log=kept,
                tail=diagnostics.first_error(kept.read_text(errors="replace")),
            )
        standing = Standing(diagnostics.all_of(record), errors, absent)
        if not errors:
            key = self._key(number)
            facts: dict[str, Any] = {
                "warnings": diagnostics.to_json({"all": standing.warnings}),
                "absent": list(absent),
            }
            stamp.write(self._path(key), key, facts)
        return standing

    def _configure(self, builder: Builder, number: int) -> None:
        """Write the configuration, unless nothing that decides it has changed."""
        kconfig = [
            str(file)
            for place in self.context.places[:number]
            for file in place.files
            if "Kconfig" in file.path
        ]
        builder_facts = [str(path.read_bytes()) for path in builder.fragments]
        key = stamp.digest([self.context.source.checksum, *builder_facts, *kconfig])
        note = builder.build_dir / ".skbhome-checks-config.json"
        if stamp.fresh(note, key) and (builder.build_dir / ".config").is_file():
            return
        note.unlink(missing_ok=True)
        builder.configure(progress.Steps(quiet=True))
        stamp.write(note, key)

    def _variables(self, build_dir: Path) -> list[str]:
        """Return what make is told; objects that were made otherwise are made again."""
        words = ["W=1"] if self.flavour.compiler == "gcc" else []
        if self.sparse:
            wrapper = build_dir / "skbhome-sparse"
            if not wrapper.is_file() or wrapper.read_text() != _WRAPPER:
                stamp.write_atomic(wrapper, _WRAPPER)
                wrapper.chmod(0o755)
            words += ["C=1", f"CHECK={wrapper}"]
        # What was compiled without sparse, say, has not been seen by it.
        key = stamp.digest([*words, self.sparse, _WRAPPER])
        note = build_dir / ".skbhome-checks-tools.json"
        if not stamp.fresh(note, key):
            for path in self.sources:
                (build_dir / path).with_suffix(".o").unlink(missing_ok=True)
            stamp.write(note, key)
        return words


def of(context: Context, flavour: str) -> Compiled:
    """Return the compiled prefixes of a series; one for all checks that want them."""
    if flavour not in context.compiled:
        context.compiled[flavour] = Compiled(context, flavours.get(flavour))
    return context.compiled[flavour]


def _missing(
    builder: Builder, sources: Sequence[str], log: Path, *, ok: bool
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the sources without an object, and what is known of why.

    Returns:
        Those that should have one, those that the configuration does not compile, and the
        errors of the compiler.
    """
    text = log.read_text(errors="replace")
    errors = [line for line in text.splitlines() if _ERROR.match(line)]
    missing: list[str] = []
    absent: list[str] = []
    for path in sources:
        target = Path(path).with_suffix(".o")
        there = (builder.build_dir / target).is_file()
        # An object may be there from a prefix whose configuration had it.
        if f"No rule to make target '{target}'" in text or (ok and not there):
            absent.append(path)
        elif not there:
            missing.append(path)
    return tuple(missing), tuple(absent), tuple(line.lstrip("./") for line in errors)
