"""Memory runs out, kicks fail: traffic survives and nothing waits for ever."""

import pytest
from lab import DRAIN_BOUND, DRAIN_SLACK

pytestmark = pytest.mark.vm

CACHES = ("skbuff_head_cache", "skbuff_fclone_cache")


def under_failing_allocations(lab, report, *, flow=None, **settings):
    """Traffic while allocations fail: what arrives is right, and nothing stays behind."""
    lab.drained()
    before = lab.objects()
    # The kernel says when it gets no memory, which is what is arranged for here. So
    # does kmemleak, which may even give up for good: hence a guest of their own.
    with lab.vm.console.allow("PAGE_ALLOC", "KMEMLEAK"), lab.net("veth", name="starved") as net:
        lab.give_up_soon(net)
        # Not every connection ends: v5.10 sends no FIN, ever, if it gets no memory
        # for it. tcpflow's own limit ends those, and tells what came until then.
        with lab.traffic(
            net, tx_cpu=0, rx_cpu=1, conns=4, bytes=100_000, no_eof=True, timeout=12, **(flow or {})
        ) as background:
            lab.sh("sleep 0.5")
            with lab.fault(
                "failslab",
                verbose=0,
                ignore_gfp_wait="N",
                interval=1,
                times=-1,
                probability=5,
                **settings,
            ):
                lab.sh("sleep 4")
                assert background.running, "the traffic ended by itself"
            found = background.stop()
        assert found.rx["mismatches"] == 0
        assert found.rx["received"] > 0
        report.add("bytes received with 5 % of allocations failing", found.rx["received"], "B")
        # Whatever happened, the same kernel still works.
        lab.flow(net, tx_cpu=0, rx_cpu=1, bytes=200_000, port=7778).intact()
    lab.drained()
    kept = lab.kept(before)
    assert all(count <= lab.noise for count in kept.values()), f"left behind: {kept}"


@pytest.mark.vm(append=(f"slub_debug=A,{','.join(CACHES)}",))
def test_failing_buffers(lab, report):
    """Every twentieth network buffer, whoever allocates it, softirqs included.

    Guards the error paths around cloning and queueing. Connections may be slow
    to start and data is sent again. The caches are marked at boot, since this
    cannot be done later.
    """
    marks = [lab.read(f"/sys/kernel/slab/{cache}/failslab").strip() for cache in CACHES]
    assert marks == ["1", "1"]
    under_failing_allocations(lab, report, task_filter="N", cache_filter="Y")


@pytest.mark.vm(own=True)
@pytest.mark.debug
def test_failing_allocations_of_a_process(lab, report):
    """Every twentieth allocation of any kind that sender and receiver make themselves."""
    under_failing_allocations(
        lab,
        report,
        flow={"make_it_fail": True},
        task_filter="Y",
        cache_filter="N",
    )


@pytest.mark.debug
def test_failing_kicks(lab):
    """A kick that cannot be sent is not lost: the list is drained in time all the same.

    Guards the flag that says a kick is under way (left set, the list wedges).
    Seen to fail when the flag is not cleared after the failure.
    """
    if lab.rt:
        pytest.skip("PREEMPT_RT wakes threads, which does not fail")
    # Receive processing on the reader's CPU: nothing but kicks and age drains CPU 0's list.
    net = lab.shared_net("veth", rps=2)
    # A small limit, so that a slow guest's little traffic reaches half of it often.
    with lab.limit(8):
        before = lab.defer()
        with lab.failing_kicks():
            lab.flow(net, tx_cpu=0, rx_cpu=1, bytes=lab.scale.work(2 << 20)).intact()
            delta = lab.defer() - before
            assert delta["kick_failed"] > 0, "no kick failed: this tests nothing"
            assert delta["kicks"] == 0
        # The buffers whose kicks were lost go home as soon as a kick gets through.
        lab.sh(f"sleep {DRAIN_BOUND + lab.scale.seconds(DRAIN_SLACK)}")
        assert lab.defer().queued == 0, "a list waits although its time is over"
        before = lab.defer()
        lab.flow(net, tx_cpu=0, rx_cpu=1, bytes=lab.scale.work(2 << 20)).intact()
        delta = lab.drained() - before
        assert delta["kick_failed"] == 0
        assert delta["kicks"] > 0, "no kick was sent after the failures: the list is wedged"
        assert delta["deferred"] == delta["flushed"] > 0
