"""scripts/prove: what is run, what is not run again, and what counts as a pass."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakekernel import BASE, make_patch
from fakeproof import Lab, junit, lab
from fakevm import wait_for
from test_process import gone

from harness import bases, kunit, paths
from harness.cli import prove
from harness.errors import UsageError
from harness.kunit import Case, Report, Status
from harness.lock import LockTimeout, held
from harness.proof import figures, inputs, results, runner, stages
from harness.proof.results import Result, Verdict
from harness.proof.runner import Proof
from harness.proof.stages import Stage

pytestmark = pytest.mark.host

__all__ = ["lab"]

KERNELS = [f"kernel-{name}" for name in ("default", "debug", "rt", "rt-debug", "kcsan")]
ALL = [
    *("series", "host", *KERNELS, "vm-default", "vm-rt", "slow", "faults", "prefixes"),
    *("vm-kcsan", "mutants", "vm-debug", "vm-rt-debug"),
]


# --- what is run ----------------------------------------------------------------


def test_everything_is_run_once(lab: Lab) -> None:
    known = lab.run()
    assert lab.ran() == ALL
    assert [name for name, each in known.items() if each.verdict is Verdict.PASSED] == ALL
    # What cannot be tried here is no pass.
    assert known["kernel-clang"].verdict is Verdict.NOT_APPLICABLE
    assert known["kernel-clang"].why == "no-such-compiler is not installed"
    again = lab.run()
    assert lab.ran() == []
    assert all(each.known for name, each in again.items() if name != "kernel-clang")
    assert {name: replace(each, known=False) for name, each in again.items()} == known
    lab.run(again=("host",))
    assert lab.ran() == ["host"]


def test_some_of_it_is_run(lab: Lab) -> None:
    known = lab.run("vm-r*", "series")
    assert lab.ran() == ["series", "vm-rt", "vm-rt-debug"]
    assert known["vm-default"].verdict is Verdict.NOT_RUN and known["vm-default"].why
    with pytest.raises(UsageError, match="no stage 'nothing'") as caught:
        lab.stages("nothing")
    assert "vm-kcsan" in str(caught.value.hint)


def test_what_the_programs_are_told(lab: Lab) -> None:
    lab.run()
    calls = {call[0]: call[1:] for call in lab.calls()}
    build = lab.top / "build"
    assert calls["series"] == [
        *("check-series", "v5.10", "--json"),
        str(build / "proof/v5.10/series/series.json"),
    ]
    assert calls["kernel-rt"][:4] == ["apply-and-build", "v5.10", "--flavour", "rt"]
    assert calls["vm-debug"] == [
        *("test", "--base", "v5.10", "-v"),
        f"--known={build}/proof/v5.10/vm-debug/known.json",
        *("-m", "vm", "--flavour", "debug"),
    ]
    assert calls["faults"][-2:] == ["--seed", "7"] and "--faults" in calls["faults"]
    assert "--slow" in calls["slow"] and "--mutants" in calls["mutants"]
    assert "--bisect" in calls["prefixes"]


def test_pytest_takes_the_words_of_a_stage(tmp_path: Path) -> None:
    """Only what ends a run early is added: nothing is collected, all options are known."""
    stage = next(each for each in stages.of(BASE, seed=7) if each.name == "faults")
    (tmp_path / "known.json").write_text('{"passed": []}')
    words = [word.replace(stages.HERE, str(tmp_path)) for word in stage.argv[1:]]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *words,
            "--collect-only",
            "-q",
            "--ignore=tests/host",
            "-k",
            "no_such_test",
        ],
        cwd=paths.ROOT,
        env={**os.environ, "SKBHOME_RUN_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 5, done.stdout + done.stderr


def test_the_real_stages_name_programs_and_flavours_that_are_there() -> None:
    found = stages.of(bases.default_base(), seed=1)
    assert len({stage.name for stage in found}) == len(found) > 20
    for stage in found:
        assert (paths.ROOT / "scripts" / stage.argv[0]).exists(), stage.name
        assert stage.limit >= 600
        assert inputs.key(bases.default_base(), stage) if stage.name == "host" else True
    debug = {stage.name: stage for stage in found}["vm-debug"]
    default = {stage.name: stage for stage in found}["vm-default"]
    assert debug.limit > 3 * default.limit


# --- what is not run again --------------------------------------------------------

VM = {name for name in ALL if name.startswith("vm-")} | {"slow", "faults", "mutants"}
ON_DEBUG = {"kernel-debug", "vm-debug", "kernel-rt-debug", "vm-rt-debug", "faults"}


def edit(name: str, text: str = "changed\n") -> Callable[[Lab], None]:
    def change(lab: Lab) -> None:
        path = lab.top / name
        path.write_text(path.read_text() + text)

    return change


def another_message(lab: Lab) -> None:
    patch = next((lab.top / "patches/v5.10").glob("*.patch"))
    before = patch.read_text()
    patch.write_text(before.replace("\n---\n", "\nMeasured: 1.\n---\n", 1))
    assert patch.read_text() != before


def another_patch(lab: Lab) -> None:
    make_patch(lab.top / "patches/v5.10", 2, 50, "int more;")
    lab.all_well()


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (another_patch, {*ALL} - {"host"}),
        (another_message, {"series"}),
        (edit("kconfig/d.config", "CONFIG_E=y\n"), ON_DEBUG),
        (edit("tests/vm/test_x.py"), VM),
        (edit("tests/guest/flow.c"), VM),
        (edit("tests/conftest.py"), VM | {"host"}),
        (edit("tests/mutants/v5.10/bad.patch"), {"mutants"}),
        (edit("tests/host/test_y.py"), {"host"}),
        (edit("harness/x.py"), {"host", "series"}),
        (edit("requirements.txt"), {"host"}),
        (lambda lab: (lab.top / "build/proof/v5.10/results/slow.json").write_text("{"), {"slow"}),
        (
            lambda lab: (lab.top / "build/proof/v5.10/results/slow.json").write_text("[1]"),
            {"slow"},
        ),
        (lambda lab: None, set()),
    ],
    ids=[
        *(
            "patch",
            "message",
            "fragment",
            "vm-test",
            "guest-program",
            "shared",
            "mutant",
            "host-test",
        ),
        *("harness", "requirements", "cut-off", "not-a-result", "nothing"),
    ],
)
def test_only_what_speaks_for_something_else_is_run_again(
    lab: Lab, change: Callable[[Lab], None], stale: set[str]
) -> None:
    lab.run()
    change(lab)
    assert lab.stale() == stale
    # Those, and no others, are run then.
    lab.ran()
    lab.run(*sorted(stale)[:1])
    assert set(lab.ran()) == set(sorted(stale)[:1])


def test_another_kernel_is_another_matter(lab: Lab) -> None:
    for name in ("default", "debug"):
        lab.stamp(name)
    lab.stamp("debug", arm="baseline")
    known = lab.run()
    lab.ran()
    assert [(each["flavour"], each["arm"]) for each in known["vm-debug"].kernels] == [
        ("debug", "patched"),
        ("debug", "baseline"),
    ]
    lab.stamp("debug", release="5.10.2")
    assert known["kernel-debug"].kernels[0]["release"] == "5.10.1"
    # The same files gave another kernel: the source is a newer one, or it was built by hand.
    assert lab.stale() == {"kernel-debug", "vm-debug", "faults"}
    lab.stamp("debug")
    lab.stamp("debug", release="5.10.3", arm="baseline")
    assert lab.stale() == {"vm-debug"}


def test_a_kernel_that_was_removed_contradicts_nothing(lab: Lab) -> None:
    lab.stamp("rt")
    lab.run("vm-rt", "kernel-rt")
    before = lab.stale()
    (lab.top / "build/trees").rename(lab.top / "elsewhere")
    assert lab.stale() == before
    assert "vm-rt" not in before


def test_what_failed_is_run_again(lab: Lab) -> None:
    well = dict(lab.plan["vm-rt"])
    lab.plan["vm-rt"] = {"status": 1, "files": {**well["files"], "junit.xml": junit(a="assert 0")}}
    known = lab.run()
    assert known["vm-rt"].verdict is Verdict.FAILED
    assert known["vm-rt"].failures == ("tests/vm/test_x.py::a: assert 0",)
    # One that fails does not keep the others from being run.
    assert lab.ran() == ALL
    # What is not asked for is told as it was.
    assert lab.run("series")["vm-rt"].failures == known["vm-rt"].failures
    lab.plan["vm-rt"] = well
    assert lab.run()["vm-rt"].verdict is Verdict.PASSED
    assert lab.ran() == ["vm-rt"]


def test_what_changes_while_it_is_tried_has_not_passed(lab: Lab) -> None:
    lab.plan["host"]["edits"] = {"harness/x.py": "edited"}
    known = lab.run("host")
    assert known["host"].verdict is Verdict.FAILED
    assert "changed while it ran" in known["host"].why


def test_a_series_that_cannot_be_read(lab: Lab) -> None:
    lab.run("vm-default")
    (lab.top / "patches/v5.10/series").write_text("0009-gone.patch\n")
    with pytest.raises(Exception, match="there is no 0009-gone.patch"):
        lab.proof()


def test_an_empty_series_proves_nothing(lab: Lab) -> None:
    (lab.top / "patches/v5.10/series").write_text("")
    lab.all_well()
    known = lab.run()
    assert known["vm-default"].why == known["prefixes"].why == "the series is empty"
    assert set(lab.ran()) == {"series", "host", *KERNELS}


def test_without_mutants(lab: Lab) -> None:
    (lab.top / "tests/mutants/v5.10/bad.patch").unlink()
    assert lab.run("mutants")["mutants"].verdict is Verdict.NOT_APPLICABLE
    assert lab.ran() == []


# --- stages that do not end well ----------------------------------------------------


def test_a_stage_that_is_not_done_in_time(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.plan["vm-rt"]["sleep"] = 60
    every = [replace(each, limit=4.0) if each.name == "vm-rt" else each for each in lab.stages()]
    lab.write()
    proof = runner.Proof(BASE, every, {})
    wanted = [each for each in every if each.name in ("vm-rt", "slow")]
    started = time.monotonic()
    assert not proof.run(wanted, lambda stage, result: None)
    assert time.monotonic() - started < 30
    late = proof.known["vm-rt"]
    assert (late.verdict, late.why) == (Verdict.TIMED_OUT, "not done after 4.0 s")
    # What it had seen by then is not lost.
    assert late.counts["passed"] == 1 and not late.ok
    assert proof.known["slow"].verdict is Verdict.PASSED
    lab.ran()
    lab.plan["vm-rt"]["sleep"] = 0
    assert lab.run("vm-rt", "slow")["vm-rt"].verdict is Verdict.PASSED
    assert lab.ran() == ["vm-rt"]


@pytest.mark.parametrize("when", ["series", "vm-default", "mutants", "vm-rt-debug"])
def test_ctrl_c_leaves_what_is_finished(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    lab.plan[when]["sleep"] = 60
    real = runner.process._pump
    started: list[int] = []
    calls = lab.top / "calls"
    calls.touch()

    def pump(proc: Any, stdin: Any, deadline: float, log: Path, *rest: Any) -> object:
        """Ctrl-C comes when the stage's program is there and waits."""
        if log != lab.directory(when) / "stage.log":
            return real(proc, stdin, deadline, log, *rest)
        assert wait_for(lambda: f"{when}|" in calls.read_text(), 30)
        started.append(proc.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner.process, "_pump", pump)
    with pytest.raises(KeyboardInterrupt):
        lab.run()
    assert lab.ran() == ALL[: ALL.index(when) + 1]
    assert gone(started[0])
    report = json.loads((lab.top / "build/proof/v5.10/report.json").read_text())
    verdicts = {stage["stage"]: stage["verdict"] for stage in report["stages"]}
    for at, name in enumerate(ALL):
        assert verdicts[name] == ("passed" if at < ALL.index(when) else "not run"), name
    (stopped,) = (stage for stage in report["stages"] if stage["stage"] == when)
    assert stopped["why"].startswith("interrupted after ")
    monkeypatch.setattr(runner.process, "_pump", real)
    lab.plan[when]["sleep"] = 0
    assert lab.run()[when].verdict is Verdict.PASSED
    assert lab.ran() == ALL[ALL.index(when) :]


def test_a_repetition_that_broke_off_has_not_passed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.run("series")

    def pump(*_: object) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner.process, "_pump", pump)
        with pytest.raises(KeyboardInterrupt):
            lab.run("series", again=("series",))
    assert "series" in lab.stale()


# --- what counts as a pass -----------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "plan", "why"),
    [
        ("series", {"files": {}}, "left no result that can be read"),
        ("series", {"status": 1, "stderr": "x\nerror: no tree\nnext: x"}, "status 1: error: no"),
        ("series", {"files": {"series.json": "{"}}, "left no result that can be read"),
        ("series", {"files": {"series.json": '{"patches": []}'}}, "KeyError: 'ok'"),
        ("prefixes", {"files": {"prefixes.json": "[]"}}, "left no result"),
        ("prefixes", {"status": 1, "files": {"prefixes.json": '{"prefixes": []}'}}, "status 1"),
        ("mutants", {"status": 1, "stderr": "error: they fail without a bug"}, "without a bug"),
        ("kernel-rt", {"status": 1, "stderr": "error: make ended with status 2"}, "make ended"),
        ("kernel-rt", {"stdout": ""}, "left no result"),
        ("kernel-rt", {"stdout": '{"series": "another"}'}, "changes of its own"),
        ("vm-rt", {"files": {}}, "left no result"),
        ("vm-rt", {"status": 3, "stderr": "INTERNALERROR> boom"}, "status 3: INTERNALERROR> boom"),
        ("vm-rt", {"files": {"junit.xml": "<testsuites>"}}, "left no result"),
        ("host", {"files": {"junit.xml": junit(a="ok")}}, "coverage.json"),
    ],
)  # fmt: skip
def test_what_is_missing_is_no_pass(lab: Lab, stage: str, plan: dict, why: str) -> None:
    lab.plan[stage] = plan
    found = lab.run(stage)[stage]
    assert found.verdict is Verdict.FAILED
    assert why in found.why
    assert found.log == f"proof/v5.10/{stage}/stage.log"


def files(lab: Lab, stage: str, **changed: str) -> Result:
    """Run a stage whose files are others than those of one that passes."""
    names = {name.replace("_", "."): text for name, text in changed.items()}
    lab.plan[stage]["files"] = {**lab.plan[stage]["files"], **names}
    return lab.run(stage)[stage]


def test_tests_that_failed_or_were_skipped(lab: Lab) -> None:
    lab.plan["vm-rt"]["status"] = 1
    splat = "the kernel complained (1 report):&#10;&#10;WARNING: at net/core/x.c"
    found = files(lab, "vm-rt", junit_xml=junit(a="ok", b="assert 1 == 2", c="skip: no", d=splat))
    assert found.verdict is Verdict.FAILED
    assert found.counts == {"passed": 1, "failed": 2, "skipped": 1, "not steady": 0}
    assert found.failures == (
        "tests/vm/test_x.py::b: assert 1 == 2",
        "tests/vm/test_x.py::d: the kernel complained (1 report): WARNING: at net/core/x.c",
    )
    assert found.skipped == ("tests/vm/test_x.py::c: no",)
    assert found.notes == ("guests under tcg", "seed 7")


def test_a_failure_by_chance_tells_how_to_have_it_again(lab: Lab) -> None:
    lab.plan["faults"]["status"] = 1
    again = '<properties><property name="again" value="scripts/test x --seed 7"/></properties>'
    text = junit(a="assert 0").replace("<failure", f"{again}<failure")
    found = files(lab, "faults", junit_xml=text)
    assert found.failures == ("tests/vm/test_x.py::a: assert 0 (again: scripts/test x --seed 7)",)


def test_nothing_but_skips_is_no_pass(lab: Lab) -> None:
    found = files(lab, "vm-rt", junit_xml=junit(a="skip: no"))
    assert (found.verdict, found.why) == (Verdict.FAILED, "no test passed")


def test_no_such_test_is_not_applicable(lab: Lab) -> None:
    lab.plan["slow"] = {"status": 5, "files": {"junit.xml": junit()}}
    found = lab.run("slow")["slow"]
    assert (found.verdict, found.why) == (Verdict.NOT_APPLICABLE, "there is no such test")


def test_a_test_that_passed_the_second_time_is_told(lab: Lab) -> None:
    flake = f"test_a failed and passed the second time: x (log: {lab.top}/build/logs/1.txt)"
    found = files(lab, "vm-rt", session_json=lab.session(unsteady=(flake,)))
    assert found.verdict is Verdict.PASSED and found.counts["not steady"] == 1
    assert found.unsteady == (flake.replace(f"{lab.top}/", ""),)


def test_a_kernel_of_other_patches_proves_nothing(lab: Lab) -> None:
    found = files(lab, "vm-rt", session_json=lab.session(series="edited"))
    assert found.verdict is Verdict.FAILED and "changes of its own" in found.why


@pytest.mark.parametrize(("percent", "verdict"), [(85.0, "passed"), (84.9, "failed")])
def test_too_few_lines_were_reached(lab: Lab, percent: float, verdict: str) -> None:
    total = {"totals": {"percent_covered": percent}, "files": {}}
    found = files(lab, "host", coverage_json=json.dumps(total))
    assert found.verdict.value == verdict
    assert ("85 % should be" in found.why) is (verdict == "failed")


def test_findings_of_the_series(lab: Lab) -> None:
    row = {"ok": False, "patch": "0001-x.patch", "broken": ["has no Assisted-by"],
           "checkpatch": [{"kind": "LONG_LINE", "text": "too long"}]}  # fmt: skip
    facts = {"ok": False, "patches": [row], "series": ["16 patches"]}
    lab.plan["series"]["status"] = 1
    lab.plan["series"]["files"]["series.json"] = json.dumps(facts)
    found = lab.run("series")["series"]
    assert found.counts == {"patches": 1, "with findings": 1}
    assert found.failures == (
        "series: 16 patches",
        "0001-x.patch: has no Assisted-by",
        "0001-x.patch: LONG_LINE: too long",
    )


def test_a_mutant_that_survived(lab: Lab) -> None:
    rows = [
        {"name": name, "bug": "b", "verdict": verdict, "how": how, "by": "", "seconds": 1.0}
        for name, verdict, how in (("x", "killed", ""), ("y", "survived", "all passed"),
                                   ("z", "not tried: no kernel", ""))
    ]  # fmt: skip
    lab.plan["mutants"] = {"status": 1, "files": {"mutants.json": json.dumps(rows)}}
    found = lab.run("mutants")["mutants"]
    assert found.counts == {"killed": 1, "survived": 1, "not tried": 1}
    assert found.failures == ("y (b): survived all passed", "z (b): not tried: no kernel")


def test_a_prefix_that_failed(lab: Lab) -> None:
    rows = {"prefixes": [{"patch": "1", "verdict": "ok"}, {"patch": "2", "verdict": "no boot"}]}
    lab.plan["prefixes"] = {"status": 1, "files": {"prefixes.json": json.dumps(rows)}}
    found = lab.run("prefixes")["prefixes"]
    assert found.counts == {"passed": 1, "failed": 1}
    assert found.failures == ("2: no boot",)


def kunit_found(*cases: Case, status: int = 0) -> Callable[..., Report]:
    def parse(tree: Path, log: Path, *, suites: list[str]) -> Report:
        found = Report(cases, "", status)
        if any(suite not in found.suites for suite in suites):
            raise kunit.SuiteMissing(f"KUnit suite {suites[0]} did not run")
        return found

    return parse


@pytest.mark.parametrize(
    ("cases", "verdict", "counts"),
    [
        (
            [Case("skb_defer", "a", Status.PASS), Case("skb_defer", "b", Status.SKIP)],
            "passed",
            {"passed": 1, "failed": 0, "skipped": 1},
        ),
        (
            [Case("skb_defer", "a", Status.PASS), Case("skb_defer", "b", Status.ERROR)],
            "failed",
            {"passed": 1, "failed": 1, "skipped": 0},
        ),
        ([Case("skb_defer", "b", Status.SKIP)], "failed", {"passed": 0, "failed": 0, "skipped": 1}),
        ([Case("another", "a", Status.PASS)], "failed", {}),
    ],
)
def test_kunit_results_of_a_boot(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, cases: list[Case], verdict: str, counts: dict
) -> None:
    monkeypatch.setattr(kunit, "parse", kunit_found(*cases))
    (lab.top / "config").write_text("CONFIG_SKB_DEFER_KUNIT_TEST=y\n")
    found = lab.run("kernel-debug")["kernel-debug"]
    assert (found.verdict.value, found.counts) == (verdict, counts)
    if verdict == "failed":
        assert found.why or found.failures == ("skb_defer.b: ERROR",)


def test_a_kernel_without_unit_tests_says_so(lab: Lab) -> None:
    found = lab.run("kernel-debug")["kernel-debug"]
    assert found.notes == ("no KUnit tests in this configuration",)


# --- the report -------------------------------------------------------------------------


def test_the_report_tells_all_and_names_no_directory_of_this_machine(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    for flavour in ("default", "rt"):
        lab.stamp(flavour)
    lab.plan["vm-rt"] = {
        "status": 1,
        "files": {
            "junit.xml": junit(a="ok", b=f"see {lab.top}/build/logs/x and {Path.home()}/y", c="ok"),
            "session.json": lab.session(unsteady=(f"{lab.top}/tests/vm/x.py failed once",)),
        },
    }
    row = {"test": "t", "metric": "freed | kept", "baseline": 1.5, "patched": None, "unit": "%",
           "flavour": "default", "cpus": 4, "accel": "tcg",
           "kernel": {"baseline": lab.kernel(arm="baseline")}}  # fmt: skip
    lab.plan["vm-default"]["files"]["report.json"] = json.dumps([row])
    lab.run("series", "host", "mutants", "vm-rt", "vm-default", "kernel-clang")
    top = lab.top / "build/proof/v5.10"
    text, facts = (top / "report.md").read_text(), json.loads((top / "report.json").read_text())
    for report in (text, json.dumps(facts)):
        assert str(lab.top) not in report and str(Path.home()) not in report
    assert facts["patches"] == {"count": 1, "sha256": lab.series}
    assert facts["machine"] == {"accelerator": "tcg", "CPUs": 2}
    assert facts["verdict"].startswith("Not proved: 4 of 17 stages passed, 1 failed, 11 not run")
    assert f"| patches | 1, SHA-256 `{lab.series}` |" in text
    assert "| accelerator | tcg |\n| CPUs | 2 |" in text
    assert (
        "| vm-rt | all VM tests on the flavour rt, both kernels | failed | 2 passed, 1 fai" in text
    )
    assert "| proof/v5.10/vm-rt/stage.log |" in text
    assert "| rt | patched | 5.10.1 | gcc 1 | c0ffee |" in text
    assert "- vm-rt\n  - tests/vm/test_x.py::b: see build/logs/x and ~/y" in text
    assert "## Not steady\n\n- vm-rt\n  - ./tests/vm/x.py failed once" in text
    assert "- vm-debug: not run yet" in text
    assert "- kernel-clang: no-such-compiler is not installed" in text
    assert "- vm-default\n  - tests/vm/test_x.py::b: no such thing" in text
    assert "| bad | a lock dropped | killed | test_x | 3 | assert 1 == 2 |" in text
    assert "95.0 % of all" in text and "| harness/x.py | 75.0 | 3-5, 9 |" in text
    assert "| t | freed \\| kept | 1.50 | - | % | default | 4 | tcg |" in text


def test_proved_is_only_said_if_all_is_well(lab: Lab) -> None:
    lab.run()
    facts = json.loads((lab.top / "build/proof/v5.10/report.json").read_text())
    assert facts["verdict"] == f"Proved: {len(ALL)} of {len(ALL) + 1} stages passed, 1 not " + (
        "applicable here."
    )


def test_a_long_list_of_what_was_skipped_is_cut_in_the_text(lab: Lab) -> None:
    many = {f"t{number}": "skip: no" for number in range(60)}
    found = files(lab, "vm-rt", junit_xml=junit(a="ok", **many))
    assert len(found.skipped) == 60
    assert "and 20 more" in (lab.top / "build/proof/v5.10/report.md").read_text()


def test_names_that_begin_like_a_directory_of_ours_stay(lab: Lab) -> None:
    home = str(Path.home())
    assert results.plain(f"{home}: {home}/x {home}fs {lab.top}") == f"~: ~/x {home}fs ."


def test_a_result_with_something_missing_counts_for_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    passed = Result(Verdict.PASSED, counts={"passed": 1}, key="key")
    results.save(file, passed)
    assert results.load(file, "key") == replace(passed, known=True)
    assert results.load(file, "another") is None
    for old, new in (('"passed"', '"perhaps"'), ('"counts"', '"counted"')):
        file.write_text(file.read_text().replace(old, new, 1))
        assert results.load(file, "key") is None


def test_a_report_that_was_kept_counts_where_nothing_else_is_known(lab: Lab) -> None:
    assert command(lab, "--only", "series", "--only", "host", "--keep") == 0
    lab.ran()
    shutil.rmtree(lab.top / "build/proof")
    lab.plan["host"]["status"] = 1
    assert not {"series", "host"} & lab.stale()
    # What is known here goes first, and what is about something else counts for nothing.
    assert command(lab, "--only", "host", "--again") == 1
    assert "host" in lab.ran()
    assert lab.proof().known["host"].verdict is Verdict.FAILED
    (lab.top / "harness/bases.py").write_text("another")
    assert "series" in lab.stale()


@pytest.mark.parametrize("text", ["", "[]", '{"stages": [1]}', '{"stages": [{"stage": "series"}]}'])
def test_a_kept_report_that_cannot_be_read(lab: Lab, text: str) -> None:
    (lab.top / "docs").mkdir()
    (lab.top / "docs/proof-v5.10.json").write_text(text)
    assert "series" in lab.stale()


def test_what_the_tests_of_a_stage_measured_is_kept(lab: Lab) -> None:
    for stage in ("vm-default", "vm-rt", "slow"):
        row = {"test": stage, "metric": "frees", "unit": "1/s", "flavour": "default", "cpus": 4}
        row |= {"accel": "tcg", "baseline": 7.25, "patched": None}
        row |= {"kernel": {"baseline": lab.kernel(arm="baseline")}}
        lab.plan[stage]["files"]["report.json"] = json.dumps([row])
    lab.plan["vm-rt"]["status"] = 1
    assert command(lab, "--only", "vm-default", "--only", "vm-rt", "--keep") == 1
    # What failed, or was not run, leaves no figures that could be cited.
    assert [path.name for path in (lab.top / "docs").glob("figures-*")] == [
        "figures-v5.10-vm-default.md"
    ]
    kept = (lab.top / "docs/figures-v5.10-vm-default.md").read_text()
    assert kept.startswith("# Figures of v5.10, vm-default\n")
    assert "| vm-default | frees | 7.25 | - | 1/s | default | 4 | tcg |\n" in kept
    assert lab.proof().series in kept
    # A run that was ended here left figures, and the report that was kept a pass.
    (lab.top / "build/proof/v5.10/results/vm-default.json").unlink()
    (lab.top / "docs/figures-v5.10-vm-default.md").write_text("kept\n")
    assert lab.proof().known["vm-default"].verdict is Verdict.PASSED
    figures.keep(lab.proof())
    assert (lab.top / "docs/figures-v5.10-vm-default.md").read_text() == "kept\n"


# --- the command ---------------------------------------------------------------------------


def command(lab: Lab, *words: str) -> int:
    lab.write()
    return prove.main(["v5.10", *words])


def test_the_command(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(lab, "--list", "--only", "vm-*") == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("vm-default       not run   ")
    assert lab.ran() == []
    copy = lab.top / "copy.json"
    assert command(lab, "--only", "series", "--json", str(copy), "--keep") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("series           passed ") and "1 patches" in shown
    assert f"the report: {lab.top}/build/proof/v5.10/report.md" in shown
    assert copy.read_text() == (lab.top / "docs/proof-v5.10.json").read_text()
    assert (lab.top / "docs/proof-v5.10.md").read_text().startswith("# Proof of v5.10\n")
    assert command(lab, "--only", "series", "--only", "kernel-clang") == 0
    assert "known; 1 patches" in capsys.readouterr().out
    assert lab.ran() == ["series"]
    assert command(lab, "--only", "series", "--again") == 0
    assert lab.ran() == ["series"]


def test_a_failure_is_shown_with_its_log(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.plan["vm-rt"]["status"] = 1
    lab.plan["vm-rt"]["files"]["junit.xml"] = junit(a="assert 0")
    assert command(lab, "--only", "vm-rt") == 1
    shown = capsys.readouterr().out
    assert "      tests/vm/test_x.py::a: assert 0\n" in shown
    log = Path(shown.split("log: ")[1].splitlines()[0])
    assert "line of the log" in log.read_text()


def test_a_seed_that_is_given_is_used(lab: Lab) -> None:
    for seed in ("41", "42"):
        assert command(lab, "--only", "faults", "--seed", seed) == 0
        assert lab.calls()[0][-2:] == ["--seed", seed]
    assert command(lab, "--only", "faults") == 0
    assert lab.ran() == []


def test_two_at_one_stage_are_refused(lab: Lab) -> None:
    assert command(lab, "--only", "series") == 0
    assert lab.ran() == ["series"]
    with (
        held(lab.top / "build/locks/proof-v5.10-series.lock", "proving"),
        pytest.raises(LockTimeout, match="is held by process"),
    ):
        command(lab, "--only", "series", "--again")
    assert lab.ran() == []
    # Nor is the result of the one that is at it, or was, lost.
    assert command(lab, "--only", "series") == 0
    assert lab.ran() == []


def test_results_of_another_run_are_in_the_report(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs, each with other stages: whoever writes last leaves out neither."""
    run = Proof._run

    def beside(self: Proof, stage: Stage, place: str, *, whole: bool) -> Result:
        if stage.name == "kernel-default":
            other = Proof(self.base, self.stages, {})
            assert other.run([each for each in self.stages if each.name == "series"], ignore)
        return run(self, stage, place, whole=whole)

    def ignore(stage: Stage, result: Result) -> None:
        pass

    monkeypatch.setattr(Proof, "_run", beside)
    assert command(lab, "--only", "kernel-default") == 0
    assert sorted(lab.ran()) == ["kernel-default", "series"]
    facts = json.loads((lab.top / "build/proof/v5.10/report.json").read_text())
    passed = [each["stage"] for each in facts["stages"] if each["verdict"] == "passed"]
    assert passed == ["series", "kernel-default"]
