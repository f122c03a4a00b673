"""What a line of memory belongs to: a variable, a per-CPU one, or an object of a slab cache.

Told from the kernel's symbols and, through QEMU's monitor, its memory as it is when asked.
A page that meanwhile serves another purpose goes by that.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.coherence.counts import Move
from harness.errors import HarnessError
from harness.symbols import Symbols

if TYPE_CHECKING:
    from harness.vm import Vm

#: Where x86_64 has things without KASLR and with four levels of page tables, unless it
#: has variables that say so: the direct map, vmalloc's space, and struct page.
DIRECT_MAP, VMALLOC, VMEMMAP = 0xFFFF888000000000, 0xFFFFC90000000000, 0xFFFFEA0000000000
IMAGE = 0xFFFFFFFF80000000

PAGE, PAGE_STRUCT, LINE = 4096, 64, 64

#: How many bytes of the direct map there can be.
_DIRECT_SPAN = 1 << 46

#: Where a slab's first struct page points at its cache: before v6.2, and since.
_CACHE_AT = (24, 8)

#: How much of a cache's description is searched for its name.
_CACHE_SIZE = 384


class Namer:
    """Names the data structure of a :class:`Move`; call it with one."""

    def __init__(self, vm: Vm, symbols: Symbols) -> None:
        self._vm = vm
        self._symbols = symbols
        self._pages: dict[int, tuple[str, int, int] | None] = {}
        self._caches: dict[int, str | None] = {}
        self._sizes = _slab_sizes(vm)
        self._direct = self._base("page_offset_base", DIRECT_MAP)
        self._vmalloc = self._base("vmalloc_base", VMALLOC)
        self._vmemmap = self._base("vmemmap_base", VMEMMAP)
        self._per_cpu = self._per_cpu_offsets()

    def __call__(self, move: Move) -> str:
        """Return e.g. ``softnet_data+0x180 (per CPU)`` or ``slab skbuff_head_cache+0xc0``."""
        return self.name(move.vaddr)

    def name(self, address: int) -> str:
        """Name what a virtual address of the kernel's belongs to, by line."""
        if address < 1 << 47:
            return "user memory"
        if address >= IMAGE:
            return self._named(address, "") or "the kernel's image"
        if self._direct <= address < self._direct + _DIRECT_SPAN:
            return self._in_direct_map(address)
        if self._vmemmap <= address < self._vmemmap + (1 << 40):
            return "struct page"
        if self._vmalloc <= address < self._vmemmap:
            return "vmalloc"
        return "(elsewhere)"

    def _named(self, address: int, suffix: str) -> str | None:
        found = self._symbols.variable(address)
        return f"{_at(*found)}{suffix}" if found else None

    def _in_direct_map(self, address: int) -> str:
        for offset in self._per_cpu:
            inside = address - offset
            if 0 <= inside < self._symbols.absolute.get("__per_cpu_end", 0):
                return self._named(inside, " (per CPU)") or "a per-CPU variable"
            # What is allocated at run time follows, in the same chunk.
        frame = (address - self._direct) // PAGE
        if frame not in self._pages:
            self._pages[frame] = self._slab_of(frame)
        slab = self._pages[frame]
        if slab is None:
            return "pages"
        cache, start, size = slab
        return f"slab {_at(cache, (address - start) % size)}"

    def _slab_of(self, frame: int) -> tuple[str, int, int] | None:
        """Return the cache, the first object's address and the size of objects of a slab."""
        page = self._read(self._vmemmap + frame * PAGE_STRUCT, PAGE_STRUCT)
        if page is None:
            return None
        (head,) = struct.unpack_from("<Q", page, 8)
        if head & 1:
            first = (head - 1 - self._vmemmap) // PAGE_STRUCT
            if not 0 <= frame - first < 1 << 10:
                return None
            frame = first
            page = self._read(self._vmemmap + frame * PAGE_STRUCT, PAGE_STRUCT)
            if page is None:
                return None
        for at in _CACHE_AT:
            (pointer,) = struct.unpack_from("<Q", page, at)
            name = self._cache(pointer)
            if name is not None:
                return name, self._direct + frame * PAGE, self._sizes[name]
        return None

    def _cache(self, pointer: int) -> str | None:
        """Return the name of the slab cache that is described at an address, if one is."""
        if pointer & 7 or not (
            self._direct <= pointer < self._direct + _DIRECT_SPAN or pointer >= IMAGE
        ):
            return None
        if pointer not in self._caches:
            self._caches[pointer] = None
            words = self._read(pointer, _CACHE_SIZE) or b""
            for (word,) in struct.iter_unpack("<Q", words):
                if word < self._direct:
                    continue
                text = (self._read(word, 64) or b"").split(b"\0")[0].decode("ascii", "replace")
                if text in self._sizes:
                    self._caches[pointer] = text
                    break
        return self._caches[pointer]

    def _base(self, symbol: str, usual: int) -> int:
        address = self._symbols.absolute.get(symbol)
        value = self._read(address, 8) if address else None
        return int.from_bytes(value, "little") if value else usual

    def _per_cpu_offsets(self) -> list[int]:
        address = self._symbols.absolute.get("__per_cpu_offset")
        table = self._read(address, 8 * self._vm.cpus) if address else None
        return [word for (word,) in struct.iter_unpack("<Q", table)] if table else []

    def _read(self, address: int, size: int) -> bytes | None:
        return self._vm.read_memory(address, size)


def _at(name: str, offset: int) -> str:
    line = offset // LINE * LINE
    return f"{name}+{line:#x}" if line else name


def _slab_sizes(vm: Vm) -> Mapping[str, int]:
    """Return the distance of objects, by slab cache."""
    script = "cd /sys/kernel/slab && for c in *; do read s < $c/slab_size && echo $c $s; done"
    try:
        lines = vm.run(script, timeout=60).stdout.splitlines()
        return {Path(name).name: int(size) for name, size in map(str.split, lines)}
    except (HarnessError, ValueError):
        return {}
