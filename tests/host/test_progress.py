"""Steps and the line of progress."""

import io

import pytest

from harness import progress

pytestmark = pytest.mark.host


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (12.4, "12 s"), (59.7, "60 s"), (245.0, "4 min 5 s")],
)
def test_times_for_people(value: float, text: str) -> None:
    assert progress.seconds(value) == text


def test_a_step_is_timed_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    steps = progress.Steps()
    with steps.step("build") as notes:
        notes += ["3 targets", "cold"]
    assert steps.done[0].name == "build" and steps.done[0].note == "3 targets, cold"
    assert capsys.readouterr().err.split() == ["build", "0.0", "s", "3", "targets,", "cold"]


def test_a_step_that_fails_is_not_done() -> None:
    steps = progress.Steps(quiet=True)
    with pytest.raises(ZeroDivisionError), steps.step("build"):
        raise ZeroDivisionError
    assert steps.done == []


def test_a_terminal_has_one_line_that_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr(progress, "EVERY_TTY", 0.0)
    monkeypatch.setattr(
        progress.shutil, "get_terminal_size", lambda: type("S", (), {"columns": 20})
    )
    line = progress.Line("building", out)
    line.update("1 of 3  net/core/skbuff.o")
    line.update("2 of 3")
    line.clear()
    assert out.getvalue() == "\r\x1b[Kbuilding: 1 of 3  n\r\x1b[Kbuilding: 2 of 3\r\x1b[K"


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    line = progress.Line("building", out)
    for moment, text in ((101.0, "1"), (116.0, "2"), (117.0, "3"), (140.0, "4")):
        now = moment
        line.update(text)
    line.clear()
    assert out.getvalue() == "building: 2\nbuilding: 4\n"
