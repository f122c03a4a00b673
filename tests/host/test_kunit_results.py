"""KUnit results through a stand-in for the tree's kunit.py."""

import json
from pathlib import Path

import pytest

from harness import kunit
from harness.kunit import Status

pytestmark = pytest.mark.host

# Like the real one: reads a log, writes groups of cases as JSON, ends with 1 if one failed.
TOOL = """
import json, os, re, sys
arguments = sys.argv[1:]
with open("seen", "w") as out:
    print(*arguments, file=out)
if os.path.exists("crash"):
    raise RuntimeError("kunit.py itself is broken")
path = next(word[7:] for word in arguments if word.startswith("--json="))
groups = []
if arguments[0] == "parse":
    for line in open(arguments[-1]):
        if match := re.search(r"# Subtest: (.*)", line):
            groups.append({"name": match[1], "test_cases": [], "sub_groups": []})
        elif match := re.search(r"    (ok|not ok) \\d+ - (.*)", line):
            status = "PASS" if match[1] == "ok" else "FAIL"
            groups[-1]["test_cases"].append({"name": match[2], "status": status})
else:
    groups = json.load(open("uml.json"))
with open(path, "w") as out:
    json.dump({"name": "KUnit Test Group", "test_cases": [], "sub_groups": groups}, out)
print("\\033[1;32m[PASSED]\\033[0;0m done")
sys.exit("FAIL" in json.dumps(groups))
"""

LOG = """\
[    0.400000] TAP version 14
[    0.400001] 1..1
[    0.401000]     # Subtest: skb_defer
[    0.401001]     1..2
[    0.402000]     ok 1 - local_is_freed
[    0.403000]     {second} 2 - limit_of_1
[    0.404000] ok 1 - skb_defer
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tool = tmp_path / "linux" / kunit.TOOL
    tool.parent.mkdir(parents=True)
    tool.write_text(TOOL)
    return tmp_path / "linux"


def test_results_come_as_cases(tree: Path) -> None:
    report = kunit.parse(tree, LOG.format(second="ok"), suites=["skb_defer"])
    assert report.passed
    assert [case.name for case in report.suites["skb_defer"]] == ["local_is_freed", "limit_of_1"]
    assert report.output == "[PASSED] done\n"


def test_a_failed_case_is_no_error_of_the_tool(tree: Path, tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(LOG.format(second="not ok").encode() + b"\xff\xfe\r\n")
    report = kunit.parse(tree, log)
    assert not report.passed
    assert [case.name for case in report.failed] == ["limit_of_1"]
    assert report.failed[0].status is Status.FAIL


def test_a_suite_that_did_not_run_is_an_error(tree: Path) -> None:
    with pytest.raises(kunit.SuiteMissing, match="other did not run; those that did: skb_defer"):
        kunit.parse(tree, LOG.format(second="ok"), suites=["skb_defer", "other"])
    with pytest.raises(kunit.SuiteMissing, match="those that did: none"):
        kunit.parse(tree, "[ 0.1] no tests here\n", suites=["skb_defer"])


def test_no_case_at_all_is_not_a_pass(tree: Path) -> None:
    assert not kunit.parse(tree, "").passed


def test_a_tool_that_breaks_is_an_error(tree: Path) -> None:
    (tree / "crash").touch()
    with pytest.raises(kunit.KunitToolFailed, match="kunit.py itself is broken"):
        kunit.parse(tree, LOG.format(second="ok"))


def test_a_tree_without_the_tool(tmp_path: Path) -> None:
    with pytest.raises(kunit.KunitToolFailed, match="has no tools/testing/kunit/kunit.py"):
        kunit.parse(tmp_path, "")


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        (
            [{"name": "a", "sub_groups": [{"name": "b", "test_cases": [
                {"name": "c", "status": "SKIP"}]}]}],
            [("a.b", "c", Status.SKIP)],
        ),
        ([{"name": "a", "test_cases": [{"name": "c", "status": "ERROR"}]}],
         [("a", "c", Status.ERROR)]),
    ],
)  # fmt: skip
def test_nested_suites_and_every_status(
    tree: Path, tmp_path: Path, groups: object, names: list[tuple[str, str, Status]]
) -> None:
    (tree / "uml.json").write_text(json.dumps(groups))
    report = kunit.run_uml(tree, {"SKB": "y"}, tmp_path / "uml", jobs=2, timeout=30)
    assert [(case.suite, case.name, case.status) for case in report.cases] == names
    assert not report.passed
    assert (tmp_path / "uml/.kunitconfig").read_text() == "CONFIG_KUNIT=y\nCONFIG_SKB=y\n"
    assert (tree / "seen").read_text().startswith("run --build_dir=")


def test_the_tree_stays_as_it_is(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    (tree / kunit.TOOL.parent / "helper.py").write_text("")
    (tree / kunit.TOOL).write_text("import helper\n" + TOOL)
    kunit.parse(tree, LOG.format(second="ok"))
    assert not list(tree.rglob("__pycache__"))
