"""Tiny kernel trees, source packages and a made-up apt, for tests of how trees are got."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import git as harness_git
from harness import paths
from harness.bases import Base

BASE = Base(
    name="v5.10",
    series="5.10",
    package="linux-source-5.10",
    suites=("old-security",),
    tarball="v5.x",
    flavour="default",
)

DEV_C = "".join(f"int line_{number};\n" for number in range(1, 101))

_CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Test Person",
    "GIT_AUTHOR_EMAIL": "person@example.org",
    "GIT_COMMITTER_NAME": "Test Person",
    "GIT_COMMITTER_EMAIL": "person@example.org",
}


def make_tree(directory: Path, *, version: str = "5.10.7", marker: str = "") -> Path:
    """Write the least that counts as a kernel tree; like the real one, some of it is ignored."""
    major, minor, patch = version.split(".")
    files = {
        "Makefile": (
            f"# SPDX-License-Identifier: GPL-2.0\nVERSION = {major}\nPATCHLEVEL = {minor}\n"
            f"SUBLEVEL = {patch}\nEXTRAVERSION =\nNAME = Test{marker}\n"
        ),
        "Kbuild": "obj-y += net/\n",
        "net/core/dev.c": DEV_C,
        "net/core/sock.c": "int sock;\n",
        "include/linux/skbuff.h": "struct sk_buff;\n",
        ".gitignore": "*.o\n/debian/\n.config\n",
        ".gitattributes": "*.c diff=cpp\n",
        "debian/rules": "hidden by .gitignore, and part of the source\n",
    }
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def make_tarball(top: Path, *, version: str = "5.10.7", marker: str = "") -> Path:
    """Make linux-source-5.10.tar.xz below ``top``, as the package has it."""
    make_tree(top / "tar/linux-source-5.10", version=version, marker=marker)
    made = top / "linux-source-5.10.tar.xz"
    subprocess.run(
        ["tar", "-C", top / "tar", "-cJf", made, "linux-source-5.10"],
        check=True,
        env={**os.environ, "XZ_OPT": "-0"},
    )
    return made


def make_package(
    top: Path, *, version: str = "5.10.7", marker: str = "", rt_patch: bool = True
) -> Path:
    """Make a source package like the distribution's; return the .deb."""
    root = top / "root"
    source = root / "usr/src"
    source.mkdir(parents=True)
    make_tarball(top, version=version, marker=marker).rename(source / "linux-source-5.10.tar.xz")
    if rt_patch:
        (source / "linux-patch-5.10-rt.patch.xz").write_bytes(b"the rt patch")
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        f"Package: linux-source-5.10\nVersion: {version}-1\nArchitecture: all\n"
        "Maintainer: Nobody <nobody@example.org>\nDescription: a made-up kernel\n"
    )
    made = top / f"linux-source-5.10_{version}-1_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "-b", root, made],
        check=True,
        capture_output=True,
    )
    return made


def git(where: Path, *args: str | Path) -> str:
    """Run git as a person would, and return its output."""
    done = subprocess.run(
        ["git", "-C", where, *args], check=True, capture_output=True, text=True, env=_CLEAN
    )
    return done.stdout.strip()


def commit_edit(worktree: Path, file: str, old: str, new: str, message: str) -> None:
    """Replace text in a file (or make the file) and commit it."""
    path = worktree / file
    text = path.read_text() if path.exists() else ""
    assert old in text
    path.write_text(text.replace(old, new, 1) if old else new)
    git(worktree, "add", file)
    git(worktree, "commit", "-q", "-m", message)


def make_patch(directory: Path, number: int, line: int, text: str, *, subject: str = "") -> str:
    """Write a patch that changes one line of net/core/dev.c, add it to the series."""
    lines = DEV_C.splitlines()
    context = range(max(line - 3, 1), min(line + 3, 100) + 1)
    body = "".join(
        f"-{lines[at - 1]}\n+{text}\n" if at == line else f" {lines[at - 1]}\n" for at in context
    )
    name = f"{number:04}-change-line-{line}.patch"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(
        "From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n"
        "From: Ann Author <ann@example.org>\nDate: Fri, 1 Mar 2024 10:00:00 +0100\n"
        f"Subject: [PATCH] {subject or f'net: change line {line}'}\n\nBecause.\n---\n"
        " net/core/dev.c | 2 +-\n 1 file changed, 1 insertion(+), 1 deletion(-)\n\n"
        "diff --git a/net/core/dev.c b/net/core/dev.c\n"
        "--- a/net/core/dev.c\n+++ b/net/core/dev.c\n"
        f"@@ -{context[0]},{len(context)} +{context[0]},{len(context)} @@\n{body}"
    )
    with (directory / "series").open("a") as series:
        series.write(f"{name}\n")
    return name


@dataclass
class FakeApt:
    """A made-up apt, first in PATH, that does what a test tells it to.

    ``plan`` keys: targets (rows of uri, suite, origin, label), update and
    download (suite or "" for any -> [status, output]), show (suite -> text),
    deb (the file that a download gives), short (bytes to cut off its end).
    """

    directory: Path
    plan: dict[str, object]

    def write(self, **changes: object) -> None:
        self.plan.update(changes)
        (self.directory / "plan.json").write_text(json.dumps(self.plan))

    @property
    def calls(self) -> list[list[str]]:
        log = self.directory / "calls"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def called(self, word: str) -> int:
        return sum(word in call for call in self.calls)

    def offer(self, deb: Path, *, suite: str = "old-security", version: str = "5.10.7-1") -> None:
        """Have ``suite`` offer a package, with its right checksum."""
        from harness.sources.model import sha256

        text = (
            f"Package: linux-source-5.10\nVersion: {version}\nArchitecture: all\n"
            f"Filename: pool/linux-source-5.10_{version}_all.deb\nSize: {deb.stat().st_size}\n"
            f"SHA256: {sha256(deb)}\n\n"
        )
        show = dict(self.plan.get("show", {}))  # type: ignore[call-overload]
        self.write(show=show | {suite: text}, deb=str(deb))


# Isolated and without the site module, for it starts often.
_FAKE = """#!{python} -IS
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
plan = json.load(open(here + "/plan.json"))
name, args = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(here + "/calls", "a") as log:
    log.write(json.dumps([name, *args]) + "\\n")
if "indextargets" in args:
    for uri, suite, origin, label in plan.get("targets", []):
        if "--no-release-info" in args:
            origin, label = "$(ORIGIN)", "$(LABEL)"
        elif not origin:
            continue
        print(uri, suite, origin, label, sep="\\t")
    sys.exit(0)
if "--print-uris" in args:
    print(f"'{{plan.get('scheme', 'http')}}://mirror.invalid/pool/x.deb' x.deb 1 SHA256:0")
    sys.exit(0)
sources = os.path.dirname(args[args.index("-c") + 1]) + "/archive.sources"
suite = next(line.split()[1] for line in open(sources) if line.startswith("Suites:"))
if "show" in args:
    sys.stdout.write(plan.get("show", {{}}).get(suite, ""))
    sys.exit(0 if suite in plan.get("show", {{}}) else 100)
step = "update" if "update" in args else "download"
status, output = plan.get(step, {{}}).get(suite, [0, ""])
print(output)
if step == "download" and status == 0:
    target = os.path.basename(plan["deb"]) if name == "apt-get" else args[-2]
    data = open(plan["deb"], "rb").read()
    open(target, "wb").write(data[: len(data) - plan.get("short", 0)])
sys.exit(status)
"""


def fake_apt(directory: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    directory.mkdir()
    for name in ("apt-get", "apt-cache", "apt-helper"):
        script = directory / name
        script.write_text(_FAKE.format(python=sys.executable))
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    keyring = directory / "keyring.gpg"
    keyring.touch()
    monkeypatch.setattr("harness.sources.apt.HELPER", directory / "apt-helper")
    monkeypatch.setattr("harness.sources.apt.KEYRING", keyring)
    apt = FakeApt(directory, {})
    apt.write(
        targets=[
            ["cdrom://[A disc]/", "stable", "Debian", "Debian"],
            ["http://mirror.invalid/debian/", "stable", "Debian", "Debian"],
            ["http://mirror.invalid/debian-sec/", "stable-security", "Debian", "Debian-Security"],
            ["http://other.invalid/repo/", "any", "Somebody", "Else"],
        ]
    )
    return apt


def isolate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point build/ and patches/ into ``tmp_path``."""
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(paths, "PATCHES", tmp_path / "patches")
    # These tests end processes, not the machine: waiting for a busy disk proves nothing.
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr("harness.git._SETTINGS", (*harness_git._SETTINGS, "core.fsync=none"))
    # Nothing may ever leave the machine: port 9 (discard) of the loopback refuses.
    monkeypatch.setenv("SKBHOME_KERNEL_ORG", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class Snapshot:
    """A directory that every test gets in the same state, at the same path."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.saved = top.with_name(f"{top.name}.saved")

    def save(self) -> None:
        shutil.copytree(self.top, self.saved, symlinks=True)

    def restore(self) -> Path:
        shutil.rmtree(self.top)
        shutil.copytree(self.saved, self.top, symlinks=True)
        return self.top
