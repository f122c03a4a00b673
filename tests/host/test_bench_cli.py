"""scripts/bench: what it takes, and that measuring the harness is still there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import logs
from harness.bench import study
from harness.cli import bench as cli
from harness.errors import UsageError

pytestmark = pytest.mark.host


class Study:
    """A study that measures nothing."""

    def __init__(
        self,
        base: Any,
        size: study.Size,
        log_dir: Path,
        *,
        flavour: str | None = None,
        keep_kernels: bool = False,
    ) -> None:
        self.size, self.where = size, log_dir
        self.flavour, self.stem = flavour, f"bench-{base.name}"
        self.asked: list[Any] = []
        self.written: list[str] = []
        STUDIES.append(self)

    def run(self, only: Any, *, minutes: float | None, parts: Any) -> bool:
        self.asked.append((list(only), minutes, tuple(parts)))
        return minutes is None

    def facts(self) -> dict[str, Any]:
        return {"bars": [{"kept": "kept", "what": "a bar", "measured": "1 of 1"}]}

    def write(self, facts: Any, directory: Path, stem: str) -> list[Path]:
        self.written.append(stem)
        return [directory / f"{stem}.md"]


STUDIES: list[Study] = []


@pytest.fixture(autouse=True)
def no_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    STUDIES.clear()
    monkeypatch.setattr(study, "Study", Study)
    monkeypatch.setenv(logs.VARIABLE, str(tmp_path))


def test_a_run_writes_its_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["v5.10", "--quick"]) == 0
    (mine,) = STUDIES
    assert mine.size == study.QUICK
    assert mine.asked == [([], None, study.PARTS)] and mine.written == ["report"]
    assert "kept       a bar: 1 of 1" in capsys.readouterr().out


def test_out_of_time_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["v5.10", "--minutes", "1", "--only", "5"]) == 1
    assert STUDIES[0].asked == [(["5"], 1.0, study.PARTS)]
    assert "goes on from here" in capsys.readouterr().err


def test_the_report_alone(tmp_path: Path) -> None:
    assert cli.main(["v5.10", "--report", "--keep"]) == 0
    assert STUDIES[0].asked == []
    assert STUDIES[0].written == ["report", "bench-v5.10"]


def test_a_flavour_as_asked_for() -> None:
    cli.main(["v5.10", "--flavour", "rt", "--only", "4"])
    assert STUDIES[0].flavour == "rt"


def test_rounds_as_asked_for() -> None:
    cli.main(["v5.10", "--rounds", "3", "--only", "idle", "--part", "idle"])
    assert STUDIES[0].size.rounds == 3
    assert STUDIES[0].asked == [(["idle"], None, ("idle",))]


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="no case 'udq'"):
        cli.main(["v5.10", "--only", "udq"])
    assert not STUDIES


def test_the_list_has_all_workloads(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["v5.10", "--list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in shown} == set("1234567")
    assert any(line.startswith("5 udp-tun-out-400 ") for line in shown)


def test_the_harness_is_measured_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(cli.selfbench, "main", lambda argv: seen.append(list(argv)) or 0)
    assert cli.main(["harness", "--only", "disk"]) == 0
    assert seen == [["harness", "--only", "disk"]]


def test_fewer_arms_in_a_quick_run() -> None:
    quick, full = study.QUICK.cases(), study.FULL.cases()
    assert 3 <= len(quick) < len(full)
    assert all(set(case.arms) <= set(study.QUICK.arms) for case in quick)
    assert any("limit-256" in case.arms for case in full)
