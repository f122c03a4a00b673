"""What the compiler cache takes for the configuration."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness import bases, cachekey

pytestmark = pytest.mark.host


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "a.c").write_text("#ifdef CONFIG_SEEN\nint CONFIG_BLINDER;\n#endif\n")
    (tmp_path / "net" / "Makefile").write_text("obj-$(CONFIG_BLIND) += a.o\n")
    for words in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, timeout=60)
    return tmp_path


def test_options_that_the_series_adds() -> None:
    assert cachekey.added_options(bases.default_base().patches) == {"SKB_DEFER_KUNIT_TEST"}


def test_an_option_that_only_a_makefile_asks_for(tree: Path) -> None:
    assert cachekey.unseen(tree, frozenset({"SEEN", "BLIND"})) == {"BLIND"}


def test_where_git_cannot_say_every_option_counts(tmp_path: Path) -> None:
    assert cachekey.unseen(tmp_path / "none", frozenset({"BLIND"})) == frozenset()


def test_the_key_changes_with_every_other_option(tmp_path: Path) -> None:
    config = tmp_path / ".config"
    keys = []
    for text in (
        "# head\nCONFIG_A=y\nCONFIG_BLIND=y\n",
        "CONFIG_A=y\n# CONFIG_BLIND is not set\n",
        "CONFIG_A=m\n",
        "CONFIG_A=y\nCONFIG_B=2\n",
    ):
        config.write_text(text)
        keys.append(cachekey.write(config, frozenset({"BLIND"})).read_text())
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
