"""The table of flavours."""

import pytest

from harness import flavours
from harness.errors import HarnessError, UsageError

pytestmark = pytest.mark.host


def test_an_unknown_flavour_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown flavour 'fast'; known: default, debug"):
        flavours.get("fast")


def test_a_flavour_extends_another_one() -> None:
    found = flavours.parse(
        '[a]\ndescription="x"\nfragments=["m"]\n'
        '[b]\ndescription="y"\nextends="a"\nfragments=["k"]\nslow=3\n'
    )
    assert found["b"].fragments == ("m", "k")
    assert found["b"].slow == 3.0 and found["a"].slow == 1.0


def test_a_flavour_cannot_extend_a_later_one() -> None:
    with pytest.raises(HarnessError, match="'b', which does not stand before it"):
        flavours.parse(
            '[a]\ndescription="x"\nextends="b"\nfragments=[]\n[b]\ndescription="y"\nfragments=[]\n'
        )


def test_every_fragment_of_every_flavour_exists() -> None:
    for flavour in flavours.all_flavours():
        assert flavour.description
        for path in flavour.files():
            assert path.is_file(), path


def test_a_configuration_of_ones_own_goes_without_what_makes_it_lean() -> None:
    for flavour in flavours.all_flavours():
        lean = {path.name for path in flavour.files()}
        own = {path.name for path in flavour.files(own=True)}
        assert lean - own == {"lean.config"}
