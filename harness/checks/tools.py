"""The programs that some checks need and that not every machine has."""

from __future__ import annotations

import shutil

from harness import process


def there(name: str) -> bool:
    """Tell whether a program is installed."""
    return shutil.which(name) is not None


def version(name: str) -> str:
    """Return what a program says it is; empty if it is not here."""
    if not there(name):
        return ""
    done = process.run([name, "--version"], timeout=60, check=False)
    return done.output.partition("\n")[0].strip() or name
