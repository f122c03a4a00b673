"""Does every prefix of a series build without new warnings, and boot?

Somebody who bisects stops at any commit of the series, so each has to work. A
prefix that passed is not tried again for as long as what it is made from stays
the same: the base's source, the diffs up to it, the configuration, the compiler
and the recipe of the build. A failure is never remembered: it is tried again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import build, diagnostics, disk, firstboot, lock, patchfile, paths, progress, stamp
from harness import series as all_series
from harness import tree as trees
from harness.bases import Base
from harness.build import Builder
from harness.diagnostics import CompilerWarning
from harness.errors import HarnessError
from harness.flavours import Flavour
from harness.prefixtree import PrefixTree
from harness.tree import Tree
from harness.worktree import Home

#: Raised when what is done to a prefix changes: what passed before then counts for nothing.
_RECIPE = "1"

#: Seconds to wait for another run that goes through the prefixes of the same base.
LOCK_TIMEOUT = 7200.0

#: What no other prefix can do better at.
_FATAL = (lock.LockTimeout, disk.DiskTooSmall, disk.NotPermitted)


@dataclass(frozen=True)
class Prefix:
    """The series up to one of its patches.

    Attributes:
        number: of its patches, from 1.
        patch: the last of them.
        subject: what that one says it does.
        digest: of the diffs of all of them, in order. Messages do not count.
    """

    number: int
    patch: Path
    subject: str
    digest: str


@dataclass(frozen=True)
class Outcome:
    """What came of one prefix.

    Attributes:
        verdict: ``ok``, or what failed, in a few words.
        known: it passed in an earlier run; the figures are of that run.
        build_seconds: of make, wall clock; None if it was not built.
        boot_seconds: until the guest answered; None if it did not boot.
        new_warnings: those that neither the baseline nor the prefix before has.
        errors: what failed, each with its log and what to do next.
        accel: what the guest ran under.
    """

    prefix: Prefix
    verdict: str
    known: bool = False
    build_seconds: float | None = None
    boot_seconds: float | None = None
    new_warnings: tuple[CompilerWarning, ...] = ()
    errors: tuple[HarnessError, ...] = ()
    accel: str = ""
    warnings: frozenset[CompilerWarning] | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Nothing failed."""
        return self.verdict == "ok"

    def describe(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "number": self.prefix.number,
            "patch": self.prefix.patch.name,
            "subject": self.prefix.subject,
            "digest": self.prefix.digest,
            "verdict": self.verdict,
            "known": self.known,
            "build_seconds": self.build_seconds,
            "boot_seconds": self.boot_seconds,
            "accel": self.accel,
            "new_warnings": [str(warning) for warning in self.new_warnings],
            "errors": [str(error) for error in self.errors],
        }


def of(base: Base) -> list[Prefix]:
    """Return the prefixes of the base's series, the shortest first.

    Raises:
        SeriesError: patches/BASE is not a proper series.
    """
    found = []
    diffs: list[str] = []
    for number, path in enumerate(all_series.read(base.patches), 1):
        patch = patchfile.read(path)
        diffs.append(patch.diff)
        found.append(Prefix(number, path, patch.subject, _digest(diffs)))
    return found


def check(
    base: Base,
    flavour: Flavour,
    directory: Path,
    told: Callable[[Outcome], None],
) -> list[Outcome]:
    """Build and boot every prefix that has not passed already; go on where one fails.

    Args:
        directory: where the logs of this run go.
        told: called with each outcome as soon as it is known.

    Raises:
        SeriesError, SourceError: there is nothing that could be tried.
        LockTimeout, DiskTooSmall, NotPermitted: no prefix can be built here.
    """
    purpose = f"trying every prefix of {base.name}"
    with lock.held(paths.locks() / f"bisect-{base.name}.lock", purpose, timeout=LOCK_TIMEOUT):
        prefixes = of(base)
        return _Run(base, flavour, directory, told).go(prefixes)


def unknown(base: Base, flavour: Flavour) -> int:
    """Return how many prefixes :func:`check` would build and boot."""
    _, _, passed = _Run(base, flavour, base.patches, lambda _outcome: None).known(of(base))
    return sum(each is None for each in passed)


class _Run:
    """One walk along a series."""

    def __init__(
        self, base: Base, flavour: Flavour, directory: Path, told: Callable[[Outcome], None]
    ) -> None:
        self.base = base
        self.flavour = flavour
        self.directory = directory
        self.told = told
        self.worktree = PrefixTree(base)
        self.commits: list[str] = []
        self.stopped: HarnessError | None = None

    def go(self, prefixes: Sequence[Prefix]) -> list[Outcome]:
        if not prefixes:
            return []
        builders, keys, passed = self.known(prefixes)
        if not all(passed):
            self.commits, self.stopped = self.worktree.commits([each.patch for each in prefixes])
        done: list[Outcome] = []
        # The warnings that stand after the last prefix that could be built.
        before: frozenset[CompilerWarning] = frozenset()
        for prefix, builder, key, known in zip(prefixes, builders, keys, passed, strict=True):
            outcome = known or self._try(prefix, builder, before)
            if outcome.ok and known is None:
                _remember(self._result(key), key, outcome)
            if outcome.warnings is not None:
                before = outcome.warnings
            done.append(outcome)
            self.told(outcome)
        return done

    def known(
        self, prefixes: Sequence[Prefix]
    ) -> tuple[list[Builder], list[str], list[Outcome | None]]:
        """Return how each prefix is built, under which key it is remembered, and if it passed."""
        source = self.worktree.source()
        builders = [
            Builder(
                Tree(self.base, "bisect", self.worktree.path, source, "", prefix.digest),
                self.flavour,
            )
            for prefix in prefixes
        ]
        keys = [stamp.digest([_RECIPE, builder.inputs()]) for builder in builders]
        passed = [
            _recall(self._result(key), key, prefix)
            for key, prefix in zip(keys, prefixes, strict=True)
        ]
        return builders, keys, passed

    def _result(self, key: str) -> Path:
        return Home.of(self.base).path / "prefixes" / f"{key[:32]}.json"

    def _try(self, prefix: Prefix, builder: Builder, before: frozenset[CompilerWarning]) -> Outcome:
        if prefix.number > len(self.commits):
            assert self.stopped is not None
            if prefix.number == len(self.commits) + 1:
                return Outcome(prefix, "does not apply", errors=(self.stopped,))
            return Outcome(prefix, "not tried: an earlier patch does not apply")
        logs = self.directory / f"prefix-{prefix.number:02}"
        logs.mkdir(parents=True, exist_ok=True)
        try:
            self.worktree.checkout(self.commits[prefix.number - 1])
            kernel = builder.build(progress.Steps(quiet=True))
            standing = diagnostics.all_of(builder.warnings())
            new = self._new(builder, before)
        except _FATAL:
            raise
        except HarnessError as err:
            verdict = "does not build" if isinstance(err, build.BuildFailed) else "not built"
            return Outcome(prefix, verdict, errors=(self._kept(err, builder, logs),))
        failed = []
        errors: list[HarnessError] = []
        if new:
            failed.append(f"{len(new)} new warning{'s' * (len(new) > 1)}")
            adds = build.NewWarnings(
                f"{prefix.patch.name} adds compiler warnings",
                tail="\n".join(str(warning) for warning in new),
                log=builder.log.with_suffix(".last.log"),
                hint=build.FIX_IT,
            )
            errors.append(self._kept(adds, builder, logs))
        boot: firstboot.Boot | None = None
        try:
            boot = firstboot.boot(kernel, logs)
        except HarnessError as err:
            failed.append("does not boot")
            errors.append(self._kept(err, builder, logs))
        return Outcome(
            prefix,
            verdict=", ".join(failed) or "ok",
            build_seconds=float(kernel.facts["seconds"]),
            boot_seconds=None if boot is None else round(boot.seconds, 1),
            new_warnings=tuple(new),
            errors=tuple(errors),
            accel="" if boot is None else boot.accel,
            warnings=standing,
        )

    def _new(self, builder: Builder, before: frozenset[CompilerWarning]) -> list[CompilerWarning]:
        """Return the warnings that neither the prefix before nor the baseline has."""
        record = {
            target: found - before for target, found in builder.warnings().items() if found - before
        }
        if not record:
            return []
        baseline = Builder(trees.prepare(self.base, baseline=True), self.flavour)
        known = build.baseline_warnings(baseline, builder.tree.path, record)
        return sorted(diagnostics.all_of(record) - known)

    def _kept(self, err: HarnessError, builder: Builder, logs: Path) -> HarnessError:
        """Return the error with a log that the next prefix does not write over."""
        if err.log is not None and err.log.is_file() and builder.build_dir in err.log.parents:
            err.log = Path(shutil.copy2(err.log, logs / err.log.name))
        if err.hint in (None, build.FIX_IT):
            err.hint = (
                f"change that commit in {Home.of(self.base).worktree('patched')} (`git rebase -i "
                f"base`), run `scripts/refresh-series {self.base.name}`, then this command again"
            )
        return err


def _digest(diffs: Sequence[str]) -> str:
    return stamp.digest(diff.encode(errors="surrogateescape") for diff in diffs)


def _remember(path: Path, key: str, outcome: Outcome) -> None:
    stamp.write(
        path,
        key,
        {
            "subject": outcome.prefix.subject,
            "build_seconds": outcome.build_seconds,
            "boot_seconds": outcome.boot_seconds,
            "accel": outcome.accel,
            "warnings": diagnostics.to_json({"all": outcome.warnings or frozenset()}),
        },
    )


def _recall(path: Path, key: str, prefix: Prefix) -> Outcome | None:
    """Return the outcome of an earlier run that passed with the same key, if there was one."""
    found = stamp.read(path)
    if found is None or found[0] != key:
        return None
    facts = found[1]
    try:
        return Outcome(
            prefix,
            "ok",
            known=True,
            build_seconds=facts["build_seconds"],
            boot_seconds=facts["boot_seconds"],
            accel=facts["accel"],
            warnings=diagnostics.all_of(diagnostics.from_json(facts["warnings"])),
        )
    except (KeyError, ValueError):
        return None
