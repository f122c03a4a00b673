"""The checks of a series, each broken once; and what is said, remembered and waived."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import fakeseries
import pytest
from fakekernel import BASE, Snapshot, make_tree
from fakeseries import Desk

from harness import patchfile
from harness.checks import (
    coccicheck,
    compiled,
    cover,
    message,
    passed,
    recipients,
    registry,
    tools,
    xmastree,
)
from harness.checks.model import Finding, Result, Verdict
from harness.checks.waivers import Waivers
from harness.cli import check_series
from harness.errors import UsageError

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A desk on which the series was checked once, so that everything is known already."""
    top = tmp_path_factory.mktemp("checks") / "desk"
    top.mkdir()
    with pytest.MonkeyPatch.context() as monkeypatch:
        desk = fakeseries.prepare(top, monkeypatch)
        report = desk.run()
        assert report.ok, [fakeseries.lines(told) for told in report.bad()]
    snapshot = Snapshot(top)
    snapshot.save()
    return snapshot


@pytest.fixture
def desk(checked: Snapshot, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    yield fakeseries.prepare(checked.restore(), monkeypatch)


# --- each check, broken once -------------------------------------------------


@pytest.mark.parametrize(
    ("number", "old", "new", "found"),
    [
        (1, "+int patched_20;", "+int patched_20; ",
         "1 whole: net/core/dev.c:20: TRAILING_WHITESPACE: trailing whitespace"),
        (1, "Because.", "Because.\r", "1 whole: CRLF: 1 lines end in CR LF"),
        (1, "From: Ann Author <ann@example.org>\n", "", "1 whole: NO_AUTHOR"),
        (2, "@@ -47,7 +47,7 @@", "@@ -47,7 +47,9 @@", "2 whole: DAMAGED: its diff is damaged"),
        (1, "net: change line 20", "change line 20", "1 message: SUBSYSTEM"),
        (1, "net: change line 20", "net: change line 20.", "1 message: FULL_STOP"),
        (1, "net: change line 20", f"net: {'x' * 71}", "1 message: LONG_SUBJECT"),
        (1, "net: change line 20", "fixup! net: do it", "1 message: FIXUP"),
        (1, "Because.\n", "\n", "1 message: NO_MESSAGE"),
        (1, "Because.", "Because " + "of it " * 15, "1 message: LONG_MESSAGE_LINE"),
        (1, "Assisted-by: AGENT:MODEL\n", "", "1 trailers: NO_ASSISTED_BY"),
        (1, "Assisted-by:", "Signed-off-by: A <a@b.c>\nAssisted-by:", "1 trailers: SIGNED_OFF"),
        (1, "Assisted-by:", "Fixes: 1234 (bug)\nAssisted-by:", "1 trailers: FIXES_FORM"),
        (1, "Assisted-by: AGENT:MODEL", 'Assisted-by: A:M\nFixes: 123456789abc ("x: y")',
         "1 trailers: FIXES_ORDER"),
        (1, "Assisted-by:", "Reviewed-by: Ann\nAssisted-by:", "1 trailers: NOBODY"),
        (3, "+// SPDX-License-Identifier: GPL-2.0", "+// my code", "3 spdx: net/core/dev_test.c:1: "
         "NO_SPDX"),
        (3, "// SPDX-License-Identifier: GPL-2.0", "// SPDX-License-Identifier: MIT", "3 spdx: "
         "net/core/dev_test.c:1: LICENCE: MIT is not GPL-2.0"),
        (3, "// SPDX-License-Identifier: GPL-2.0", "/* SPDX-License-Identifier: GPL-2.0 */",
         "3 spdx: net/core/dev_test.c:1: SPDX_FORM"),
        (1, "+int patched_20;", "+WARNING", "1 checkpatch: net/core/dev.c:20: SPACING: too close"),
        (1, "+int patched_20;", "+die", "1 checkpatch: NOT_CHECKED: could not be checked"),
        (1, "+int patched_20;", "+int undescribed;",
         "1 kernel-doc: net/core/dev.c:20: KERNEL_DOC: int undescribed;"),
        (1, "+int patched_20;", '+\t.procname = "my_knob",',
         "1 documented: net/core/dev.c:20: UNDOCUMENTED: the sysctl my_knob is not in Doc"),
        (1, "+int patched_20;", '+__setup("mine=", f);',
         "1 documented: net/core/dev.c:20: UNDOCUMENTED: the boot argument mine"),
        (1, "+int patched_20;", "+module_param(mine, int, 0);",
         "1 documented: net/core/dev.c:20: MODULE_PARAM"),
        (1, "+int patched_20;", "+warn about this",
         "1 W=1: net/core/dev.c: Wfake: warn about this in f()"),
        (2, "+int patched_50;", "+error here", "2 W=1: DOES_NOT_COMPILE: net/core/dev.c:50"),
        (2, " int line_48;", " int line_4848;",
         "series applies: DOES_NOT_APPLY: 0002-change-line-"),
    ],
)  # fmt: skip
def test_a_fault_of_a_patch(desk: Desk, number: int, old: str, new: str, found: str) -> None:
    desk.edit(number, old, new)
    said = desk.found()
    assert any(line.startswith(found) for line in said), said
    assert passed.of(BASE) is None


def test_a_series_without_a_fault_passes_and_is_remembered(desk: Desk) -> None:
    assert desk.found() == []
    known = passed.of(BASE)
    assert known is not None and "sparse: no sparse (apt install sparse)" in known.not_checked
    desk.edit(1, "Because.", "Because of it.")
    assert passed.of(BASE) is None
    desk.edit(1, "Because of it.", "Because.")
    assert passed.of(BASE) == known


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (" 3     is the test\n", "", "cover-letter: LIST: its list of patches and the 3 patches "
         "differ at 3"),
        (" 3     is", " 2- 3  is", "cover-letter: LIST: its list of patches names one twice"),
        (" 3     is the test", " 4     is the test", "differ at 3, 4"),
        ("They are wrong.", "*** BLURB HERE ***", "cover-letter: BLURB"),
        ("They are wrong.", "They are wrong. " * 6, "cover-letter: LONG_LINE"),
        ("They are wrong.", "Signed-off-by: A <a@b.c>", "cover-letter: SIGNED_OFF"),
        ("Subject: net: change", "net: change", "cover-letter: FORM"),
        ("They are wrong.", "Ann Author (1):\n  net: change line 2", "cover-letter: LIST: its list "
         "of subjects"),
        ("They are wrong.", " net/core/sock.c | 2 +-\n 1 file changed", "cover-letter: DIFFSTAT"),
        ("They are wrong.", " 7 files changed, 2 insertions(+)", "cover-letter: DIFFSTAT: it says "
         "that 7 files change; 2 do"),
    ],
)  # fmt: skip
def test_a_fault_of_the_cover_letter(desk: Desk, old: str, new: str, found: str) -> None:
    letter = desk.patches / "cover-letter"
    assert old in letter.read_text()
    letter.write_text(letter.read_text().replace(old, new))
    result = cover.check(desk.context())
    said = [f"cover-letter: {finding}" for finding in result.open]
    assert any(found in line for line in said), said


def test_a_true_diffstat_and_list_are_no_fault(desk: Desk) -> None:
    letter = desk.patches / "cover-letter"
    letter.write_text(
        fakeseries.LETTER + "\nAnn Author (3):\n  net: change line 20\n  net: change line 50\n"
        "  net: test the lines\n\n net/core/dev.c      | 4 ++--\n net/core/dev_test.c | 2 ++\n"
        " 2 files changed, 4 insertions(+), 2 deletions(-)\n"
    )
    assert cover.check(desk.context()).verdict is Verdict.PASSED
    letter.write_text(letter.read_text() + "\nFor 5.10.6.\n")
    assert cover.check(desk.context()).hints == ("speaks of 5.10.6, the source is 5.10.7",)


def test_a_series_needs_a_letter_and_a_test(desk: Desk) -> None:
    (desk.patches / "cover-letter").unlink()
    desk.edit(3, "dev_test.c", "dev_more.c")
    said = desk.found()
    assert any("series cover-letter: MISSING" in line for line in said), said
    assert any("series tests: NO_TESTS" in line for line in said), said


def test_the_directory_of_a_series(desk: Desk) -> None:
    (desk.patches / "0009-forgotten.patch").touch()
    with (desk.patches / "series").open("a") as series:
        series.write("0004-not-there.patch\n0003-test.patch\n# a comment\n")
        series.writelines(f"{number}.patch\n" for number in range(11))
    said = [line for line in desk.found() if "layout" in line]
    for words in (
        "LONG: 16 patches; 15 are the most that people review",
        "MISSING: `series` names 0004-not-there.patch, which is not there",
        "UNNAMED: `series` does not name 0009-forgotten.patch",
        "TWICE: `series` names 0003-test.patch 2 times",
    ):
        assert any(words in line for line in said), said


def test_onto_another_tree(desk: Desk, tmp_path: Path) -> None:
    other = make_tree(tmp_path / "other")
    (other / "kernel").mkdir()
    for name in ("Kconfig", "kernel/fork.c", "arch/x86/Makefile"):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).touch()
    assert desk.found(other) == []
    text = (other / "net/core/dev.c").read_text()
    (other / "net/core/dev.c").write_text(text.replace("int line_49;", "int line_4949;"))
    said = desk.found(other)
    assert len(said) == 1 and said[0].startswith("series onto: DOES_NOT_APPLY: 0002-"), said


def test_a_kselftest_has_all_that_belongs_to_it(desk: Desk) -> None:
    new = "tools/testing/selftests/net/mine.sh"
    desk.edit(3, "+++ b/net/core/dev_test.c\n@@ -0,0 +1,2 @@\n"
              "+// SPDX-License-Identifier: GPL-2.0\n+int test;\n",
              f"+++ b/{new}\n@@ -0,0 +1,3 @@\n+#!/bin/sh\n"
              "+# SPDX-License-Identifier: GPL-2.0\n+ip link add x type dummy\n")  # fmt: skip
    desk.edit(3, "a/net/core/dev_test.c b/net/core/dev_test.c", f"a/{new} b/{new}")
    said = [line for line in desk.found() if "kselftest" in line]
    assert any("MAKEFILE" in line and "does not name mine.sh" in line for line in said), said
    assert any("CONFIG_DUMMY" in line for line in said), said


def test_nobody_to_send_it_to(desk: Desk) -> None:
    (desk.scripts / "get_maintainer.pl").write_text('print "Ann <ann\\@example.org>\\n";')
    assert any("series recipients: NO_LIST" in line for line in desk.found())
    assert recipients.is_list("netdev@vger.example.org")


# --- order of variables ------------------------------------------------------

_ORDER = """\
static int f(struct a *a)
{
	struct sk_buff *skb = a->skb;
	unsigned int n;
	int i;

	if (n) {
		int b;
		struct a *longer;
	}
	return i;
}

struct s {
	int a;
	unsigned long b;
};
"""


def test_reverse_xmas_tree() -> None:
    found = list(xmastree.out_of_order(_ORDER.splitlines()))
    assert [lower.text.strip() for _, lower in found] == ["struct a *longer;"]
    swapped = _ORDER.replace("\tunsigned int n;\n\tint i;", "\tint i;\n\tunsigned int n;")
    assert len(list(xmastree.out_of_order(swapped.splitlines()))) == 2


def test_a_variable_that_needs_the_one_above_may_stand_below_it() -> None:
    text = "{\n\tstruct a *a = f();\n\tstruct b *b = netdev_priv(a);\n\n"
    assert list(xmastree.out_of_order(text.splitlines())) == []
    assert list(xmastree.out_of_order(text.replace("(a)", "(c)").splitlines()))


def test_only_lines_that_the_patch_adds_count(desk: Desk) -> None:
    # The declarations of the fake tree stand outside of functions.
    result = xmastree.check(desk.context().places[0])
    assert result.verdict is Verdict.PASSED


# --- warnings ----------------------------------------------------------------


def test_a_warning_that_was_there_before_is_not_new(desk: Desk) -> None:
    desk.edit(1, "+int patched_20;", "+warn about this")
    desk.edit(2, "+int patched_50;", "+warn about that")
    said = [line for line in desk.found() if "W=1" in line]
    assert said == [
        "1 W=1: net/core/dev.c: Wfake: warn about this in f()",
        "2 W=1: net/core/dev.c: Wfake: warn about that in f()",
    ]


def test_a_source_that_is_not_compiled_is_no_pass(desk: Desk) -> None:
    """Whether the configuration leaves it out, or make fails for a reason of its own."""
    make = desk.top / "tools/make"
    text = make.read_text()
    made = '    cp "$source/$file" "$out/$object"\n'
    assert made in text
    desk.edit(1, "+int patched_20;", "+int another;")
    make.write_text(text.replace(made, "    echo \"No rule to make target '$object'\"; exit 2\n"))
    report = desk.run()
    w1 = report.told[10].result
    assert w1.verdict is Verdict.UNVERIFIED, w1
    assert w1.unverified == ("net/core/dev.c is not compiled in this configuration",)
    desk.edit(1, "+int another;", "+int one_more;")
    make.write_text(text.replace(made, '    echo "make: *** out of luck"; exit 2\n'))
    said = [line for line in desk.found() if line.startswith("1 W=1")]
    assert said and "could not be checked: make failed on prefix" in said[0]


def test_what_was_compiled_is_not_compiled_again(desk: Desk) -> None:
    calls = desk.top / "build/trees/v5.10/calls"
    calls.unlink(missing_ok=True)
    desk.run()
    assert not calls.exists()
    desk.edit(3, "+int test;", "+int another;")
    assert desk.run().ok
    made = [line for line in calls.read_text().splitlines() if ".o" in line]
    assert len(made) == 1 and "W=1" in made[0] and "C=1" not in made[0]


def test_a_finding_of_sparse_is_the_patchs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the tool, through its wrapper and Kbuild's words, to the line that is told."""
    monkeypatch.setattr(tools, "there", lambda name: name == "sparse")
    sparse = desk.top / "tools/sparse"
    sparse.write_text(
        '#!/bin/sh\n[ "$1" != --version ] || { echo sparse 1; exit; }\n'
        'grep -n odd "$1" | sed "s|^\\([0-9]*\\):\\(.*\\)|$1:\\1:1: error: \\2|"\n'
    )
    sparse.chmod(0o755)
    make = desk.top / "tools/make"
    made = '    cp "$source/$file" "$out/$object"\n'
    assert made in make.read_text()
    # Kbuild starts sparse behind the compiler, in the object directory.
    kbuild = (
        'for word in "$@"; do case $word in CHECK=*) echo "  CHECK   ../$file"\n'
        '(cd "$out" && ${word#CHECK=} "../$file") 2>&1;; esac; done\n'
    )
    make.write_text(make.read_text().replace(made, kbuild + made))
    assert desk.found() == []
    desk.edit(2, "+int patched_50;", "+int odd;")
    assert desk.found() == ["2 sparse: net/core/dev.c: Wsparse: error: int odd;"]


def test_sparse_speaks_through_the_compilers_words(desk: Desk, tmp_path: Path) -> None:
    sparse = desk.top / "tools/sparse"
    sparse.write_text(
        "#!/bin/sh\necho '../net/core/dev.c:3:1: error: bad type (originally declared at x.h:3)'\n"
        "echo '../net/core/dev.c:4:1: warning: odd type'\nexit 1\n"
    )
    sparse.chmod(0o755)
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(compiled._WRAPPER)
    import subprocess

    done = subprocess.run(["sh", wrapper, "x.c"], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [
        "../net/core/dev.c:3:1: warning: error: bad type [-Wsparse]",
        "../net/core/dev.c:4:1: warning: odd type [-Wsparse]",
    ]


# --- coccicheck --------------------------------------------------------------

_C = """\
#include <x.h>

static int one(int a)
{
	return kmalloc(a);
}

int
two(struct b *b,
    int c)
{
	return 2;
}
"""


def test_functions_are_found_and_nothing_else_is_kept() -> None:
    lines = _C.splitlines()
    assert list(coccicheck.functions(lines)) == [("one", 3, 6), ("two", 8, 13)]
    left = coccicheck.reduced(lines, {"one"}).splitlines()
    assert left[4] == "\treturn kmalloc(a);" and not left[0] + left[11] and len(left) == len(lines)


def test_coccicheck_tells_new_findings(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "there", lambda name: name == "spatch")
    spatch = desk.top / "tools/spatch"
    spatch.write_text(
        "#!/bin/sh\ncase $* in *--version*) echo spatch 1; exit ;; esac\n"
        "grep -rn 'kfree' . | while IFS=: read -r file line text; do\n"
        'echo "$file:$line:1-5: WARNING: $text"; done\n'
    )
    spatch.chmod(0o755)
    (desk.scripts / "coccinelle").mkdir()
    (desk.scripts / "coccinelle/a.cocci").write_text("// Options: --no-includes\n")
    desk.edit(2, "+int patched_50;", "+int f(void)\n+{\n+kfree(x);\n+}")
    desk.edit(2, "+47,7", "+47,10")
    said = [line for line in desk.found() if "coccicheck" in line]
    assert said == ["2 coccicheck: net/core/dev.c:52: COCCI: WARNING: kfree(x);"]
    # A second run asks nobody.
    spatch.write_text("#!/bin/sh\ncase $* in *--version*) echo spatch 1; exit ;; esac\nexit 1\n")
    assert [line for line in desk.found() if "coccicheck" in line] == said


# --- what nobody can know, what is waived ------------------------------------


def test_what_cannot_be_verified_is_no_pass(desk: Desk) -> None:
    desk.edit(1, "Assisted-by:", 'Fixes: 123456789abc ("net: break")\nAssisted-by:')
    report = desk.run()
    result = next(
        told.result for told in report.told if told.result.check == "trailers" and told.place
    )
    assert result.verdict is Verdict.UNVERIFIED and report.ok
    assert "no history here" in result.summary
    known = passed.of(BASE)
    assert known is not None and known.unverified == result.unverified


def test_a_missing_tool_fails_the_series_if_asked_to(desk: Desk) -> None:
    report = desk.run(no_skips=True)
    assert not report.ok and passed.of(BASE) is None
    assert {told.result.check for told in report.bad()} >= {"sparse", "clang", "coccicheck"}
    assert any("no sparse" in word for word in report.describe()["patches"][0]["broken"])


def waive(desk: Desk, **words: str | int) -> None:
    rows = {"patch": "net: change line 20", "check": "checkpatch", "kind": "SPACING",
            "text": "too close", "reason": "it looks better", **words}  # fmt: skip
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in rows.items())
    (desk.patches / "checks.toml").write_text(f"[[waive]]\n{text}")


def test_a_waived_finding_is_told_and_does_not_fail(desk: Desk) -> None:
    desk.edit(1, "+int patched_20;", "+WARNING")
    waive(desk)
    report = desk.run()
    result = report.told[5].result
    assert report.ok and result.verdict is Verdict.WAIVED
    assert result.findings[0].waived == "it looks better" and "waived: SPACING" in result.summary
    known = passed.of(BASE)
    assert known is not None and known.waived == ("SPACING: it looks better",)


@pytest.mark.parametrize(
    "words",
    [{"patch": "net: change line 50"}, {"check": "W=1"}, {"kind": "X"}, {"text": "too far"}],
)
def test_a_waiver_of_something_else_changes_nothing(desk: Desk, words: dict[str, str]) -> None:
    desk.edit(1, "+int patched_20;", "+WARNING")
    waive(desk, **words)
    said = desk.found()
    assert any("1 checkpatch" in line for line in said)
    assert any("series waivers: UNUSED" in line for line in said)


def test_a_waiver_is_not_unused_where_its_check_was_skipped(desk: Desk) -> None:
    waive(desk, check="sparse", kind="Wsparse")
    assert desk.found() == []


def test_a_waiver_covers_so_many_and_no_more(desk: Desk) -> None:
    waivers = Waivers.of(desk.patches)
    assert waivers.all == []
    waive(desk, patch="*", count=1)
    waivers = Waivers.of(desk.patches)
    twice = Result("checkpatch", (Finding("too close", "SPACING"), Finding("too close", "SPACING")))
    assert len(waivers.apply("net: any", twice).open) == 1


@pytest.mark.parametrize("words", [{"reason": " "}, {"text": ""}, {"colour": "red"}])
def test_a_waiver_gives_a_reason(desk: Desk, words: dict[str, str]) -> None:
    waive(desk, **words)
    with pytest.raises(UsageError, match="checks.toml"):
        Waivers.of(desk.patches)


# --- the command -------------------------------------------------------------


def test_one_line_per_patch_and_check(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_series.main(["v5.10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  1  net: change line 20" and lines[1].split() == ["whole", "ok"]
    # `onto` was not asked for, and `waivers` are no check of the registry's.
    wanted = 3 * len(registry.PATCH_CHECKS) + len(registry.SERIES_CHECKS)
    assert f"3 patches, {wanted} checks: " in lines[-1]
    assert len(lines) == wanted + 4 + 1


def test_faults_are_named_at_the_end_and_in_json_and_junit(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.edit(1, "+int patched_20;", "+WARNING")
    desk.edit(1, "Assisted-by: AGENT:MODEL\n", "")
    (desk.patches / "0009-forgotten.patch").touch()
    json_file, junit = desk.top / "results.json", desk.top / "results.xml"
    assert check_series.main(["--json", str(json_file), "--junit", str(junit)]) == 1
    out = capsys.readouterr().out
    assert "0001-change-line-20.patch: checkpatch: net/core/dev.c:20: SPACING: too close" in out
    assert "ply" not in out
    facts = json.loads(json_file.read_text())
    # What scripts/prove reads.
    assert facts["ok"] is False
    assert facts["series"] == ["layout: UNNAMED: `series` does not name 0009-forgotten.patch"]
    row = facts["patches"][0]
    assert row["patch"] == "0001-change-line-20.patch" and row["ok"] is False
    assert row["checkpatch"] == [{"level": "WARNING", "kind": "SPACING", "text": "too close"}]
    assert row["broken"] == ["trailers: NO_ASSISTED_BY: has no Assisted-by"]
    assert facts["patches"][1]["ok"] is True
    suite = ET.parse(junit).getroot()[0]
    assert suite.get("failures") == "3" and suite.get("errors") == "0"
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed == ["trailers", "checkpatch", "layout"]


def test_a_run_that_is_cut_off_is_no_pass(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(context: object) -> Result:
        raise KeyboardInterrupt

    broken = (*registry.SERIES_CHECKS[:2], registry.SeriesCheck("tests", "x", stop))
    monkeypatch.setattr(registry, "SERIES_CHECKS", broken)
    file, junit = desk.top / "results.json", desk.top / "x.xml"
    with pytest.raises(KeyboardInterrupt):
        check_series.main(["--json", str(file), "--junit", str(junit)])
    assert json.loads(file.read_text())["ok"] is False
    assert ET.parse(junit).getroot()[0].get("errors") == "1"


def test_without_a_tree_it_says_how_to_get_one(desk: Desk) -> None:
    (desk.scripts / "checkpatch.pl").unlink()
    with pytest.raises(UsageError, match="scripts/apply-and-build v5.10"):
        check_series.main([])


def test_an_empty_series_has_no_fault(desk: Desk) -> None:
    for path in desk.patches.iterdir():
        path.unlink()
    assert desk.found() == []


def test_the_help_names_every_check() -> None:
    text = check_series.parser().format_help()
    for check in (*registry.PATCH_CHECKS, *registry.SERIES_CHECKS):
        assert check.name in text and check.title in text


def test_the_real_series_has_the_form_of_one() -> None:
    """What can be told without a tree about every series here."""
    from harness import bases, series

    for base in bases.all_bases():
        for path in series.read(base.patches):
            found = list(message.of_patch(patchfile.read(path)))
            assert found == [], path.name
