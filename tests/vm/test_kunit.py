"""The series' KUnit tests, run while the guest booted."""

import pytest

from harness import kunit

pytestmark = [pytest.mark.vm, pytest.mark.debug]

SUITE = "skb_defer"


def test_suite_passes(vm, source_tree):
    """Every case of the suite, read from the boot's log by the tree's own kunit.py.

    Guards what a unit test reaches: limits, kicks, ageing, references, batches. Seen to
    fail with twenty kernels that each had one of these broken, and with one without the
    suite.
    """
    check(vm, source_tree)


#: Memory that says so where it was not initialised.
POISONED = "slub_debug=P,skbuff_head_cache,skbuff_fclone_cache"


@pytest.mark.vm(cpus=4, append=("maxcpus=3", POISONED))
@pytest.mark.brief
def test_suite_passes_with_a_cpu_offline(vm, source_tree):
    """The same where a CPU never came up, without which one of the cases can test nothing.

    Guards against queueing for a CPU that is not there, and, since buffers are poisoned when
    they are freed, against an allocation that does not record its CPU.
    """
    check(vm, source_tree)
    assert "not tested: all CPUs are online" not in vm.console.since(0)


def check(vm, source_tree):
    found = kunit.parse(source_tree, vm.console.since(0), suites=[SUITE])
    cases = found.suites[SUITE]
    assert cases
    assert found.passed, "failed: " + ", ".join(case.name for case in found.failed)
