"""From the plugin's file and a kernel's symbols to counts by function and vCPU."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness import symbols
from harness.coherence import CoherenceError, Counts, Tally, counts, dump, plugin, recorder
from harness.coherence.dump import ACCESS, BLOCK, REPEAT
from harness.vm import VmOptions

pytestmark = pytest.mark.host

NM = """\
0000000000000000 D __per_cpu_start
0000000000000100 0000000000000080 D softnet
0000000000001000 D __per_cpu_end
ffffffff81000000 T _text
ffffffff81000100 0000000000000050 t alias
ffffffff81000100 0000000000000050 T first
ffffffff81000100 0000000000000050 W zeroth
ffffffff81000200 0000000000000050 t second.isra.0
ffffffff81000300 0000000000000010 t second.cold
                 w missing
ffffffff81800000 0000000000000040 d table
ffffffff81800080 0000000000000010 b last
"""
FIRST, SECOND, COLD = 0xFFFFFFFF81000100, 0xFFFFFFFF81000200, 0xFFFFFFFF81000300


def section(
    places: list[tuple[int, ...]] = [],  # noqa: B006
    moves: list[tuple[int, ...]] = [],  # noqa: B006
    *,
    vcpus: int = 2,
    lines: int = 1,
    version: int = dump.FORMAT,
    lost: tuple[int, int, int] = (0, 0, 0),
) -> bytes:
    """Return a file as the plugin writes it: a place is (pc, vcpu, kind, instructions, slots)."""
    data = struct.pack(
        "<8s4I5Q", b"SKBLINES", version, 7, vcpus, lines, len(places), len(moves), *lost
    )
    for pc, vcpu, kind, instructions, *slots in places:
        slots += [0] * (8 - len(slots))
        data += struct.pack("<Q4I8Q", pc, vcpu, kind, instructions, 0, *slots)
    for move in moves:
        data += struct.pack("<4Q2I", *move)
    return data


def counted(data: bytes, nodes: tuple[int, ...] = (0, 0)) -> Counts:
    found = symbols.parse(NM.splitlines())
    return counts.from_dump(dump.parse(data), found, name="it", nodes=nodes)


# --- symbols ---------------------------------------------------------------------


def test_functions_by_address() -> None:
    found = symbols.parse(NM.splitlines())
    assert found.function(FIRST) == "first"
    assert found.function(FIRST + 0x4F) == "first"
    assert found.function(FIRST - 1) == "_text"
    assert found.function(SECOND + 4) == "second"
    assert found.function(COLD) == "second"
    assert found.function(0x401000) == "(user space)"
    assert found.function(0) == "(unknown)"
    assert found.function(0xFFFFFFFFC0000000) == "(unknown)"


def test_variables_by_address() -> None:
    found = symbols.parse(NM.splitlines())
    assert found.variable(0xFFFFFFFF81800030) == ("table", 0x30)
    assert found.variable(0xFFFFFFFF81800040) is None
    assert found.variable(0x140) == ("softnet", 0x40)
    assert found.absolute["__per_cpu_end"] == 0x1000


def test_a_file_without_symbols_is_refused(tmp_path: Path) -> None:
    stripped = tmp_path / "vmlinux"
    stripped.write_bytes(Path("/bin/true").read_bytes())
    with pytest.raises(Exception, match="symbols"):
        symbols.read(stripped)


# --- what a section counted ---------------------------------------------------------


def test_accesses_and_blocks_of_a_function_are_summed_by_vcpu() -> None:
    found = counted(
        section(
            [
                (FIRST, 0, BLOCK, 5, 10),
                (FIRST + 8, 0, ACCESS, 0, 10, 0, 1, 2),
                (FIRST + 12, 0, ACCESS, 0, 0, 7, 0, 0, 3, 4, 5, 6),
                (FIRST, 1, BLOCK, 5, 1),
                (SECOND, 1, BLOCK, 2, 3),
                (COLD, 1, BLOCK, 1, 1),
                (COLD, 1, REPEAT, 1, 50),
            ]
        )
    )
    assert found.of("first", 0) == Tally(50, 0, 10, 7, 1, 2, 3, 4, 5, 6)
    assert found.of("first", 1) == Tally(instructions=5)
    assert found.of("second") == Tally(instructions=7, repeats=50)
    assert found.of("nothing") == found.of("nothing", 1) == Tally()
    assert [tally.instructions for tally in found.by_vcpu()] == [50, 12]
    total = found.total
    assert (total.transfers, total.local, total.remote) == (21, 9, 12)
    assert total.per(10)["transfers"] == pytest.approx(2.1)
    assert found.by_function()["first"].instructions == 55
    assert found.functions_of(1)["second"].repeats == 50


def test_moves_of_a_line_are_joined_by_function_and_the_greatest_is_first() -> None:
    found = counted(
        section(
            moves=[
                (0x1000, 0xFFFF888000001008, FIRST, 0, 0, 2),
                (0x2000, 0xFFFF888000002000, SECOND, FIRST, 1, 3),
                (0x2000, 0xFFFF888000002010, COLD, FIRST + 8, 1, 4),
            ]
        )
    )
    assert [(m.function, m.writer, m.vcpu, m.count) for m in found.moves] == [
        ("second", "first", 1, 7),
        ("first", "(nobody)", 0, 2),
    ]
    named = found.by_structure(lambda move: "low" if move.phys < 0x2000 else "high")
    assert list(named.items()) == [("high", 7), ("low", 2)]


def test_a_difference_is_by_function() -> None:
    whole = counted(section([(FIRST, 0, BLOCK, 5, 10), (SECOND, 1, BLOCK, 2, 3)]))
    empty = counted(section([(FIRST, 0, BLOCK, 5, 4)]))
    assert (whole - empty).of("first", 0).instructions == 30
    assert (whole - empty).of("second", 1).instructions == 6
    with pytest.raises(CoherenceError, match="unlike guests"):
        _ = whole - counted(section(), (0, 1))


def test_counts_survive_json() -> None:
    found = counted(section([(FIRST, 1, ACCESS, 0, 1, 2, 3, 4, 5, 6, 7, 8)]), (0, 1))
    assert Counts.from_json(found.as_json()) == found
    with pytest.raises(CoherenceError, match="not the counts"):
        Counts.from_json({"name": "x"})


def test_a_table_shows_the_functions_with_most_transfers() -> None:
    found = counted(
        section(
            [
                (FIRST, 0, ACCESS, 0, 0, 0, 100),
                (SECOND, 1, ACCESS, 0, 0, 0, 0, 300, 0),
                (SECOND, 1, BLOCK, 2, 50),
            ]
        )
    )
    lines = found.table(100, rows=1).splitlines()
    assert lines[0].split(" | ")[1:4] == ["transfers", "read", "write"]
    assert lines[2] == "| `second` | 3.00 | 3.00 | 0.00 | 0.00 | 3.00 | 1.00 |"
    assert lines[3] == "| **all** | 4.00 | 4.00 | 0.00 | 0.00 | 3.00 | 1.00 |"
    assert found.table(vcpu=0, rows=1).splitlines()[2].startswith("| `first` | 100.00 | 100.00 |")
    instructions = counted(section([(FIRST, 0, BLOCK, 4, 3)], lines=0))
    assert instructions.table().splitlines()[2:] == ["| `first` | 12.00 |", "| **all** | 12.00 |"]


def test_what_found_no_room_is_said() -> None:
    found = dump.parse(section(lost=(4, 5, 6)))
    assert (found.lost_moves, found.unplaced, found.lost_sites) == (4, 5, 6)
    assert counted(section(lost=(4, 0, 0))).lost == 4


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "not a section"),
        (b"x" * 200, "not a section"),
        (section(version=99), "format 99"),
        (section([(FIRST, 0, BLOCK, 5, 10)])[:-8], "damaged"),
        (section() + b"x", "damaged"),
        (section(vcpus=2_000_000), "damaged"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, data: bytes, complaint: str) -> None:
    path = tmp_path / "section-1.bin"
    path.write_bytes(data)
    with pytest.raises(CoherenceError, match=complaint) as caught:
        dump.read(path)
    assert caught.value.log == path


def test_a_section_of_another_guest_is_refused() -> None:
    with pytest.raises(CoherenceError, match="2 vCPUs were counted, not 3"):
        counted(section(), (0, 0, 0))


# --- the plugin and its guest ---------------------------------------------------------


def test_the_plugin_compiles_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path))
    first = plugin.library()
    before = first.stat().st_mtime_ns
    assert plugin.library() == first
    assert first.stat().st_mtime_ns == before


def test_a_compiler_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path))
    monkeypatch.setenv("CC", "false")
    with pytest.raises(Exception, match="compiling QEMU's plugin") as caught:
        plugin.library()
    assert "install gcc" in str(caught.value)
    assert not list(tmp_path.rglob("*.so"))


def test_a_guests_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "library", lambda: Path("/lib/plugin.so"))
    old = tmp_path / "section-3.bin"
    old.touch()
    prepared = recorder.Recorder(tmp_path, user=True).prepare(
        VmOptions(cpus=5, numa=2, append=("quiet",), qemu_args=("-S",))
    )
    assert prepared.accel == "tcg"
    assert prepared.append == ("quiet", "nokaslr")
    assert prepared.qemu_args == (
        "-S",
        "-plugin",
        f"/lib/plugin.so,out={tmp_path},what=lines,user=on,nodes=0.0.1.1.1",
    )
    assert not old.exists()


def test_nodes_are_as_the_guest_has_them() -> None:
    for options in (VmOptions(cpus=8, numa=2), VmOptions(cpus=7, numa=3)):
        nodes = recorder.node_of_cpus(options)
        for node, (_, cpus) in enumerate(options.nodes()):
            first, _, last = cpus.removeprefix("cpus=").partition("-")
            mine = range(int(first), int(last or first) + 1)
            assert [nodes[cpu] for cpu in mine] == [node] * len(mine)
    assert recorder.node_of_cpus(VmOptions(cpus=3)) == (0, 0, 0)


def test_what_cannot_be_counted_is_said_before_the_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "library", lambda: Path("/lib/plugin.so"))
    with pytest.raises(CoherenceError, match="33 CPUs"):
        recorder.Recorder(tmp_path).prepare(VmOptions(cpus=33))
    with pytest.raises(CoherenceError, match="emulated"):
        recorder.Recorder(tmp_path).prepare(VmOptions(accel="kvm"))
    with pytest.raises(CoherenceError, match="'cycles'"):
        recorder.Recorder(tmp_path, what="cycles").prepare(VmOptions())
    with pytest.raises(CoherenceError, match="comma"):
        recorder.Recorder(tmp_path / "a,b").prepare(VmOptions())


def test_a_section_that_has_not_ended_has_no_counts() -> None:
    with pytest.raises(CoherenceError, match="has not ended"):
        _ = recorder.Section("x").counts
