"""Mutants: which tests kill them, what does not count, and what is not done again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from fakekernel import BASE, make_patch, make_tarball
from test_prefixes import prepare

from harness import bases, flavours, mutantresults, mutants, paths
from harness.build import Builder
from harness.cli import test as test_cli
from harness.errors import HarnessError, UsageError
from harness.flavours import Flavour
from harness.mutants import Verdict
from harness.sources import fetch
from harness.sources.model import Source, sha256

pytestmark = pytest.mark.host

TEST = ("tests/vm/test_limits.py", "-k", "one or other")

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.vm.test_a" name="test_fine[x]"/>
<testcase classname="tests.vm.test_a" name="test_bad[x]">{}</testcase>
</testsuite></testsuites>"""


@dataclass
class Lab:
    """A base with a series of one and mutants of it; make and pytest are fakes."""

    top: Path
    #: What pytest says of a kernel whose source holds the key.
    sees: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    def mutant(self, name: str, line: int, text: str, *, killed_by: str = shlex.join(TEST)) -> None:
        directory = self.top / "mutants"
        made = make_patch(directory, 1, line, text, subject=f"mutant: {name} is broken")
        patch = (directory / made).read_text().replace("Because.", f"Killed-by: {killed_by}")
        (directory / f"{name}.patch").write_text(patch)
        (directory / made).unlink()

    def pytest(
        self, test: Sequence[str], image: Path, flavour: Flavour, logs: Path
    ) -> tuple[int, list[tuple[str, str]]]:
        text = image.read_text()
        failed = [each for word, said in self.sees.items() if word in text for each in said]
        self.ran.append(f"{shlex.join(test)}: {len(failed)}")
        return (1 if failed else 0), failed

    def run(self, *names: str, keep: bool = False) -> list[Verdict]:
        self.ran.clear()
        wanted = mutants.read(BASE, names)
        default = flavours.get("default")
        logs = self.top / "logs"
        return mutants.run(BASE, default, wanted, logs, lambda verdict: None, keep=keep)

    def forget(self) -> None:
        """As on another machine: what was built and found here is gone."""
        for path in (self.top / "build").rglob("mutants/*.json"):
            path.unlink()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    archive = make_tarball(tmp_path)
    source = Source(BASE.name, "5.10.7", "kernel.org", sha256(archive), archive)
    make_patch(tmp_path / "patches/v5.10", 1, 20, "int patched_20;")
    prepare(tmp_path, monkeypatch)
    monkeypatch.setattr(fetch, "fetch", lambda base: source)
    monkeypatch.setattr(mutants, "directory", lambda base: tmp_path / "mutants")
    monkeypatch.setattr(mutantresults, "kept_file", lambda base: tmp_path / "docs/kept.json")
    made = Lab(tmp_path)
    monkeypatch.setattr(mutants, "_pytest", made.pytest)
    made.mutant("bad", 50, "int bug_one;")
    return made


def test_killed_by_an_assertion_and_not_tried_again(lab: Lab) -> None:
    lab.sees["bug_one"] = [("test_a::test_bad", "AssertionError: 7 left behind")]
    (verdict,) = lab.run()
    assert (verdict.verdict, verdict.by) == ("killed", "test_a::test_bad")
    assert verdict.how == "AssertionError: 7 left behind"
    assert verdict.bug == "mutant: bad is broken"
    # First without the bug, then with it.
    assert lab.ran == [f"{shlex.join(TEST)}: 0", f"{shlex.join(TEST)}: 1"]
    (again,) = lab.run()
    assert again.known and again.ok and lab.ran == []


@pytest.mark.parametrize(
    "how",
    [
        "the kernel complained (1 report): BUG: oh",
        'failed on setup with "harness.vm.errors.GuestBootFailed: the kernel panicked while '
        "booting: Fatal exception; before that it said SLAB: BUG kmalloc-512: Object already free",
    ],
)
def test_killed_by_what_the_kernel_says(lab: Lab, how: str) -> None:
    lab.sees["bug_one"] = [("test_a::test_bad", how)]
    assert lab.run()[0].ok


@pytest.mark.parametrize(
    "how",
    [
        "Failed: Timeout (>180.0s) from pytest-timeout.",
        "harness.vm.errors.GuestBootFailed: the kernel panicked while booting",
        "harness.vm.errors.GuestBootFailed: the kernel panicked while booting: Fatal exception; "
        "before that it said PAGE_FAULT: BUG: unable to handle page fault",
        "the kernel complained (1 report): PANIC: Kernel panic - not syncing: no init",
    ],
)
def test_what_says_nothing_of_the_bug_kills_nothing(lab: Lab, how: str) -> None:
    lab.sees["bug_one"] = [("test_a::test_bad", how)]
    (verdict,) = lab.run()
    assert verdict.verdict == "survived"
    assert how in verdict.how


def test_survived(lab: Lab) -> None:
    (verdict,) = lab.run()
    assert (verdict.verdict, verdict.ok, verdict.by) == ("survived", False, "")


def test_each_mutant_has_its_own_bug_alone(lab: Lab) -> None:
    lab.mutant("worse", 80, "int bug_two;")
    lab.sees["bug_one"] = [("a", "assert 1 == 2")]
    first, second = lab.run()
    assert (first.name, first.ok, second.name, second.ok) == ("bad", True, "worse", False)


def test_tests_that_fail_without_a_bug_are_an_error(lab: Lab) -> None:
    lab.sees["patched_20"] = [("test_a::test_bad", "assert 1 == 2")]
    with pytest.raises(HarnessError, match="fails without a bug"):
        lab.run()
    assert lab.ran == [f"{shlex.join(TEST)}: 1"] * 2


def test_what_passed_without_a_bug_does_not_run_there_again(lab: Lab) -> None:
    lab.run()
    lab.mutant("worse", 80, "int bug_two;", killed_by="tests/vm/test_udp.py")
    lab.run()
    # The new test without a bug, and with its own; nothing of what is known.
    assert lab.ran == ["tests/vm/test_udp.py: 0"] * 2


def test_what_was_kept_counts_on_another_machine(lab: Lab) -> None:
    lab.sees["bug_one"] = [("a", "assert 1 == 2")]
    lab.run()
    lab.forget()
    assert [each.known for each in lab.run()] == [False], "nothing was kept"
    # What is known already is kept as well.
    assert [each.known for each in lab.run(keep=True)] == [True]
    lab.forget()
    (verdict,) = lab.run()
    assert verdict.known and verdict.ok and lab.ran == []


def test_what_was_kept_of_other_inputs_does_not(lab: Lab) -> None:
    lab.run(keep=True)
    lab.forget()
    lab.mutant("bad", 50, "int bug_two;")
    (verdict,) = lab.run()
    assert not verdict.known
    assert lab.ran == [f"{shlex.join(TEST)}: 0"], "without a bug it had passed"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"bad": 1}'])
def test_a_broken_file_of_what_was_kept_says_nothing(lab: Lab, text: str) -> None:
    file = lab.top / "docs/kept.json"
    file.parent.mkdir()
    file.write_text(text)
    assert [each.known for each in lab.run(keep=True)] == [False]
    lab.forget()
    assert [each.known for each in lab.run()] == [True]


def test_a_result_depends_on_what_its_test_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kernel:
        def portable_inputs(self) -> str:
            return "a kernel"

    vm = tmp_path / "tests/vm"
    vm.mkdir(parents=True)
    (tmp_path / "tests/guest").mkdir()
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    imports = {"a": "from test_b import x\n", "b": "import test_a\n", "other": ""}
    for name, text in imports.items():
        (vm / f"test_{name}.py").write_text(text)

    def key() -> str:
        return mutants._key(cast(Builder, Kernel()), [("tests/vm/test_a.py", "-k", "one")])

    (tmp_path / "tests/conftest.py").write_text("")
    before = key()
    (vm / "test_other.py").write_text("x = 1\n")
    assert key() == before
    (vm / "test_b.py").write_text("import test_a\nx = 1\n")
    assert key() != before


def test_one_that_does_not_apply_or_compile_is_not_killed(lab: Lab) -> None:
    lab.mutant("broken", 80, "error here")
    lab.mutant("stale", 20, "int line_20_was_patched;")
    _, broken, stale = lab.run()
    assert broken.verdict.startswith("not tried: ")
    assert stale.verdict.startswith("not tried: ")


def test_an_unknown_one_and_one_without_a_test(lab: Lab) -> None:
    with pytest.raises(UsageError, match="no mutant nobody") as caught:
        mutants.read(BASE, ["nobody"])
    assert "bad" in str(caught.value)
    lab.mutant("lonely", 80, "int x;", killed_by="")
    with pytest.raises(UsageError, match="names no test"):
        mutants.read(BASE)


@pytest.mark.parametrize(
    ("inner", "found"),
    [
        ("", []),
        (
            '<failure message="AssertionError: 3 &gt; 2&#10;assert 3">trace</failure>',
            [("tests.vm.test_a::test_bad[x]", "AssertionError: 3 > 2")],
        ),
        (
            '<failure message="the kernel complained (1 report):&#10;&#10;WARNING: at x">'
            "</failure>",
            [("tests.vm.test_a::test_bad[x]", "the kernel complained (1 report): WARNING: at x")],
        ),
        ("<error>no guest</error>", [("tests.vm.test_a::test_bad[x]", "no guest")]),
    ],
)
def test_what_junit_says(inner: str, found: list[tuple[str, str]]) -> None:
    assert mutants.failures(JUNIT.format(inner)) == found


def test_the_table_escapes_what_would_end_a_cell() -> None:
    table = mutants.report([Verdict("a", "bug", "killed", "t", "x | y", 3.2)])
    assert table.splitlines()[-1] == "| a: bug | killed | t | 3 | x \\| y |"


def test_the_command(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.sees["bug_one"] = [("test_a::test_bad", "assert 1 == 2")]
    assert test_cli.main(["--mutants", "--list"]) == 0
    assert "bad is broken" in capsys.readouterr().out
    assert test_cli.main(["--mutants", "bad"]) == 0
    shown = capsys.readouterr().out
    assert "1 of 1  bad" in shown
    assert "killed by test_a::test_bad" in shown
    assert "1 of 1 mutants killed" in shown


def test_those_of_the_repository_name_tests_that_are_there() -> None:
    base = bases.get("v5.10")
    found = mutants.read(base)
    assert len(found) >= 25
    for mutant in found:
        for test in mutant.tests:
            assert (paths.ROOT / test[0]).exists(), (mutant.name, test)
