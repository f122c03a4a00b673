"""Say what this machine has and lacks, and what each missing thing costs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from harness import doctor
from harness.cli import _main
from harness.doctor import Status


def main(argv: Sequence[str]) -> int:
    """Run every check; the status is 0 unless one fails that the main job needs."""
    parser = argparse.ArgumentParser(prog="doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(argv)
    findings = []
    for check in doctor.CHECKS:
        findings += doctor.run([check])
        if not options.json:
            print(doctor.report(findings[-1]), flush=True)
    failed = [finding.name for finding in findings if finding.status is Status.FAIL]
    if options.json:
        print(json.dumps([{**asdict(f), "status": f.status.name.lower()} for f in findings]))
    elif failed:
        print(f"\nnot ready: {', '.join(failed)}")
    else:
        print("\nready: scripts/apply-and-build")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(_main.run(main))
