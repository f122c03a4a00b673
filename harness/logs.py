"""Where a run's logs go: one directory per run, shared by the processes it starts."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from harness import paths

#: Names the run's directory to the processes that a run starts.
VARIABLE = "SKBHOME_RUN_DIR"

#: Runs that are kept; older ones are removed when a new one starts.
KEPT = 30


def run_dir(name: str) -> Path:
    """Return the directory for this run's logs, made if it is not there.

    A process started by another run shares that run's directory. ``latest`` in
    the directory of logs points to the newest run.

    Args:
        name: what the run is, e.g. ``test``: part of the directory's name.
    """
    given = os.environ.get(VARIABLE)
    if given:
        shared = Path(given)
        shared.mkdir(parents=True, exist_ok=True)
        return shared
    top = paths.logs()
    top.mkdir(parents=True, exist_ok=True)
    _prune(top)
    path = top / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-{os.getpid()}"
    path.mkdir(exist_ok=True)
    os.environ[VARIABLE] = str(path)
    _point(top / "latest", path)
    return path


def _prune(top: Path) -> None:
    # Names start with the time; what is not a run's directory (build logs, links) is left alone.
    runs = sorted(p for p in top.iterdir() if p.name[:8].isdigit() and p.is_dir())
    for old in runs[: max(len(runs) - KEPT + 1, 0)]:
        shutil.rmtree(old, ignore_errors=True)


def _point(link: Path, target: Path) -> None:
    temporary = link.with_name(f".latest.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.name)
    temporary.replace(link)
