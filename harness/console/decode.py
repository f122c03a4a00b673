"""From addresses in a report to files and lines.

The kernel tree's own scripts/decode_stacktrace.sh does it; where that is
missing or fails, nm and addr2line do, for the kernel image alone.
"""

from __future__ import annotations

import bisect
import re
import shutil
from pathlib import Path

from harness import process
from harness.errors import HarnessError

#: Seconds that the decoding of one report may take.
TIMEOUT = 120.0

_FRAME = re.compile(r"\b([\w.$]+)\+0x([0-9a-f]+)/0x([0-9a-f]+)(?![^\n]*\])")
_CODE = re.compile(r"(?:^|\] )Code: ")
_PLACE = re.compile(r"\([\w./-]+:\d+(?: \(discriminator \d+\))?\)")


def source_root(build_dir: Path) -> Path | None:
    """Return the kernel source that ``build_dir`` was built from, if it can be told."""
    for candidate in (build_dir / "source", build_dir, build_dir.parent):
        if (candidate / "scripts" / "decode_stacktrace.sh").is_file():
            return candidate.resolve()
    return None


def decode(text: str, *, vmlinux: Path, build_dir: Path | None = None) -> tuple[str | None, str]:
    """Return ``text`` with files and lines added, or None and the reason.

    Args:
        vmlinux: the ELF file of the kernel that printed the report.
        build_dir: its object directory.
    """
    if not _FRAME.search(text):
        return None, "it holds no addresses"
    if not vmlinux.is_file():
        return None, f"{vmlinux} is not there"
    reasons = []
    source = source_root(build_dir) if build_dir is not None else None
    if source is not None:
        try:
            return _by_script(text, vmlinux, source, build_dir), ""
        except HarnessError as err:
            reasons.append(err.what)
    else:
        reasons.append("no decode_stacktrace.sh beside the kernel")
    try:
        return _by_addr2line(text, vmlinux, source), ""
    except (HarnessError, ValueError) as err:
        reasons.append(str(err))
    return None, "; ".join(reasons)


def _by_script(text: str, vmlinux: Path, source: Path, build_dir: Path | None) -> str:
    # Of a line of machine code the script makes a page of assembly: keep those apart.
    lines = text.splitlines()
    code = {index: line for index, line in enumerate(lines) if _CODE.search(line)}
    asked = [line for index, line in enumerate(lines) if index not in code]
    argv: list[str | Path] = [
        "bash",
        source / "scripts" / "decode_stacktrace.sh",
        vmlinux,
        source,
    ]
    if build_dir is not None:
        argv.append(build_dir)
    done = process.run(
        argv,
        timeout=TIMEOUT,
        what="decode_stacktrace.sh",
        stdin="".join(f"{line}\n" for line in asked).encode(),
        cwd=source,
        env={"LC_ALL": "C"},
        split_stderr=True,
    )
    if not _PLACE.search(done.output):
        raise HarnessError("decode_stacktrace.sh found no file and line")
    answered = done.output.splitlines()
    if len(answered) == len(asked):
        for index in sorted(code):
            answered.insert(index, code[index])
    return "".join(f"{line}\n" for line in answered)


def _by_addr2line(text: str, vmlinux: Path, source: Path | None) -> str:
    for tool in ("nm", "addr2line"):
        if shutil.which(tool) is None:
            raise HarnessError(f"{tool} was not found")
    symbols: dict[str, list[int]] = {}
    for line in process.run(["nm", vmlinux], timeout=TIMEOUT).output.splitlines():
        words = line.split()
        if len(words) == 3:
            symbols.setdefault(words[2], []).append(int(words[0], 16))
    starts = sorted({at for found in symbols.values() for at in found})
    wanted: dict[str, int] = {}
    for match in _FRAME.finditer(text):
        name, offset, size = match[1], int(match[2], 16), int(match[3], 16)
        for start in symbols.get(name, []):
            following = bisect.bisect_right(starts, start)
            end = starts[following] if following < len(starts) else start + size
            # Of several functions of one name, the one of the right size.
            if len(symbols[name]) == 1 or 0 <= end - start - size < 64:
                # The address behind a call may already be the next line's.
                wanted[match[0]] = start + max(offset - (0 if "RIP" in text else 1), 0)
                break
    if not wanted:
        raise HarnessError("no address of the report is one of vmlinux")
    asked = [f"{address:x}" for address in wanted.values()]
    told = process.run(
        ["addr2line", "-e", vmlinux, *asked], timeout=TIMEOUT, what="addr2line"
    ).output.splitlines()
    places: dict[str, str] = {}
    for frame, place in zip(wanted, told, strict=False):
        place = place.removeprefix(f"{source}/") if source is not None else place
        if not place.startswith("?"):
            places[frame] = re.sub(r"^(?:\.\./)+", "", place)
    if not places:
        raise HarnessError("vmlinux has no line numbers (CONFIG_DEBUG_INFO)")
    return _FRAME.sub(
        lambda match: match[0] + (f" ({places[match[0]]})" if match[0] in places else ""), text
    )
