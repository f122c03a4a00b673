"""All checks, as data, in the order in which they are reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.checks import (
    applies,
    checkpatch,
    coccicheck,
    cover,
    damage,
    documented,
    kerneldoc,
    kselftest,
    layout,
    message,
    recipients,
    size,
    spdx,
    tests,
    trailers,
    warnings,
    xmastree,
)
from harness.checks.context import Context, Place
from harness.checks.model import Result


@dataclass(frozen=True)
class PatchCheck:
    """A check of one patch.

    Attributes:
        title: what it looks at, for --help.
        heavy: it compiles, or shares a tool that takes long: never two at a time.
    """

    name: str
    title: str
    run: Callable[[Place], Result]
    heavy: bool = False


@dataclass(frozen=True)
class SeriesCheck:
    """A check of the series as a whole.

    Attributes:
        wanted: whether it was asked for.
    """

    name: str
    title: str
    run: Callable[[Context], Result]
    wanted: Callable[[Context], bool] = lambda _context: True


PATCH_CHECKS = (
    PatchCheck(damage.NAME, "the file is whole: no CR LF, no trailing whitespace", damage.check),
    PatchCheck(message.NAME, "subject and message: length, subsystem, a reason", message.check),
    PatchCheck(trailers.NAME, "Assisted-by, no Signed-off-by yet, Fixes:", trailers.check),
    PatchCheck(size.NAME, "files and lines, as a hint at one logical change", size.check),
    PatchCheck(spdx.NAME, "new files say their licence", spdx.check),
    PatchCheck(checkpatch.NAME, "checkpatch.pl --strict, with netdev's options", checkpatch.check),
    PatchCheck(kerneldoc.NAME, "new complaints of kernel-doc", kerneldoc.check),
    PatchCheck(xmastree.NAME, "order of local variables", xmastree.check),
    PatchCheck(documented.NAME, "new knobs are documented", documented.check),
    PatchCheck(kselftest.NAME, "Makefile, .gitignore, config of kselftests", kselftest.check),
    PatchCheck(warnings.NAME, "new warnings of gcc with W=1", warnings.check, heavy=True),
    PatchCheck(warnings.SPARSE, "new warnings of sparse", warnings.check_sparse, heavy=True),
    PatchCheck(warnings.CLANG, "new warnings of clang", warnings.check_clang, heavy=True),
    PatchCheck(coccicheck.NAME, "new findings of coccicheck", coccicheck.check, heavy=True),
)

SERIES_CHECKS = (
    SeriesCheck(layout.NAME, "`series` names the patches; at most 15", layout.check),
    SeriesCheck(applies.NAME, "applies to its base", applies.check),
    SeriesCheck(
        applies.ONTO,
        "applies to the tree of --onto",
        applies.check_onto,
        lambda context: context.onto is not None,
    ),
    SeriesCheck(cover.NAME, "there, and true about the patches", cover.check),
    SeriesCheck(tests.NAME, "tests are in the series", tests.check),
    SeriesCheck(recipients.NAME, "get_maintainer.pl knows who gets it", recipients.check),
)
