"""The ways a kernel can be configured. A flavour is data: flavours.toml and kconfig/*.config."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness import paths
from harness.errors import HarnessError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

_TABLE = Path(__file__).with_name("flavours.toml")


@dataclass(frozen=True)
class Flavour:
    """One way of configuring a kernel.

    Attributes:
        name: how people call it, e.g. ``debug``.
        description: one line for people.
        fragments: names of files in kconfig/ (without ``.config``), in order.
        lean: those of them that a configuration of a person's own goes without.
        slow: how many times longer a guest may take than one of the default flavour.
        rt: it is PREEMPT_RT, which takes a patch of the tree for some bases.
        bare: it cannot have the host's files: it boots from an initramfs and runs no commands.
        bits: what it is compiled for, 64 or 32.
        compiler: what compiles it, ``gcc`` or ``clang``.
    """

    name: str
    description: str
    fragments: tuple[str, ...]
    lean: frozenset[str] = frozenset()
    slow: float = 1.0
    rt: bool = False
    bare: bool = False
    bits: int = 64
    compiler: str = "gcc"

    def files(self, *, own: bool = False) -> tuple[Path, ...]:
        """Return the fragments' files, in order.

        Args:
            own: for putting over a configuration of a person's own.
        """
        names = [name for name in self.fragments if not (own and name in self.lean)]
        return tuple(paths.KCONFIG / f"{name}.config" for name in names)


def parse(text: str) -> dict[str, Flavour]:
    """Return the flavours of a table in the format of flavours.toml, by name.

    Raises:
        HarnessError: a flavour extends one that does not stand before it.
    """
    found: dict[str, Flavour] = {}
    for name, entry in tomllib.loads(text).items():
        inherited: tuple[str, ...] = ()
        lean = frozenset(entry.get("lean", ()))
        rt = bool(entry.get("rt", False))
        if "extends" in entry:
            if entry["extends"] not in found:
                raise HarnessError(
                    f"flavour {name!r} extends {entry['extends']!r}, which does not stand before it"
                )
            inherited = found[entry["extends"]].fragments
            lean |= found[entry["extends"]].lean
            rt |= found[entry["extends"]].rt
        found[name] = Flavour(
            name=name,
            description=entry["description"],
            fragments=inherited + tuple(entry["fragments"]),
            lean=lean,
            slow=float(entry.get("slow", 1.0)),
            rt=rt,
            bare=bool(entry.get("bare", False)),
            bits=int(entry.get("bits", 64)),
            compiler=entry.get("compiler", "gcc"),
        )
    return found


@cache
def _table() -> dict[str, Flavour]:
    return parse(_TABLE.read_text())


def all_flavours() -> tuple[Flavour, ...]:
    """Return every flavour in the order of the table."""
    return tuple(_table().values())


def get(name: str) -> Flavour:
    """Return the flavour called ``name``.

    Raises:
        UsageError: no such flavour; the message lists the known ones.
    """
    found = _table()
    if name not in found:
        raise UsageError(f"unknown flavour {name!r}; known: {', '.join(found)}")
    return found[name]


def for_commands(name: str) -> Flavour:
    """Return the flavour called ``name``, whose guests must be able to run commands.

    Raises:
        UsageError: no such flavour, or it boots from an initramfs and runs no commands.
    """
    found = get(name)
    if found.bare:
        raise UsageError(
            f"a guest of the flavour {name!r} runs no commands: {found.description}",
            hint=f"scripts/apply-and-build --flavour {name} builds and boots it",
        )
    return found
