"""The results of checks for people (lines), and for CI (JUnit XML)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from harness import stamp
from harness.checks.model import Verdict
from harness.checks.run import Report, Told

#: Columns for the name of a check and for a verdict.
_NAME = 13
_VERDICT = 10


def head(told: Told) -> str:
    """Return the line above the checks of a patch, or of the series."""
    if told.place is None:
        return "series"
    return f"{told.place.number:>3}  {told.place.patch.subject or told.place.name}"


def line(told: Told) -> str:
    """Return one line for one check."""
    result = told.result
    return (
        f"     {result.check:<{_NAME}} {result.verdict.value:<{_VERDICT}} {result.summary}".rstrip()
    )


def details(report: Report) -> list[str]:
    """Return what has to be changed: a line per finding, under the patch it is in."""
    lines = []
    for each in report.bad():
        name = each.place.name if each.place else "series"
        said = [str(finding) for finding in each.result.open] or [each.result.skipped]
        lines += [f"{name}: {each.result.check}: {text}" for text in said]
    return lines


def total(report: Report) -> str:
    """Return the last line: how many results of each kind."""
    counts = Counter(each.result.verdict for each in report.told)
    words = [f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict]]
    patches = len({each.place.number for each in report.told if each.place})
    return (
        f"{report.base.patches}: {patches} patches, {len(report.told)} checks: {', '.join(words)}"
    )


def junit(report: Report, path: Path) -> None:
    """Write the results as JUnit XML, a test case per patch and check."""
    suite = ET.Element("testsuite", name=f"check-series.{report.base.name}")
    counts: Counter[str] = Counter()
    bad = report.bad()
    for each in report.told:
        where = each.place.patch.path.stem if each.place else "series"
        case = ET.SubElement(
            suite, "testcase", classname=f"{report.base.name}.{where}", name=each.result.check
        )
        counts["tests"] += 1
        result = each.result
        if each in bad:
            counts["failures"] += 1
            failure = ET.SubElement(case, "failure", message=_xml(result.summary))
            failure.text = _xml("\n".join(str(finding) for finding in result.open))
        elif result.skipped or result.unverified:
            counts["skipped"] += 1
            ET.SubElement(case, "skipped", message=_xml(result.summary))
        if result.summary:
            ET.SubElement(case, "system-out").text = _xml(
                "\n".join([result.summary, *(f"waived: {one}: {one.waived}"
                                             for one in result.findings if one.waived)])
            )  # fmt: skip
    if not report.complete:
        counts["errors"] += 1
        case = ET.SubElement(suite, "testcase", classname=report.base.name, name="complete")
        ET.SubElement(case, "error", message="the run was ended before all checks were made")
        counts["tests"] += 1
    for name in ("tests", "failures", "errors", "skipped"):
        suite.set(name, str(counts[name]))
    top = ET.Element("testsuites")
    top.append(suite)
    ET.indent(top)
    stamp.write_atomic(path, ET.tostring(top, encoding="unicode", xml_declaration=True) + "\n")


def _xml(text: str) -> str:
    """Return a text without what XML cannot hold."""
    return "".join(each if each >= " " or each in "\n\t" else "?" for each in text)
