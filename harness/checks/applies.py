"""Does the series apply, to its base and to another tree (``--onto``)?"""

from __future__ import annotations

from harness import lock, series
from harness import tree as trees
from harness.checks.context import Context
from harness.checks.model import Finding, Result
from harness.series import PatchDoesNotApply
from harness.worktree import Home

NAME = "applies"
ONTO = "onto"


def check(context: Context) -> Result:
    """Look whether every patch applied to the base, and whether all are there still."""
    if context.stopped is not None:
        return Result(NAME, (_finding(context.stopped),))
    return Result(NAME, note=f"to {context.source.version}")


def check_onto(context: Context) -> Result:
    """Apply the series to a person's own tree, which is only read."""
    assert context.onto is not None
    home = Home.of(context.base, context.onto)
    purpose = f"applying {context.base.name} to {context.onto}"
    with lock.held(home.lock, purpose):
        source, start = trees.import_source(context.base, home, context.onto)
        patches = [place.patch.path for place in context.places]
        _, failure = series.apply_aside(home, start, patches)
    if failure is not None:
        return Result(ONTO, (_finding(failure),))
    return Result(ONTO, note=f"to {source.version}, {context.onto}")


def _finding(failure: PatchDoesNotApply) -> Finding:
    said = f": {failure.tail.splitlines()[0]}" if failure.tail and not failure.places else ""
    return Finding(f"{failure.what}{said}", kind="DOES_NOT_APPLY")
