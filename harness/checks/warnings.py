"""Warnings that a patch adds: the compiler's with W=1, sparse's, clang's.

They are compared as sets, without line numbers, with those in front of the patch, in every
object that the series touches.
"""

from __future__ import annotations

from harness.checks import compiled, tools
from harness.checks.compiled import SPARSE_FLAG, Compiled
from harness.checks.context import Place
from harness.checks.model import Finding, Result
from harness.diagnostics import CompilerWarning

NAME = "W=1"
SPARSE = "sparse"
CLANG = "clang"


def check(place: Place) -> Result:
    """Compare the compiler's warnings behind and in front of a patch."""
    return _compare(NAME, place, place.context.base.flavour, sparse=False)


def check_sparse(place: Place) -> Result:
    """Compare sparse's warnings behind and in front of a patch."""
    if not tools.there("sparse"):
        return Result(SPARSE, skipped="no sparse (apt install sparse)")
    return _compare(SPARSE, place, place.context.base.flavour, sparse=True)


def check_clang(place: Place) -> Result:
    """Compare clang's warnings behind and in front of a patch."""
    if not tools.there("clang"):
        return Result(CLANG, skipped="no clang (apt install clang)")
    return _compare(CLANG, place, "clang", sparse=False)


def _compare(name: str, place: Place, flavour: str, *, sparse: bool) -> Result:
    if not place.applies:
        return Result(name, skipped="it does not apply")
    if not any(path.endswith((".c", ".h")) or "Kconfig" in path for path in place.paths):
        return Result(name, note="no C file")
    found = compiled.of(place.context, flavour)
    log = place.context.directory / "compiled" / f"{flavour}-{place.number:02}.log"
    standing = found.at(place.number)
    findings = []
    if standing.errors and not sparse:
        before = found.at(place.number - 1).errors
        findings += [
            Finding(line, kind="DOES_NOT_COMPILE") for line in standing.errors if line not in before
        ]
    findings += [_finding(each) for each in sorted(_added(found, place.number, sparse=sparse))]
    absent = [path for path in standing.absent if path in place.paths]
    return Result(
        name,
        tuple(findings),
        unverified=tuple(f"{path} is not compiled in this configuration" for path in absent),
        log=log if log.is_file() else None,
    )


def _added(found: Compiled, number: int, *, sparse: bool) -> list[CompilerWarning]:
    return [each for each in found.added(number) if (each.flag == SPARSE_FLAG) is sparse]


def _finding(warning: CompilerWarning) -> Finding:
    where = f" in {warning.function}()" if warning.function else ""
    return Finding(f"{warning.message}{where}", kind=warning.flag.lstrip("-"), file=warning.file)
