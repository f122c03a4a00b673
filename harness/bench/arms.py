"""What is compared: a kernel, how it was booted, and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

#: Which guest an arm runs in.
Kind = Literal["baseline", "again", "patched", "threads"]

KINDS: tuple[Kind, ...] = ("baseline", "again", "patched", "threads")

#: Guests that run the kernel without the series. Two guests of one kernel may differ by a tenth,
#: as two of different kernels may for that reason alone: an A/A comparison needs two guests.
BASELINES: tuple[Kind, ...] = ("baseline", "again")

#: Arguments that a guest's kernel gets.
APPEND: Mapping[Kind, tuple[str, ...]] = {
    "baseline": (),
    "again": (),
    "patched": (),
    "threads": ("thread_backlog_napi",),
}

_RX = "net/ipv4/tcp_rx_skb_cache"
_TX = "net/ipv4/tcp_tx_skb_cache"
_LIMIT = "net/core/skb_defer_max"


@dataclass(frozen=True)
class Arm:
    """One way to run a workload.

    Attributes:
        name: short, as tables have it.
        kind: the guest.
        settings: below ``/proc/sys``, path to value; all of them are set before each run.
        what: what it is, for a reader.
        tcp: it differs from another arm in what TCP does, and in nothing else.
    """

    name: str
    kind: Kind
    settings: Mapping[str, int] = field(hash=False)
    what: str
    tcp: bool = False


def _base(rx: int, tx: int) -> dict[str, int]:
    return {_RX: rx, _TX: tx}


def _series(limit: int, tx: int) -> dict[str, int]:
    return {_LIMIT: limit, _TX: tx}


#: What all others are compared with, and the same once more, which gives the machine's own spread.
REFERENCE, AGAIN = "off", "off-again"

ARMS: tuple[Arm, ...] = (
    Arm(REFERENCE, "baseline", _base(0, 0), "the base, both per-socket caches off (its default)"),
    Arm(AGAIN, "again", _base(0, 0), "the same in a second guest: the machine's own spread"),
    Arm("rx", "baseline", _base(1, 0), "the base, tcp_rx_skb_cache on", tcp=True),
    Arm("tx", "baseline", _base(0, 1), "the base, tcp_tx_skb_cache on", tcp=True),
    Arm("rx+tx", "baseline", _base(1, 1), "the base, both caches on", tcp=True),
    Arm("defer", "patched", _series(64, 0), "the series, its default: skb_defer_max 64"),
    Arm("defer+tx", "patched", _series(64, 1), "the series with tcp_tx_skb_cache", tcp=True),
    Arm("threads", "threads", _series(64, 1), "defer+tx, booted with thread_backlog_napi"),
    Arm("limit-0", "patched", _series(0, 0), "the series, skb_defer_max 0: turned off"),
    Arm("limit-16", "patched", _series(16, 0), "the series, skb_defer_max 16"),
    Arm("limit-256", "patched", _series(256, 0), "the series, skb_defer_max 256"),
)

BY_NAME: Mapping[str, Arm] = {arm.name: arm for arm in ARMS}

#: Arms of the series that somebody runs who uses it; limit-0 is how to turn it off.
SERIES = ("defer", "defer+tx", "threads", "limit-0", "limit-16", "limit-256")


def names(*, tcp: bool = True) -> tuple[str, ...]:
    """Return the arms of a workload; without TCP, the caches of TCP make no difference."""
    return tuple(arm.name for arm in ARMS if tcp or not arm.tcp)


#: Arms whose skbs are followed one by one, each in a short run of its own.
FOLLOWED = (REFERENCE, "tx", "rx+tx", "defer", "defer+tx", "threads")
