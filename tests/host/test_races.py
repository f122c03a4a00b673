"""Whose a data race is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import racecheck

from harness import bases, races
from harness.races import Race

pytestmark = pytest.mark.host

PATCH = """\
From 0 Mon Sep 17 00:00:00 2001
From: A <a@b>
Subject: [PATCH] net: x

Text.
---
diff --git a/net/core/x.c b/net/core/x.c
--- a/net/core/x.c
+++ b/net/core/x.c
@@ -1,4 +1,9 @@ static int changed(struct sk_buff *skb,
 \tint a;
+\tcall_of(a);
+}
+
+static void added(void)
+{
diff --git a/Documentation/x.rst b/Documentation/x.rst
--- a/Documentation/x.rst
+++ b/Documentation/x.rst
@@ -1,1 +1,2 @@ int not_code(void)
+int nor_this(void)
"""


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    (tmp_path / "0001-x.patch").write_text(PATCH)
    (tmp_path / "series").write_text("0001-x.patch\n")
    return tmp_path


@pytest.mark.parametrize(
    ("title", "race"),
    [
        ("BUG: KCSAN: data-race in b / a.part.0", Race("a", "b")),
        ("BUG: KCSAN: data-race in f+0x551/0xb10", Race("f", "f")),
        ("BUG: KASAN: use-after-free in f", None),
    ],
)
def test_the_title_names_the_race(title: str, race: Race | None) -> None:
    assert races.parse(title) == race


def test_functions_of_a_series(patches: Path) -> None:
    assert races.touched(patches) == {"changed", "added"}


def test_the_series_of_this_repository_touches_what_it_should() -> None:
    found = races.touched(bases.default_base().patches)
    assert {"skb_attempt_defer_free", "net_rx_action", "tun_do_read"} <= found
    assert not {"if", "kfree_skb", "sizeof"} & found


def test_a_list_of_known_ones(tmp_path: Path) -> None:
    (tmp_path / "known").write_text("# of the baseline\nb / a  # 3\n\n")
    assert races.known(tmp_path / "known") == {Race("a", "b")}
    assert races.known(tmp_path / "none") == frozenset()


def splat(title: str, kind: str = "KCSAN") -> SimpleNamespace:
    return SimpleNamespace(kind=kind, title=f"BUG: {kind}: data-race in {title}")


def test_what_fails_a_test(patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = SimpleNamespace(name="v0", patches=patches)
    (tmp_path / "listed").write_text("added / listed\n")
    monkeypatch.setattr(racecheck, "listed", lambda base: tmp_path / "listed")
    check = racecheck.RaceCheck(base, lambda: tmp_path)  # type: ignore[arg-type]
    assert check.failing([splat("added / seen")], baseline=True) == []
    bad = splat("added / other")
    worse = splat("whatever", kind="KASAN")
    fine = [splat("x / y"), splat("added / seen"), splat("listed / added")]
    assert check.failing([*fine, bad, worse], baseline=False) == [bad, worse]
    noted = (tmp_path / "races-patched.txt").read_text()
    assert "x / y  # 1\n" in noted and "added / other  # 1\n" in noted
    assert (tmp_path / "races-baseline.txt").read_text() == "added / seen  # 1\n"


def test_what_a_boot_is_refused_for(patches: Path) -> None:
    """Of races those of the series, of everything else all; without a series no race."""
    mine, other, worse = splat("added / x"), splat("x / y"), splat("whatever", kind="KASAN")
    assert races.answered_for([mine, other, worse], patches) == [mine, worse]
    assert races.answered_for([mine, other, worse], None) == [worse]
    assert races.answered_for([], patches) == []
