"""A benchmark goes on where it was ended, and measures again what no longer holds."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import stamp
from harness.bench import arms, frozen, measure, networks, runner, samples, workloads
from harness.bench.runner import Effort, OutOfTime, Runner
from harness.bench.samples import Samples
from harness.bench.workloads import Case
from harness.errors import HarnessError
from harness.vm import GuestHang

pytestmark = pytest.mark.host

CASE = dataclasses.replace(workloads.all_cases()[0], name="x", arms=("off", "off-again", "defer"))
KERNELS = {
    "baseline": {"release": "5.10.1", "series": "", "config_sha256": "c", "image": "i"},
    "patched": {"release": "5.10.1", "series": "s1", "config_sha256": "c", "image": "i"},
}


class Guest:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def apply(self, arm: arms.Arm) -> None:
        assert arm.kind == self.kind


class Guests:
    def get(self, kind: str) -> Guest:
        return Guest(kind)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done: ``timed`` and ``followed``, a word for each run, and ``network``."""
    words: list[str] = []

    @contextmanager
    def network(guest: Any, spec: Any) -> Iterator[networks.Path]:
        words.append("network")
        yield networks.Path("a", "b", "10.9.0.2", "tx", "rx")

    def run(guest: Any, case: Case, path: Any, **more: object) -> str:
        words.append("timed")
        return "window"

    def evaluate(case: Case, path: Any, found: str) -> measure.Measured:
        return measure.Measured({"throughput": float(len(words))}, 1000, 1.0)

    def follow(guest: Any, case: Case, path: Any, events: Any) -> measure.Measured:
        words.append("followed")
        return measure.Measured({"zone-lock takings": 1.0}, 100, 0.2, {"pairs": {}})

    monkeypatch.setattr(networks, "network", network)
    monkeypatch.setattr(measure, "run", run)
    monkeypatch.setattr(measure, "evaluate", evaluate)
    monkeypatch.setattr(measure, "follow", follow)
    monkeypatch.setattr(measure, "define_probes", lambda guest: [])
    return words


def make(tmp_path: Path, key: str = "k", deadline: float | None = None) -> Runner:
    return Runner(Guests(), tmp_path, {"x": key}, deadline=deadline)  # type: ignore[arg-type]


def test_everything_is_measured_once(tmp_path: Path, ran: list[str]) -> None:
    make(tmp_path).run([CASE], Effort(2))
    # Three arms in two rounds; the second "off" need not be followed.
    assert ran == ["network"] * 3 + ["timed"] * 6 + ["followed"] * 2
    make(tmp_path).run([CASE], Effort(2))
    assert len(ran) == 11, "for what is known, something was done again"
    known = make(tmp_path).known(CASE)
    assert len(known.rounds) == 2 and set(known.traced) == {"off", "defer"}
    # A B B A: the first arm is measured first and last.
    assert known.series("off", "throughput") == [4.0, 9.0]


def test_more_rounds_are_added_to_those_that_are_there(tmp_path: Path, ran: list[str]) -> None:
    make(tmp_path).run([CASE], Effort(2, traced=False))
    make(tmp_path).run([CASE], Effort(3, traced=False))
    assert ran.count("timed") == 9


def test_a_changed_kernel_makes_samples_void(tmp_path: Path, ran: list[str]) -> None:
    make(tmp_path, "k").run([CASE], Effort(1, traced=False))
    make(tmp_path, "other").run([CASE], Effort(1, traced=False))
    assert ran.count("timed") == 6


def test_a_run_that_is_out_of_time_keeps_its_whole_rounds(
    tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(runner.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(OutOfTime):
        make(tmp_path, deadline=7.0).run([CASE], Effort(4, traced=False))
    monkeypatch.setattr(runner.time, "monotonic", time.monotonic)
    known = make(tmp_path).known(CASE)
    assert 0 < len(known.rounds) < 4
    assert all(set(each) == set(CASE.arms) for each in known.rounds), "half a round was kept"
    make(tmp_path).run([CASE], Effort(4, traced=False))
    assert len(make(tmp_path).known(CASE).rounds) == 4


def test_what_fails_is_told_and_does_not_keep_the_rest(
    tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(guest: Any, case: Case, path: Any, **more: object) -> str:
        if guest.kind == "patched":
            raise measure.LoadFailed("x: load ended with 1: no such device")
        return "window"

    monkeypatch.setattr(measure, "run", run)
    make(tmp_path).run([CASE], Effort(1, traced=False))
    known = make(tmp_path).known(CASE)
    assert known.failures == ["defer: x: load ended with 1: no such device"]
    assert set(known.rounds[0]) == {"off", "off-again"}


def test_what_could_not_be_followed_is_tried_again_by_another_run_only(
    tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def follow(guest: Any, case: Case, path: Any, events: Any) -> measure.Measured:
        ran.append("followed")
        raise measure.LoadFailed("x: the trace loses events however short it is")

    monkeypatch.setattr(measure, "follow", follow)
    tried: set[tuple[str, str]] = set()
    for _ in range(2):  # as after a guest was lost
        Runner(Guests(), tmp_path, {"x": "k"}, tried=tried).run([CASE], Effort(1))  # type: ignore[arg-type]
    assert ran.count("followed") == 2
    make(tmp_path).run([CASE], Effort(1))
    assert ran.count("followed") == 4


def test_what_has_ended_a_guest_is_not_tried_again(
    tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = []

    def follow(guest: Any, case: Case, path: Any, events: Any) -> measure.Measured:
        followed.append(guest.kind)
        if guest.kind == "baseline":
            raise GuestHang("the guest gave no sign of life")
        return measure.Measured({}, 100, 0.2, {})

    monkeypatch.setattr(measure, "follow", follow)
    with pytest.raises(GuestHang):
        make(tmp_path).run([CASE], Effort(1))
    make(tmp_path).run([CASE], Effort(1))
    assert followed == ["baseline", "patched"]
    known = make(tmp_path).known(CASE)
    assert known.traced["off"]["failed"] == "the guest gave no sign of life"


def test_a_key_speaks_for_kernels_case_and_machine() -> None:
    key = samples.key(CASE, KERNELS, "TCG")
    assert key == samples.key(CASE, KERNELS, "TCG")
    patched = {**KERNELS, "patched": {**KERNELS["patched"], "series": "s2"}}
    wider = dataclasses.replace(CASE, load={**CASE.load, "size": 9})
    image = {**KERNELS, "baseline": {**KERNELS["baseline"], "image": "j"}}
    others = [
        samples.key(CASE, image, "TCG"),
        samples.key(CASE, patched, "TCG"),
        samples.key(CASE, KERNELS, "KVM"),
        samples.key(wider, KERNELS, "TCG"),
        samples.key(dataclasses.replace(CASE, arms=("off",)), KERNELS, "TCG"),
    ]
    assert key not in others and len(set(others)) == 5


def test_a_broken_file_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "samples" / "x.json"
    path.parent.mkdir()
    path.write_text("{")
    assert samples.load(path, "k") == Samples()
    stamp.write(path, "k", {"rounds": [], "unknown": 1})
    assert samples.load(path, "k") == Samples()


@dataclasses.dataclass
class Kernel:
    image: Path
    vmlinux: Path
    build_dir: Path
    release: str

    def describe(self) -> dict[str, Any]:
        return {"release": self.release, "series": "s"}


def kernels(tmp_path: Path) -> dict[bool, Any]:
    found = {}
    for baseline in (True, False):
        here = tmp_path / f"tree-{baseline}"
        here.mkdir()
        (here / "bzImage").write_text(f"image {baseline}")
        (here / "vmlinux").write_text("symbols")
        found[baseline] = Kernel(here / "bzImage", here / "vmlinux", here, f"5.10-{baseline}")
    return found


def test_kernels_stay_what_they_were(tmp_path: Path) -> None:
    built = kernels(tmp_path)
    frozen.freeze(built, tmp_path / "kernels")
    built[False].image.write_text("another one")
    found = frozen.load(tmp_path / "kernels")
    assert found[False].image.read_text() == "image False"
    assert found[True].describe() == {"release": "5.10-True", "series": "s"}


def test_what_is_no_copy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kernels" / "baseline").mkdir(parents=True)
    with pytest.raises(HarnessError, match="does not hold a kernel"):
        frozen.load(tmp_path / "kernels")
