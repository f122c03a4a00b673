"""Every prefix of a series, built and booted: what is done, and not done again. make is a fake."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakekernel import BASE, Snapshot, git, isolate, make_patch, make_tarball
from fakemake import install

from harness import bases, build, firstboot, flavours, lock, logs, paths, prefixes, worktree
from harness import tree as trees
from harness.build import Kernel
from harness.cli import check_series
from harness.errors import UsageError
from harness.prefixes import Outcome
from harness.sources import fetch
from harness.sources.model import Source, sha256
from harness.vm import GuestBootFailed

pytestmark = pytest.mark.host


@dataclass
class Lab:
    """A base with an imported source and a series of three, a fake make and a fake guest."""

    top: Path
    boots: list[str] = field(default_factory=list)
    #: A kernel whose source holds a key ends, while it boots, with the exception.
    trouble: dict[str, BaseException] = field(default_factory=dict)

    @property
    def patches(self) -> Path:
        return self.top / "patches/v5.10"

    @property
    def home(self) -> worktree.Home:
        return worktree.Home.of(BASE)

    def patch(self, number: int, text: str) -> None:
        """Have one of the patches put another text into its line."""
        series = (self.patches / "series").read_text()
        make_patch(self.patches, number, (20, 50, 80)[number - 1], text)
        (self.patches / "series").write_text(series)

    def run(self) -> list[Outcome]:
        self.boots.clear()
        return prefixes.check(BASE, flavours.get("default"), self.logs, lambda outcome: None)

    @property
    def logs(self) -> Path:
        return self.top / "logs"

    def boot(self, kernel: Kernel, directory: Path) -> firstboot.Boot:
        text = kernel.image.read_text()
        self.boots.append(text)
        for word, trouble in self.trouble.items():
            if word in text:
                raise trouble
        return firstboot.Boot(kernel.release, "tcg", 3.21, directory / "console.log")

    def made(self) -> list[str]:
        """The directories that a kernel was compiled in since the last call."""
        path = self.home.path / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.split("-C ")[1].split()[0] for line in lines if "bzImage" in line]


def prepare(top: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    isolate(top, monkeypatch)
    install(top / "tools", monkeypatch)
    (top / "kconfig").mkdir(exist_ok=True)
    (top / "kconfig/m.config").write_text("CONFIG_NET=y\n")
    monkeypatch.setattr(paths, "KCONFIG", top / "kconfig")
    table = flavours.parse('[default]\ndescription="x"\nfragments=["m"]\n')
    monkeypatch.setattr(flavours, "_table", lambda: table)
    lab = Lab(top)
    # Asked for several times a prefix, by two processes each time.
    monkeypatch.setattr(build, "compiler", lambda name: (top / "tools/gcc").read_text())
    monkeypatch.setattr(firstboot, "boot", lab.boot)
    return lab


@dataclass(frozen=True)
class First:
    """A first run over three prefixes, where people have a worktree with work of their own."""

    snapshot: Snapshot
    found: list[Outcome]
    boots: list[str]
    made: list[str]
    #: HEAD and status of the people's worktree, before and behind it.
    mine: list[tuple[str, str]]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> First:
    top = tmp_path_factory.mktemp("prefixes")
    archive = make_tarball(top)
    source = Source(BASE.name, "5.10.7", "kernel.org", sha256(archive), archive)
    for number, line in enumerate((20, 50, 80), 1):
        make_patch(top / "patches/v5.10", number, line, f"int patched_{line};")
    with pytest.MonkeyPatch.context() as monkeypatch:
        lab = prepare(top, monkeypatch)
        monkeypatch.setattr(fetch, "fetch", lambda base: source)
        mine = trees.prepare(BASE, baseline=False).path
        (mine / "net/core/dev.c").write_text("int half_an_idea;\n")
        (mine / "note").write_text("mine")

        def state() -> tuple[str, str]:
            return git(mine, "rev-parse", "HEAD"), git(mine, "status", "--porcelain", "--branch")

        before = state()
        found = lab.run()
        made = First(Snapshot(top), found, lab.boots[:], lab.made(), [before, state()])
    made.snapshot.save()
    return made


@pytest.fixture
def lab(first: First, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """What the first run left behind."""
    top = first.snapshot.restore()
    monkeypatch.setattr(bases, "get", lambda name: BASE)
    monkeypatch.setenv(logs.VARIABLE, str(top / "logs"))
    return prepare(top, monkeypatch)


def verdicts(outcomes: list[Outcome]) -> list[str]:
    return [outcome.verdict for outcome in outcomes]


def known(outcomes: list[Outcome]) -> list[bool]:
    return [outcome.known for outcome in outcomes]


# --- what is done ------------------------------------------------------------


def test_every_prefix_is_built_and_booted_in_order(first: First) -> None:
    assert verdicts(first.found) == ["ok"] * 3 and known(first.found) == [False] * 3
    assert [outcome.prefix.subject for outcome in first.found] == [
        "net: change line 20", "net: change line 50", "net: change line 80"
    ]  # fmt: skip
    assert [text.count("patched_") for text in first.boots] == [1, 2, 3]
    assert "patched_20" in first.boots[0] and "patched_50" in first.boots[1]
    assert all(outcome.build_seconds is not None for outcome in first.found)
    assert [outcome.boot_seconds for outcome in first.found] == [3.2] * 3


def test_the_persons_worktree_is_not_touched(first: First, lab: Lab) -> None:
    mine = lab.home.worktree("patched")
    assert first.mine[0] == first.mine[1] and "## series" in first.mine[0][1]
    assert (mine / "net/core/dev.c").read_text() == "int half_an_idea;\n"
    assert (mine / "note").read_text() == "mine" and not (mine / "build-default").exists()
    assert first.made == [str(lab.home.path / "bisect")] * 3
    assert (lab.home.path / "bisect/build-default/vmlinux").is_file()
    assert not lab.home.scratch.exists()


def test_only_what_differs_is_written(lab: Lab) -> None:
    lab.patch(2, "int other;")
    lab.run()
    untouched = lab.home.path / "bisect/net/core/sock.c"
    before = untouched.stat().st_mtime_ns
    lab.patch(2, "int another;")
    lab.run()
    assert untouched.stat().st_mtime_ns == before


def test_it_is_known_how_many_would_be_tried(lab: Lab) -> None:
    flavour = flavours.get("default")
    assert prefixes.unknown(BASE, flavour) == 0
    lab.patch(2, "int other;")
    assert prefixes.unknown(BASE, flavour) == 2 and lab.made() == []


def test_what_is_left_in_its_worktree_is_thrown_away(lab: Lab) -> None:
    there = lab.home.path / "bisect"
    (there / "net/core/dev.c").write_text("half a checkout\n")
    (there / "net/core/new.c").write_text("of another prefix\n")
    (worktree.git.git_dir(there) / "index.lock").touch()
    lab.patch(3, "int other;")
    assert verdicts(lab.run()) == ["ok"] * 3
    assert "half" not in lab.boots[-1] and "of another" not in lab.boots[-1]


def test_a_worktree_that_somebody_removed_is_made_again(lab: Lab) -> None:
    shutil.rmtree(lab.home.path / "bisect")
    assert known(lab.run()) == [True] * 3
    lab.patch(3, "int other;")
    assert verdicts(lab.run()) == ["ok"] * 3


# --- what is not done again --------------------------------------------------


def test_a_second_run_does_nothing(first: First, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes.PrefixTree, "commits", None)
    monkeypatch.setattr(prefixes.PrefixTree, "checkout", None)
    again = lab.run()
    assert known(again) == [True] * 3 and verdicts(again) == ["ok"] * 3
    assert lab.made() == [] and lab.boots == []
    assert [o.build_seconds for o in again] == [o.build_seconds for o in first.found]


def test_an_edited_patch_is_tried_again_with_those_behind_it(lab: Lab) -> None:
    lab.patch(2, "int other;")
    again = lab.run()
    assert known(again) == [True, False, False]
    assert len(lab.boots) == 2 and all("other" in text for text in lab.boots)
    # What it was before has not been forgotten either.
    lab.patch(2, "int patched_50;")
    assert known(lab.run()) == [True] * 3


def test_another_message_changes_nothing(lab: Lab) -> None:
    first = next(lab.patches.glob("0001-*"))
    text = first.read_text().replace("change line 20", "say it better").replace("Because", "As")
    first.write_text(text)
    again = lab.run()
    assert known(again) == [True] * 3 and again[0].prefix.subject == "net: say it better"


@pytest.mark.parametrize("what", ["compiler", "configuration", "source"])
def test_everything_is_tried_again_with_another(
    lab: Lab, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "compiler":
        (lab.top / "tools/gcc").write_text("#!/bin/sh\necho gcc 2\n")
    elif what == "configuration":
        (paths.KCONFIG / "m.config").write_text("CONFIG_NET=y\nCONFIG_INET=y\n")
    else:
        archive = make_tarball(lab.top / "newer", version="5.10.8")
        source = Source(BASE.name, "5.10.8", "kernel.org", sha256(archive), archive)
        monkeypatch.setattr(fetch, "fetch", lambda base: source)
        lab.home.source_stamp.unlink()
    assert known(lab.run()) == [False] * 3 and len(lab.boots) == 3


def test_a_run_that_was_interrupted_is_resumed(lab: Lab) -> None:
    lab.patch(1, "int first;")
    lab.trouble["patched_50"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        lab.run()
    assert len(lab.made()) == 2
    lab.trouble.clear()
    again = lab.run()
    assert known(again) == [True, False, False] and verdicts(again) == ["ok"] * 3
    # The second had been built, and lacked its boot.
    assert len(lab.made()) == 1 and len(lab.boots) == 2


def test_a_result_that_cannot_be_read_counts_for_nothing(lab: Lab) -> None:
    for path in (lab.home.path / "prefixes").iterdir():
        path.write_text("{")
    assert known(lab.run()) == [False] * 3


# --- what fails --------------------------------------------------------------


def test_a_new_warning_is_the_fault_of_the_patch_that_adds_it(lab: Lab) -> None:
    lab.patch(2, "warn of the new")
    found = lab.run()
    assert verdicts(found) == ["ok", "1 new warning", "ok"]
    assert "0002-change-line-50.patch adds compiler warnings" in str(found[1].errors[0])
    assert "net/core/dev.c in f(): warn of the new [-Wfake]" in str(found[1].errors[0])
    assert "refresh-series v5.10" in str(found[1].errors[0])
    # The next prefix has overwritten the log in the directory of objects.
    log = found[1].errors[0].log
    assert log is not None and lab.logs in log.parents and "warn of the new" in log.read_text()
    assert len(lab.boots) == 2
    again = lab.run()
    assert known(again) == [True, False, True] and verdicts(again) == verdicts(found)


def test_a_warning_that_moves_to_another_line_is_not_new(lab: Lab) -> None:
    lab.patch(1, "warn of this")
    lab.patch(3, "warn of this")
    assert verdicts(lab.run()) == ["1 new warning", "ok", "ok"]


def test_a_warning_of_the_baseline_is_not_new(lab: Lab) -> None:
    mine = lab.home.worktree("patched")
    git(mine, "checkout", "-q", "--force", "--detach", "base")
    (mine / "net/core/sock.c").write_text("warn of old\n")
    git(mine, "commit", "-qam", "the source")
    git(mine, "update-ref", "refs/tags/base", git(mine, "rev-parse", "HEAD"))
    recorded = json.loads(lab.home.source_stamp.read_text())
    recorded["facts"]["commit"] = git(mine, "rev-parse", "HEAD")
    lab.home.source_stamp.write_text(json.dumps(recorded))
    lab.patch(2, "warn of the new")
    assert verdicts(lab.run()) == ["ok", "1 new warning", "ok"]
    # Known from the results of the first one.
    lab.patch(2, "int other;")
    assert verdicts(lab.run()) == ["ok"] * 3


def test_a_prefix_that_does_not_compile_is_told_and_the_next_one_tried(lab: Lab) -> None:
    lab.patch(2, "error")
    found = lab.run()
    # The third still has the line that the second broke.
    assert verdicts(found) == ["ok", "does not build", "does not build"]
    assert found[1].build_seconds is None and found[1].boot_seconds is None
    text = str(found[1].errors[0])
    assert "net/core/dev.c:50:1: error: as told" in text and "rebase -i" in text
    log = found[1].errors[0].log
    assert log is not None and log.parent.name == "prefix-02" and "as told" in log.read_text()
    assert lab.boots == []
    lab.made()
    assert known(lab.run()) == [True, False, False] and len(lab.made()) == 2


def test_a_full_disk_keeps_its_own_advice(lab: Lab) -> None:
    lab.patch(1, "int other;")
    make = lab.top / "tools/make"
    make.write_text(
        make.read_text().replace('echo "  LD', "echo No space left on device; exit 2 #")
    )
    found = lab.run()
    assert "make room on the disk" in str(found[0].errors[0])
    assert "rebase" not in str(found[0].errors[0])


def test_a_kernel_that_does_not_boot_is_told_and_tried_again(lab: Lab) -> None:
    console = lab.logs / "console.log"
    lab.patch(3, "int third;")
    lab.trouble["third"] = GuestBootFailed("the kernel panics", stage="panic", log=console)
    found = lab.run()
    assert verdicts(found) == ["ok", "ok", "does not boot"]
    assert found[2].build_seconds is not None and found[2].boot_seconds is None
    assert "the kernel panics" in str(found[2].errors[0]) and f"log: {console}" in str(
        found[2].errors[0]
    )
    lab.trouble.clear()
    assert known(lab.run()) == [True, True, False] and len(lab.boots) == 1


def test_a_warning_and_a_failed_boot_are_both_told(lab: Lab) -> None:
    lab.patch(1, "warn of the new")
    lab.trouble["patched_80"] = firstboot.BootedWrong("it complains")
    assert verdicts(lab.run()) == ["1 new warning", "ok", "does not boot"]
    lab.trouble["warn"] = firstboot.BootedWrong("it complains")
    found = lab.run()
    assert found[0].verdict == "1 new warning, does not boot" and len(found[0].errors) == 2


def test_behind_a_patch_that_does_not_apply_nothing_can_be_tried(lab: Lab) -> None:
    second = next(lab.patches.glob("0002-*"))
    second.write_text(second.read_text().replace("-int line_50;", "-int line_fifty;"))
    found = lab.run()
    assert verdicts(found) == [
        "ok", "does not apply", "not tried: an earlier patch does not apply"
    ]  # fmt: skip
    assert "net/core/dev.c:47 (hunk 1 of 1)" in str(found[1].errors[0])
    assert "scripts/apply-and-build v5.10" in str(found[1].errors[0])


def test_two_runs_do_not_share_the_worktree(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "LOCK_TIMEOUT", 0.0)
    with (
        lock.held(paths.locks() / "bisect-v5.10.lock", "another run"),
        pytest.raises(lock.LockTimeout, match="another run"),
    ):
        lab.run()


def test_a_build_lock_that_stays_taken_ends_the_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.build.LOCK_TIMEOUT", 0.0)
    with (
        lock.held(paths.locks() / "build.lock", "another build"),
        pytest.raises(lock.LockTimeout, match="another build"),
    ):
        lab.patch(3, "int other;")
        lab.run()
    assert lab.made() == []


def test_an_empty_series_has_no_prefixes(lab: Lab) -> None:
    (lab.patches / "series").write_text("")
    assert lab.run() == []


# --- the command --------------------------------------------------------------


def test_the_command_prints_a_line_per_prefix(
    lab: Lab, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "results.json"
    assert check_series.main(["v5.10", "--bisect", "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[1].split()[:5] == ["1", "net:", "change", "line", "20"]
    assert lines[4].endswith("3 prefixes (default), 0 of them failed")
    assert all(line.endswith("ok, nothing to do") for line in lines[1:4])
    facts = json.loads(file.read_text())
    assert facts["ok"] is True and [row["number"] for row in facts["prefixes"]] == [1, 2, 3]
    assert facts["prefixes"][0]["known"] is True and facts["prefixes"][0]["boot_seconds"] == 3.2


def test_a_failure_is_told_below_its_line_and_in_the_status(
    lab: Lab, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lab.patch(2, "warn of the new")
    file = tmp_path / "results.json"
    assert check_series.main(["--bisect", "--json", str(file)]) == 1
    out = capsys.readouterr().out
    below = out.partition("1 new warning\n")[2].partition("\n  3  ")[0]
    for text in ("0002-change-line-50.patch", "warn of the new", "log: ", "next: "):
        assert text in below
    row = json.loads(file.read_text())["prefixes"][1]
    assert row["verdict"] == "1 new warning" and len(row["new_warnings"]) == 1


def test_a_run_that_is_ended_leaves_what_it_has_seen(lab: Lab, tmp_path: Path) -> None:
    lab.patch(2, "int other;")
    lab.trouble["other"] = KeyboardInterrupt()
    file = tmp_path / "results.json"
    with pytest.raises(KeyboardInterrupt):
        check_series.main(["--bisect", "--json", str(file)])
    facts = json.loads(file.read_text())
    assert len(facts["prefixes"]) == 1 and "ok" not in facts


def test_an_unknown_flavour_is_refused_before_anything_is_done(lab: Lab) -> None:
    with pytest.raises(UsageError, match="unknown flavour 'fast'"):
        check_series.main(["--bisect", "--flavour", "fast"])
    with pytest.raises(SystemExit):
        check_series.main(["--flavour", "default"])
