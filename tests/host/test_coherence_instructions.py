"""What the plugin tells from the bytes of an instruction, which gcc's assembler makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness import process
from harness.coherence import plugin

pytestmark = pytest.mark.host

SOURCE = Path(__file__).parent / "data/coherence/instructions.c"

SYSTEM = """\
iretq
sysretq
syscall
popfq
sti
cli
hlt
int $0x80
int3
lretq
ljmp *(%rax)
lcall *(%rax)
swapgs
wrmsr
rdmsr
cpuid
clts
invlpg (%rax)
lgdt (%rax)
lidt (%rax)
ltr %ax
mov %rax, %cr3
mov %cr2, %rax
mov %ax, %ss
pop %fs
pop %gs
fxsave (%rax)
xrstor (%rax)
mfence
inb (%dx), %al
out %al, $0x80
outsb
"""

REPEATED = """\
rep movsb
rep movsq
rep stosq
rep stosb
repe cmpsb
repne scasb
rep lodsw
rep insb
rep stosl %eax, %es:(%edi)
"""

ORDINARY = """\
mov (%rax), %rbx
mov %rbx, 0x10(%rax)
push %rbp
pop %rbp
call *0x20(%rax)
jmp *0x20(%rax)
push (%rax)
incl (%rax)
ret
movsq
stosb
lock cmpxchg %rcx, (%rdx)
lock xadd %rcx, (%rdx)
xchg %rcx, (%rdx)
mov %gs:0x1ac00, %rax
addq $1, %gs:0x28(%rip)
movdqu (%rax), %xmm0
cmpxchg16b (%rax)
pushfq
nopl 0x0(%rax,%rax,1)
nopl 0x534b4200(%rax,%rax,1)
nopl 0x534b4205(%rax,%rax,1)
nopw 0x534b4201(%rax,%rax,1)
bts %rax, (%rbx)
pause
btr %rcx, 0x8(%rdx)
prefetchw (%rax)
prefetcht0 (%rax)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what is told of each instruction of this module."""
    where = tmp_path_factory.mktemp("instructions")
    program, code = where / "instructions", where / "code.o"
    marks = "".join(f"nopl 0x534b420{number}(%rax,%rax,1)\n" for number in range(1, 5))
    texts = (SYSTEM + REPEATED + ORDINARY + marks).splitlines()
    (where / "code.s").write_text("".join(f"{text}\n" for text in texts))
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
    process.run(["gcc", *flags, "-I", plugin.HERE, "-o", program, SOURCE], timeout=60)
    process.run(["gcc", "-c", "-o", code, where / "code.s"], timeout=60)
    shown = process.run(["objdump", "-d", "--wide", code], timeout=60).output
    lines = re.findall(r"^ +[0-9a-f]+:\t((?:[0-9a-f]{2} )+)", shown, re.MULTILINE)
    assert len(lines) == len(texts), shown
    answers = process.run([program], timeout=60, stdin="\n".join(lines).encode() + b"\n").output
    return dict(zip(texts, answers.splitlines(), strict=True))


@pytest.mark.parametrize("text", SYSTEM.splitlines())
def test_what_ends_a_block_by_itself(told: dict[str, str], text: str) -> None:
    assert told[text] == "system"


@pytest.mark.parametrize("text", REPEATED.splitlines())
def test_what_repeats_itself(told: dict[str, str], text: str) -> None:
    assert told[text] == "repeated"


@pytest.mark.parametrize("text", ORDINARY.splitlines())
def test_everything_else_is_followed(told: dict[str, str], text: str) -> None:
    assert told[text] == "-"


def test_marks(told: dict[str, str]) -> None:
    for number in range(1, 5):
        assert told[f"nopl 0x534b420{number}(%rax,%rax,1)"] == f"mark {number}"
