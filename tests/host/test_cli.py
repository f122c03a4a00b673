"""The command lines: errors, interruption, arguments, and what apply-and-build prints."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakevm import wait_for
from test_process import gone

from harness import bases, build, firstboot, flavours, logs, packages, paths, progress
from harness.cli import _main, apply_and_build
from harness.cli import test as test_command
from harness.errors import HarnessError, UsageError
from harness.sources.model import Source
from harness.tree import Tree
from harness.vm import bare

pytestmark = pytest.mark.host


# --- the common end of every command ---------------------------------------


def failing(error: BaseException) -> int:
    def main(argv: object) -> int:
        raise error

    return _main.run(main, [])


def test_an_error_is_a_message_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    error = HarnessError("it broke", log=Path("/x/y.log"), hint="mend it", tail="last words")
    assert failing(error) == 1
    err = capsys.readouterr().err
    assert err == "error: it broke\n    last words\nlog: /x/y.log\nnext: mend it\n"
    assert failing(UsageError("what?")) == 2


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())


def test_ctrl_c_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(KeyboardInterrupt()) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_whatever_was_started_ends_with_us(tmp_path: Path, signum: int, status: int) -> None:
    pid_file = tmp_path / "pid"
    program = (
        "import sys\nfrom harness import process\nfrom harness.cli import _main\n"
        f"sys.exit(_main.run(lambda argv: process.run(['sh', '-c', 'echo $$ >{pid_file}; "
        "exec sleep 60'], timeout=60).returncode))"
    )
    env = {**os.environ, "PYTHONPATH": str(paths.ROOT)}
    with subprocess.Popen([sys.executable, "-c", program], env=env, stderr=-1) as proc:
        for _ in range(200):
            if pid_file.exists() and pid_file.read_text():
                break
            time.sleep(0.05)
        child = int(pid_file.read_text())
        proc.send_signal(signum)
        assert proc.wait(20) == status
    # Who inherits it may take its time to notice that it has ended.
    assert wait_for(lambda: gone(child), 30)


# --- scripts/test ------------------------------------------------------------


def test_arguments_go_to_pytest_and_paths_stay_the_callers(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").touch()
    words = test_command.command(
        ["-m", "host", "test_x.py::test_y", "--pytest-help"], directory=Path("/logs"), cwd=tmp_path
    )
    assert words == [
        sys.executable, "-m", "pytest", "--junit-xml=/logs/junit.xml",
        "-m", "host", f"{tmp_path}/test_x.py::test_y", "--help",
    ]  # fmt: skip


def test_it_ends_with_pytests_summary_and_status(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\npytestmark = pytest.mark.host\n"
        "def test_good(): pass\ndef test_bad(): assert 0\n"
    )
    env = {k: v for k, v in os.environ.items() if k != logs.VARIABLE}
    env |= {"SKBHOME_BUILD": str(tmp_path / "build"), "PYTHONPATH": str(paths.ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli.test", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout.splitlines()[-1]
    assert (tmp_path / "build/logs/latest/junit.xml").is_file()


# --- apply-and-build -----------------------------------------------------------


@dataclass
class Stage:
    """What a faked run of apply-and-build used."""

    kernel: build.Kernel
    built: list[dict[str, object]]
    boots: list[object]
    release: str = "5.10.1-patched-default"
    splats: tuple[object, ...] = ()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv(logs.VARIABLE, str(tmp_path / "logs"))
    base = bases.get("v5.10")
    source = Source(base="v5.10", version="5.10.1", origin="local", checksum="c0ffee")
    tree = Tree(base, "patched", tmp_path / "tree", source, "commit", "digest")
    build_dir = tmp_path / "tree/build-default"
    build_dir.mkdir(parents=True)
    for name in ("bzImage", "vmlinux", ".config"):
        (build_dir / name).write_text(name)
    kernel = build.Kernel(
        tree,
        flavours.get("default"),
        build_dir / "bzImage",
        build_dir / "vmlinux",
        build_dir / ".config",
        build_dir,
        "5.10.1-patched-default",
    )
    stage = Stage(kernel, [], [])

    def fake_build(base: object, **options: object) -> build.Kernel:
        stage.built.append({"base": base, **options})
        return stage.kernel

    @contextmanager
    def fake_boot(kernel: object, options: object, *, log_dir: Path):  # type: ignore[no-untyped-def]
        stage.boots.append(kernel)
        log = log_dir / "console.log"
        log.parent.mkdir(exist_ok=True)
        log.write_text("booted\n")
        yield SimpleNamespace(
            run=lambda argv, timeout: SimpleNamespace(stdout=stage.release + "\n"),
            console=SimpleNamespace(splats=lambda: list(stage.splats)),
            console_log=log,
            accel="tcg",
            boot_seconds=3.2,
        )

    monkeypatch.setattr(build, "build", fake_build)
    monkeypatch.setattr("harness.vm.boot", fake_boot)
    monkeypatch.setattr(packages, "ensure", lambda log: [])
    monkeypatch.setattr(apply_and_build.doctor, "require", list)
    return stage


def test_it_says_what_it_did_and_what_is_next(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert apply_and_build.main([]) == 0
    err = capsys.readouterr().err
    for text in ("boot", "first command after 3.2 s", "total", "scripts/test", "scripts/vm", "log"):
        assert text in err
    assert stage.built[0]["flavour"] == "default" and stage.built[0]["baseline"] is False


def test_it_names_no_command_that_a_bare_guest_refuses(
    stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.kernel = replace(stage.kernel, flavour=flavours.get("noinet"))
    log = stage.kernel.tree.path / "console.log"
    log.write_text("booted\n")
    found = SimpleNamespace(
        release=stage.release,
        accel="tcg",
        seconds=1.1,
        console=SimpleNamespace(splats=list, log=log),
    )
    monkeypatch.setattr(bare, "boot", lambda kernel, directory, *, bits: found)
    assert apply_and_build.main(["--flavour", "noinet"]) == 0
    err = capsys.readouterr().err
    assert "first command after 1.1 s" in err and "git -C" in err
    assert "scripts/test" not in err and "scripts/vm" not in err
    assert not stage.boots


def test_it_boots_the_result_once(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    apply_and_build.main([])
    apply_and_build.main([])
    assert len(stage.boots) == 1
    assert "has booted before" in capsys.readouterr().err
    apply_and_build.main(["--boot"])
    assert len(stage.boots) == 2
    stage.kernel.image.write_text("another")
    apply_and_build.main([])
    assert len(stage.boots) == 3
    stage.kernel.image.write_text("a third")
    apply_and_build.main(["--no-boot"])
    assert len(stage.boots) == 3


def test_another_kernel_in_the_guest_is_an_error(stage: Stage) -> None:
    stage.release = "6.1.0-26-amd64"
    with pytest.raises(firstboot.BootedWrong, match="runs 6.1.0-26-amd64, but 5.10.1"):
        apply_and_build.main([])
    stage.release = stage.kernel.release
    apply_and_build.main([])
    assert len(stage.boots) == 2  # a boot that failed is not remembered as one that did not


def test_a_splat_while_booting_is_an_error(stage: Stage) -> None:
    race = SimpleNamespace(kind="KCSAN", title="BUG: KCSAN: data-race in tick / tock", decoded="")
    splat = SimpleNamespace(kind="WARNING", title="WARNING in net_init", decoded="dev.c:1")
    stage.splats = (race, splat)
    with pytest.raises(firstboot.BootedWrong, match="WARNING in net_init") as caught:
        apply_and_build.main([])
    assert "dev.c:1" in str(caught.value)
    # The detector of races finds what is not the series' own.
    stage.splats = (race,)
    assert apply_and_build.main([]) == 0


def test_options_are_passed_on(stage: Stage, tmp_path: Path) -> None:
    tree, config = tmp_path / "mine", tmp_path / "my.config"
    apply_and_build.main(
        ["v6.1", "--flavour", "debug", "--baseline", "--tree", str(tree), "--config", str(config)]
    )
    (asked,) = stage.built
    assert asked["base"] == bases.get("v6.1") and asked["flavour"] == "debug"
    assert asked["baseline"] is True and asked["tree"] == tree and asked["config"] == config


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["v4.19"], "unknown base 'v4.19'; known: v5.10, v6.1, v6.12, v7.3"),
        (["--flavour", "fast"], "unknown flavour 'fast'; known: default, debug"),
    ],
)
def test_unknown_names_list_the_known_ones(stage: Stage, argv: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        apply_and_build.main(argv)
    assert stage.built == []


def test_json_is_all_that_stdout_has(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.kernel = build.Kernel(**{**vars(stage.kernel), "steps": (progress.Step("tree", 1.0),)})
    assert apply_and_build.main(["--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["release"] == "5.10.1-patched-default" and facts["source"]["checksum"] == "c0ffee"
    assert "boot" in [step["name"] for step in facts["steps"]]


# --- the scripts ---------------------------------------------------------------


def test_every_script_can_be_run_and_is_thin() -> None:
    scripts = [path for path in (paths.ROOT / "scripts").iterdir() if path.name[0] != "_"]
    assert {"apply-and-build", "test", "doctor", "bench"} <= {path.name for path in scripts}
    for path in scripts:
        assert path.stat().st_mode & stat.S_IXUSR, path
        assert len(path.read_text().splitlines()) <= 6, path
