"""The kernel series that the project serves. A base is data: bases.toml and patches/NAME."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from harness import paths
from harness.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

_TABLE = Path(__file__).with_name("bases.toml")


@dataclass(frozen=True)
class Base:
    """One kernel series.

    Attributes:
        name: how people call it, e.g. ``v5.10``.
        series: the version prefix that every point release shares, e.g. ``5.10``.
        package: name of the distribution's source package.
        suites: distribution suites that carry it, the preferred one first.
        tarball: kernel.org directory of the series' tarballs, e.g. ``v5.x``.
        flavour: the flavour built unless another is asked for.
        rt_patch: PREEMPT_RT is a patch that the distribution ships beside the source, and
            not in the tree.
        rt: the tree is to have that patch, below the series; see :meth:`under_rt`.
    """

    name: str
    series: str
    package: str
    suites: tuple[str, ...]
    tarball: str
    flavour: str
    rt_patch: bool = False
    rt: bool = False

    def under_rt(self) -> Base:
        """Return the base to use for PREEMPT_RT: this one, unless that takes a patch."""
        return replace(self, rt=self.rt_patch)

    @property
    def tree_name(self) -> str:
        """What tells its trees from those of other bases, and of its own with another ``rt``."""
        return f"{self.name}-rt" if self.rt else self.name

    @property
    def patches(self) -> Path:
        """The directory of this base's series."""
        return paths.PATCHES / self.name


@cache
def _table() -> tuple[dict[str, Base], str]:
    found: dict[str, Base] = {}
    default = ""
    for name, entry in tomllib.loads(_TABLE.read_text()).items():
        if entry.pop("default", False):
            default = name
        found[name] = Base(name=name, **{**entry, "suites": tuple(entry["suites"])})
    return found, default


def all_bases() -> tuple[Base, ...]:
    """Return every base, the default one first."""
    found, default = _table()
    return tuple(sorted(found.values(), key=lambda base: base.name != default))


def default_base() -> Base:
    """Return the base used when none is named."""
    found, default = _table()
    return found[default]


def get(name: str) -> Base:
    """Return the base called ``name``.

    Raises:
        UsageError: no such base; the message lists the known ones.
    """
    found, _ = _table()
    if name not in found:
        raise UsageError(f"unknown base {name!r}; known: {', '.join(found)}")
    return found[name]
