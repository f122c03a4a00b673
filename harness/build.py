"""From a base and a flavour to a kernel image: prepare, configure, compile, compare warnings.

The object directory is a direct subdirectory of the worktree: Kbuild then names
the sources by relative paths, so that worktrees share what the compiler cache
holds. A stamp, written last, says what the kernel was made from; as long as
that has not changed, nothing is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import cachekey, diagnostics, flavours, kconfig, lock, paths, process, progress, stamp
from harness import tree as trees
from harness.bases import Base
from harness.errors import HarnessError
from harness.flavours import Flavour
from harness.progress import Step
from harness.tree import Tree

#: The compiler's option for debug information: enough to decode a stack, inlined functions
#: included, for 4 % of its time in place of 11 % and half the space.
LINES = "-g1"

#: Seconds that a whole build may take before it is ended.
MAKE_TIMEOUT = 5400.0

#: Seconds to wait for somebody else's build.
LOCK_TIMEOUT = 7200.0

#: Targets that a build from nothing is taken to have, until one has been counted.
USUAL_TARGETS = 1900

#: Changes whenever what this module does to a kernel changes: old stamps are void then.
_RECIPE = "2"

#: What to do about an error of the source.
FIX_IT = "fix it in the worktree and run the same command again"

#: What Kbuild compiles before anything of the kernel itself.
_FIRST = "kernel/bounds.s"

#: Where an x86 kernel is packed for booting, below the object directory; the object that
#: includes the packed kernel.
_PACKED = "arch/x86/boot/compressed"
_PIGGY = f"{_PACKED}/piggy.o"

#: The compiler cache, but for what is assembled: that may include whole files (.incbin), which
#: the cache does not look at in its depend mode. It gave back the object that holds the packed
#: kernel for every kernel of the same packed length, and another kernel was booted.
_CACHED = """#!/bin/sh
for last; do :; done
case $last in *.S) exec "$@" ;; esac
exec {ccache} "$@"
"""

_LOG = "skbhome-make.log"
_STAMP = ".skbhome-kernel.json"
_WARNINGS = ".skbhome-warnings.json"


class BuildFailed(HarnessError):
    """The kernel did not compile."""


class NewWarnings(HarnessError):
    """The series adds compiler warnings."""


@dataclass(frozen=True)
class Kernel:
    """A built kernel and what it was made from.

    Attributes:
        tree: the source.
        flavour: how it was configured.
        image: the bzImage.
        vmlinux: the same kernel with symbols and line numbers.
        config: its ``.config``.
        build_dir: the object directory, directly below the source.
        release: what ``uname -r`` says in it.
        facts: what the stamp remembers, e.g. ``compiler``, ``config_sha256``.
        steps: what this run did for it and how long each step took.
    """

    tree: Tree
    flavour: Flavour
    image: Path
    vmlinux: Path
    config: Path
    build_dir: Path
    release: str
    facts: Mapping[str, Any] = field(repr=False, default_factory=dict)
    steps: tuple[Step, ...] = field(repr=False, default=())

    def describe(self) -> dict[str, Any]:
        """Return what to record with every result obtained with this kernel."""
        return {
            "base": self.tree.base.name,
            "arm": self.tree.arm,
            "flavour": self.flavour.name,
            "release": self.release,
            "source": self.tree.source.describe(),
            "series": self.tree.series_digest,
            "config_sha256": self.facts.get("config_sha256", ""),
            "compiler": self.facts.get("compiler", ""),
        }


def build(
    base: Base,
    *,
    flavour: str | None = None,
    baseline: bool = False,
    tree: Path | None = None,
    config: Path | None = None,
    steps: progress.Steps | None = None,
) -> Kernel:
    """Return the kernel of ``base``, made as far as it is not there already.

    Args:
        flavour: name of the flavour; the base's own unless given.
        baseline: leave the series out.
        tree: the person's own source instead of a fetched one; never modified.
        config: the person's own configuration to start from.
        steps: receives each step as it ends; without it, they are said on stderr.

    Raises:
        UsageError: no such flavour.
        OptionsNotSet, ConfigureFailed, BadFragment: from :mod:`harness.kconfig`.
        BuildFailed: with the first error; the log is named.
        NewWarnings: the series adds compiler warnings; each is listed.
        HarnessError: whatever fetching and preparing the tree can raise.
    """
    wanted = flavours.get(flavour or base.flavour)
    steps = steps or progress.Steps()
    first = len(steps.done)
    if wanted.rt and tree is None:
        # A person's own tree is taken as it is.
        base = base.under_rt()
    with steps.step("tree") as notes:
        prepared = trees.prepare(base, baseline=baseline, tree=tree)
        notes.append(f"{prepared.source.version} {prepared.arm}, {prepared.path}")
    kernel = Builder(prepared, wanted, config).build(steps)
    if prepared.arm != "baseline":
        check_warnings(kernel, config, steps, tree=tree)
    return Kernel(**{**vars(kernel), "steps": tuple(steps.done[first:])})


@dataclass(frozen=True)
class Builder:
    """Configures and compiles one tree in one flavour."""

    tree: Tree
    flavour: Flavour
    #: The person's own configuration to start from.
    start: Path | None = None

    @property
    def build_dir(self) -> Path:
        """The object directory."""
        own = "-own" if self.start is not None else ""
        return self.tree.path / f"build-{self.flavour.name}{own}"

    @property
    def fragments(self) -> tuple[Path, ...]:
        """What is configured, in order."""
        return self.flavour.files(own=self.start is not None)

    @property
    def log(self) -> Path:
        """The output of make while it runs; what a run that was killed left is appended to."""
        return self.build_dir / _LOG

    def build(self, steps: progress.Steps) -> Kernel:
        """Return the kernel; nothing is run if it is there and made from the same things."""
        _refuse_path(self.tree.path)
        started = time.monotonic()
        inputs = self.inputs()
        kernel = self.finished(inputs)
        if kernel is not None:
            steps.add(Step("build", time.monotonic() - started, "nothing to do"))
            return kernel
        purpose = f"building {self.tree.base.name} {self.tree.arm} {self.flavour.name}"
        with lock.held(paths.locks() / "build.lock", purpose, timeout=LOCK_TIMEOUT):
            # Whoever held the lock may have built this very kernel, or changed the tree.
            inputs = self.inputs()
            kernel = self.finished(inputs)
            if kernel is not None:
                steps.add(Step("build", time.monotonic() - started, "done by another run"))
                return kernel
            return self._build(inputs, steps)

    def inputs(self) -> str:
        """Return a digest of everything that decides what the kernel will be, and where."""
        where = [" ".join(self._make()), json.dumps(self.environment(), sort_keys=True)]
        return stamp.digest([self.portable_inputs(), *where])

    def portable_inputs(self) -> str:
        """Return a digest of what decides how the kernel behaves, whatever the machine."""
        return stamp.digest(
            [
                _RECIPE,
                self.tree.source.checksum,
                self.tree.series_digest,
                compiler(self.flavour.compiler),
                "\n".join(request.line for request in kconfig.merge(self.fragments)),
                _contents(self.start) if self.start is not None else "",
            ]
        )

    def finished(self, inputs: str | None = None) -> Kernel | None:
        """Return the kernel if it is whole (and made from exactly ``inputs``), else None."""
        found = stamp.read(self.build_dir / _STAMP)
        if found is None or (inputs is not None and found[0] != inputs):
            return None
        facts = found[1]
        kernel = self._kernel(facts)
        for name, path in (("image", kernel.image), ("vmlinux", kernel.vmlinux)):
            if not path.is_file() or [path.stat().st_size, path.stat().st_mtime_ns] != facts[name]:
                return None
        return kernel if kernel.config.is_file() else None

    def configure(self, steps: progress.Steps) -> kconfig.Result:
        """Write the configuration and check it; an unchanged one keeps its time stamp."""
        config = self.build_dir / ".config"
        before = (_contents(config), config.stat().st_mtime_ns) if config.is_file() else None
        with steps.step("configure") as notes:
            self.build_dir.mkdir(exist_ok=True)
            log = self.build_dir / "skbhome-configure.log"
            log.unlink(missing_ok=True)
            result = kconfig.configure(
                self.tree.path,
                self.build_dir,
                self.fragments,
                base=self.tree.base.name,
                start=self.start,
                make=self._make(),
                env=self.environment(),
                log=log,
            )
            if before is not None and before[0] == _contents(config):
                os.utime(config, ns=(before[1], before[1]))
            notes.append(f"{len(result.options)} options")
            if result.forgiven:
                notes.append(f"{len(result.forgiven)} optional that this tree lacks")
            if result.overridden:
                notes.append(f"{len(result.overridden)} of yours set otherwise")
        if result.overridden:
            text = "".join(f"{line}\n" for line in result.overridden)
            (self.build_dir / "skbhome-overridden.txt").write_text(text)
            if not steps.quiet:
                progress.say(text.rstrip("\n"), indent="    ")
        return result

    def make(self, targets: Sequence[str], *, whole: bool, keep_going: bool = False) -> Made:
        """Run make for the targets, keeping the record of warnings up to date.

        Args:
            whole: a build of everything, so that the number of targets is known.
            keep_going: build what can be built, and do not raise if something fails.

        Raises:
            BuildFailed: with the first error.
        """
        estimate = self._estimate() if whole else 0
        seen = 0
        line = progress.Line(f"building {self.tree.base.name} {self.flavour.name}")

        def on_line(text: str) -> None:
            nonlocal seen
            target = diagnostics.target_of(text)
            if target is not None:
                seen += 1
                of = f" of about {max(estimate, seen)}" if estimate else ""
                line.update(f"{seen}{of}  {target}")

        environment = {**self.environment(), **self._cache()}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            done = process.run(
                [
                    *self._make(),
                    "-C",
                    self.tree.path,
                    f"O={self.build_dir}",
                    f"-j{jobs()}",
                    "--output-sync=target",
                    *(["--keep-going"] if keep_going else []),
                    *targets,
                ],
                timeout=MAKE_TIMEOUT,
                what=f"building {self.tree.base.name}",
                env=environment,
                log=self.log,
                check=False,
                on_line=on_line,
            )
        finally:
            line.clear()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        record = self._absorb()
        if done.returncode != 0 and not keep_going:
            raise self._failure(done)
        return Made(done.returncode == 0, seen, done.seconds, cpu, record)

    def warnings(self) -> diagnostics.Record:
        """Return the warnings of every object in the directory, from when it was last compiled.

        Objects whose source the tree no longer has, which a longer series left, are not among them.
        """
        try:
            record = diagnostics.from_json(json.loads((self.build_dir / _WARNINGS).read_text()))
        except (OSError, ValueError):
            return {}
        return {target: found for target, found in record.items() if not self._orphan(target)}

    def _orphan(self, target: str) -> bool:
        """Tell whether Kbuild's own note on an object names a source that is gone."""
        note = (self.build_dir / target).with_name(f".{Path(target).name}.cmd")
        try:
            found = re.search(r"^source_\S+ := (\S+)$", note.read_text(errors="replace"), re.M)
        except OSError:
            return False
        return found is not None and not (self.build_dir / found[1]).exists()

    def _build(self, inputs: str, steps: progress.Steps) -> Kernel:
        stamp_path = self.build_dir / _STAMP
        # Nothing has been compiled there, not even by a run that was ended.
        whole = not (self.build_dir / _FIRST).is_file()
        stamp_path.unlink(missing_ok=True)
        result = self.configure(steps)
        with steps.step("build") as notes:
            # Of an earlier build, it may hold whatever the compiler cache took for it.
            (self.build_dir / _PIGGY).unlink(missing_ok=True)
            made = self.make(["bzImage"], whole=whole)
            hits = "" if shutil.which("ccache") else ", no ccache"
            notes.append(f"{made.targets} targets, {made.cpu:.0f} s of CPU{hits}")
        if whole:
            self._remember_estimate(made.targets)
        image = self.build_dir / "arch/x86/boot/bzImage"
        vmlinux = self.build_dir / "vmlinux"
        self._check_image(image)
        facts = {
            "release": (self.build_dir / "include/config/kernel.release").read_text().strip(),
            "compiler": compiler(self.flavour.compiler),
            "config_sha256": hashlib.sha256(result.path.read_bytes()).hexdigest(),
            "image": [image.stat().st_size, image.stat().st_mtime_ns],
            "vmlinux": [vmlinux.stat().st_size, vmlinux.stat().st_mtime_ns],
            "seconds": round(made.seconds, 1),
            "cpu_seconds": round(made.cpu, 1),
            "targets": made.targets,
            "forgiven": [kconfig.describe(one) for one in result.forgiven],
        }
        stamp.write(stamp_path, inputs, facts)
        return self._kernel(facts)

    def _check_image(self, image: Path) -> None:
        """See that the image holds the kernel that was packed last.

        Raises:
            BuildFailed: it is another one.
        """
        packed = [
            path
            for path in (self.build_dir / _PACKED).glob("vmlinux.bin.*")
            if not path.name.startswith((".", "vmlinux.bin.all"))
        ]
        if packed and not any(path.read_bytes() in image.read_bytes() for path in packed):
            raise BuildFailed(
                f"{image} does not hold the kernel that was compiled",
                log=self.log.with_suffix(".last.log"),
                hint=f"remove {self.build_dir} and run the same command again",
            )

    def _kernel(self, facts: Mapping[str, Any]) -> Kernel:
        return Kernel(
            tree=self.tree,
            flavour=self.flavour,
            image=self.build_dir / "arch/x86/boot/bzImage",
            vmlinux=self.build_dir / "vmlinux",
            config=self.build_dir / ".config",
            build_dir=self.build_dir,
            release=str(facts["release"]),
            facts=facts,
        )

    def _make(self) -> list[str]:
        own = self.flavour.compiler
        compile_with = f"ccache {own}" if shutil.which("ccache") else own
        # Line numbers name the sources relative to the tree, wherever it is: what the
        # compiler cache gives back for one worktree is then right for every other.
        relative = f"-fdebug-prefix-map={self.tree.path}=."
        # A person's own configuration may want more.
        lines = "" if self.start is not None else f" {LINES}"
        return [
            "make",
            f"CC={compile_with}",
            f"KCFLAGS={relative}{lines}",
            f"KAFLAGS={relative}",
            f"LOCALVERSION=-{self.tree.arm}-{self.flavour.name}",
        ]

    def environment(self) -> dict[str, str | None]:
        """Return the variables for make; None stands for one that must be absent."""
        # A person's own settings for kernel builds would make the result another one.
        foreign = (
            "ARCH CROSS_COMPILE KBUILD_OUTPUT KCONFIG_CONFIG KCONFIG_ALLCONFIG MAKEFLAGS MAKELEVEL "
            "MFLAGS KCPPFLAGS KBUILD_EXTRA_SYMBOLS W C V LLVM CFLAGS LDFLAGS INSTALL_PATH"
        )
        return {
            **dict.fromkeys(foreign.split()),
            # Kbuild drops LC_ALL; the compiler's words must not depend on the person's language.
            **dict.fromkeys(["LC_ALL", "LC_CTYPE", "LC_MESSAGES", "LANGUAGE"]),
            "LANG": "C",
            "CCACHE_DIR": str(paths.ccache()),
            "CCACHE_MAXSIZE": "2G",
            # The sources' times change with every worktree; their contents decide.
            "CCACHE_SLOPPINESS": "include_file_mtime,include_file_ctime",
            # Kbuild has the compiler say what it included: to preprocess each file once more
            # for that took a fifth of a build's time (user time of net/ipv4/: 101 s, 79 s).
            "CCACHE_DEPEND": "1",
            # The same source, compiler and configuration make the same bytes.
            "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
            "KBUILD_BUILD_USER": "skbhome",
            "KBUILD_BUILD_HOST": "skbhome",
            "KBUILD_BUILD_VERSION": "1",
        }

    def _cache(self) -> dict[str, str]:
        """Return the variables by which the compiler cache knows the configuration."""
        added = cachekey.added_options(self.tree.base.patches)
        hidden = cachekey.unseen(self.tree.path, added)
        known = cachekey.write(self.build_dir / ".config", hidden)
        return {
            "CCACHE_IGNOREHEADERS": cachekey.HEADERS,
            "CCACHE_EXTRAFILES": str(known),
            "PATH": f"{self._cached()}:{os.environ['PATH']}",
        }

    def _cached(self) -> Path:
        """Return the directory of a ``ccache`` that caches no assembler files."""
        made = self.build_dir / "skbhome-bin"
        ccache = shutil.which("ccache")
        if ccache is not None:
            made.mkdir(exist_ok=True)
            stamp.write_atomic(made / "ccache", _CACHED.format(ccache=shlex.quote(ccache)))
            (made / "ccache").chmod(0o755)
        return made

    def _absorb(self) -> diagnostics.Record:
        """Take over the warnings of the last run's log, even of a run that was interrupted."""
        record = self.warnings()
        with contextlib.suppress(FileNotFoundError), self.log.open(errors="replace") as log:
            record = diagnostics.parse(log, record)
            stamp.write_atomic(
                self.build_dir / _WARNINGS, json.dumps(diagnostics.to_json(record), indent=1)
            )
            # It stays for people under another name: a log of the first name has not been read.
            self.log.replace(self.log.with_suffix(".last.log"))
        return record

    def _failure(self, done: process.Completed) -> BuildFailed:
        log = self.log.with_suffix(".last.log")
        first = diagnostics.first_error(done.output) or process.tail(done.output)
        hint = FIX_IT
        if "No space left on device" in done.output:
            hint = "make room on the disk and run the same command again"
        elif re.search(r"\bKilled\b", done.output):
            hint = "the machine ran out of memory: end something else and run again"
        elif re.search(r"\] (Terminated|Interrupt|Hangup)$", done.output, re.M):
            first = "make was ended by a signal from outside"
            hint = "run the same command again: it goes on where this one stopped"
        return BuildFailed(
            f"building {self.tree.base.name} ({self.tree.arm}, {self.flavour.name}): "
            f"make ended with status {done.returncode}",
            log=log,
            tail=first,
            hint=hint,
        )

    def _estimates(self) -> Path:
        return paths.build_root() / "targets.json"

    def _estimate(self) -> int:
        try:
            known = json.loads(self._estimates().read_text())
        except (OSError, ValueError):
            known = {}
        own = known.get(f"{self.tree.base.name}/{self.flavour.name}")
        return int(own or max(known.values(), default=USUAL_TARGETS))

    def _remember_estimate(self, targets: int) -> None:
        try:
            known = json.loads(self._estimates().read_text())
        except (OSError, ValueError):
            known = {}
        known[f"{self.tree.base.name}/{self.flavour.name}"] = targets
        stamp.write_atomic(self._estimates(), json.dumps(known, indent=1))


@dataclass(frozen=True)
class Made:
    """What one run of make did.

    Attributes:
        ok: it ended with status 0.
        targets: how many targets it said it made.
        seconds: wall-clock time.
        cpu: seconds of CPU, user and system, of all its processes.
        record: the warnings of every object in the directory.
    """

    ok: bool
    targets: int
    seconds: float
    cpu: float
    record: diagnostics.Record = field(repr=False)


def check_warnings(
    kernel: Kernel, config: Path | None, steps: progress.Steps, *, tree: Path | None
) -> None:
    """Compare the kernel's compiler warnings with those of the baseline.

    Only what warned is compiled in the baseline, and nothing if nothing warned.

    Raises:
        NewWarnings: listing those that the baseline does not have.
    """
    patched = Builder(kernel.tree, kernel.flavour, config)
    record = patched.warnings()
    if not record:
        return
    with steps.step("warnings") as notes:
        base = trees.prepare(kernel.tree.base, baseline=True, tree=tree)
        baseline = Builder(base, kernel.flavour, config)
        known = baseline_warnings(baseline, kernel.tree.path, record)
        new = sorted(diagnostics.all_of(record) - known)
        notes.append(f"{len(diagnostics.all_of(record))}, {len(new)} of them new")
    if new:
        raise NewWarnings(
            f"the series adds {len(new)} compiler warning{'s' * (len(new) > 1)}",
            tail="\n".join(str(warning) for warning in new),
            log=patched.log.with_suffix(".last.log"),
            hint="fix them in the worktree and run the same command again",
        )


def baseline_warnings(
    builder: Builder, patched: Path, record: diagnostics.Record
) -> frozenset[diagnostics.CompilerWarning]:
    """Return the baseline's warnings, at least for the targets that warn in ``record``.

    Args:
        builder: of the baseline.
        patched: the tree that the record is of.
    """
    quiet = progress.Steps(quiet=True)
    purpose = "comparing compiler warnings"
    with lock.held(paths.locks() / "build.lock", purpose, timeout=LOCK_TIMEOUT):
        if builder.finished(builder.inputs()) is not None:
            return diagnostics.all_of(builder.warnings())
        sources = {target: _source_of(patched, target) for target in record}
        # A file that the series adds has no warnings in the baseline.
        objects = [
            target
            for target, source in sources.items()
            if source is not None and (builder.tree.path / source).is_file()
        ]
        if None not in sources.values():
            if not objects:
                return frozenset()
            builder.configure(quiet)
            made = builder.make(objects, whole=False, keep_going=True)
            if made.ok:
                return diagnostics.all_of(made.record)
    # Something warned that Kbuild cannot make alone, such as a host program or the
    # final link: compare with the baseline as a whole.
    builder.build(quiet)
    return diagnostics.all_of(builder.warnings())


def _source_of(tree: Path, target: str) -> Path | None:
    """Return the source, below the tree, of an object that Kbuild can make alone, else None."""
    if not target.endswith(".o") or target.split("/")[0] in ("scripts", "tools", "usr"):
        return None
    for suffix in (".c", ".S"):
        source = Path(target).with_suffix(suffix)
        if (tree / source).is_file():
            return source
    return None


def compiler(name: str = "gcc") -> str:
    """Return the compiler's and the linker's own description, one line."""
    lines = []
    hint = "run scripts/doctor" if name == "gcc" else f"install {name} (apt-get install {name})"
    for tool in (name, "ld"):
        done = process.run([tool, "--version"], timeout=30, env={"LC_ALL": "C"}, hint=hint)
        lines.append(done.output.partition("\n")[0].strip())
    return "; ".join(lines)


def jobs() -> int:
    """Return how many compilers to run at once: one per CPU, if memory allows (1 GiB each)."""
    cpus = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cpus, memory >> 30))


def recorded(worktree: Path, flavour: Flavour) -> dict[str, Any] | None:
    """Return what is remembered of the kernel that was built there last, if one was.

    Keys: ``release``, ``compiler``, ``config_sha256`` and others; see :class:`Kernel`.
    """
    found = stamp.read(worktree / f"build-{flavour.name}" / _STAMP)
    return None if found is None else found[1]


def _contents(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="surrogateescape")
    except OSError as err:
        raise HarnessError(f"cannot read {path}: {err.strerror}") from err


def _refuse_path(path: Path) -> None:
    bad = sorted(set(str(path)) & set(" \t:'\"%#$"))
    if bad:
        shown = " or ".join(repr(char) for char in bad)
        raise HarnessError(
            f"the kernel's build does not work below a path that holds {shown}: {path}",
            hint="clone the repository somewhere else, or set SKBHOME_BUILD to another directory",
        )
