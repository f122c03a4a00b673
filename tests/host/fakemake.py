"""A made-up make, compiler and linker, for tests of what is built, when, and what is said of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

# Configures as asked, "compiles" each .c file below net when it is newer than its object,
# warns about each line of it that starts with "warn", and fails at one that starts with "error".
MAKE = r"""#!/bin/sh
for word in "$@"; do case $word in
    O=*) out=${word#O=} ;;
    KCONFIG_ALLCONFIG=*) all=${word#*=} ;;
    LOCALVERSION=*) version=${word#*=} ;; esac; done
source=$(dirname "$out")
echo "$*" >>"$source/../calls"
case $* in
*allnoconfig*) grep -v '=n$' "$all" >"$out/.config"; exit ;;
*olddefconfig*) grep '^CONFIG_' "$out/.config" | tac | sort -t= -k1,1 -u -s |
        grep -v '=n$' >"$out/.new"
    mv "$out/.new" "$out/.config"; exit ;;
esac
[ ! -e "$source/slow" ] || sleep 60
mkdir -p "$out/kernel"; touch "$out/kernel/bounds.s"
mkdir -p "$out/include/config" "$out/arch/x86/boot"
want=$(cd "$source" && find net -name '*.c' | sort | sed 's/c$/o/')
case $* in *bzImage*) ;; *) want=; for word in "$@"; do
    case $word in *.o) want="$want $word" ;; esac; done ;; esac
for object in $want; do
    file=${object%.o}.c
    [ -e "$source/$file" ] || { echo "make: *** No rule to make target '$object'."; exit 2; }
    [ ! "$out/$object" -nt "$source/$file" ] || continue
    mkdir -p "$out/${object%/*}"
    echo "source_$object := ../$file" >"$out/${object%/*}/.${object##*/}.cmd"
    echo "  CC      $object"
    grep -n '^warn' "$source/$file" | while IFS=: read -r line text; do
        echo "../$file: In function 'f':"
        echo "../$file:$line:1: warning: $text [-Wfake]"
    done
    if grep -n '^error' "$source/$file" >"$out/.errors"; then
        echo "../$file:$(cut -d: -f1 "$out/.errors"):1: error: as told"
        echo "make[1]: *** [$object] Error 1"; echo "  CC      net/z.o"
        echo "make: *** [net] Error 2"; exit 2
    fi
    cp "$source/$file" "$out/$object"
done
case $* in *bzImage*) ;; *) exit 0 ;; esac
echo "  LD      vmlinux"
(cd "$out" && cat $want) >"$out/vmlinux"
cp "$out/vmlinux" "$out/arch/x86/boot/bzImage"
echo "5.10.1$version" >"$out/include/config/kernel.release"
"""


def install(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put them into the directory ``tools``, first in PATH."""
    tools.mkdir(exist_ok=True)
    for name, text in (("make", MAKE), ("gcc", "#!/bin/sh\necho gcc 1\n"), ("ld", "#!/bin/sh\n")):
        (tools / name).write_text(text)
        (tools / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
