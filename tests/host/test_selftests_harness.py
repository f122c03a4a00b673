"""harness.selftests: the list, what is built, what results mean; and the comparison of kernels."""

import importlib.util
import subprocess
from types import SimpleNamespace

import pytest

from harness import bases, paths, selftests
from harness.errors import CommandFailed, HarnessError, UsageError
from harness.selftests import CannotRun, Outcome, Result, Selftest

pytestmark = pytest.mark.host

PASS, FAIL, SKIP, TIMEOUT = Result.PASS, Result.FAIL, Result.SKIP, Result.TIMEOUT


# --- the list


def test_every_entry_says_what_it_is():
    known = {base.name for base in bases.all_bases()}
    found = selftests.parse((paths.ROOT / "harness/selftests.toml").read_text())
    assert found
    for each in found:
        assert each.why
        assert each.limit > 0
        assert each.tries >= 1
        assert set(each.bases) <= known
        assert each == selftests.get(each.name)


def test_the_default_run_is_short():
    """What is run without --slow has limits that a run of everything can bear."""
    usual = [each for each in selftests.listed("v5.10") if not each.slow]
    assert usual
    assert all(each.limit * each.tries <= 180 for each in usual)


def test_of_another_base_there_is_nothing_untried():
    assert not selftests.listed("v0.1")


def test_entries_have_the_usual_bases():
    found = selftests.parse(
        'bases = ["v1"]\n["net/a"]\nwhy = "x"\nlimit = 1\n'
        '["net/b.sh"]\nwhy = "x"\nlimit = 2\nbases = ["v2"]\narguments = ["-4", ""]\n'
        'env = { MZ = "no" }\ninterpreter = ["sh", "-e"]\n'
    )
    assert [each.bases for each in found] == [("v1",), ("v2",)]
    assert found[0].argv() == ["./a"]
    assert found[1].argv() == ["sh", "-e", "./b.sh", "-4", ""]
    assert found[1].env == {"MZ": "no"}


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ('["net/a"]\nwhy = "x"\n', "net/a.*missing: limit"),
        ('["net/a"]\nlimit = 1\n', "net/a.*missing: why"),
        ('["net/a"]\nwhy = "x"\nlimit = 1\nname = "b"\n', "net/a.*unknown: name"),
        ('["net/a"]\nwhy = "x"\nlimit = 1\nlimits = 1\n', "net/a.*unknown: limits"),
    ],
)
def test_a_wrong_entry_is_named(entry, complaint):
    with pytest.raises(HarnessError, match=complaint):
        selftests.parse(entry)


def test_unknown_selftest():
    with pytest.raises(UsageError, match="net/nothing"):
        selftests.get("net/nothing")


def selftest(name="net/hello", **more):
    return Selftest(**{"name": name, "why": "", "limit": 1, "bases": ("v1",), **more})


def test_missing_commands(tmp_path, monkeypatch):
    (tmp_path / "here").write_text("#!/bin/sh\n")
    (tmp_path / "here").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert selftests.missing_commands(selftest(commands=("here", "nowhere"))) == ["nowhere"]


def test_missing_options():
    config = "CONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_D=12\n"
    wanted = selftest(options=("A", "B", "C", "E"))
    assert selftests.missing_options(wanted, config) == ["CONFIG_C", "CONFIG_E"]


# --- building

HELLO = '#include "../kselftest.h"\n#include <linux/made.h>\nint main(void) { return %s; }\n'

MAKEFILE = """
headers:
	echo once >> $(O)/../count
	mkdir -p $(O)/usr/include/linux
	cp include/uapi/linux/made.h $(O)/usr/include/linux
"""

DUMMY = """
SEC("%s")
int xdp_dummy_prog(struct xdp_md *ctx)
{
	return XDP_PASS;
}
char _license[] SEC("license") = "GPL";
"""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A kernel tree that has little more than a selftest."""
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path / "build"))
    top = tmp_path / "linux"
    for path, text in {
        "Makefile": MAKEFILE,
        "include/uapi/linux/made.h": "#define MADE 7\n",
        "tools/testing/selftests/kselftest.h": "#define KSFT 1\n",
        "tools/testing/selftests/net/hello.c": HELLO % "MADE",
        "tools/testing/selftests/net/hello.sh": "#!/bin/sh\n./hello\n",
        "tools/testing/selftests/net/deeper/lib.sh": "true\n",
        "tools/testing/selftests/bpf/progs/xdp_dummy.c": DUMMY % "xdp_dummy",
        "tools/testing/selftests/bpf/progs/more.c": (DUMMY % "xdp").replace("XDP_PASS", "ctx->x"),
    }.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(text)
    return top


def status(directory, *words):
    return subprocess.run(words, cwd=directory, timeout=20).returncode


def listing(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_prepared_with_the_tree_s_headers_and_the_tree_untouched(tree):
    before = listing(tree)
    test = selftest("net/hello.sh", programs=("net/hello",))
    directory = selftests.prepare(test, tree, "v1")
    assert status(directory, *test.argv()) == 7
    assert (directory / "deeper/lib.sh").is_file()
    assert listing(tree) == before


def test_two_entries_for_one_test(tree):
    test = selftest("net/hello#twice", programs=("net/hello",))
    assert status(selftests.prepare(test, tree, "v1"), *test.argv()) == 7


def test_made_once(tree):
    test = selftest(programs=("net/hello",))
    first = (selftests.prepare(test, tree, "v1") / "hello").stat()
    assert (selftests.prepare(test, tree, "v1") / "hello").stat().st_ino == first.st_ino
    assert (selftests.place("v1") / "count").read_text() == "once\n"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tools/testing/selftests/net/hello.c", HELLO % "8"),
        ("tools/testing/selftests/kselftest.h", "#undef MADE\n#define __MADE_H\n#define MADE 8\n"),
        ("include/uapi/linux/made.h", "#define MADE 8\n"),
    ],
)
def test_made_again_if_what_it_is_made_from_changed(tree, file, text):
    test = selftest(programs=("net/hello",))
    selftests.prepare(test, tree, "v1")
    if file.endswith("kselftest.h"):
        (tree / "include/uapi/linux/made.h").write_text("#ifndef __MADE_H\n#define MADE 7\n#endif")
    (tree / file).write_text(text)
    assert status(selftests.prepare(test, tree, "v1"), "./hello") == 8


def test_a_program_that_does_not_compile(tree):
    (tree / "tools/testing/selftests/net/hello.c").write_text("int main(void) { return x; }\n")
    with pytest.raises(CommandFailed, match=r"compiling the selftest net/hello\.c") as caught:
        selftests.prepare(selftest(programs=("net/hello",)), tree, "v1")
    assert "undeclared" in caught.value.log.read_text()
    assert not (selftests.place("v1") / "tree/net/hello").exists()


def test_headers_that_cannot_be_made(tree):
    (tree / "Makefile").write_text("headers:\n\tfalse\n")
    for _ in range(2):
        with pytest.raises(CommandFailed, match="headers") as caught:
            selftests.prepare(selftest(programs=("net/hello",)), tree, "v1")
        assert caught.value.log.is_file()


@pytest.mark.parametrize(
    "test",
    [
        selftest("net/gone.sh"),
        selftest("net/gone", programs=("net/gone",)),
        selftest("net/hello.sh", programs=("net/gone",)),
    ],
    ids=["script", "program", "its-program"],
)
def test_what_the_tree_lacks_cannot_run(tree, test):
    with pytest.raises(CannotRun, match="this tree has no selftest.* net/gone"):
        selftests.prepare(test, tree, "v1")


def test_a_bpf_object_that_lets_packets_pass(tree):
    test = selftest("net/hello.sh", objects=("bpf/xdp_dummy.o",))
    made = selftests.prepare(test, tree, "v1").parent / "bpf/xdp_dummy.o"
    shown = subprocess.run(
        ["readelf", "-hW", "-x", "xdp_dummy", "-p", "license", "-s", made],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "Linux BPF" in shown
    assert "b7000000 02000000 95000000 00000000" in shown
    assert "GPL" in shown
    assert "xdp_dummy_prog" in shown


@pytest.mark.parametrize("name", ["more", "gone"])
def test_other_bpf_objects_need_a_compiler(tree, name):
    with pytest.raises(CannotRun, match=f"bpf/{name}.o needs clang"):
        selftests.prepare(selftest("net/hello.sh", objects=(f"bpf/{name}.o",)), tree, "v1")


# --- results


@pytest.mark.parametrize(
    ("returncode", "result"),
    [(0, PASS), (4, SKIP), (1, FAIL), (255, FAIL), (-11, FAIL), (124, TIMEOUT), (137, TIMEOUT)],
)
def test_what_a_status_means(returncode, result):
    assert selftests.result_of(returncode) is result


@pytest.mark.parametrize(
    ("output", "cases"),
    [
        ("TAP version 13\n1..2\nok 1 global.a\nnot ok 2 global.b\n", [PASS, FAIL]),
        ("ok 1 - global.a\nok 2 - global.b # SKIP no device\n", [PASS, SKIP]),
        ("TEST: global.a      [ OK ]\n    TEST: global.b  [FAIL]\n\treason\n", [PASS, FAIL]),
        ("global.a     \x1b[32m[PASS]\x1b[0m\nglobal.b [ XFAIL ]\n", [PASS, SKIP]),
        ("PASS: global.a\nFAIL: global.b\n", [PASS, FAIL]),
        ("ipv4\n global.a          ok\n global.b          failed\n", [PASS, FAIL]),
    ],
)
def test_cases_are_read(output, cases):
    assert selftests.cases_of(output) == dict(zip(("global.a", "global.b"), cases, strict=True))


def test_cases_of_one_name_are_told_apart():
    found = selftests.cases_of(" no GRO      ok\nipv6\n no GRO      failed\n")
    assert found == {"no GRO": PASS, "no GRO (2)": FAIL}
    assert selftests.cases_of("PASS\nseed = 1\nPASS\nFAIL\n") == {
        "verdict": PASS,
        "verdict (2)": PASS,
        "verdict (3)": FAIL,
    }


def test_prose_is_no_case():
    assert not selftests.cases_of("OK. All tests passed\nok then\n1..2\nPASSING 3\nokay 1 a\n")


def out(result=PASS, **cases):
    return Outcome(result, cases)


def test_an_outcome_is_one_line():
    found = selftests.outcome(1, "PASS: a\nFAIL: b\n", 2.34)
    assert str(found) == "fail, 1 of 2 cases, 2.3 s"
    assert str(selftests.best([found, out()])) == "pass, 1 of 2 cases, 0.0 s, run 2"


def test_what_passed_once_has_passed():
    assert selftests.best([out(FAIL, a=FAIL, b=PASS), out(FAIL, a=PASS, b=FAIL)]) == Outcome(
        FAIL, {"a": PASS, "b": PASS}, "", 0.0, 2
    )


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (out(), out(), []),
        (out(), out(FAIL), ["the test as a whole: fail"]),
        (out(), out(TIMEOUT), ["the test as a whole: timeout"]),
        (out(), out(SKIP), ["the test as a whole: skip"]),
        (out(FAIL), out(FAIL), []),
        (out(FAIL), out(TIMEOUT), []),
        (out(SKIP), out(FAIL), []),
        (out(FAIL), out(), []),
        (out(FAIL, a=PASS, b=FAIL), out(FAIL, a=FAIL, b=FAIL), ["a: fail"]),
        (out(FAIL, a=PASS, b=FAIL), out(FAIL, a=SKIP), ["a: skip"]),
        (out(FAIL, a=PASS), out(TIMEOUT), ["a: not reached"]),
        (out(FAIL, a=FAIL), out(FAIL, a=PASS), []),
    ],
)
def test_only_what_passed_before_can_be_worse(before, after, worse):
    assert selftests.regressions(before, after) == worse


def test_an_unsteady_case_does_not_count():
    before = Outcome(FAIL, {"a b": PASS, "a b (2)": PASS, "a": PASS, "a bc": PASS})
    after = Outcome(FAIL, {"a b": FAIL, "a b (2)": FAIL, "a": FAIL, "a bc": FAIL})
    assert selftests.regressions(before, after, ("a b",)) == ["a: fail", "a bc: fail"]
    whole = selftests.regressions(Outcome(PASS, before.cases), after, ("a b", "a", "a bc"))
    assert whole == ["the test as a whole: fail"]


def test_what_could_still_pass_is_not_settled():
    test = selftest(unsteady=("late",))
    assert selftests.settled(test, out(a=PASS, b=SKIP))
    assert selftests.settled(test, Outcome(PASS, {"late": FAIL, "late (2)": FAIL}))
    assert not selftests.settled(test, out(a=FAIL))
    assert not selftests.settled(test, out(FAIL, a=PASS))


# --- the comparison in tests/vm


class Kernel:
    """A guest on which the selftest ends as it is told."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)

    def run(self, argv, **_):
        return SimpleNamespace(
            returncode=self.statuses.pop(0), stdout="said\n", stderr="", seconds=1.0
        )


class Run:
    """A run of the VM test, one kernel after the other, with what it keeps in between."""

    def __init__(self, tmp_path):
        path = paths.TESTS / "vm/test_selftests.py"
        spec = importlib.util.spec_from_file_location("vm_test_selftests", path)
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        session = SimpleNamespace(directory=tmp_path)
        self.memo = {}
        self.request = SimpleNamespace(config=SimpleNamespace(skbhome=session))
        self.drained = 0
        self.rows = []

    def __call__(self, arm, *statuses, **options):
        key = SimpleNamespace(flavour="default")
        self.guest = SimpleNamespace(vm=Kernel(*statuses), key=key, spoilt="")
        self.module.test_selftest(
            test=selftest("net/hello.sh", **options),
            arm=arm,
            directory="/there",
            guest=self.guest,
            lab=SimpleNamespace(drained=self.drain),
            scale=SimpleNamespace(seconds=lambda limit: limit),
            request=self.request,
            memo=self.memo,
            report=SimpleNamespace(add=lambda *row: self.rows.append(row)),
        )

    def drain(self):
        self.drained += 1


@pytest.fixture
def both(tmp_path):
    return Run(tmp_path)


def test_equal_kernels_pass(both):
    both("patched", 0)
    both("baseline", 0)
    assert both.drained == 1
    assert both.rows == [("selftest", "pass, 1.0 s")] * 2


@pytest.mark.parametrize("order", [("patched", "baseline"), ("baseline", "patched")], ids=str)
def test_a_new_failure_fails_whichever_kernel_comes_first(both, order):
    statuses = {"patched": 1, "baseline": 0}
    both(order[0], statuses[order[0]])
    with pytest.raises(AssertionError, match="with the series does not:\nthe test as a whole"):
        both(order[1], statuses[order[1]])


@pytest.mark.parametrize("status", [1, 4, 124])
def test_what_fails_on_the_baseline_may_fail(both, status):
    both("patched", 1)
    both("baseline", status)


def test_a_failure_alone_is_only_reported(both):
    both("patched", 1)
    assert both.rows == [("selftest", "fail, 1.0 s")]


def test_what_time_decides_may_be_tried_again(both):
    both("patched", 1, 0, tries=2)
    both("baseline", 0, tries=2)
    both.memo.clear()
    both("patched", 1, 1, tries=2)
    with pytest.raises(AssertionError):
        both("baseline", 0, tries=2)


def test_a_guest_in_which_one_did_not_end_is_not_used_again(both):
    both("patched", 124)
    assert both.guest.spoilt
    both("baseline", 1)
    assert not both.guest.spoilt
