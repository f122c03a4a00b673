"""What a study measures, and where it keeps that."""

from types import SimpleNamespace

import pytest

from harness import bases
from harness.bench import study

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
