"""Every buffer that waited is freed, and freed once, with the allocator's own checks on."""

import pytest

#: What network buffers are made of here: their descriptors, and heads for some 400 bytes. The
#: checks alone: with poison or red zones, a buffer freed twice would end the guest before the
#: allocator could name it.
CHECKED = "slub_debug=F,skbuff_head_cache,skbuff_fclone_cache,kmalloc-512,kmalloc-1k"

#: Objects that the rest of the guest may have taken meanwhile. kmalloc-1k, where heads for
#: 400 bytes are, is used by many.
NOISE = {"skbuff_head_cache": 3, "skbuff_fclone_cache": 3, "kmalloc-1k": 12}

pytestmark = pytest.mark.vm(append=(CHECKED,))


@pytest.mark.parametrize("limit", [64, 4, 512])
def test_lists_of_three_readers(lab, limit):
    """Three CPUs queue to the list of a fourth one, which takes what is there all the time.

    Guards the list's lock, and the one release of what was on it. A buffer that is lost is
    counted as queued for ever, and one that is freed twice is reported by SLUB. The small
    limit has each buffer queued by itself, and the list looked at by each allocation; the
    large one has more freed at a time than are collected to be freed in bulk (64).
    """
    checks = lab.read("/sys/kernel/slab/skbuff_head_cache/sanity_checks").strip()
    assert checks == "1", "the allocator checks nothing"
    with lab.limit(limit), lab.sink("tun", queues=3, a_cpu="1,2,3") as (net, wire):
        before = lab.drained()
        objects = lab.objects(*NOISE)
        count = lab.scale.work({64: 1500, 4: 3000, 512: 6000}[limit])
        lab.udp(net, no_receiver=True, tx_cpu=0, flows=24, count=count, size=400).intact()
        delta = lab.settled(before)
        assert delta["deferred"] > lab.scale.work(1000), f"hardly anything was deferred: {delta}"
        lab.drained()
        wire.sunk()
        kept = lab.kept(objects, noise=NOISE)
        assert all(kept[cache] <= noise for cache, noise in NOISE.items()), f"left behind: {kept}"


@pytest.mark.parametrize("kind", ["veth", "lo"])
def test_clones_whose_data_is_in_use(lab, kind):
    """Requests and responses: what is read is a clone of what the sender keeps until it is acked.

    The acknowledgement comes with the response, after the request was queued to be freed, so
    that the sender's CPU frees the clone while its data is still the sender's. A head that is
    freed with the clone is freed again with the original, and reported by SLUB.
    """
    with lab.net(kind) as net:
        before = lab.drained()
        objects = lab.objects(*NOISE)
        lab.flow(
            net, mode="rr", tx_cpu=0, rx_cpu=1, count=lab.scale.work(800), req=400, rsp=400
        ).intact()
        delta = lab.settled(before)
        assert delta["deferred"] > lab.scale.work(400), f"hardly anything was deferred: {delta}"
        kept = lab.kept(objects, noise=NOISE)
        assert all(kept[cache] <= noise for cache, noise in NOISE.items()), f"left behind: {kept}"
