"""What a line of memory belongs to: a variable, a per-CPU one, or an object of a slab cache.

Told from the kernel's symbols and, through QEMU's monitor, its memory as it is when asked:
a page that serves another purpose by then goes by that. Make a new Namer for a new section.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.coherence.counts import Move
from harness.errors import HarnessError
from harness.symbols import Symbols

if TYPE_CHECKING:
    from harness.vm import Vm

#: Where x86_64 has things without KASLR and with four levels of page tables, unless it
#: has variables that say so: the direct map, vmalloc's space, and struct page (with
#: SPARSEMEM_VMEMMAP).
DIRECT_MAP, VMALLOC, VMEMMAP = 0xFFFF888000000000, 0xFFFFC90000000000, 0xFFFFEA0000000000
IMAGE = 0xFFFFFFFF80000000

PAGE, PAGE_STRUCT, LINE = 4096, 64, 64

#: How many bytes of the direct map there can be.
_DIRECT_SPAN = 1 << 46

#: Pages whose descriptions are there or not there together (128 MiB of memory).
_SECTION = 1 << 15

#: Without SPARSEMEM_VMEMMAP: the bits of struct mem_section's first word that are no address.
_SECTION_FLAGS = 0x3F

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
        self._sections: dict[int, bytes] = {}
        self._caches: dict[int, str | None] = {}
        self._sizes = _slab_sizes(vm)
        self._direct = self._base("page_offset_base", DIRECT_MAP)
        self._vmalloc = self._base("vmalloc_base", VMALLOC)
        self._pages_at = self._find_pages()
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
        if self._vmalloc <= address < VMEMMAP:
            return "vmalloc"
        return "struct page" if self._describes_pages(address) else "(elsewhere)"

    def _named(self, address: int, suffix: str) -> str | None:
        found = self._symbols.variable(address)
        return f"{_at(*found)}{suffix}" if found else None

    def _in_direct_map(self, address: int) -> str:
        for offset in self._per_cpu:
            inside = address - offset
            if 0 <= inside < self._symbols.absolute.get("__per_cpu_end", 0):
                return self._named(inside, " (per CPU)") or "a per-CPU variable"
            # What is allocated at run time follows, in the same chunk.
        if self._describes_pages(address):
            return "struct page"
        frame = (address - self._direct) // PAGE
        if frame not in self._pages:
            self._pages[frame] = self._slab_of(frame)
        slab = self._pages[frame]
        if slab is None:
            return "pages"
        cache, start, size = slab
        return f"slab {_at(cache, (address - start) % size)}"

    def _describes_pages(self, address: int) -> bool:
        return any(
            start <= address < start + _SECTION * PAGE_STRUCT for start in self._pages_at.values()
        )

    def _slab_of(self, frame: int) -> tuple[str, int, int] | None:
        """Return the cache, the first object's address and the size of objects of a slab."""
        page = self._page(frame)
        if page is None:
            return None
        (head,) = struct.unpack_from("<Q", page, 8)
        if head & 1:
            section = frame // _SECTION
            first = (head - 1 - self._pages_at[section]) // PAGE_STRUCT + section * _SECTION
            if not 0 <= frame - first < 1 << 10:
                return None
            frame = first
            page = self._page(frame)
            if page is None:
                return None
        for at in _CACHE_AT:
            (pointer,) = struct.unpack_from("<Q", page, at)
            name = self._cache(pointer)
            if name is not None:
                return name, self._direct + frame * PAGE, self._sizes[name]
        return None

    def _page(self, frame: int) -> bytes | None:
        """Return a page's description, from those of its section, all read at once."""
        section, at = divmod(frame, _SECTION)
        start = self._pages_at.get(section)
        if start is None:
            return None
        if section not in self._sections:
            self._sections[section] = self._read(start, _SECTION * PAGE_STRUCT) or b""
        return self._sections[section][at * PAGE_STRUCT : (at + 1) * PAGE_STRUCT] or None

    def _find_pages(self) -> dict[int, int]:
        """Return where the pages of each section of memory are described; empty if unknown.

        The kernel's memory model is known by what it says of a page whose use is known: the
        one that the slab cache of slab caches has its own description in.
        """
        address = self._symbols.absolute.get("kmem_cache")
        pointer = int.from_bytes((self._read(address, 8) if address else None) or b"", "little")
        if not self._direct <= pointer < self._direct + _DIRECT_SPAN:
            return {}
        frame = (pointer - self._direct) // PAGE
        for model in self._models():
            self._pages_at = model
            self._sections = {}
            found = self._slab_of(frame)
            if found is not None and found[0] == self._cache(pointer):
                return model
        return {}

    def _models(self) -> Iterator[dict[int, int]]:
        # Memory that has no room below the devices' addresses lies above 4 GiB.
        sections = range((self._vm.options.megabytes + 4096) * 1024 // 4 // _SECTION)
        base = self._base("vmemmap_base", VMEMMAP)
        yield {at: base + at * _SECTION * PAGE_STRUCT for at in sections}
        address = self._symbols.absolute.get("mem_section")
        roots = self._read(address, 8) if address else None
        root = self._read(int.from_bytes(roots, "little"), 8) if roots else None
        table = self._read(int.from_bytes(root, "little"), PAGE) if root else None
        if table is None:
            return
        # struct mem_section has two words, or four with PAGE_EXTENSION.
        step = 4 if "page_ext_init" in self._symbols.absolute else 2
        words = [word for (word,) in struct.iter_unpack("<Q", table)][::step]
        yield {
            at: (word & ~_SECTION_FLAGS) + at * _SECTION * PAGE_STRUCT
            for at, word in zip(sections, words, strict=False)
            if word & ~_SECTION_FLAGS
        }

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
