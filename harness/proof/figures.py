"""What the tests of a stage measured, kept beside the proof, so that a claim can name it."""

from __future__ import annotations

from pathlib import Path

from harness import paths, stamp
from harness.bases import Base
from harness.proof.results import Verdict
from harness.proof.runner import Proof
from harness.proof.stages import Stage

#: What a run of pytest leaves in its directory (tests/conftest.py), and how that begins.
_TABLE, _TITLE = "report.md", "# Figures\n"


def kept(base: Base, stage: str) -> Path:
    """Return where the repository keeps the figures of a stage."""
    return paths.ROOT / "docs" / f"figures-{base.name}-{stage}.md"


def keep(proof: Proof) -> list[Path]:
    """Copy the figures of all stages that passed and left some here; return the files.

    What was kept of a stage that ran on another machine, or not since, stays as it is.
    """
    found = []
    for stage in proof.stages:
        table = proof.directory / stage.name / _TABLE
        # A run that was ended leaves a table as well, and the result may be another machine's.
        here = proof.known[stage.name].verdict is Verdict.PASSED and proof.ended_here(stage)
        if here and table.is_file():
            file = kept(proof.base, stage.name)
            stamp.write_atomic(file, _titled(proof, stage, table.read_text()))
            found.append(file)
    return found


def _titled(proof: Proof, stage: Stage, table: str) -> str:
    result = proof.known[stage.name]
    return (
        f"# Figures of {proof.base.name}, {stage.name}\n\n"
        f"What {stage.title} measured: a stage of `scripts/prove {proof.base.name}` that passed, "
        f"ended {result.when} UTC.\n"
        f"Patches: {proof.patches}, SHA-256 of their code `{proof.series}`.\n\n"
        + table.removeprefix(_TITLE).lstrip("\n")
    )
