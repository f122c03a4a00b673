"""Splats in real consoles' logs (data/console), however the stream is cut."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from harness.console import Console, ExpectedSplatMissing, decode, patterns
from harness.console.stream import Detector, Report
from harness.errors import UsageError

pytestmark = pytest.mark.host

DATA = Path(__file__).parent / "data" / "console"

#: What each log holds, in order. The logs are described in data/console/README.md.
LOGS: dict[str, list[str]] = {}

EXPECTED = DATA / "expected.txt"
for _line in EXPECTED.read_text().splitlines():
    if _line and not _line.startswith("#"):
        _name, _, _kinds = _line.partition(":")
        LOGS[_name] = _kinds.split()


def read(name: str) -> bytes:
    return (DATA / f"{name}.log").read_bytes()


def reports(data: bytes) -> list[Report]:
    detector = Detector()
    detector.feed(data)
    return detector.reports()


def kinds(data: bytes) -> list[str]:
    return [report.kind for report in reports(data) if report.splat]


def test_every_log_has_an_expectation() -> None:
    assert sorted(LOGS) == sorted(path.stem for path in DATA.glob("*.log"))


@pytest.mark.parametrize("name", sorted(LOGS))
def test_real_logs(name: str) -> None:
    found = reports(read(name))
    assert [report.kind for report in found if report.splat] == LOGS[name], [
        (report.kind, report.title) for report in found
    ]


@pytest.mark.parametrize("name", sorted(LOGS))
def test_any_pieces_give_the_same(name: str) -> None:
    data = read(name)
    whole = reports(data)
    chance = random.Random(name)
    for longest in (1, 13, 300):
        detector = Detector()
        at = 0
        while at < len(data):
            size = chance.randint(1, longest)
            detector.feed(data[at : at + size])
            at += size
        assert detector.reports() == whole


@pytest.mark.parametrize("name", ["warn", "unregister_netdevice", "refcount"])
def test_every_cut_gives_the_same(name: str) -> None:
    data = read(name)[:1200]
    whole = reports(data)
    for cut in range(len(data)):
        detector = Detector()
        detector.feed(data[:cut])
        detector.reports()  # looking must not change anything
        detector.feed(data[cut:])
        assert detector.reports() == whole, cut


@pytest.mark.parametrize("name", sorted(LOGS))
def test_line_ends_of_a_serial_line_change_nothing(name: str) -> None:
    data = read(name)
    plain = [(report.kind, report.title) for report in reports(data)]
    serial = data.replace(b"\n", b"\r\n")
    assert [(report.kind, report.title) for report in reports(serial)] == plain


@pytest.mark.parametrize("name", sorted(LOGS))
def test_callers_in_the_stamps_change_nothing(name: str) -> None:
    """CONFIG_PRINTK_CALLER puts a thread or a CPU behind each stamp."""
    data = read(name)
    called = re.sub(rb"(?m)^(\[ *\d+\.\d+\])", rb"\1[  T123]", data)
    assert kinds(called) == kinds(data)


@pytest.mark.parametrize("name", sorted(name for name, found in LOGS.items() if len(found) == 1))
def test_a_report_holds_its_trace(name: str) -> None:
    data = read(name)
    (report,) = (report for report in reports(data) if report.splat)
    text = data[report.start : report.end].decode(errors="replace")
    assert report.title in text
    outside = (data[: report.start] + data[report.end :]).decode(errors="replace")
    # Nothing of a stack is left outside.
    assert "Call Trace" not in outside, outside
    assert not re.search(r"\+0x[0-9a-f]+/0x[0-9a-f]+", outside), outside


# What is not a splat.

BENIGN = """\
[    0.0] WARNING: this line only talks, and there are no stacks
[    0.1] ACPI: BIOS bug: 4 GPE warnings; see Documentation
[    0.1] [Firmware Bug]: TSC doesn't count with P0 frequency!
[    0.2] debug: INFO: lockdep is turned off.
[    0.2] WARNING! power/level is deprecated; use power/control instead
[    0.3] TAP version 14
[    0.3]     # Subtest: warning-and-BUG
[    0.3]     # warn_test: EXPECTATION FAILED at lib/kunit/test.c:1
[    0.3]     ok 1 - BUG: this is a name
[    0.3] not ok 2 - KASAN: also a name
[    0.4] kmemleak: Kernel memory leak detector initialized (mem pool available: 39000)
[    0.4] kmemleak: Automatic memory scanning thread started
[    0.4] kasan: KernelAddressSanitizer initialized
[    0.4] kcsan: enabled early
[    0.5] rcu: Hierarchical RCU implementation.
[    0.5] rcu: \tRCU lockdep checking is enabled.
[    0.5] NMI watchdog: Perf NMI watchdog permanently disabled
[    0.5] watchdog: BUGs are counted elsewhere
[    0.6] clocksource: timekeeping watchdog on CPU1: Marking clocksource 'tsc' as unstable
[    0.6] sched: RT throttling activated
[    0.6] hrtimer: interrupt took 12345678 ns
[    0.7] python3[123]: segfault at 8 ip 00007f1 sp 00007ffd error 4 in libc.so.6[7f0+1000]
[    0.7] Code: 00 00 f3 0f 1e fa 89 f8 48 89 fa c5 f9 ef c0 25 ff 0f
[    0.7] traps: a.out[77] general protection fault ip:401136 sp:7ffd error:0 in a.out[401000+1000]
[    0.8] workqueue: foo hogged CPU for >10000us 4 times, consider switching to WQ_UNBOUND
[    0.8] skbhome: mark 3
[    0.9] usercopy is on, refcount_t is a type, list_add corruption is bad
"""


def test_benign_lines() -> None:
    assert reports(BENIGN.encode()) == []


def test_each_kind_is_known_by_its_first_line() -> None:
    """The wordings of kernels and detectors that no log here has."""
    heads = {
        "KFENCE": "BUG: KFENCE: out-of-bounds read in test_out_of_bounds_read+0xa6/0x234",
        "KMSAN": "BUG: KMSAN: uninit-value in foo+0x1/0x2",
        "KCSAN": "BUG: KCSAN: data-race in a / b",
        "UBSAN": "UBSAN: shift-out-of-bounds in lib/a.c:1:2",
        "HARD_LOCKUP": "NMI watchdog: Watchdog detected hard LOCKUP on cpu 3",
        "RCU_STALL": "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-... }",
        "SOFT_LOCKUP": "watchdog: BUG: soft lockup - CPU#2 stuck for 23s! [iperf:12]",
        "WARNING": "WARNING: net/core/skbuff.c:12 at skb_x+0x1/0x2, CPU#1: iperf/123",
        "GENERAL_PROTECTION": "Oops: general protection fault, probably for non-canonical address",
        "OOPS": "Oops: invalid opcode: 0000 [#1] SMP KASAN NOPTI",
        "LOCKDEP": "WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected",
        "NETDEV_UNREGISTER": "unregister_netdevice: waiting for lo to become free. Usage count = 2",
        "NETDEV_WATCHDOG": "virtio_net virtio0 eth0: NETDEV WATCHDOG: CPU: 1: transmit queue 0",
        "REF_TRACKER": "ref_tracker: lo@00000000c1 has 1/2 users at",
        "PAGE_POOL": "page_pool_release_retry(): stalled pool shutdown: id 3, 1 inflight 60 sec",
        "SLAB": "BUG skbuff_head_cache (Tainted: G    B  ): Poison overwritten",
        "BAD_PAGE": "BUG: Bad rss-counter state mm:00000000 type:MM_ANONPAGES val:1",
        "DOUBLE_FAULT": "PANIC: double fault, error_code: 0x0",
        "SPINLOCK": "BUG: spinlock bad magic on CPU#0, swapper/0/1",
        "PREEMPT": "BUG: using __this_cpu_add() in preemptible [00000000] code: a/1",
        "USERCOPY": "usercopy: Kernel memory exposure attempt detected from SLUB object 'a'!",
        "BUG": "BUG: something nobody has seen yet",
        "RIP": "RIP: 0010:skb_release_data+0x12/0x34",
    }
    for kind, head in heads.items():
        assert kinds(f"[    1.000000] {head}\n".encode()) == [kind], head
        assert kinds(head.encode()) == [kind], head  # torn off, without a stamp


def test_what_was_asked_for_is_not_a_splat() -> None:
    for name in ("fault_injection", "sysrq_tasks", "sysrq_cpus", "sysrq_blocked"):
        assert LOGS[name] == []
        assert [report.kind for report in reports(read(name))], name


def test_two_reports_in_a_row_are_two() -> None:
    data = read("warn")
    assert kinds(data + data) == ["WARNING", "WARNING"]


def test_a_stray_line_does_not_cut_a_report_in_two() -> None:
    lines = read("warn").decode().splitlines(keepends=True)
    at = next(index for index, line in enumerate(lines) if "Call Trace" in line) + 3
    stamp = lines[at].partition("]")[0] + "]"
    lines.insert(at, f"{stamp} random: crng init done\n")
    assert kinds("".join(lines).encode()) == ["WARNING"]


def test_a_line_that_was_not_ended_does_not_hide_what_follows() -> None:
    data = b"some program wrote this[    2.000000] BUG: KASAN: use-after-free in foo+0x1/0x2\n"
    assert kinds(data) == ["KASAN"]


def test_a_report_that_is_not_done_counts() -> None:
    data = read("null")
    assert kinds(data[: data.index(b"address") + 12]) == ["PAGE_FAULT"]


# The console.


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path / "console.log")


def test_the_log_is_whole_and_without_carriage_returns(console: Console) -> None:
    for piece in (b"one\r", b"\ntwo\r\r\n", b"th\rree", b"\r\n"):
        console.feed(piece)
    assert console.log.read_bytes() == b"one\ntwo\nth\rree\n"
    assert console.since() == "one\ntwo\nth\rree\n"


def test_a_mark_shows_only_what_came_later(console: Console) -> None:
    console.feed(read("warn"))
    mark = console.mark()
    assert console.splats(since=mark) == []
    console.feed(read("bug"))
    (splat,) = console.splats(since=mark)
    assert splat.kind == "KERNEL_BUG"
    assert "Call Trace" in splat.text
    assert "cut here" in splat.text
    assert [each.kind for each in console.splats()] == ["WARNING", "KERNEL_BUG"]
    assert "kernel BUG" in console.since(mark)


def test_what_is_allowed_is_not_counted(console: Console) -> None:
    console.feed(read("warn"))
    with console.allow("KERNEL_BUG") as seen:
        console.feed(read("bug"))
    console.feed(read("null"))
    assert [splat.kind for splat in seen] == ["KERNEL_BUG"]
    assert [splat.kind for splat in console.splats()] == ["WARNING", "PAGE_FAULT"]


def test_what_is_not_allowed_is_counted(console: Console) -> None:
    with console.allow("KASAN"):
        console.feed(read("warn"))
    console.feed(read("bug"))
    assert [splat.kind for splat in console.splats()] == ["WARNING", "KERNEL_BUG"]


def test_what_is_expected_has_to_come(console: Console) -> None:
    with console.expect("WARNING") as seen:
        console.feed(read("warn"))
    assert len(seen) == 1
    assert console.splats() == []
    with pytest.raises(ExpectedSplatMissing, match="KASAN"), console.expect("KASAN"):
        pass
    with pytest.raises(ValueError, match="mine"), console.expect("KASAN"):
        raise ValueError("mine")  # is not hidden by what is missing


def test_an_unknown_kind_is_refused(console: Console) -> None:
    with pytest.raises(UsageError, match="KASAN"), console.allow("KAZAN"):
        pass


def test_waiting_for_a_text(console: Console) -> None:
    threading.Timer(0.05, console.feed, [b"now it is there\n"]).start()
    assert console.wait_for(b"it is", timeout=5)
    assert not console.wait_for(b"something else", timeout=0.05)


def test_a_panic_is_told_with_its_reason(console: Console) -> None:
    assert console.panic is None
    console.feed(b"[    1.0] Kernel pan")
    assert console.panic is None
    console.feed(b"ic - not syncing: sysrq trig")
    console.feed(b"gered crash\r\n[    1.1] more\n")
    assert console.panic == "sysrq triggered crash"


# Files and lines.

SOURCE = """\
int other(int a)
{
\treturn a * 3;
}
int work(int a)
{
\tint b = other(a);
\treturn b + 1;
}
int main(void) { return work(1); }
"""


@pytest.fixture(scope="module")
def elf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or shutil.which("addr2line") is None:
        pytest.skip("no compiler")
    directory = tmp_path_factory.mktemp("elf")
    (directory / "work.c").write_text(SOURCE)
    subprocess.run(
        [compiler, "-g", "-O0", "-no-pie", "-o", "vmlinux", "work.c"], cwd=directory, check=True
    )
    return directory / "vmlinux"


def frame(elf: Path) -> str:
    listed = subprocess.run(["nm", "-S", elf], capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in listed.splitlines() if line.endswith(" work"))
    size = int(line.split()[1], 16)
    return f"work+{size - 4:#x}/{size:#x}"


def test_addr2line_decodes_where_the_tree_has_no_script(elf: Path) -> None:
    text = f"[    1.0] Call Trace:\n[    1.0]  {frame(elf)}\n"
    decoded, note = decode.decode(text, vmlinux=elf, build_dir=elf.parent)
    assert note == ""
    assert decoded is not None
    assert re.search(r"work\+0x\S+ \(\S*work\.c:[789]\)", decoded), decoded


def test_the_trees_own_script_is_preferred(elf: Path, tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "decode_stacktrace.sh").write_text(
        'echo "$# $(basename "$1")"; sed "s/ work.*/ work (script.c:1)/"\n'
    )
    build_dir = tmp_path / "build-default"
    build_dir.mkdir()
    decoded, _ = decode.decode(f" {frame(elf)}\n", vmlinux=elf, build_dir=build_dir)
    assert decoded == "3 vmlinux\n work (script.c:1)\n"


def test_a_script_that_fails_is_replaced(elf: Path, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "decode_stacktrace.sh").write_text("exit 1\n")
    decoded, _ = decode.decode(f" {frame(elf)}\n", vmlinux=elf, build_dir=tmp_path)
    assert decoded is not None
    assert "work.c:" in decoded


def test_what_cannot_be_decoded_says_why(elf: Path, tmp_path: Path) -> None:
    assert decode.decode("no stack\n", vmlinux=elf) == (None, "it holds no addresses")
    decoded, note = decode.decode(" foo+0x1/0x2\n", vmlinux=tmp_path / "vmlinux")
    assert decoded is None
    assert "is not there" in note
    decoded, note = decode.decode(" nosuch+0x1/0x2\n", vmlinux=elf, build_dir=tmp_path)
    assert decoded is None
    assert "no address of the report is one of vmlinux" in note


def test_the_console_decodes_the_first_reports(tmp_path: Path) -> None:
    asked: list[str] = []

    def decoder(text: str) -> tuple[str | None, str]:
        asked.append(text)
        return text.replace("Call Trace", "Decoded Trace"), ""

    console = Console(tmp_path / "log", decode=decoder)
    for _ in range(6):
        console.feed(read("warn"))
    splats = console.splats()
    assert len(splats) == 6
    assert len(asked) == 4
    assert "Decoded Trace" in str(splats[0])
    assert "Call Trace" in str(splats[5])
    assert "first 4" in splats[5].note
    assert [splat.decoded for splat in console.splats(decode=False)] == [None] * 6


def test_kinds_have_one_spelling() -> None:
    assert all(re.fullmatch(r"[A-Z_]+", name) for name in patterns.NAMES)
