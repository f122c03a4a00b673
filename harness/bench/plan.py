"""In which order arms take their turns, so that a drift of the machine's hits all alike."""

from __future__ import annotations

from collections.abc import Sequence


def order(names: Sequence[str], round_: int) -> tuple[str, ...]:
    """Return the arms' order in one round: as given, then backwards, and so on (A B B A).

    Every second pair of rounds begins at another arm, so that none is always first or last.

    Args:
        round_: from 0.
    """
    if not names:
        return ()
    turn = (round_ // 2) % len(names)
    turned = [*names[turn:], *names[:turn]]
    return tuple(reversed(turned) if round_ % 2 else turned)
