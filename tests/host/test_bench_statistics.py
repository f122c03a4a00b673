"""The benchmark's statistics, with answers that are known, and the order of its arms."""

import math

import pytest

from harness.bench import plan, statistics
from harness.bench.statistics import Ratio, Verdict

pytestmark = pytest.mark.host


def test_a_ratio_is_taken_within_rounds() -> None:
    # The machine is twice as fast in every second round: within a round that is no matter.
    base = [100.0, 200.0, 100.0, 200.0, 100.0]
    found = statistics.paired([110.0, 220.0, 110.0, 220.0, 110.0], base)
    assert found is not None
    assert found.value == pytest.approx(1.1)
    assert found.low == pytest.approx(1.1) and found.high == pytest.approx(1.1)
    assert found.rounds == 5


def test_rounds_without_one_of_both_do_not_count() -> None:
    found = statistics.paired([2.0, None, 4.0, 9.0], [1.0, 5.0, 2.0, None])
    assert found == Ratio(2.0, 2.0, 2.0, 2)
    assert statistics.paired([None], [1.0]) is None
    assert statistics.paired([], []) is None
    assert statistics.paired([1.0], [0.0]) is None


def test_an_interval_of_many_rounds_is_that_of_their_median() -> None:
    # 101 ratios from 0.5 to 1.5: the median of a resample hardly leaves 0.8 to 1.2.
    ratios = [0.5 + at / 100 for at in range(101)]
    found = statistics.paired(ratios, [1.0] * 101)
    assert found is not None
    assert found.value == pytest.approx(1.0)
    assert 0.8 < found.low < 0.97 and 1.03 < found.high < 1.2
    assert found == statistics.paired(ratios, [1.0] * 101), "the same rounds, another interval"


def test_two_rounds_have_the_interval_that_they_span() -> None:
    assert statistics.paired([1.0, 3.0], [1.0, 1.0]) == Ratio(2.0, 1.0, 3.0, 2)


def test_the_spread_is_the_wider_side_of_an_a_a_comparison() -> None:
    assert statistics.spread(Ratio(1.0, 0.9, 1.05, 6)) == pytest.approx(1 / 0.9)
    assert statistics.spread(Ratio(1.0, 0.99, 1.2, 6)) == pytest.approx(1.2)
    assert statistics.spread(None) == math.inf
    assert statistics.spread(Ratio(0.5, 0.0, 1.0, 6)) == math.inf


@pytest.mark.parametrize(
    ("ratio", "noise", "said"),
    [
        (Ratio(1.2, 1.1, 1.3, 6), 1.05, Verdict.MORE),
        (Ratio(0.8, 0.7, 0.9, 6), 1.05, Verdict.LESS),
        # Its own interval holds 1.
        (Ratio(1.2, 0.9, 1.3, 6), 1.05, Verdict.SAME),
        # Inside of what two equal arms differ by, on either side.
        (Ratio(1.04, 1.01, 1.06, 6), 1.05, Verdict.SAME),
        (Ratio(0.96, 0.94, 0.99, 6), 1.05, Verdict.SAME),
        # Nothing is known of the machine.
        (Ratio(1.2, 1.1, 1.3, 6), math.inf, Verdict.SAME),
        (Ratio(1.2, 1.1, 1.3, 2), 1.05, Verdict.UNKNOWN),
        (None, 1.05, Verdict.UNKNOWN),
    ],
)
def test_what_a_ratio_says(ratio: Ratio | None, noise: float, said: Verdict) -> None:
    assert statistics.verdict(ratio, noise) is said


def test_arms_take_turns_forwards_and_backwards() -> None:
    assert plan.order(["a", "b", "c"], 0) == ("a", "b", "c")
    assert plan.order(["a", "b", "c"], 1) == ("c", "b", "a")
    assert plan.order(["a", "b", "c"], 2) == ("b", "c", "a")
    assert plan.order(["a", "b", "c"], 3) == ("a", "c", "b")
    assert plan.order([], 3) == ()


def test_no_arm_is_always_early() -> None:
    names = ["a", "b", "c", "d"]
    places = dict.fromkeys(names, 0)
    for round_ in range(8):
        for place, name in enumerate(plan.order(names, round_)):
            places[name] += place
    assert set(places.values()) == {12}, "a drift would favour some of them"
