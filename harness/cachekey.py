"""What the compiler cache takes for the configuration: as much of it as code can see.

Every object depends on the header that holds all options, so that one option more makes
every object a stranger to the cache. An option that only a Makefile asks for (whether a
file is compiled at all) changes no object. A series adds such ones, for its tests, and
without this the baseline would be compiled as a whole although two thirds of its objects
are those of the patched kernel.
"""

from __future__ import annotations

import re
from pathlib import Path

from harness import git, patchfile, stamp
from harness import series as all_series

#: The header with all options, as the compiler is told to include it.
HEADERS = "./include/generated/autoconf.h:include/generated/autoconf.h"

_NAME = "skbhome-cachekey.txt"

#: Seconds for a look through all sources of a tree.
_TIMEOUT = 120.0


def added_options(patches: Path) -> frozenset[str]:
    """Return the options, without ``CONFIG_``, that a series adds to any Kconfig."""
    return frozenset(
        name
        for path in all_series.read(patches)
        for name in re.findall(r"^\+(?:menu)?config (\w+)$", patchfile.read(path).diff, re.M)
    )


def unseen(tree: Path, options: frozenset[str]) -> frozenset[str]:
    """Return those of the options that no C or assembler source of the tree names."""
    return frozenset(name for name in options if not _named(tree, f"CONFIG_{name}"))


def _named(tree: Path, option: str) -> bool:
    done = git.run(
        tree,
        *("grep", "--quiet", "--word-regexp", option),
        *("--", "*.c", "*.h", "*.S"),
        timeout=_TIMEOUT,
        what=f"looking for {option} in the sources",
        check=False,
    )
    # Where git cannot say, it counts as named.
    return done.returncode != 1


def write(config: Path, hidden: frozenset[str]) -> Path:
    """Write what the cache is to know of a ``.config`` beside it, and return that file."""
    lines = [
        line
        for line in config.read_text().splitlines()
        if (found := re.match(r"CONFIG_(\w+)=", line)) and found[1] not in hidden
    ]
    made = config.with_name(_NAME)
    stamp.write_atomic(made, "\n".join(lines) + "\n")
    return made
