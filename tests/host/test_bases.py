from __future__ import annotations

import re

import pytest

from harness import bases, paths
from harness.errors import UsageError

pytestmark = pytest.mark.host


def test_the_four_bases_are_there_the_default_one_first() -> None:
    names = [base.name for base in bases.all_bases()]
    assert names[0] == "v5.10" == bases.default_base().name
    assert sorted(names) == ["v5.10", "v6.1", "v6.12", "v7.3"]


@pytest.mark.parametrize("base", bases.all_bases(), ids=lambda base: base.name)
def test_an_entry_is_complete(base: bases.Base) -> None:
    assert base.name == f"v{base.series}"
    assert base.package == f"linux-source-{base.series}"
    assert base.suites
    assert re.fullmatch(rf"v{base.series.split('.')[0]}\.x", base.tarball)
    assert base.patches == paths.PATCHES / base.name


def test_an_unknown_base_lists_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        bases.get("v4.19")
    assert caught.value.status == 2
    for name in ("v4.19", "v5.10", "v6.1", "v6.12", "v7.3"):
        assert name in str(caught.value)
