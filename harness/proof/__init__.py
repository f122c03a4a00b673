"""All that is known of a series, gathered by one command: scripts/prove.

A stage (:mod:`~harness.proof.stages`) is a command of this repository that is run to its end.
What it left behind is read (:mod:`~harness.proof.evidence`) and kept as a result
(:mod:`~harness.proof.results`) together with a digest of all that it speaks for
(:mod:`~harness.proof.inputs`), so that a run (:mod:`~harness.proof.runner`) repeats only what
failed, broke off or changed. One report (:mod:`~harness.proof.report`) tells of all stages.
"""
