"""Run the tests: everything after the name goes to pytest.

    scripts/test                           all tests: host, and in the VM
    scripts/test -m host                   those that need no kernel (seconds)
    scripts/test -m vm -k hotplug          some of those in the VM
    scripts/test --base v6.1               another kernel series
    scripts/test --flavour debug           another configuration
    scripts/test --mutants                 put bugs into the kernel; see `--mutants --help`
    scripts/test --pytest-help             pytest's own options

VM tests build what they need if it is not there. The run's logs, junit.xml
among them, are in build/logs; build/logs/latest is the newest run.

Host tests run in several processes at once, SKBHOME_HOST_JOBS of them (2 per
CPU unless it is set; 1 for none but pytest's own); VM tests never do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import logs, paths
from harness.cli import _main, mutants

#: Says in how many processes tests/hostjobs.py runs the host tests.
JOBS = "SKBHOME_HOST_JOBS"

#: More processes than this would wait for one another.
MOST_JOBS = 16


def command(argv: Sequence[str], *, directory: Path, cwd: Path) -> list[str]:
    """Return pytest's command line.

    Args:
        argv: the caller's arguments; paths among them are relative to ``cwd``.
        directory: where the run's logs go.
    """
    words = []
    for word in argv:
        file, colons, test = word.partition("::")
        if not word.startswith("-") and (cwd / file).exists():
            word = f"{cwd / file}{colons}{test}"
        words.append("--help" if word == "--pytest-help" else word)
    junit = directory / "junit.xml"
    return [sys.executable, "-m", "pytest", f"--junit-xml={junit}", *words]


def main(argv: Sequence[str]) -> int:
    """Become pytest; its exit status and its summary are this command's own."""
    if list(argv) in (["--help"], ["-h"]):
        print(__doc__)
        return 0
    if "--mutants" in argv:
        return mutants.main([word for word in argv if word != "--mutants"])
    directory = logs.run_dir("test")
    print(f"logs: {directory}", file=sys.stderr, flush=True)
    words = command(argv, directory=directory, cwd=Path.cwd())
    # Half of a host test's time is spent waiting for something.
    os.environ.setdefault(JOBS, str(min(2 * len(os.sched_getaffinity(0)), MOST_JOBS)))
    # pytest looks for its configuration, and for the tests, where it is started.
    os.chdir(paths.ROOT)
    return os.execv(words[0], words)


if __name__ == "__main__":
    sys.exit(_main.run(main))
