"""Medians, paired ratios with confidence intervals, and when a ratio says nothing.

Arms take turns within a round, so that a ratio is taken within a round and the rounds' ratios
are what is resampled. An A/A comparison, the same arm twice, gives the spread that a ratio must
leave to be called a difference.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

#: How sure an interval is, and how often the rounds are drawn again.
CONFIDENCE, DRAWS = 0.95, 2000

#: The same rounds give the same interval.
_SEED = 5


class Verdict(Enum):
    """What a ratio says."""

    MORE = "more"
    LESS = "less"
    SAME = "no difference"
    #: Fewer than three rounds, or none of them comparable.
    UNKNOWN = "too few rounds"


@dataclass(frozen=True)
class Ratio:
    """A paired ratio: the median over the rounds, and its confidence interval."""

    value: float
    low: float
    high: float
    rounds: int


def median(values: Sequence[float]) -> float:
    """Return the median.

    Raises:
        statistics.StatisticsError: there is no value.
    """
    return float(statistics.median(values))


def paired(values: Sequence[float | None], base: Sequence[float | None]) -> Ratio | None:
    """Return the ratio of two arms, round by round; rounds that lack either do not count.

    The interval is that of the median under resampling of the rounds (percentile bootstrap).
    With fewer than three rounds it is from the smallest to the largest ratio.
    """
    ratios = [
        value / reference
        for value, reference in zip(values, base, strict=False)
        if value is not None and reference is not None and reference > 0
    ]
    if not ratios:
        return None
    middle = median(ratios)
    if len(ratios) < 3:
        return Ratio(middle, min(ratios), max(ratios), len(ratios))
    draw = np.random.default_rng(_SEED)
    drawn = np.median(draw.choice(np.array(ratios), size=(DRAWS, len(ratios))), axis=1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Ratio(middle, float(low), float(high), len(ratios))


def spread(again: Ratio | None) -> float:
    """Return by which factor, 1 or more, the machine alone makes two equal arms differ."""
    if again is None or again.low <= 0:
        return math.inf
    return math.exp(max(abs(math.log(again.low)), abs(math.log(again.high))))


def verdict(ratio: Ratio | None, noise: float) -> Verdict:
    """Say what a ratio means on a machine whose A/A spread is ``noise`` (see :func:`spread`).

    A difference is one whose interval does not hold 1 and whose ratio lies outside the spread.
    """
    if ratio is None or ratio.rounds < 3:
        return Verdict.UNKNOWN
    if ratio.low <= 1 <= ratio.high or 1 / noise <= ratio.value <= noise:
        return Verdict.SAME
    return Verdict.MORE if ratio.value > 1 else Verdict.LESS
