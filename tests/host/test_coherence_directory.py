"""The coherence directory: what counts as a transfer, by known answers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import process
from harness.coherence import plugin

pytestmark = pytest.mark.host

SOURCE = Path(__file__).parent / "data/coherence/directory.c"

Drive = Callable[[list[str]], list[str]]


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Drive:
    """Return what gives the directory accesses and returns their outcomes."""
    program = tmp_path_factory.mktemp("directory") / "directory"
    argv = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    process.run([*argv, "-I", plugin.HERE, "-o", program, SOURCE], timeout=60)

    def run(accesses: list[str]) -> list[str]:
        text = "".join(f"{access}\n" for access in accesses)
        return process.run([program], timeout=60, stdin=text.encode()).output.splitlines()

    return run


def transfers(outcomes: list[str]) -> int:
    return sum(outcome not in ("hit", "cold") for outcome in outcomes)


def test_a_line_written_in_turn_by_two_cpus_n_times_moves_2n_times(drive: Drive) -> None:
    outcomes = drive(["w 0 0", "w 1 0"] * 1000)
    assert outcomes[0] == "cold"
    assert outcomes[1:] == ["write_local"] * 1999


def test_lines_of_ones_own_do_not_move(drive: Drive) -> None:
    outcomes = drive(["w 0 0", "r 0 0", "w 1 1", "r 1 1"] * 100)
    assert Counter(outcomes) == {"cold": 2, "hit": 398}


def test_a_line_that_all_read_moves_once_to_each(drive: Drive) -> None:
    outcomes = drive(["w 0 0", *(f"r {cpu} 0" for cpu in range(32))] + ["r 5 0"] * 10)
    assert transfers(outcomes) == 31
    assert outcomes[2:33] == ["read_local"] * 31
    assert outcomes[33:] == ["hit"] * 10


def test_a_reader_of_what_was_never_written_needs_the_other_readers_copy(drive: Drive) -> None:
    assert drive(["r 0 3", "r 1 3", "r 0 3"]) == ["cold", "read_local", "hit"]


def test_a_writer_that_has_the_line_with_others_only_tells_them(drive: Drive) -> None:
    accesses = ["w 0 0", "r 1 0", "w 1 0", "w 1 0", "r 0 0", "w 1 0"]
    expected = ["cold", "read_local", "upgrade_local", "hit", "read_local", "upgrade_local"]
    assert drive(accesses) == expected


def test_its_only_reader_may_write_unasked(drive: Drive) -> None:
    assert drive(["r 0 0", "w 0 0", "w 0 0"]) == ["cold", "hit", "hit"]


def test_a_producer_and_a_consumer_make_two_transfers_a_round(drive: Drive) -> None:
    outcomes = drive(["w 0 0", "r 1 0"] * 50)
    assert outcomes[:2] == ["cold", "read_local"]
    assert outcomes[2:] == ["upgrade_local", "read_local"] * 49


TWO_NODES = "nodes 3 3 c c"


def test_a_copy_from_another_node_is_remote(drive: Drive) -> None:
    assert drive([TWO_NODES, "w 0 0", "r 1 0", "r 2 0", "r 3 0"]) == [
        "cold",
        "read_local",
        "read_remote",
        "read_local",  # CPU 2 of its own node has it
    ]


def test_what_another_node_alone_has_comes_from_there(drive: Drive) -> None:
    assert drive([TWO_NODES, "r 3 0", "w 0 0", "r 2 0"])[1:] == ["write_remote", "read_remote"]


def test_one_copy_in_another_node_makes_a_write_remote(drive: Drive) -> None:
    reads = ["w 0 0", "r 1 0", "r 2 0"]
    assert drive([TWO_NODES, *reads, "w 0 0"])[3] == "upgrade_remote"
    assert drive([TWO_NODES, *reads[:2], "w 0 0"])[2] == "upgrade_local"
    assert drive([TWO_NODES, *reads[:2], "w 3 0"])[2] == "write_remote"


def test_cpu_31_is_as_good_as_any(drive: Drive) -> None:
    assert drive(["w 31 0", "w 0 0", "r 31 0"]) == ["cold", "write_local", "read_local"]


def test_readers_at_the_same_time_are_both_known(drive: Drive) -> None:
    assert drive(["race 300000"]) == ["300000 300000 300000"]


@pytest.mark.parametrize("length", [4])
def test_against_plain_sets(drive: Drive, length: int) -> None:
    """Every sequence of so many accesses by three CPUs, and a model that is plain to see."""
    every = list(itertools.product(itertools.product("rw", range(3)), repeat=length))
    accesses, expected = [], []
    for at, sequence in enumerate(every):
        holders: set[int] = set()
        for what, cpu in sequence:
            others = holders - {cpu}
            if what == "r":
                kind = "hit" if cpu in holders else "read_local" if others else "cold"
                holders.add(cpu)
            else:
                had = cpu in holders
                asked = "upgrade_local" if had else "write_local"
                kind = asked if others else "hit" if had else "cold"
                holders = {cpu}
            accesses.append(f"{what} {cpu} {at % 16}")
            expected.append(kind)
        if at % 16 == 15:
            assert drive(accesses) == expected
            accesses, expected = [], []
