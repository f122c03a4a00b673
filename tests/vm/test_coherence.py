"""The simulated transfers and the instruction counts, by known answers in a guest."""

from __future__ import annotations

import re

import pytest

from harness import guesttools, process

pytestmark = [pytest.mark.vm, pytest.mark.only("default")]

lines = pytest.mark.vm(counted="lines", cpus=4, numa=2)
user = pytest.mark.vm(counted="lines+user", cpus=2)
instructions = pytest.mark.vm(counted="instructions", cpus=2)

#: The system call that does not exist.
NOTHING = "__x64_sys_ni_syscall"

#: What a count may be off: nothing else has these lines, but the host may take time.
TOLERANCE = 0.01


class Turns:
    """What lineturns did, and what was counted meanwhile."""

    def __init__(self, counter, rounds, *accesses):
        program = guesttools.tool("lineturns")
        with counter.following(), counter.expect("turns") as section:
            done = counter.vm.run([program, str(rounds), *accesses], timeout=120)
        self.counts = section.counts
        self.start = int(done.stdout, 16)

    def moves(self, line, vcpu=None):
        """Return how often a line moved, to one vCPU or to any."""
        return sum(
            move.count
            for move in self.counts.moves
            if (move.vaddr - self.start) // 64 == line and vcpu in (None, move.vcpu)
        )

    def of(self, pattern):
        """Return the tally of the functions whose names match."""
        found = [t for name, t in self.counts.by_function().items() if re.fullmatch(pattern, name)]
        assert found, f"no function is like {pattern}"
        return sum(found[1:], found[0])


def about(number):
    return pytest.approx(number, rel=TOLERANCE)


@lines
def test_a_line_that_the_kernel_writes_in_turn_on_two_cpus(counter):
    """n times on each is 2n transfers, n to each, all within their node."""
    turns = Turns(counter, 100, "0:ks:0", "1:ks:0")
    assert turns.moves(0, vcpu=0) == about(100)
    assert turns.moves(0, vcpu=1) == about(100)
    assert turns.moves(0) == about(200)
    assert turns.of("(.*put_user.*|__x64_sys_getcpu)").write_remote == 0
    assert turns.of("(.*put_user.*|__x64_sys_getcpu)").write_local >= 199


@lines
def test_between_nodes_they_are_remote(counter):
    turns = Turns(counter, 100, "0:ks:0", "3:ks:0")
    assert turns.moves(0, vcpu=0) == about(100)
    assert turns.moves(0, vcpu=3) == about(100)
    assert turns.of("(.*put_user.*|__x64_sys_getcpu)").write_remote == about(200)


@lines
def test_lines_of_ones_own_do_not_move(counter):
    turns = Turns(counter, 100, "0:ks:0", "0:kl:0", "1:ks:1", "1:kl:1", "3:ks:2")
    assert turns.of("(.*put_user.*|__x64_sys_getcpu)").stores >= 300
    assert sum(turns.moves(line) for line in range(3)) <= 3


@lines
def test_a_line_that_others_read_moves_once_to_each(counter):
    turns = Turns(counter, 50, "0:ks:0", *(f"{cpu}:kl:0" for cpu in (1, 2, 3) for _ in "12"))
    assert [turns.moves(0, vcpu=cpu) for cpu in (1, 2, 3)] == [about(50)] * 3
    # And its writer has them drop it, once a round.
    assert turns.moves(0, vcpu=0) == about(50)


@lines
def test_user_space_is_not_followed_unless_asked(counter):
    turns = Turns(counter, 20, "0:us:0", "1:us:0")
    assert turns.moves(0) == 0
    assert "(user space)" not in turns.counts.functions


@lines
def test_the_sum_over_functions_is_the_sum_over_lines(counter):
    """No transfer is lost between the counters of code and those of lines."""
    counts = Turns(counter, 20, "0:ks:0", "1:ks:0").counts
    assert counts.lost == 0
    assert sum(move.count for move in counts.moves) == counts.total.transfers


@user
def test_a_program_that_writes_in_turn_on_two_cpus(counter):
    turns = Turns(counter, 100, "0:us:0", "1:us:0", "0:us:1", "1:us:2", "1:us:3", "0:ul:3")
    assert turns.moves(0) == about(200)
    assert turns.moves(1) + turns.moves(2) <= 2
    assert turns.moves(3, vcpu=0) == turns.moves(3, vcpu=1) == about(100)


@user
def test_lines_have_names(counter):
    """A per-CPU variable, one of the kernel's own, and user memory are told apart."""
    program = guesttools.tool("lineturns")
    with counter.following():
        with counter.expect("turns") as section:
            counter.vm.run([program, "50", "0:us:0", "1:us:0"], timeout=120)
        named = section.counts.by_structure(counter.namer())
    assert named["user memory"] >= 99
    assert any(name.startswith("runqueues") and "per CPU" in name for name in named)
    assert any(name.startswith("slab task_struct") for name in named), list(named)[:40]


@instructions
def test_instructions_of_a_function_that_has_no_branches(counter, kernel):
    """A system call that does not exist, n times on one CPU and 2n on the other."""
    turns = Turns(counter, 200, "0:kn:0", "1:kn:0", "1:kn:0")
    shown = process.run(
        ["objdump", "-d", "--no-show-raw-insn", f"--disassemble={NOTHING}", kernel.vmlinux],
        timeout=60,
    ).output
    code = [
        line.split("\t")[1]
        for line in shown.splitlines()
        if line.startswith("ffffffff") and "\t" in line
    ]
    length = next(at for at, text in enumerate(code, 1) if text.startswith(("ret", "jmp")))
    assert turns.counts.of(NOTHING, 0).instructions == 200 * length
    assert turns.counts.of(NOTHING, 1).instructions == 400 * length
    assert turns.counts.total.transfers == turns.counts.total.loads == 0


@instructions
def test_a_guest_can_be_followed_many_times(counter):
    for rounds in (10, 20, 30):
        turns = Turns(counter, rounds, "0:kn:0")
        each, rest = divmod(turns.counts.of(NOTHING).instructions, rounds)
        assert each > 0 and rest == 0
        assert turns.counts.of(NOTHING, 1).instructions == 0
