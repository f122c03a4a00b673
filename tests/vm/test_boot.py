"""The kernel boots, and what the tests stand on is there."""

import pytest

pytestmark = pytest.mark.vm


@pytest.mark.debug
def test_release(vm, kernel, base_series):
    """Guards against testing another kernel than the one that was built.

    It compares the image's release with the base's and with what was built.
    """
    release = vm.run(["uname", "-r"], timeout=20).stdout.strip()
    assert release.startswith(base_series), f"booted {release}"
    assert release == getattr(kernel, "release", release)


@pytest.mark.debug
def test_processors(vm, lab):
    """All CPUs of the guest come up: tests pin senders and receivers to them."""
    online = lab.read("/sys/devices/system/cpu/online").strip()
    assert online == f"0-{lab.cpus - 1}"


def test_what_the_tests_need(lab):
    """Every interface of the kernel that other tests use, named here if it is missing."""
    needed = [
        "/sys/kernel/slab/skbuff_head_cache/free_slowpath",
        "/sys/kernel/slab/skbuff_fclone_cache/failslab",
        "/sys/kernel/tracing/kprobe_events",
        "/sys/kernel/debug/failslab/probability",
        "/sys/kernel/debug/fail_function/inject",
        "/sys/devices/system/cpu/cpu1/online",
        "/proc/sys/net/core/skb_defer_max",
        "/proc/net/stat/skb_defer",
        "/sys/kernel/tracing/events/skb/skb_defer_free",
        "/sys/kernel/tracing/events/skb/skb_defer_flush",
    ]
    missing = lab.sh("; ".join(f"[ -e {path} ] || echo {path}" for path in needed)).split()
    assert not missing, f"the kernel lacks {', '.join(missing)}"


@pytest.mark.vm(cpus=8, numa=2, memory="2G")
def test_two_nodes(lab):
    """Two NUMA nodes: a buffer goes home across the nodes as well.

    Guards the per-CPU set-up on CPUs whose memory is on another node.
    """
    assert lab.read("/sys/devices/system/node/online").strip() == "0-1"
    net = lab.shared_net("veth")
    before = lab.defer()
    lab.flow(net, tx_cpu=0, rx_cpu=7, bytes=1 << 20, rcvbuf=16384).intact()
    delta = lab.drained() - before
    assert delta["deferred"] > 0
    assert delta["deferred"] == delta["flushed"]


@pytest.mark.vm(cpus=1)
def test_one_processor(lab):
    """One CPU: everything is local, nothing is ever deferred, all arrives.

    Seen to fail when the check for the local CPU is taken out.
    """
    net = lab.shared_net("veth")
    before = lab.defer()
    lab.flow(net, bytes=1 << 20).intact()
    delta = lab.defer() - before
    assert delta["deferred"] == 0
    assert delta["local"] > 0
