"""What a study measures, and where it keeps that."""

from types import SimpleNamespace

import pytest

from harness import bases, paths
from harness.bench import samples, study
from harness.vm import GuestBootFailed, GuestPanic

BASE = bases.get("v5.10")


@pytest.fixture
def built(monkeypatch, tmp_path):
    """No kernel is built; the list has what was asked for."""
    asked = []
    image = tmp_path / "bzImage"
    image.write_text("a kernel")

    def build(_base, *, flavour, baseline, steps):
        asked.append((flavour, baseline))
        said = dict.fromkeys(("release", "series", "config_sha256"), f"{flavour} {baseline}")
        return SimpleNamespace(image=image, describe=lambda: said)

    monkeypatch.setattr(study.build, "build", build)
    monkeypatch.setattr(study.guesttools, "tool", lambda name: name)
    described = {"accelerator": "TCG", "host": "2 CPUs", "guests": "4 CPUs"}
    monkeypatch.setattr(study.environment, "describe", lambda kernels: described)
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path / "build"))
    return asked


def test_a_flavour_is_a_study_of_its_own(built, tmp_path):
    plain = study.Study(BASE, study.FULL, tmp_path)
    rt = study.Study(BASE, study.FULL, tmp_path, flavour="rt")
    assert built == [(None, True), (None, False), ("rt", True), ("rt", False)]
    assert plain.where != rt.where
    assert (plain.stem, rt.stem) == ("bench-v5.10", "bench-v5.10-rt")
    assert plain.keys["lo-rps"] != rt.keys["lo-rps"]


def test_the_base_s_own_flavour_is_the_plain_study(built, tmp_path):
    plain = study.Study(BASE, study.FULL, tmp_path)
    assert study.Study(BASE, study.FULL, tmp_path, flavour=BASE.flavour).where == plain.where


def lost(monkeypatch, *errors):
    """Have one attempt after the other end with an error; return the directories of their logs."""
    left, log_dirs = list(errors), []

    def attempt(_study, _only, _deadline, _parts, log_dir):
        log_dirs.append(log_dir)
        if left:
            raise left.pop(0)

    monkeypatch.setattr(study.Study, "_run", attempt)
    return log_dirs


def test_a_run_goes_on_with_new_guests(built, monkeypatch, tmp_path, capsys):
    log_dirs = lost(monkeypatch, GuestPanic("the kernel panicked"), GuestPanic("again"))
    assert study.Study(BASE, study.FULL, tmp_path).run([], minutes=None)
    # The console of a guest that is gone stays.
    assert len(set(log_dirs)) == 3
    assert "the kernel panicked" in capsys.readouterr().err


def test_a_run_does_not_go_on_for_ever(built, monkeypatch, tmp_path):
    log_dirs = lost(monkeypatch, *[GuestPanic("the kernel panicked")] * 99)
    with pytest.raises(GuestPanic):
        study.Study(BASE, study.FULL, tmp_path).run([], minutes=None)
    assert len(log_dirs) < 10


def test_a_kernel_that_does_not_boot_ends_it(built, monkeypatch, tmp_path):
    log_dirs = lost(monkeypatch, GuestBootFailed("it does not come up", stage="kernel"))
    with pytest.raises(GuestBootFailed):
        study.Study(BASE, study.FULL, tmp_path).run([], minutes=None)
    assert len(log_dirs) == 1


def test_a_report_names_no_place_on_this_machine(built, tmp_path):
    mine = study.Study(BASE, study.FULL, tmp_path)
    (case,) = mine.chosen(["lo-local"])
    where = f"{paths.ROOT}/tests/guest/skbtrace: not done"
    failed = samples.Samples(failures=[f"off: {where}"], traced={"off": {"failed": where}})
    samples.save(mine.where / "samples" / "lo-local.json", mine.keys["lo-local"], failed)
    assert str(paths.ROOT) not in str(mine._known(case))
