"""Every buffer that waited is freed, and freed once, with the allocator's own checks on."""

import pytest

#: What network buffers are made of here: their descriptors, and heads for some 400 bytes. The
#: checks alone: with poison or red zones, a buffer freed twice would end the guest before the
#: allocator could name it.
CHECKED = "slub_debug=F,skbuff_head_cache,skbuff_fclone_cache,kmalloc-512,kmalloc-1k"

#: Objects that the rest of the guest may have taken meanwhile.
NOISE = 3

pytestmark = pytest.mark.vm(append=(CHECKED,))


@pytest.mark.parametrize("limit", [64, 4])
def test_lists_of_three_readers(lab, limit):
    """Three CPUs queue to the list of a fourth one, which takes what is there all the time.

    Guards the list's lock, and the one release of what was on it. A buffer that is lost is
    counted as queued for ever, and one that is freed twice is reported by SLUB. The small
    limit has each buffer queued by itself, and the list looked at by each allocation.
    """
    checks = lab.read("/sys/kernel/slab/skbuff_head_cache/sanity_checks").strip()
    assert checks == "1", "the allocator checks nothing"
    with lab.limit(limit), lab.sink("tun", queues=3, a_cpu="1,2,3") as (net, wire):
        before = lab.drained()
        objects = lab.objects()
        count = lab.scale.work(1500 if limit > 16 else 3000)
        lab.udp(net, no_receiver=True, tx_cpu=0, flows=24, count=count, size=400).intact()
        delta = lab.settled(before)
        assert delta["deferred"] > lab.scale.work(1000), f"hardly anything was deferred: {delta}"
        lab.drained()
        wire.sunk()
        kept = lab.kept(objects, noise=NOISE)
        assert all(count <= NOISE for count in kept.values()), f"left behind: {kept}"
