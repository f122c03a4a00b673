"""Names for lines of memory, from a kernel's symbols and a memory that the test makes."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest

from harness import symbols
from harness.coherence import Move, Namer
from harness.coherence.structures import DIRECT_MAP, PAGE, PAGE_STRUCT, VMEMMAP
from harness.errors import HarnessError
from harness.vm import VmOptions

pytestmark = pytest.mark.host

TABLE = 0xFFFFFFFF81800000
NM = f"""\
0000000000000140 0000000000000080 D softnet
0000000000001000 D __per_cpu_end
ffffffff81000100 0000000000000050 T first
{TABLE:x} 0000000000000010 D __per_cpu_offset
ffffffff81800100 0000000000000080 d table
ffffffff81800200 0000000000000008 d kmem_cache
ffffffff81800208 0000000000000008 b mem_section
"""

#: Where the test's kernel has its second CPU's variables, and the description of a cache.
PER_CPU, CACHE, NAME = DIRECT_MAP + 0x40000, DIRECT_MAP + 0x10000, DIRECT_MAP + 0x10200
CACHES = DIRECT_MAP + 0x10800


class Vm:
    """A guest with a memory: what was not written reads as zeros."""

    cpus = 2
    options = VmOptions(memory="512M")

    def __init__(self) -> None:
        self.memory: dict[int, int] = {}
        self.sizes = "skbuff_head_cache 256\nkmalloc-512 512\n"
        self.reads = 0

    def put(self, address: int, data: bytes) -> None:
        self.memory |= {address + at: byte for at, byte in enumerate(data)}

    def read_memory(self, address: int, size: int) -> bytes | None:
        self.reads += 1
        data = bytearray(size)
        for at, byte in self.memory.items():
            if address <= at < address + size:
                data[at - address] = byte
        return bytes(data)

    def run(self, script: str, *, timeout: float) -> Any:
        if not self.sizes:
            raise HarnessError("no such file")
        return SimpleNamespace(stdout=self.sizes)


@pytest.fixture
def vm() -> Vm:
    made = Vm()
    made.put(TABLE, struct.pack("<2Q", DIRECT_MAP + 0x30000, PER_CPU))
    made.put(CACHE + 88, struct.pack("<2Q", NAME + 0x20, NAME))
    made.put(NAME, b"skbuff_head_cache\0")
    made.put(NAME + 0x20, b"not a cache\0")
    # The cache of caches, and the page that it is in.
    made.sizes += "kmem_cache 448\n"
    made.put(TABLE + 0x200, struct.pack("<Q", CACHES))
    made.put(CACHES + 88, struct.pack("<Q", NAME + 0x40))
    made.put(NAME + 0x40, b"kmem_cache\0")
    page(made, (CACHES - DIRECT_MAP) // PAGE, 24, CACHES)
    return made


def page(vm: Vm, frame: int, at: int, word: int) -> None:
    vm.put(VMEMMAP + frame * PAGE_STRUCT + at, struct.pack("<Q", word))


def namer(vm: Vm, more: str = "") -> Namer:
    return Namer(vm, symbols.parse((NM + more).splitlines()))  # type: ignore[arg-type]


def test_variables_go_by_their_names_and_lines(vm: Vm) -> None:
    name = namer(vm)
    assert name.name(TABLE + 0x108) == "table"
    assert name.name(TABLE + 0x17F) == "table+0x40"
    assert name.name(PER_CPU + 0x148) == "softnet (per CPU)"
    assert name.name(PER_CPU + 0x188) == "softnet+0x40 (per CPU)"
    assert name.name(0x7FFE_0000_0000) == "user memory"
    assert name.name(VMEMMAP + 640) == "struct page"
    assert name(Move(0, TABLE + 0x108, "first", 0, "(nobody)", 1)) == "table"


@pytest.mark.parametrize("at", [24, 8])
def test_an_object_of_a_slab_goes_by_its_cache(vm: Vm, at: int) -> None:
    """Before v6.2, and since."""
    page(vm, 0x100, at, CACHE)
    base = DIRECT_MAP + 0x100 * PAGE
    assert namer(vm).name(base + 256 * 3 + 0x10) == "slab skbuff_head_cache"
    assert namer(vm).name(base + 256 * 3 + 0xD0) == "slab skbuff_head_cache+0xc0"


def test_a_later_page_of_a_slab_is_one_of_its_first(vm: Vm) -> None:
    page(vm, 0x100, 24, CACHE)
    page(vm, 0x103, 8, VMEMMAP + 0x100 * PAGE_STRUCT + 1)
    assert namer(vm).name(DIRECT_MAP + 0x103 * PAGE + 0x40) == "slab skbuff_head_cache+0x40"


def test_what_is_no_slab_is_pages(vm: Vm) -> None:
    page(vm, 0x101, 24, CACHE + 0x400)
    name = namer(vm)
    assert name.name(DIRECT_MAP + 0x101 * PAGE) == "pages"
    before = vm.reads
    assert name.name(DIRECT_MAP + 0x102 * PAGE) == "pages"
    assert vm.reads == before, "all pages of a section are read at once"


@pytest.mark.parametrize("size", [16, 32])
def test_a_kernel_without_one_map_of_all_pages(vm: Vm, size: int) -> None:
    """SPARSEMEM without VMEMMAP: each section of memory has a map of its own."""
    old = {at: byte for at, byte in vm.memory.items() if at >= VMEMMAP and at < VMEMMAP + (1 << 40)}
    for at in old:
        del vm.memory[at]
    roots, root, maps = (DIRECT_MAP + at for at in (0x50000, 0x51000, 0x200000))
    vm.put(TABLE + 0x208, struct.pack("<Q", roots))
    vm.put(roots, struct.pack("<Q", root))
    for section in (0, 1):
        # As the kernel has it: less the section's first page, and with flags.
        start = maps + 0x400000 * section
        vm.put(root + section * size, struct.pack("<2Q", (start - section * 0x200000) | 0xF, 0x77))
    for at, byte in old.items():
        vm.memory[maps + at - VMEMMAP] = byte
    vm.put(maps + 0x400000 + 5 * PAGE_STRUCT + 24, struct.pack("<Q", CACHE))
    name = namer(vm, "ffffffff81000200 T page_ext_init" if size == 32 else "")
    assert name.name(DIRECT_MAP + (32768 + 5) * PAGE + 0x140) == "slab skbuff_head_cache+0x40"
    assert name.name(maps + 0x400000 + 77) == "struct page"
    assert name.name(DIRECT_MAP + 7 * PAGE) == "pages"


def test_a_guest_without_answers_still_has_names_for_variables(vm: Vm) -> None:
    vm.sizes = ""
    vm.read_memory = lambda address, size: None  # type: ignore[method-assign]
    name = namer(vm)
    assert name.name(TABLE + 0x108) == "table"
    assert name.name(PER_CPU + 0x148) == "pages"
