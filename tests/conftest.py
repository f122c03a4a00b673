"""What all tests share: options, one guest for many tests, splats as failures, figures.

A VM test asks for the ``vm`` fixture (or one built on it, see tests/vm/conftest.py)
and says in its ``vm`` marker what guest it needs. Tests are sorted so that those
that share a guest follow one another; a guest is booted when its first test
starts, closed when no further test needs it, and replaced after a failure, a
splat or its death. Only one guest is alive at a time.

A VM test that fails without a word of the kernel's is tried once more (see retries.py).
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import hostjobs
import known
import minutes
import racecheck
import seeds
from retries import Retries

from harness import bases, flavours, paths, stamp
from harness.errors import HarnessError

#: Seconds that a VM test may take on the default flavour, its guest's boot not included.
TEST_LIMIT = 180

#: How often a guest may fail to boot before the tests that need it fail at once.
BOOT_ATTEMPTS = 2


# --- options and the run's directory ---------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("skbhome")
    group.addoption("--base", default=None, help="the kernel series to test (default: v5.10)")
    group.addoption(
        "--flavour",
        action="append",
        default=None,
        help="run every VM test on this flavour (may be given several times); "
        "without it: all on the base's own flavour, those marked `debug` also on debug",
    )
    group.addoption(
        "--kernel",
        action="append",
        default=[],
        metavar="ARM=IMAGE",
        help="boot this image instead of building one; ARM is patched or baseline, "
        "vmlinux is looked for three directories up, where the kernel's build leaves it",
    )
    group.addoption("--slow", action="store_true", help="run the tests marked `slow`, too")
    group.addoption(
        "--once", action="store_true", help="do not try a VM test that has failed a second time"
    )
    seeds.add_options(group)
    minutes.add_options(group)
    known.add_options(group)


@dataclass(frozen=True)
class Image:
    """A kernel somebody else has built (``--kernel``)."""

    image: Path
    flavour: flavours.Flavour

    @property
    def build_dir(self) -> Path:
        return self.image.resolve().parents[3]

    @property
    def vmlinux(self) -> Path:
        return self.build_dir / "vmlinux"

    def describe(self) -> dict[str, Any]:
        return {"image": str(self.image), "series_digest": "unknown"}


def run_directory() -> Path:
    """Return the directory of this run's logs: SKBHOME_RUN_DIR, or a new one."""
    given = os.environ.get("SKBHOME_RUN_DIR")
    if given:
        path = Path(given)
    else:
        path = paths.logs() / time.strftime("pytest-%Y%m%d-%H%M%S")
        suffix = 1
        while path.exists():
            suffix += 1
            path = path.with_name(f"{path.name.split('.')[0]}.{suffix}")
    path.mkdir(parents=True, exist_ok=True)
    return path


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "limit(seconds): a VM test's time on the default flavour")
    config.addinivalue_line("markers", "only(flavour): a VM test that says nothing on any other")
    config.addinivalue_line(
        "markers", "brief: of a test that runs on debug too, a case that need not (parameters)"
    )
    name = config.getoption("base")
    try:
        config.skbhome = Session(  # type: ignore[attr-defined]
            config, bases.get(name) if name else bases.default_base()
        )
        for flavour in config.getoption("flavour") or []:
            flavours.for_commands(flavour)
    except HarnessError as err:
        raise pytest.UsageError(str(err)) from err
    config.pluginmanager.register(config.skbhome.retries, "retries")  # type: ignore[attr-defined]
    config.pluginmanager.register(seeds, "seeds")
    minutes.pytest_configure(config)
    known.configure(config)
    hostjobs.configure(config)


def pytest_sessionstart(session: pytest.Session) -> None:
    # A CI that gives up sends SIGTERM: end the guests as Ctrl-C does, and say what took so long.
    def stop(*_: object) -> None:
        state: Session = session.config.skbhome  # type: ignore[attr-defined]
        # A full disk must not keep the guests alive.
        with suppress(OSError), open(state.directory / "ended-here.txt", "w") as file:
            faulthandler.dump_traceback(file)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    # What a shell starts in the background ignores Ctrl-C, and so would all that tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "skbhome"):
        config.skbhome.close()


# --- which guest a test needs ----------------------------------------------


@dataclass(frozen=True)
class GuestKey:
    """Tests with equal keys share a guest."""

    flavour: str
    baseline: bool
    cpus: int
    numa: int
    append: tuple[str, ...]
    memory: str
    owner: str
    #: What a plugin counts in it: "lines", "lines+user" or "instructions"; "" for no plugin.
    counted: str = ""

    @property
    def name(self) -> str:
        parts = [self.flavour, "baseline" if self.baseline else "patched", f"{self.cpus}cpu"]
        if self.numa:
            parts.append(f"{self.numa}node")
        if self.append:
            parts.append(stamp.digest(self.append)[:6])
        if self.counted:
            parts.append(self.counted)
        if self.owner:
            parts.append("own")
        return "-".join(parts)


def guest_key(item: pytest.Item) -> GuestKey:
    options: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers("vm"))):  # the closest one last
        options.update(mark.kwargs)
    unknown = options.keys() - {"cpus", "baseline", "numa", "append", "own", "memory", "counted"}
    if unknown:
        raise pytest.UsageError(f"{item.nodeid}: marker vm has no {', '.join(sorted(unknown))}")
    flavour: str = item.callspec.params["flavour"]  # type: ignore[attr-defined]
    return GuestKey(
        flavour=flavour,
        baseline=options.get("baseline", False),
        cpus=options.get("cpus", 4),
        numa=options.get("numa", 0),
        append=tuple(options.get("append", ())),
        # The checks of a slow flavour need room for what they remember.
        memory=options.get("memory", "2G" if flavours.get(flavour).slow > 1 else "1G"),
        owner=item.nodeid if options.get("own") else "",
        counted=options.get("counted", ""),
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "flavour" not in metafunc.fixturenames:
        return
    names = metafunc.config.getoption("flavour")
    if not names:
        names = [metafunc.config.skbhome.base.flavour]  # type: ignore[attr-defined]
        if any(metafunc.definition.iter_markers("debug")):
            names.append("debug")
    metafunc.parametrize("flavour", dict.fromkeys(names), indirect=True, scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Host tests first; then VM tests, those of one guest together."""
    keys: dict[pytest.Item, GuestKey] = {}
    for item in items:
        if "guest" not in getattr(item, "fixturenames", ()):
            continue
        if item.get_closest_marker("vm") is None:
            raise pytest.UsageError(f"{item.nodeid}: uses a guest without the marker `vm`")
        keys[item] = guest_key(item)
        limit = TEST_LIMIT * flavours.get(keys[item].flavour).slow
        for mark in item.iter_markers("limit"):
            limit = mark.args[0] * flavours.get(keys[item].flavour).slow
            break
        # The guest's boot, and a kernel build before it, have limits of their own.
        item.add_marker(pytest.mark.timeout(limit, func_only=True))
    spared: set[pytest.Item] = set()
    if not config.getoption("flavour"):
        spared |= {
            item
            for item, key in keys.items()
            if flavours.get(key.flavour).slow > 1 and item.get_closest_marker("brief")
        }
    for name in ("slow", "faults"):
        if not config.getoption(name):
            spared |= {item for item in items if item.get_closest_marker(name)}
    for item, key in keys.items():
        only = item.get_closest_marker("only")
        if only is not None and key.flavour not in only.args:
            spared.add(item)
    items[:] = [item for item in items if item not in spared]
    for item in spared:
        keys.pop(item, None)
    order: dict[GuestKey, int] = {}
    for key in keys.values():
        order.setdefault(key, len(order))

    def place(item: pytest.Item) -> tuple[int, float, bool, int]:
        key = keys.get(item)
        if key is None:
            return (0, 0.0, False, 0)
        # What the baseline shows is known before the patched kernel is judged by it.
        late = key.baseline != (key.flavour == racecheck.FLAVOUR)
        return (1, flavours.get(key.flavour).slow, late, order[key])

    items.sort(key=place)
    config.skbhome.keys = keys  # type: ignore[attr-defined]


# --- guests ----------------------------------------------------------------


@dataclass
class Guest:
    """A booted guest and what the session remembers about it."""

    key: GuestKey
    vm: Any
    kernel: Any
    #: What counts in it (harness.coherence.Counter), if it was asked for.
    counter: Any = None
    #: The splats (by their place in the console) that a test has been blamed for.
    reported: set[int] = field(default_factory=set)
    #: Where in the console the first test began: boot is the boot tests' matter.
    checked: int = 0
    #: Why no further test may use it.
    spoilt: str = ""
    #: What tests/vm keeps for as long as the guest lives (networks, for one).
    memo: dict[str, Any] = field(default_factory=dict)


class Session:
    """The guests, kernels and figures of one pytest run."""

    def __init__(self, config: pytest.Config, base: bases.Base) -> None:
        self.config = config
        self.base = base
        self.keys: dict[pytest.Item, GuestKey] = {}
        self.guest: Guest | None = None
        self.rows: list[dict[str, Any]] = []
        self._directory: Path | None = None
        self._kernels: dict[tuple[str, bool], Any] = {}
        self._failures: dict[tuple[object, ...], HarnessError] = {}
        #: Guests that came up the second time.
        self.flakes: list[str] = []
        self.retries = Retries(
            may=lambda item: (
                item in self.keys
                and not config.getoption("once")
                # With the same chance it may fail again or not: the failure is what it is for.
                and item.get_closest_marker("faults") is None
            ),
            directory=lambda: self.directory,
            say=self._say,
        )
        #: What tests keep for others of the run: how something ended on the other kernel.
        self.memo: dict[Any, Any] = {}
        self.races = racecheck.RaceCheck(base, lambda: self.directory)
        self._boots = 0
        self._accel: set[str] = set()
        self._stack = ExitStack()

    @property
    def directory(self) -> Path:
        if self._directory is None:
            self._directory = run_directory()
        return self._directory

    def kernel(self, flavour: str, baseline: bool) -> Any:
        """Return the kernel, building it if need be; a failed build is not repeated."""
        key = (flavour, baseline)
        if key in self._failures:
            raise self._failures[key]
        if key not in self._kernels:
            given = dict(each.split("=", 1) for each in self.config.getoption("kernel"))
            arm = "baseline" if baseline else "patched"
            if arm in given:
                self._kernels[key] = Image(Path(given[arm]), flavours.get(flavour))
            else:
                from harness import build

                self._say(f"kernel {self.base.name} {arm} ({flavour})")
                try:
                    self._kernels[key] = build.build(self.base, flavour=flavour, baseline=baseline)
                except HarnessError as err:
                    self._failures[key] = err
                    raise
        return self._kernels[key]

    def acquire(self, key: GuestKey) -> Guest:
        """Return a guest that fits ``key``, booting one if there is none."""
        if self.guest is not None and (
            self.guest.key != key or self.guest.spoilt or not self.guest.vm.alive
        ):
            self.release()
        if self.guest is not None:
            return self.guest
        failed = self._failures.get((key,))
        if failed is not None:
            raise failed
        kernel = self.kernel(key.flavour, key.baseline)
        from harness.vm import VmOptions, boot

        self._boots += 1
        log_dir = self.directory / f"guest-{self._boots:02}-{key.name}"
        log_dir.mkdir(parents=True, exist_ok=True)
        options = VmOptions(cpus=key.cpus, memory=key.memory, numa=key.numa, append=key.append)
        recorder = None
        if key.counted:
            from harness.coherence import Recorder

            what, _, user = key.counted.partition("+")
            recorder = Recorder(log_dir / "counted", what=what, user=user == "user")
            options = recorder.prepare(options, kernel)
        for attempt in range(1, BOOT_ATTEMPTS + 1):
            try:
                vm = self._stack.enter_context(boot(kernel, options, log_dir=log_dir))
                break
            except HarnessError as err:
                if attempt == BOOT_ATTEMPTS:
                    self._failures[key,] = err
                    raise
                # An emulator that fails once in a while is no finding about the
                # kernel, but not to be hidden either.
                self._say(f"guest {key.name} did not come up, trying again: {err.what}")
                self.flakes.append(
                    f"guest {key.name} came up the second time: {err.what} (log: {err.log})"
                )
                log_dir = log_dir.with_name(f"{log_dir.name}-again")
                log_dir.mkdir(exist_ok=True)
        self._accel.add(vm.accel)
        self._say(f"guest {key.name} up in {vm.boot_seconds:.1f} s ({vm.accel})")
        counter = recorder.attach(vm) if recorder is not None else None
        self.guest = Guest(key, vm, kernel, counter)
        return self.guest

    def facts(self) -> dict[str, Any]:
        """Return what a reader of the run's results must know, for scripts/prove."""
        return {
            "kernels": [kernel.describe() for kernel in self._kernels.values()],
            "accel": sorted(self._accel),
            "seed": self.config.getoption("seed"),
            "not_steady": self.flakes + self.retries.flakes,
        }

    def release(self) -> None:
        """End the guest, if there is one."""
        self.guest = None
        stack, self._stack = self._stack, ExitStack()
        stack.close()

    def close(self) -> None:
        self.release()

    def _say(self, text: str) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self.config.get_verbosity() >= 0:
            reporter.write_line(f"  [{text}]")


def new_splats(session: Session, guest: Guest) -> list[Any]:
    """Return the splats to answer for that the guest's console has shown since the last look."""
    found = [
        splat
        for splat in guest.vm.console.splats(since=guest.checked)
        if splat.start not in guest.reported
    ]
    guest.reported.update(splat.start for splat in found)
    if guest.key.flavour == racecheck.FLAVOUR:
        return session.races.failing(found, baseline=guest.key.baseline)
    return found


def describe(splats: list[Any], log: Path) -> str:
    parts = [f"the kernel complained ({len(splats)} report{'s' if len(splats) > 1 else ''}):"]
    for splat in splats:
        parts += [f"{splat.kind}: {splat.title}", splat.decoded or splat.text]
    parts.append(f"console: {log}")
    return "\n\n".join(parts)


def asserted(call: pytest.CallInfo[None]) -> bool:
    """Tell whether the test itself said what is wrong, and did not just come to an end."""
    return call.excinfo is not None and isinstance(call.excinfo.value, AssertionError)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Make a splat the failure of the test during which it came, whatever the test says."""
    outcome = yield
    session: Session = item.config.skbhome  # type: ignore[attr-defined]
    guest = session.guest
    if item not in session.keys or guest is None:
        return
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        guest.spoilt = f"{item.nodeid} failed"
    if call.when == "setup" and report.passed:
        return
    try:
        splats = new_splats(session, guest)
        alive = guest.vm.alive
    except HarnessError as err:
        splats, alive = [], False
        report.sections.append(("guest", str(err)))
    if splats or not alive:
        session.retries.final.add(item.nodeid)
    if splats:
        text = describe(splats, guest.vm.console_log)
        guest.spoilt = f"{item.nodeid} made it complain"
        if report.failed and asserted(call):
            report.sections.append(("kernel log", text))
        else:
            if report.failed:
                # A guest that is gone, or did not answer: the kernel has said why.
                report.sections.append(("what the test said", report.longreprtext))
            report.outcome = "failed"
            report.longrepr = text
    elif not alive:
        guest.spoilt = "it is gone"
        if not report.failed:
            report.outcome = "failed"
            report.longrepr = f"the guest ended during the test\nconsole: {guest.vm.console_log}"


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    session: Session = item.config.skbhome  # type: ignore[attr-defined]
    if item not in session.keys:
        return
    if session.guest is not None and session.guest.vm.alive:
        late = new_splats(session, session.guest)
        if late:
            session.guest.spoilt = f"{item.nodeid} made it complain"
            session.retries.final.add(item.nodeid)
            pytest.fail(describe(late, session.guest.vm.console_log), pytrace=False)
    if nextitem is None or session.keys.get(nextitem) != session.keys[item]:
        session.release()


@pytest.fixture(scope="session")
def flavour(request: pytest.FixtureRequest) -> str:
    """The flavour of the guest that the test runs in."""
    return str(request.param)


@pytest.fixture
def guest(request: pytest.FixtureRequest, flavour: str) -> Guest:
    """The guest with its kernel and what is remembered of it."""
    session: Session = request.config.skbhome
    return session.acquire(session.keys[request.node])


@pytest.fixture
def vm(guest: Guest) -> Any:
    """A booted guest (harness.vm.Vm), shared with other tests that need the same one."""
    return guest.vm


@pytest.fixture
def base_series(request: pytest.FixtureRequest) -> str:
    """The version prefix of the kernels under test, e.g. ``5.10``."""
    return str(request.config.skbhome.base.series)


@pytest.fixture
def kernel(guest: Guest) -> Any:
    """The kernel that the guest runs (harness.build.Kernel)."""
    return guest.kernel


@dataclass(frozen=True)
class Scale:
    """How much work a test may do: a flavour that is slower gets less of it and more time."""

    slow: float

    def work(self, amount: int, *, least: int = 1) -> int:
        """Return ``amount`` on the default flavour, proportionally less on a slower one."""
        return max(least, int(amount / self.slow))

    def seconds(self, limit: float) -> float:
        """Return a time limit, longer on a slower flavour."""
        return limit * self.slow


@pytest.fixture
def scale(flavour: str) -> Scale:
    """How much work the flavour can do in the time a test has."""
    return Scale(flavours.get(flavour).slow)


# --- figures ---------------------------------------------------------------


class Report:
    """Collects the figures of one test."""

    def __init__(self, session: Session, item: pytest.Item, guest: Guest) -> None:
        self._session = session
        self._item = item
        self._guest = guest

    def add(self, metric: str, value: float | str, unit: str = "") -> None:
        """Record one figure; baseline and patched figures of one name share a row."""
        key = self._guest.key
        arm = "baseline" if key.baseline else "patched"
        name = self._item.nodeid.split("::")[-1]
        for word in (arm, key.flavour):
            for form in (f"[{word}-", f"-{word}-", f"-{word}]", f"[{word}]"):
                name = name.replace(form, {"[": "[", "-": "-"}[form[0]] + form[-1].strip("-"))
        name = name.replace("[]", "").replace("-]", "]")
        self._item.user_properties.append((f"{metric} ({arm})", value))
        facts = self._guest.kernel.describe()
        row = {
            "test": name,
            "metric": metric,
            "unit": unit,
            "flavour": key.flavour,
            "cpus": key.cpus,
            "accel": self._guest.vm.accel,
        }
        found = next((r for r in self._session.rows if all(r[k] == row[k] for k in row)), None)
        if found is None:
            found = {**row, "baseline": None, "patched": None, "kernel": {}}
            self._session.rows.append(found)
        found[arm] = value
        found["kernel"][arm] = facts


@pytest.fixture
def report(request: pytest.FixtureRequest, guest: Guest) -> Report:
    """Where a test puts the figures it measured."""
    return Report(request.config.skbhome, request.node, guest)


def _figure(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the figures as the lines of a Markdown table."""
    head = ["test", "metric", "baseline", "patched", "unit", "flavour", "CPUs", "accel"]
    body = [
        [
            str(row["test"]),
            str(row["metric"]),
            _figure(row["baseline"]),
            _figure(row["patched"]),
            str(row["unit"]),
            str(row["flavour"]),
            str(row["cpus"]),
            str(row["accel"]),
        ]
        for row in rows
    ]
    widths = [max(len(line[at]) for line in [head, *body]) for at in range(len(head))]
    lines = [head, ["-" * width for width in widths], *body]
    return [
        "| "
        + " | ".join(word.ljust(width) for word, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]


def pytest_sessionfinish(session: pytest.Session) -> None:
    state: Session = session.config.skbhome  # type: ignore[attr-defined]
    if state.keys and not session.config.option.collectonly:
        stamp.write_atomic(
            state.directory / "session.json", json.dumps(state.facts(), indent=1, default=str)
        )
    if not state.rows:
        return
    stamp.write_atomic(
        state.directory / "report.json", json.dumps(state.rows, indent=1, default=str) + "\n"
    )
    facts = sorted(
        {json.dumps(k, default=str) for row in state.rows for k in row["kernel"].values()}
    )
    text = ["# Figures", "", *table(state.rows), "", "Kernels:", "", *(f"- {f}" for f in facts)]
    stamp.write_atomic(state.directory / "report.md", "\n".join(text) + "\n")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    state: Session = config.skbhome  # type: ignore[attr-defined]
    flakes = state.flakes + state.retries.flakes
    if flakes:
        terminalreporter.section("not steady")
    for flake in flakes:
        terminalreporter.write_line(flake)
    if not state.rows:
        return
    terminalreporter.section("figures")
    for line in table(state.rows):
        terminalreporter.write_line(line)
    terminalreporter.write_line(f"also in {state.directory}/report.md and report.json")
