"""Count in a guest: what it is started with, and the marks of what is counted in it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from harness import guesttools, symbols
from harness.coherence import counts, dump, plugin
from harness.coherence.counts import Counts
from harness.coherence.errors import CoherenceError
from harness.coherence.structures import Namer
from harness.symbols import Symbols
from harness.vm.guestprocess import GuestResult
from harness.vm.options import VmOptions

if TYPE_CHECKING:
    from harness.vm import Vm

#: Seconds for a mark to be made, in a guest that is many times slower than usual.
MARK_TIMEOUT = 120.0

#: Seconds for the plugin to do what it was told.
ANSWER = 60.0


class Section:
    """A section that is being counted; :attr:`counts` once it has ended."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._counts: Counts | None = None

    @property
    def counts(self) -> Counts:
        """What it counted.

        Raises:
            CoherenceError: it has not ended.
        """
        if self._counts is None:
            raise CoherenceError(f"section {self.name} has not ended, so it has no counts")
        return self._counts

    def end(self, found: Counts) -> None:
        """Set what it counted."""
        self._counts = found


class Recorder:
    """The plugin for one guest, from before its boot.

    Args:
        directory: for what the plugin writes; made if it is not there, and emptied of
            what another guest's plugin wrote.
        what: ``"lines"``, or ``"instructions"`` for those alone, which is faster.
        user: count user space as well.
    """

    def __init__(self, directory: Path, *, what: str = "lines", user: bool = False) -> None:
        self.directory = directory.resolve()
        self.what = what
        self.user = user

    def prepare(self, options: VmOptions) -> VmOptions:
        """Return the options of a guest in which can be counted. It runs under TCG.

        Raises:
            CoherenceError: that guest has too many CPUs.
            CommandFailed: the plugin does not compile.
            UsageError: the options insist on KVM, which has no plugins.
        """
        if options.accel == "kvm":
            raise CoherenceError(
                "only emulated CPUs can be counted", hint="do not insist on KVM for this guest"
            )
        loaded = plugin.arguments(
            plugin.library(),
            self.directory,
            what=self.what,
            user=self.user,
            nodes=node_of_cpus(options),
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        for old in (*self.directory.glob("section-*.bin"), self.directory / "events"):
            old.unlink(missing_ok=True)
        return dataclasses.replace(
            options,
            accel="tcg",
            # Functions must be where vmlinux has them.
            append=(*options.append, "nokaslr"),
            qemu_args=(*options.qemu_args, *loaded),
        )

    def attach(self, vm: Vm) -> Counter:
        """Return what counts in a guest that was booted with the prepared options.

        Raises:
            CoherenceError: the guest has no plugin.
        """
        if "loaded" not in _events(self.directory):
            raise CoherenceError(
                "the guest runs without the plugin",
                hint="boot it with the options that Recorder.prepare() returns",
            )
        return Counter(self, vm)


class Counter:
    """What counts in a running guest."""

    def __init__(self, recorder: Recorder, vm: Vm) -> None:
        self.recorder = recorder
        self.vm = vm
        self.nodes = node_of_cpus(vm.options)
        self._mark = guesttools.tool("mark")
        self._following = False
        self._sections = 0

    @cached_property
    def symbols(self) -> Symbols:
        """The symbols of the guest's kernel."""
        return symbols.read(self.vm.kernel.vmlinux)

    def namer(self) -> Namer:
        """Return what tells the data structure of a line, as long as the guest runs."""
        return Namer(self.vm, self.symbols)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Have the plugin follow the guest while the body runs.

        The guest is several times slower meanwhile, and nothing is counted but in
        sections. Whoever holds a line is not known at first: let what is to be counted
        happen for a while before a section begins.

        Raises:
            CoherenceError: the plugin did not begin.
            GuestError: the guest failed.
        """
        if self._following:
            raise CoherenceError("the plugin follows the guest already")
        self._say("follow", "following")
        self._following = True
        try:
            yield
        finally:
            self._following = False
            if self.vm.alive:
                self._say("leave", "left")

    @contextmanager
    def section(self, name: str) -> Iterator[Section]:
        """Count while the body runs; after it, the section has its counts.

        A few thousand transfers of the marks' own programs are among them.

        Raises:
            CoherenceError: not within :meth:`following`, or the plugin wrote nothing.
            GuestError: the guest failed.
        """
        with self.expect(name) as section:
            self.vm.run([self._mark, "start"], timeout=MARK_TIMEOUT)
            try:
                yield section
            except BaseException:
                if self.vm.alive:
                    self.vm.run([self._mark, "stop"], timeout=MARK_TIMEOUT, check=False)
                    self._sections = _finished(self.recorder.directory)
                raise
            self.vm.run([self._mark, "stop"], timeout=MARK_TIMEOUT)

    @contextmanager
    def expect(self, name: str) -> Iterator[Section]:
        """Take the counts of the one section that the body has a program mark.

        Raises:
            CoherenceError: not within :meth:`following`, or there was no whole section.
        """
        if not self._following:
            raise CoherenceError(
                f"section {name}: the plugin does not follow the guest",
                hint="have sections within Counter.following()",
            )
        section = Section(name)
        yield section
        section.end(self._take(name))

    def run(
        self, name: str, argv: Sequence[str | PurePath], *, timeout: float
    ) -> tuple[GuestResult, Counts]:
        """Run a command in the guest and count from its start to its end.

        Raises:
            CoherenceError: not within :meth:`following`.
            GuestCommandFailed: its status was not 0.
            GuestError: the guest failed.
        """
        with self.expect(name) as section:
            done = self.vm.run([self._mark, "run", *argv], timeout=timeout)
        return done, section.counts

    def empty(self) -> Counts:
        """Count what marks alone cost."""
        with self.section("empty") as section:
            pass
        return section.counts

    def _say(self, mark: str, event: str) -> None:
        before = _events(self.recorder.directory).count(event)
        self.vm.run([self._mark, mark], timeout=MARK_TIMEOUT)
        deadline = time.monotonic() + ANSWER
        while _events(self.recorder.directory).count(event) == before:
            if time.monotonic() > deadline:
                raise CoherenceError(
                    f"the plugin did not answer the mark {mark!r}",
                    log=self.recorder.directory / "events",
                )
            time.sleep(0.02)

    def _take(self, name: str) -> Counts:
        """Return the counts of the section that has just ended."""
        log = self.recorder.directory / "events"
        done = _finished(self.recorder.directory)
        if done != self._sections + 1:
            raise CoherenceError(
                f"{name}: {done - self._sections} sections were counted, not 1",
                log=log,
                tail="\n".join(_events(self.recorder.directory)[-5:]),
            )
        self._sections = done
        path = self.recorder.directory / f"section-{done}.bin"
        return counts.from_dump(dump.read(path), self.symbols, name=name, nodes=self.nodes)


def node_of_cpus(options: VmOptions) -> tuple[int, ...]:
    """Return the NUMA node of each CPU of a guest; 0 for all where there are none."""
    found = [0] * options.cpus
    for node in range(options.numa):
        first, end = (options.cpus * at // options.numa for at in (node, node + 1))
        found[first:end] = [node] * (end - first)
    return tuple(found)


def _events(directory: Path) -> list[str]:
    try:
        return (directory / "events").read_text().splitlines()
    except FileNotFoundError:
        return []


def _finished(directory: Path) -> int:
    """Return the number of the last section that was written."""
    stops = [line.split()[1] for line in _events(directory) if line.startswith("stop ")]
    return int(stops[-1]) if stops else 0
