"""Building: what is run, what is not run again, and what a failure says. make is a fake."""

import os
import stat
import subprocess
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fakemake import MAKE, install

from harness import bases, build, flavours, lock, paths, progress
from harness.build import Builder
from harness.errors import HarnessError
from harness.sources.model import Source
from harness.tree import Tree

pytestmark = pytest.mark.host


@dataclass
class Lab:
    """A tree of two files, a fake make in PATH, and what that was asked to do."""

    top: Path
    trees: dict[str, Tree]

    def file(self, name: str, text: str, arm: str = "patched") -> None:
        path = self.trees[arm].path / name
        path.write_text(text)
        # Newer than any object, whatever the file system's clock can tell apart.
        later = max([path.stat().st_mtime, *self.times(arm)]) + 2
        os.utime(path, (later, later))
        self.trees[arm] = replace(self.trees[arm], series_digest=f"{arm} {name} {text} {later}")

    def times(self, arm: str) -> list[float]:
        found = [p.stat().st_mtime for p in self.trees[arm].path.glob("build-*/net/*.o")]
        found += [p.stat().st_mtime for p in self.trees[arm].path.glob("net/*.c")]
        return found

    def calls(self) -> list[str]:
        path = self.top / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def build(self, **options: object) -> build.Kernel:
        options.setdefault("steps", progress.Steps(quiet=True))
        return build.build(bases.get("v5.10"), **options)  # type: ignore[arg-type]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    install(tmp_path / "tools", monkeypatch)
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path / "build"))
    fragments = tmp_path / "kconfig"
    fragments.mkdir()
    (fragments / "m.config").write_text("CONFIG_NET=y\nCONFIG_IDE=n\n")
    monkeypatch.setattr(paths, "KCONFIG", fragments)
    monkeypatch.setattr(
        flavours,
        "_table",
        lambda: flavours.parse('[default]\ndescription="x"\nfragments=["m"]\n'),
    )
    base = bases.get("v5.10")
    trees = {}
    for arm in ("patched", "baseline"):
        path = tmp_path / arm
        (path / "net").mkdir(parents=True)
        for name in ("a", "b"):
            (path / f"net/{name}.c").write_text("int x;\n")
            os.utime(path / f"net/{name}.c", (1, 1))
        source = Source(base="v5.10", version="5.10.1", origin="local", checksum="c0ffee")
        trees[arm] = Tree(base, arm, path, source, "commit", f"series of {arm}")  # type: ignore[arg-type]
    lab = Lab(tmp_path, trees)
    monkeypatch.setattr(
        build.trees,
        "prepare",
        lambda base, *, baseline, tree: lab.trees["baseline" if baseline else "patched"],
    )
    return lab


def test_a_kernel_is_made_and_described(lab: Lab) -> None:
    steps = progress.Steps(quiet=True)
    kernel = lab.build(steps=steps)
    assert kernel.build_dir == lab.trees["patched"].path / "build-default"
    assert kernel.image.is_file() and kernel.vmlinux.is_file() and kernel.config.is_file()
    assert kernel.release == "5.10.1-patched-default"
    facts = kernel.describe()
    assert facts["source"]["checksum"] == "c0ffee" and facts["series"] == "series of patched"
    assert len(facts["config_sha256"]) == 64 and facts["compiler"].startswith("gcc 1")
    assert [step.name for step in kernel.steps] == ["tree", "configure", "build"]


def test_nothing_is_run_if_nothing_has_changed(lab: Lab) -> None:
    first = lab.build()
    lab.calls()
    again = lab.build()
    assert lab.calls() == []
    assert again.describe() == first.describe()
    assert [step.note for step in again.steps if step.name == "build"] == ["nothing to do"]


@pytest.mark.parametrize("what", ["source", "fragment", "image", "stamp", "compiler"])
def test_it_is_made_again_if_anything_has_changed(lab: Lab, what: str) -> None:
    kernel = lab.build()
    lab.calls()
    if what == "source":
        lab.file("net/a.c", "int y;\n")
    elif what == "fragment":
        (paths.KCONFIG / "m.config").write_text("CONFIG_NET=y\nCONFIG_INET=y\n")
    elif what == "image":
        kernel.image.write_bytes(b"")
    elif what == "stamp":
        (kernel.build_dir / ".skbhome-kernel.json").write_text("{")
    else:
        (lab.top / "tools/gcc").write_text("#!/bin/sh\necho gcc 2\n")
    again = lab.build()
    assert any("bzImage" in call for call in lab.calls())
    assert again.image.read_text() == (again.build_dir / "vmlinux").read_text() != ""


def test_an_unchanged_configuration_keeps_its_time(lab: Lab) -> None:
    kernel = lab.build()
    os.utime(kernel.config, (1000, 1000))
    lab.file("net/a.c", "int y;\n")
    lab.build()
    assert kernel.config.stat().st_mtime == 1000


def test_an_error_is_shown_with_its_log_and_nothing_is_trusted(lab: Lab) -> None:
    lab.build()
    lab.file("net/a.c", "error\n")
    with pytest.raises(build.BuildFailed) as caught:
        lab.build()
    text = str(caught.value)
    assert "../net/a.c:1:1: error: as told" in text and "make: ***" not in text.split("log:")[0]
    assert caught.value.log is not None and "as told" in caught.value.log.read_text()
    # The image of the earlier build is still there, but not taken for the new one.
    with pytest.raises(build.BuildFailed):
        lab.build()
    lab.file("net/a.c", "int fixed;\n")
    assert "fixed" in lab.build().image.read_text()


def test_warnings_of_the_series_fail_the_build(lab: Lab) -> None:
    lab.file("net/a.c", "warn of the new\n")
    for _ in range(2):  # also when nothing is compiled any more
        with pytest.raises(build.NewWarnings, match="adds 1 compiler warning") as caught:
            lab.build()
        assert "net/a.c in f(): warn of the new [-Wfake]" in str(caught.value)
    lab.file("net/a.c", "int fixed;\n")
    lab.build()


def test_warnings_of_the_baseline_do_not(lab: Lab) -> None:
    lab.file("net/a.c", "warn of old\n", "baseline")
    lab.file("net/a.c", "int moved;\nwarn of old\n")
    lab.build()
    baseline = [c for c in lab.calls() if str(lab.trees["baseline"].path) in c]
    # Only what warned is compiled there.
    assert baseline and baseline[-1].endswith("net/a.o") and "bzImage" not in "".join(baseline)


def test_a_warning_survives_incremental_builds(lab: Lab) -> None:
    lab.file("net/a.c", "warn of the new\n")
    with pytest.raises(build.NewWarnings):
        lab.build()
    lab.file("net/b.c", "int other;\n")
    with pytest.raises(build.NewWarnings):
        lab.build()


def test_a_warning_survives_an_interrupted_build(lab: Lab) -> None:
    lab.file("net/a.c", "warn of the new\n")
    lab.file("net/b.c", "error\n")
    with pytest.raises(build.BuildFailed):
        lab.build()
    lab.file("net/b.c", "int fixed;\n")
    with pytest.raises(build.NewWarnings):
        lab.build()


def test_a_warning_goes_with_its_file(lab: Lab) -> None:
    lab.file("net/c.c", "warn of the new\n")
    with pytest.raises(build.NewWarnings):
        lab.build()
    # The series has become shorter; the object is still there, and never made again.
    (lab.trees["patched"].path / "net/c.c").unlink()
    lab.file("net/a.c", "int other;\n")
    lab.build()
    assert (lab.trees["patched"].path / "build-default/net/c.o").is_file()


def test_a_log_left_by_a_run_that_was_killed_counts(lab: Lab) -> None:
    builder = Builder(lab.trees["patched"], flavours.get("default"))
    lab.build()
    builder.log.write_text("  CC      net/a.o\n../net/a.c:1:1: warning: left [-Wfake]\n")
    (builder.build_dir / ".skbhome-kernel.json").unlink()
    with pytest.raises(build.NewWarnings, match="1 compiler warning"):
        lab.build()


def test_a_warning_in_a_file_that_the_baseline_lacks_is_new(lab: Lab) -> None:
    (lab.trees["baseline"].path / "net/a.c").unlink()
    lab.file("net/a.c", "warn of the new\n")
    with pytest.raises(build.NewWarnings, match="1 compiler warning"):
        lab.build()


def test_the_baseline_is_not_compared_with_itself(lab: Lab) -> None:
    lab.file("net/a.c", "warn of old\n", "baseline")
    kernel = lab.build(baseline=True)
    assert kernel.release == "5.10.1-baseline-default"
    assert "warnings" not in [step.name for step in kernel.steps]


def test_a_configuration_of_ones_own_has_a_directory_of_its_own(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    own = lab.top / "own.config"
    own.write_text("CONFIG_EXT4_FS=y\nCONFIG_IDE=y\n")
    steps = progress.Steps()
    kernel = lab.build(config=own, steps=steps)
    assert kernel.build_dir.name == "build-default-own"
    assert "CONFIG_EXT4_FS=y" in kernel.config.read_text()
    assert "CONFIG_IDE: yours y, used n (m.config:2)" in capsys.readouterr().err
    lab.calls()
    lab.build(config=own)
    assert lab.calls() == []
    own.write_text("CONFIG_EXT4_FS=y\n")
    lab.build(config=own)
    assert lab.calls()


def test_the_second_of_two_builds_waits_and_finds_the_work_done(lab: Lab) -> None:
    with lock.held(paths.locks() / "build.lock", "a test"):
        kernels: list[build.Kernel] = []
        threads = [threading.Thread(target=lambda: kernels.append(lab.build())) for _ in range(2)]
        for thread in threads:
            thread.start()
        threads[0].join(0.3)
        assert not kernels
    for thread in threads:
        thread.join(20)
    assert len(kernels) == 2
    assert len([call for call in lab.calls() if "bzImage" in call]) == 1


def test_a_build_that_hangs_is_ended(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab.trees["patched"].path / "slow").touch()
    monkeypatch.setattr(build, "MAKE_TIMEOUT", 0.5)
    with pytest.raises(HarnessError, match=r"not done after 0 s|not done after 1 s"):
        lab.build()
    (lab.trees["patched"].path / "slow").unlink()
    monkeypatch.undo()


def test_a_full_disk_is_named(lab: Lab) -> None:
    (lab.top / "tools/make").write_text(
        MAKE.replace(
            'echo "  LD', "echo 'ld: final link failed: No space left on device'; exit 2 #"
        )
    )
    with pytest.raises(build.BuildFailed, match="make room on the disk"):
        lab.build()


def test_a_make_that_was_ended_by_somebody_else_is_no_error_of_the_source(lab: Lab) -> None:
    (lab.top / "tools/make").write_text(
        MAKE.replace('echo "  LD', "echo 'make[4]: *** [net/a.o] Terminated'; exit 2 #")
    )
    with pytest.raises(build.BuildFailed, match="ended by a signal from outside"):
        lab.build()


def test_a_path_that_kbuild_cannot_have_is_refused(lab: Lab, tmp_path: Path) -> None:
    odd = tmp_path / "with space"
    odd.mkdir()
    lab.trees["patched"] = replace(lab.trees["patched"], path=odd)
    with pytest.raises(HarnessError, match="does not work below a path that holds ' '"):
        lab.build()
    assert lab.calls() == []


def test_a_persons_settings_do_not_leak_in(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab.top / "tools/make").write_text(
        MAKE.replace("for word", 'env >"$(dirname "$0")/env"\nfor word', 1)
    )
    for name in ("ARCH", "CROSS_COMPILE", "KBUILD_OUTPUT", "MAKEFLAGS"):
        monkeypatch.setenv(name, "of-mine")
    lab.build()
    assert "of-mine" not in (lab.top / "tools/env").read_text()


def test_the_compiler_cache_is_used_if_it_is_there(lab: Lab) -> None:
    (lab.top / "tools/ccache").write_text("#!/bin/sh\n")
    (lab.top / "tools/ccache").chmod(stat.S_IRWXU)
    lab.build()
    assert all("CC=ccache gcc" in call for call in lab.calls())


def test_what_is_assembled_is_not_cached(lab: Lab) -> None:
    """.incbin: the cache does not know what a file takes in."""
    (lab.top / "tools/ccache").write_text('#!/bin/sh\necho cached "$@"\n')
    (lab.top / "tools/ccache").chmod(stat.S_IRWXU)
    kernel = lab.build()
    shim = kernel.build_dir / "skbhome-bin/ccache"
    for source, said in (("a.c", "cached echo -c a.c"), ("a.S", "-c a.S")):
        done = subprocess.run(
            [shim, "echo", "-c", source], capture_output=True, text=True, timeout=10, check=True
        )
        assert done.stdout.strip() == said


def test_an_image_with_another_kernel_is_refused(lab: Lab) -> None:
    packed = lab.trees["patched"].path / "build-default/arch/x86/boot/compressed"
    packed.mkdir(parents=True)
    (packed / "piggy.o").write_text("of an earlier kernel")
    (packed / "vmlinux.bin.gz").write_text("int ")
    assert lab.build().image.read_text()
    assert not (packed / "piggy.o").exists()
    (packed / "vmlinux.bin.gz").write_text("another kernel")
    lab.file("net/a.c", "int z;\n")
    with pytest.raises(build.BuildFailed, match="does not hold the kernel"):
        lab.build()


def test_the_number_of_targets_is_remembered_as_an_estimate(lab: Lab) -> None:
    builder = Builder(lab.trees["patched"], flavours.get("default"))
    assert builder._estimate() == build.USUAL_TARGETS
    lab.build()
    assert builder._estimate() == 3
    # A build that goes on where another one was ended makes fewer.
    lab.file("net/a.c", "int y;\n")
    (builder.build_dir / "vmlinux").unlink()
    lab.build()
    assert builder._estimate() == 3


def test_a_flavour_under_preempt_rt_has_a_tree_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def prepare(base: bases.Base, *, baseline: bool, tree: Path | None) -> None:
        asked.append(base.rt)
        raise HarnessError("enough")

    monkeypatch.setattr(build.trees, "prepare", prepare)
    base = bases.get("v5.10")
    for flavour, tree in (("default", None), ("rt", None), ("rt-debug", None), ("rt", tmp_path)):
        with pytest.raises(HarnessError, match="enough"):
            build.build(base, flavour=flavour, tree=tree)
    assert asked == [False, True, True, False]
