"""A new kselftest is built, installed, ignored by git, and names the options that it needs.

Source: Documentation/dev-tools/kselftest.rst ("Contributing new tests").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from harness import git
from harness.checks.context import Place
from harness.checks.model import Finding, Result

NAME = "kselftest"

_TOP = "tools/testing/selftests/"

#: Words of a test, and the option of the kernel's without which they do not work; options
#: that are on unless somebody turns them off (NET_NS) are not among them.
NEEDS = (
    (r"\btype veth\b", "VETH"),
    (r"\btuntap\b|/dev/net/tun", "TUN"),
    (r"\btype macvtap\b", "MACVTAP"),
    (r"\btype macvlan\b", "MACVLAN"),
    (r"\btype vlan\b", "VLAN_8021Q"),
    (r"\btype vxlan\b", "VXLAN"),
    (r"\btype bridge\b", "BRIDGE"),
    (r"\btype dummy\b", "DUMMY"),
    (r"\bnetem\b", "NET_SCH_NETEM"),
    (r"\bnft\b", "NF_TABLES"),
    (r"/sys/kernel/debug\b", "DEBUG_FS"),
)


def check(place: Place) -> Result:
    """Look at the files that a patch adds below tools/testing/selftests."""
    if not place.applies:
        return Result(NAME, skipped="it does not apply")
    new = [file.path for file in place.files if file.is_added_file and file.path.startswith(_TOP)]
    touched = any(path.startswith(_TOP) for path in place.paths)
    found = [*(finding for path in new for finding in _of_file(place, path)), *_config(place)]
    return Result(NAME, tuple(found), note="" if touched else "no kselftest")


def _of_file(place: Place, path: str) -> Iterator[Finding]:
    name = PurePosixPath(path)
    directory = name.parent
    if name.suffix not in (".sh", ".py", ".c", ".pl"):
        return
    makefile = _text(place, f"{directory}/Makefile")
    program = name.stem if name.suffix == ".c" else name.name
    if not re.search(rf"(?<![\w.-]){re.escape(program)}(?![\w-])", makefile):
        yield Finding(f"{directory}/Makefile does not name {program}", kind="MAKEFILE", file=path)
    if name.suffix == ".c":
        ignored = _text(place, f"{directory}/.gitignore")
        if not re.search(rf"^/?{re.escape(program)}$", ignored, re.M):
            text = f"{directory}/.gitignore does not name {program}"
            yield Finding(text, kind="GITIGNORE", file=path)
    elif re.search(rf"TEST_PROGS\b.*\b{re.escape(program)}\b", makefile) and not _runs(place, path):
        yield Finding("a test that is run is to be executable", kind="MODE", file=path)
    options = _text(place, f"{directory}/config")
    content = _text(place, path)
    for pattern, option in NEEDS:
        if re.search(pattern, content) and f"CONFIG_{option}=" not in options:
            text = f"{directory}/config does not have CONFIG_{option}, which it needs"
            yield Finding(text, kind="CONFIG", file=path)


def _config(place: Place) -> Iterator[Finding]:
    """Yield the options that a patch adds to a test's config and that no Kconfig has."""
    for line in place.added(("config",)):
        match = re.match(r"CONFIG_(\w+)=", line.text)
        if match is None or not line.file.startswith(_TOP):
            continue
        done = git.run(
            place.context.home.repo,
            *("grep", "--quiet", "-E", "-e", rf"^(menu)?config {match[1]}$"),
            *(place.context.commits[place.number - 1], "--", "*Kconfig*"),
            what=f"looking for the option {match[1]}",
            check=False,
        )
        if done.returncode != 0:
            text = f"there is no option {match[1]}"
            yield Finding(text, kind="NO_OPTION", file=line.file, line=line.number)


def _text(place: Place, path: str) -> str:
    return (place.after(path) or b"").decode(errors="replace")


def _runs(place: Place, path: str) -> bool:
    listing = git.read(
        place.context.home.repo, "ls-tree", place.context.commits[place.number - 1], path
    )
    return listing.startswith("100755")
