"""A small series without a fault, on a tiny kernel, with made-up tools to check it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from fakekernel import BASE, isolate, make_patch, make_tarball
from fakemake import install

from harness import bases, build, flavours, logs, paths, worktree
from harness.checks import passed, run, tools
from harness.checks.context import Context, fingerprint
from harness.checks.run import Report, Told
from harness.sources import fetch
from harness.sources.model import Source, sha256

#: Says what it was asked, on stderr what nobody wants to know; finds what the patch tells it to.
CHECKPATCH = r"""
print STDERR "Traceback (most recent call last):\nModuleNotFoundError: No module named 'ply'\n";
my $file = $ARGV[-1];
print "asked: @ARGV\nhome: $ENV{HOME}\n";
open(my $in, '<', $file) or die;
while (<$in>) {
    die "cannot go on" if /^\+die/;
    print "$1:SPACING: too close\n#12: FILE: net/core/dev.c:20:\n" if /^\+(ERROR|WARNING|CHECK)/;
}
print "total: 1 errors, 0 warnings, 0 checks, 9 lines checked\n";
exit 1;
"""
#: Complains about every line that asks for it.
KERNEL_DOC = r"""#!/bin/sh
for word in "$@"; do file=$word; done
grep -n 'undescribed' "$file" | while IFS=: read -r line text; do
    echo "$file:$line: warning: $text"
done
"""
GET_MAINTAINER = r"""
print "Ann Author <ann\@example.org>\nnetdev\@vger.example.org\n";
"""
LETTER = """\
Subject: net: change three lines

They are wrong.

 1- 2  are the code
 3     is the test
"""
TEST_PATCH = """\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: Ann Author <ann@example.org>
Date: Fri, 1 Mar 2024 10:00:00 +0100
Subject: [PATCH] net: test the lines

They were not tested.

Assisted-by: AGENT:MODEL
---
 net/core/dev_test.c | 2 ++
 1 file changed, 2 insertions(+)
 create mode 100644 net/core/dev_test.c

diff --git a/net/core/dev_test.c b/net/core/dev_test.c
new file mode 100644
--- /dev/null
+++ b/net/core/dev_test.c
@@ -0,0 +1,2 @@
+// SPDX-License-Identifier: GPL-2.0
+int test;
"""


class Desk:
    """The series, where it is checked, and what came of it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.patches = top / "patches/v5.10"

    @property
    def scripts(self) -> Path:
        return worktree.Home.of(BASE).worktree("patched") / "scripts"

    def edit(self, number: int, old: str, new: str) -> Path:
        """Replace text in one of the patches."""
        path = sorted(self.patches.glob("*.patch"))[number - 1]
        text = path.read_bytes().decode()
        assert old in text
        path.write_bytes(text.replace(old, new).encode())
        return path

    def context(self, onto: Path | None = None) -> Context:
        return Context(BASE, self.top / "logs", onto=onto)

    def run(self, onto: Path | None = None, *, no_skips: bool = False) -> Report:
        """Check the series."""
        before = fingerprint(BASE)
        report = Report(BASE, [], no_skips=no_skips)
        run.run(self.context(onto), report, lambda told: None)
        passed.remember(report, before, "2026-11-26 12:00 UTC")
        return report

    def found(self, onto: Path | None = None) -> list[str]:
        """Check the series; return what has to be changed: patch, check and text."""
        return [line for told in self.run(onto).bad() for line in lines(told)]


def lines(told: Told) -> list[str]:
    where = str(told.place.number) if told.place else "series"
    return [f"{where} {told.result.check}: {finding}" for finding in told.result.open]


def write_series(patches: Path) -> None:
    """Write three patches and a cover letter without a fault."""
    for number, line in enumerate((20, 50), 1):
        path = patches / make_patch(patches, number, line, f"int patched_{line};")
        path.write_text(
            path.read_text().replace("Because.\n", "Because.\n\nAssisted-by: AGENT:MODEL\n")
        )
    (patches / "0003-test.patch").write_text(TEST_PATCH)
    with (patches / "series").open("a") as series:
        series.write("0003-test.patch\n")
    (patches / "cover-letter").write_text(LETTER)


def write_scripts(scripts: Path) -> None:
    """Write the kernel's own tools, made up."""
    scripts.mkdir(parents=True, exist_ok=True)
    (scripts / "checkpatch.pl").write_text(CHECKPATCH)
    (scripts / "get_maintainer.pl").write_text(GET_MAINTAINER)
    (scripts / "kernel-doc").write_text(KERNEL_DOC)
    (scripts / "kernel-doc").chmod(stat.S_IRWXU)
    (scripts.parent / "MAINTAINERS").write_text("everybody\n")


def prepare(top: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Make a desk in ``top``, which may hold one already."""
    isolate(top, monkeypatch)
    monkeypatch.setenv(logs.VARIABLE, str(top / "logs"))
    monkeypatch.setattr(bases, "get", lambda name: BASE)
    install(top / "tools", monkeypatch)
    (top / "kconfig").mkdir(exist_ok=True)
    (top / "kconfig/m.config").write_text("CONFIG_NET=y\n")
    monkeypatch.setattr(paths, "KCONFIG", top / "kconfig")
    table = flavours.parse('[default]\ndescription="x"\nfragments=["m"]\n')
    monkeypatch.setattr(flavours, "_table", lambda: table)
    monkeypatch.setattr(build, "compiler", lambda name: (top / "tools/gcc").read_text())
    # What this machine happens to have must not decide.
    monkeypatch.setattr(tools, "there", lambda name: False)
    archive = top / "linux-source-5.10.tar.xz"
    if not archive.exists():
        make_tarball(top)
        write_series(top / "patches/v5.10")
        write_scripts(worktree.Home.of(BASE).worktree("patched") / "scripts")
    source = Source(BASE.name, "5.10.7", "kernel.org", sha256(archive), archive)
    monkeypatch.setattr(fetch, "fetch", lambda base: source)
    return Desk(top)
