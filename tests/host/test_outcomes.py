"""A stage of tests goes on at the test where it was ended: what counts then, and what does not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest
from fakekernel import BASE
from fakeproof import Lab, junit, lab

from harness.cli import prove
from harness.proof import inputs, outcomes, stages
from harness.proof.results import Verdict
from harness.proof.stages import Stage

pytestmark = pytest.mark.host

__all__ = ["lab"]

X, Y = "tests/vm/test_x.py", "tests/vm/test_y.py"


@pytest.fixture(autouse=True)
def second_file(lab: Lab) -> None:
    (lab.top / Y).write_text("more tests\n")


def line(lab: Lab, name: str, outcome: str = "passed", why: str = "", **other: Any) -> str:
    facts = {"test": name, "outcome": outcome, "why": why, "seconds": 2.5, "kernel": lab.kernel()}
    return json.dumps({**facts, **other}) + "\n"


def plan(lab: Lab, *lines: str, status: int = 0, **cases: str) -> None:
    """Plan what the next run of vm-default does."""
    lab.plan["vm-default"] = {
        "status": status,
        "files": {
            "outcomes.jsonl": "".join(lines),
            "junit.xml": junit(**cases),
            "session.json": lab.session(),
        },
    }


def told(lab: Lab) -> list[str]:
    """What the last run was told to leave out."""
    file = lab.directory("vm-default") / "known.json"
    return list(json.loads(file.read_text())["passed"])


def half_a_run(lab: Lab) -> None:
    plan(
        lab,
        line(lab, f"{X}::a"),
        line(lab, f"{X}::b", "failed", "assert 1 == 2"),
        line(lab, f"{X}::c", "skipped"),
        line(lab, f"{Y}::d"),
        status=1,
        a="ok",
        b="assert 1 == 2",
        c="skip: no such thing",
        d="ok",
    )
    assert lab.run("vm-default")["vm-default"].verdict is Verdict.FAILED
    assert told(lab) == []


def test_what_passed_is_not_run_again(lab: Lab) -> None:
    half_a_run(lab)
    plan(lab, line(lab, f"{X}::b"), line(lab, f"{X}::c", "skipped"), b="ok", c="skip: none")
    found = lab.run("vm-default")["vm-default"]
    assert told(lab) == [f"{X}::a", f"{Y}::d"]
    assert found.verdict is Verdict.PASSED
    assert found.counts == {"passed": 3, "failed": 0, "skipped": 1, "not steady": 1}
    assert found.unsteady == (f"{X}::b failed in an earlier run: assert 1 == 2",)


def test_a_change_of_one_file_costs_its_tests(lab: Lab) -> None:
    half_a_run(lab)
    (lab.top / X).write_text("other tests\n")
    lab.run("vm-default")
    assert told(lab) == [f"{Y}::d"]


@pytest.mark.parametrize("name", ["tests/guest/flow.c", "tests/conftest.py", "kconfig/m.config"])
def test_a_change_of_what_tests_share_costs_all(lab: Lab, name: str) -> None:
    half_a_run(lab)
    (lab.top / name).write_text("CONFIG_OTHER=y\n")
    lab.run("vm-default")
    assert told(lab) == []


def test_a_kernel_that_is_there_now_is_another(lab: Lab) -> None:
    half_a_run(lab)
    lab.stamp("default", release="5.10.2")
    lab.run("vm-default")
    assert told(lab) == []


def test_two_kernels_are_not_added_up(lab: Lab) -> None:
    half_a_run(lab)
    plan(lab, line(lab, f"{X}::b", kernel=lab.kernel(release="5.10.2")), b="ok", status=1)
    lab.run("vm-default")
    plan(lab, line(lab, f"{X}::b"), b="ok")
    lab.run("vm-default")
    assert told(lab) == [f"{X}::b"]


@pytest.mark.parametrize("wrong", [{"series": "other"}, None])
def test_a_kernel_of_other_patches_adds_nothing(lab: Lab, wrong: dict[str, str] | None) -> None:
    ran = lab.kernel(**wrong) if wrong else {}
    plan(lab, line(lab, f"{X}::a", kernel=ran), a="ok", status=1)
    lab.run("vm-default")
    lab.run("vm-default")
    assert told(lab) == []


def test_what_fails_later_has_not_passed(lab: Lab) -> None:
    half_a_run(lab)
    plan(lab, line(lab, f"{X}::a", "failed", "assert 0"), a="assert 0", status=1)
    lab.run("vm-default")
    lab.run("vm-default")
    assert told(lab) == [f"{Y}::d"]


def test_a_file_that_changes_meanwhile_adds_nothing(lab: Lab) -> None:
    plan(lab, line(lab, f"{X}::a"), line(lab, f"{Y}::d"), a="ok", d="ok")
    lab.plan["vm-default"]["edits"] = {X: "changed\n"}
    found = lab.run("vm-default")["vm-default"]
    assert found.verdict is Verdict.FAILED and "changed while it ran" in found.why
    lab.plan["vm-default"].pop("edits")
    lab.run("vm-default")
    assert told(lab) == [f"{Y}::d"]


def test_all_is_known(lab: Lab) -> None:
    """The last run passed all that was left and was ended before it could say so."""
    plan(lab, line(lab, f"{X}::a"), a="ok", status=1)
    lab.run("vm-default")
    plan(lab, status=5)
    found = lab.run("vm-default")["vm-default"]
    assert (found.verdict, found.counts["passed"]) == (Verdict.PASSED, 1)
    assert found.notes == ("guests under tcg", "seed 7")


def test_a_run_that_is_ended_has_got_somewhere(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(lab, line(lab, f"{X}::a"), line(lab, f"{X}::b")[:20])
    files = lab.plan["vm-default"]["files"]
    files["session.json"] = lab.session(unsteady=("a passed the second time",))

    def ended(*_: object, **__: object) -> None:
        for name, text in files.items():
            (lab.directory("vm-default") / name).write_text(text)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("harness.process.run", ended)
        with pytest.raises(KeyboardInterrupt):
            lab.run("vm-default")
    files["session.json"] = lab.session()
    found = lab.run("vm-default")["vm-default"]
    assert told(lab) == [f"{X}::a"]
    assert found.unsteady == ("a passed the second time",)


def test_a_run_that_is_killed_has_got_somewhere(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(lab, line(lab, f"{X}::a"), line(lab, f"{Y}::d"), status=1, a="ok")
    with monkeypatch.context() as patched:
        # What takes it over is not reached.
        patched.setattr(outcomes.Outcomes, "adopt", lambda *_: None)
        lab.run("vm-default")
    (lab.top / Y).write_text("changed since\n")
    lab.run("vm-default")
    assert told(lab) == [f"{X}::a"]


def test_what_failed_here_has_not_passed_elsewhere(lab: Lab) -> None:
    half_a_run(lab)
    stage = lab.stages("vm-default")[0]
    own = lab.proof().outcomes(stage)
    other = outcomes.load(BASE, stage, own)
    other.passed[f"{X}::b"] = 1.0
    other.passed[f"{X}::e"] = 1.0
    same = other.kernels[0]["release"]
    # What passed on another kernel is not added to what passed on this one.
    for release, known in (("5.10.2", ["a"]), (same, ["a", "e"])):
        other.kernels[0]["release"] = release
        outcomes.save(outcomes.kept(BASE, stage), other)
        lab.run("vm-default")
        assert told(lab) == [*(f"{X}::{name}" for name in known), f"{Y}::d"]


def test_what_has_passed_is_run_whole(lab: Lab) -> None:
    plan(lab, line(lab, f"{X}::a"), a="ok")
    lab.run("vm-default")
    lab.run("vm-default", again=("vm-default",))
    assert told(lab) == []


def test_figures_of_both_kernels_make_one_row(lab: Lab) -> None:
    row: dict[str, Any] = {"test": "t", "metric": "frees", "unit": "1/s", "flavour": "default"}
    row |= {"cpus": 4, "accel": "tcg"}
    plan(lab, line(lab, f"{X}::a"), a="ok", status=1)
    files = lab.plan["vm-default"]["files"]
    ran = {"patched": lab.kernel()}
    files["report.json"] = json.dumps([{**row, "baseline": None, "patched": 2, "kernel": ran}])
    lab.run("vm-default")
    plan(lab, line(lab, f"{X}::b"), b="ok")
    files = lab.plan["vm-default"]["files"]
    # What a kernel of other patches did is not taken over.
    ran = {"baseline": lab.kernel(arm="baseline", series=""), "patched": lab.kernel(series="x")}
    files["report.json"] = json.dumps([{**row, "baseline": 7.5, "patched": 9, "kernel": ran}])
    found = lab.run("vm-default")["vm-default"]
    assert found.details["figures"] == [{**row, "baseline": 7.5, "patched": 2}]


def test_a_figure_of_this_machine_is_not_replaced_by_the_repository_s(lab: Lab) -> None:
    half_a_run(lab)
    stage = lab.stages("vm-default")[0]
    own = lab.proof().outcomes(stage)
    row: dict[str, Any] = {"test": "t", "metric": "frees", "unit": "1/s", "flavour": "default"}
    row |= {"cpus": 4, "accel": "tcg", "baseline": None}
    found = outcomes.load(BASE, stage, own)
    found.figures = [{**row, "patched": 1, "baseline": 7}, {**row, "metric": "m", "patched": 3}]
    outcomes.save(outcomes.kept(BASE, stage), found)
    found.figures = [{**row, "patched": 2}]
    outcomes.save(own, found)
    assert outcomes.load(BASE, stage, own).figures == [
        {**row, "patched": 2, "baseline": 7},
        {**row, "metric": "m", "patched": 3},
    ]


def test_races_of_the_baseline_are_remembered(lab: Lab) -> None:
    plan(lab, line(lab, f"{X}::a"), a="ok", status=1)
    lab.plan["vm-default"]["files"]["races-baseline.txt"] = "a / b  # 3\ncut o"
    lab.run("vm-default")
    lab.run("vm-default")
    before = lab.directory("vm-default") / "races-before.txt"
    assert before.read_text() == "a / b\n"


def test_the_repository_keeps_it_for_other_machines(lab: Lab) -> None:
    half_a_run(lab)
    lab.write()
    assert prove.main(["v5.10", "--only", "vm-default", "--keep"]) == 1
    file = lab.top / "docs/proof-v5.10/vm-default.json"
    assert str(lab.top) not in file.read_text()
    own = lab.proof().outcomes(lab.stages("vm-default")[0])
    own.unlink()
    lab.run("vm-default")
    assert told(lab) == [f"{X}::a", f"{Y}::d"]


def test_a_kernel_that_replaces_another_is_no_pass(lab: Lab) -> None:
    """What passed before is of a kernel that is no longer there, which the end of the run shows."""
    half_a_run(lab)
    other = lab.kernel(release="5.10.2")
    plan(lab, line(lab, f"{X}::b", kernel=other), b="ok")
    found = lab.run("vm-default")["vm-default"]
    assert found.verdict is Verdict.FAILED
    assert found.why == "2 tests had passed on another kernel"
    plan(lab, line(lab, f"{X}::a", kernel=other), line(lab, f"{Y}::d", kernel=other), a="ok")
    assert lab.run("vm-default")["vm-default"].verdict is Verdict.PASSED
    assert told(lab) == [f"{X}::b"]


def test_what_failed_and_is_skipped_then_is_no_pass(lab: Lab) -> None:
    half_a_run(lab)
    plan(lab, line(lab, f"{X}::b", "skipped"), b="skip: not here")
    found = lab.run("vm-default")["vm-default"]
    assert found.verdict is Verdict.FAILED
    assert found.why == f"failed before and not passed since: {X}::b"


def test_what_must_be_compared_again_has_not_passed(lab: Lab) -> None:
    half_a_run(lab)
    plan(lab, line(lab, f"{X}::a", "again", kernel={}), status=1)
    lab.run("vm-default")
    lab.run("vm-default")
    assert told(lab) == [f"{Y}::d"]


def test_a_complaint_makes_the_guest_s_tests_suspect(lab: Lab) -> None:
    """What an earlier test in the same guest did may be what the kernel complains of."""
    plan(
        lab,
        line(lab, f"{X}::a", guest="one"),
        line(lab, f"{X}::b", guest="two"),
        line(lab, f"{X}::c", "failed", "KASAN", guest="two", final=True),
        line(lab, f"{Y}::d", "failed", "assert 0", guest="one", final=False),
        status=1,
        a="ok",
    )
    lab.run("vm-default")
    lab.run("vm-default")
    assert told(lab) == [f"{X}::a"]


def test_lines_that_cannot_be_read_say_nothing(lab: Lab) -> None:
    plan(lab, "\0\0}\n", line(lab, f"{X}::a"), status=1, a="ok")
    lab.run("vm-default")
    lab.run("vm-default")
    assert told(lab) == [f"{X}::a"]


def test_what_a_file_takes_from_another_counts_as_its_own(lab: Lab) -> None:
    (lab.top / X).write_text("from test_y import helper\n")
    (lab.top / Y).write_text("import test_z\n")
    (lab.top / "tests/vm/test_z.py").write_text("from test_x import other\n")
    half_a_run(lab)
    (lab.top / "tests/vm/test_z.py").write_text("from test_x import another\n")
    lab.run("vm-default")
    assert told(lab) == []


def test_a_patch_of_preempt_rt_counts_for_its_flavours(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = {name: lab.stages(name)[0] for name in ("vm-rt", "vm-default")}
    base = replace(BASE, rt_patch=True)
    before = {name: inputs.files(base, each) for name, each in stage.items()}
    source = inputs._source
    monkeypatch.setattr(inputs, "_source", lambda base: source(base) + "another" * base.rt)
    after = {name: inputs.files(base, each) for name, each in stage.items()}
    assert before["vm-rt"] != after["vm-rt"]
    assert before["vm-default"] == after["vm-default"]


def test_chance_that_was_drawn_is_part_of_no_result(lab: Lab) -> None:
    def of(seed: int, *, drawn: bool) -> Stage:
        every = stages.of(BASE, seed=seed, drawn=drawn)
        return next(each for each in every if each.name == stages.FAULTS)

    one, two = of(1, drawn=True), of(2, drawn=True)
    assert (one.chance, two.chance) == (("--seed", "1"), ("--seed", "2"))
    assert inputs.files(BASE, one) == inputs.files(BASE, two)
    assert inputs.files(BASE, of(1, drawn=False)) != inputs.files(BASE, of(2, drawn=False))


def test_what_counts_elsewhere_is_not_overwritten(lab: Lab) -> None:
    half_a_run(lab)
    stage = lab.stages("vm-default")[0]
    other = outcomes.load(BASE, stage, lab.proof().outcomes(stage))
    other.passed[f"{X}::e"] = 1.0
    outcomes.save(outcomes.kept(BASE, stage), other)
    own = lab.proof().outcomes(stage)
    own.write_text(own.read_text().replace(other.inputs[X], "old").replace(other.inputs[Y], "old"))
    lab.write()
    assert prove.main(["v5.10", "--only", "series", "--keep"]) == 0
    kept = json.loads(outcomes.kept(BASE, stage).read_text())
    assert sorted(kept["passed"]) == [f"{X}::a", f"{X}::e", f"{Y}::d"]


def test_a_failure_here_outweighs_a_pass_in_the_repository(lab: Lab) -> None:
    plan(lab, line(lab, f"{X}::a"), a="ok")
    lab.write()
    assert prove.main(["v5.10", "--only", "vm-default", "--keep"]) == 0
    plan(lab, line(lab, f"{X}::a", "failed", "assert 0"), a="assert 0", status=1)
    assert lab.run("vm-default", again=("vm-default",))["vm-default"].verdict is Verdict.FAILED
    (lab.top / "build/proof/v5.10/results/vm-default.json").unlink()
    assert lab.proof().known["vm-default"].verdict is Verdict.NOT_RUN


@pytest.mark.parametrize("text", ["", "[]", '{"passed": 1, "more": 2}', "{"])
def test_a_file_that_cannot_be_read_says_nothing(lab: Lab, text: str) -> None:
    half_a_run(lab)
    shutil.rmtree(lab.directory("vm-default"))
    lab.proof().outcomes(lab.stages("vm-default")[0]).write_text(text)
    lab.run("vm-default")
    assert told(lab) == []


def test_figures_that_cannot_be_read_are_no_pass(lab: Lab) -> None:
    plan(lab, line(lab, f"{X}::a"), a="ok")
    lab.plan["vm-default"]["files"]["report.json"] = "[{"
    found = lab.run("vm-default")["vm-default"]
    assert found.verdict is Verdict.FAILED and "report.json cannot be read" in found.why
