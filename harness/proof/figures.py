"""What the tests of a stage measured, kept beside the proof, so that a claim can name it."""

from __future__ import annotations

from pathlib import Path

from harness import paths, stamp
from harness.bases import Base
from harness.proof import report
from harness.proof.results import Verdict
from harness.proof.runner import Proof
from harness.proof.stages import Kind, Stage


def kept(base: Base, stage: str) -> Path:
    """Return where the repository keeps the figures of a stage."""
    return paths.ROOT / "docs" / f"figures-{base.name}-{stage}.md"


def keep(proof: Proof) -> list[Path]:
    """Write down the figures of all stages that passed and left some here; return the files.

    What was kept of a stage that ran on another machine, or not since, stays as it is.
    """
    found = []
    for stage in proof.stages:
        result = proof.known[stage.name]
        # A run that was ended leaves figures as well, and the result may be another machine's.
        here = result.verdict is Verdict.PASSED and proof.ended_here(stage)
        if here and stage.kind is Kind.TESTS and result.details.get("figures"):
            file = kept(proof.base, stage.name)
            stamp.write_atomic(file, _text(proof, stage))
            found.append(file)
    return found


def _text(proof: Proof, stage: Stage) -> str:
    result = proof.known[stage.name]
    kernels = report.kernels([result.describe()])
    return "\n".join(
        [
            f"# Figures of {proof.base.name}, {stage.name}",
            "",
            f"What {stage.title} measured: a stage of `scripts/prove {proof.base.name}` that "
            f"passed, ended {result.when} UTC.",
            f"Patches: {proof.patches}, SHA-256 of their code `{proof.series}`.",
            "",
            *report.measured(result.details["figures"]),
            "",
            *kernels,
            "",
        ]
    )
