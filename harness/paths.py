"""Where things are: the repository's own directories and everything under build/."""

from __future__ import annotations

import os
from pathlib import Path

#: The top of the repository.
ROOT = Path(__file__).resolve().parent.parent

PATCHES = ROOT / "patches"
KCONFIG = ROOT / "kconfig"
TESTS = ROOT / "tests"


def build_root() -> Path:
    """Return the directory for everything that can be made again.

    ``SKBHOME_BUILD`` overrides the default, ``build/`` in the repository.
    """
    override = os.environ.get("SKBHOME_BUILD")
    return Path(override).resolve() if override else ROOT / "build"


def downloads() -> Path:
    """Return the directory of fetched source packages and tarballs."""
    return build_root() / "downloads"


def trees() -> Path:
    """Return the directory that holds one git repository of kernel source per base."""
    return build_root() / "trees"


def logs() -> Path:
    """Return the directory of logs, one subdirectory per run."""
    return build_root() / "logs"


def locks() -> Path:
    """Return the directory of lock files."""
    return build_root() / "locks"


def ccache() -> Path:
    """Return the compiler cache that all trees share."""
    return build_root() / "ccache"
