"""Stands in for the programs of scripts/, for tests of scripts/prove.

Each does what the plan says for its stage (the name of the run's directory): the keys are
`status`, `stdout`, `stderr`, `files` (name -> text) and `sleep` (seconds).
"""

from __future__ import annotations

import json
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakekernel import BASE, isolate, make_patch
from fakemake import install

from harness import accel, build, flavours, paths, series
from harness.proof import stages
from harness.proof.results import Result, Verdict
from harness.proof.runner import Proof
from harness.proof.stages import Stage
from harness.worktree import Home

NAMES = ("default", "debug", "rt", "rt-debug", "kcsan", "clang")

# Nothing but the shell and `cp`, for it starts often.
_PROGRAM = """#!/bin/sh
plan={top}/plan/${{SKBHOME_RUN_DIR##*/}}
echo "${{SKBHOME_RUN_DIR##*/}}|${{0##*/}}|$(IFS='|'; echo "$*")" >>{top}/calls
while read -r line; do echo "$line"; done <"$plan/stdout"
while read -r line; do echo "$line"; done <"$plan/stderr" >&2
cp "$plan"/files/* "$SKBHOME_RUN_DIR" 2>/dev/null
[ ! -d "$plan/edits" ] || cp -r "$plan/edits/." {top}
. "$plan/end"
"""


def junit(**outcomes: str) -> str:
    """A JUnit report; an outcome is ``ok``, ``skip: why``, or what a failed test said."""
    cases = []
    for name, said in outcomes.items():
        inner = f'<failure message="{said}">a trace</failure>'
        if said == "ok":
            inner = ""
        elif said.startswith("skip: "):
            inner = f'<skipped message="{said[6:]}"/>'
        cases.append(f'<testcase classname="tests.vm.test_x" name="{name}">{inner}</testcase>')
    return f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>"


@dataclass
class Lab:
    """A repository of nothing but what decides how a stage ends, and fake programs."""

    top: Path
    plan: dict[str, dict[str, Any]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def directory(self, stage: str) -> Path:
        return self.top / "build/proof/v5.10" / stage

    @property
    def series(self) -> str:
        return series.code_digest(self.top / "patches/v5.10")

    @property
    def whole(self) -> str:
        return series.digest(self.top / "patches/v5.10")

    def stages(self, *names: str) -> list[Stage]:
        return stages.chosen(stages.of(BASE, seed=7), names)

    def proof(self) -> Proof:
        return Proof(BASE, self.stages(), {"accelerator": "tcg", "CPUs": 2})

    def run(self, *names: str, again: tuple[str, ...] = ()) -> dict[str, Result]:
        """Run stages as a new process would; return what is known of all stages then."""
        self.write()
        self.told.clear()
        proof = self.proof()
        proof.run(self.stages(*names), lambda stage, _: self.told.append(stage.name), again=again)
        return proof.known

    def write(self) -> None:
        """Put the plan where the programs read it."""
        shutil.rmtree(self.top / "plan", ignore_errors=True)
        for stage, plan in self.plan.items():
            end = f"sleep {plan['sleep']}\n" if plan.get("sleep") else ""
            texts = {
                "stdout": plan.get("stdout", "") + "\n",
                "stderr": plan.get("stderr", "line of the log") + "\n",
                "end": f"{end}exit {plan.get('status', 0)}\n",
                **{f"files/{name}": text for name, text in plan.get("files", {}).items()},
                **{f"edits/{name}": text for name, text in plan.get("edits", {}).items()},
            }
            for name, text in texts.items():
                path = self.top / "plan" / stage / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)

    def stale(self) -> set[str]:
        """The stages that a new process would run now."""
        known = self.proof().known
        return {name for name, result in known.items() if result.verdict is Verdict.NOT_RUN}

    def ran(self) -> list[str]:
        """The stages whose program was started since the last call, in order."""
        return [call[0] for call in self.calls()]

    def calls(self) -> list[list[str]]:
        log = self.top / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [line.split("|") for line in lines]

    def kernel(self, **other: str) -> dict[str, str]:
        """What a kernel says of itself, as tests/known.py writes it down."""
        facts = {"flavour": "default", "arm": "patched", "release": "5.10.1", "compiler": "gcc 1"}
        return {**facts, "config_sha256": "c0ffee", "series": self.whole, "base": "v5.10", **other}

    def session(self, *, series: str = "", unsteady: tuple[str, ...] = ()) -> str:
        kernel = {"arm": "patched", "series": series or self.whole}
        return json.dumps(
            {"kernels": [kernel], "accel": ["tcg"], "seed": 7, "not_steady": unsteady}
        )

    def stamp(self, flavour: str, *, release: str = "5.10.1", arm: str = "patched") -> None:
        """Write what a build of a kernel leaves."""
        base = BASE.under_rt() if flavours.get(flavour).rt else BASE
        directory = Home.of(base).worktree(arm) / f"build-{flavour}"  # type: ignore[arg-type]
        directory.mkdir(parents=True, exist_ok=True)
        facts = {"release": release, "compiler": "gcc 1", "config_sha256": "c0ffee"}
        (directory / build._STAMP).write_text(json.dumps({"inputs": "x", "facts": facts}))

    def all_well(self) -> None:
        """Plan that every stage passes."""
        self.plan["series"] = {
            "files": {
                "series.json": json.dumps(
                    {"ok": True, "series": [], "patches": [{"ok": True, "patch": "0001-x.patch",
                     "broken": [], "checkpatch": []}]}
                )
            }
        }  # fmt: skip
        covered = {"summary": {"percent_covered": 75.0}, "missing_lines": [3, 4, 5, 9]}
        self.plan["host"] = {
            "files": {
                "junit.xml": junit(a="ok"),
                "coverage.json": json.dumps(
                    {"totals": {"percent_covered": 95.04}, "files": {"harness/x.py": covered}}
                ),
            }
        }
        config = self.top / "config"
        config.write_text("CONFIG_NET=y\n")
        facts = {"series": self.whole, "config": str(config), "source_tree": "", "console": ""}
        for name in NAMES:
            self.plan[f"kernel-{name}"] = {"stdout": json.dumps(facts)}
        tests = {"junit.xml": junit(a="ok", b="skip: no such thing"), "session.json": ""}
        for stage in self.stages():
            if stage.kind is stages.Kind.TESTS:
                self.plan[stage.name] = {"files": {**tests, "session.json": self.session()}}
        self.plan["prefixes"] = {
            "files": {"prefixes.json": '{"prefixes": [{"patch": "0001-x", "verdict": "ok"}]}'}
        }
        row = {"name": "bad", "bug": "a lock dropped", "verdict": "killed", "how": "assert 1 == 2",
               "by": "test_x", "seconds": 3.1}  # fmt: skip
        self.plan["mutants"] = {"files": {"mutants.json": json.dumps([row])}}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    isolate(tmp_path, monkeypatch)
    install(tmp_path / "tools", monkeypatch)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "TESTS", tmp_path / "tests")
    monkeypatch.setattr(paths, "KCONFIG", tmp_path / "kconfig")
    monkeypatch.setattr(accel, "probe", lambda: accel.Accel("tcg", "a test"))
    monkeypatch.setattr(build, "compiler", lambda name: f"{name} 1")
    make_patch(tmp_path / "patches/v5.10", 1, 20, "int patched_20;")
    for name, text in {
        **{f"kconfig/{name}.config": f"CONFIG_{name.upper()}=y\n" for name in ("m", "d")},
        "tests/conftest.py": "shared\n",
        "tests/vm/test_x.py": "tests\n",
        "tests/guest/flow.c": "program\n",
        "tests/host/test_y.py": "host\n",
        "tests/mutants/v5.10/bad.patch": "a bug\n",
        "harness/x.py": "code\n",
        "harness/selftests.toml": "\n",
        "requirements.txt": "\n",
        "pyproject.toml": "\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    table = "".join(
        f'[{name}]\ndescription = "x"\nrt = {str(name.startswith("rt")).lower()}\n'
        f'fragments = ["{"d" if "debug" in name else "m"}"]\n'
        + 'compiler = "no-such-compiler"\n'
        * (name == "clang")
        for name in NAMES
    )
    known = flavours.parse(table)
    monkeypatch.setattr(flavours, "_table", lambda: known)
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name in ("check-series", "apply-and-build", "test"):
        (scripts / name).write_text(_PROGRAM.format(top=tmp_path))
        (scripts / name).chmod(stat.S_IRWXU)
    made = Lab(tmp_path)
    made.all_well()
    return made
