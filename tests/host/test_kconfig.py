"""Fragments, their merge, and the check that each request took effect."""

import stat
from pathlib import Path

import pytest

from harness import flavours, kconfig, paths

pytestmark = pytest.mark.host


def fragment(directory: Path, text: str, name: str = "a.config") -> Path:
    path = directory / name
    path.write_text(text)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tree = tmp_path / "linux"
    (tree / "net/core").mkdir(parents=True)
    (tree / "lib").mkdir()
    (tree / "Kconfig").write_text('source "net/Kconfig"\n')
    (tree / "net/Kconfig").write_text(
        'menuconfig NET\n\tbool "Networking"\n\nconfig VETH\n\tbool "veth"\n'
        "\tdepends on NET && NETDEVICES\n\tdepends on !S390\n\thelp\n\t  depends on nothing\n"
    )
    (tree / "lib/Kconfig.debug").write_text('config KUNIT\n\tbool "KUnit"\n')
    return tree


def test_a_fragment_has_requests_comments_and_marks(tmp_path: Path) -> None:
    path = fragment(
        tmp_path,
        "# why\n\nCONFIG_NET=y\nCONFIG_HZ=1000\nCONFIG_RETPOLINE=n # optional: renamed in v6.9\n"
        'CONFIG_X="a # b"\nCONFIG_PV=y # optional in v7.3, v6.12: lazy preemption\n',
    )
    net, hz, retpoline, text, pv = kconfig.parse_fragment(path)
    assert (net.name, net.value, net.where, net.optional) == ("NET", "y", "a.config:3", False)
    assert hz.line == "CONFIG_HZ=1000"
    assert retpoline.optional and retpoline.value == "n"
    assert text.value == '"a # b"'
    assert pv.optional_in == {"v7.3", "v6.12"} and not pv.optional


@pytest.mark.parametrize(
    "line",
    ["NET=y", "CONFIG_NET", "CONFIG_NET = y", "# CONFIG_NET is not set\nCONFIG_NET=y z",
     "CONFIG_NET=y # optonal: typo", "CONFIG_NET=y # optional", "CONFIG_NET=y # optional:"],
)  # fmt: skip
def test_a_line_that_is_no_request_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(kconfig.BadFragment, match=r"a\.config:\d"):
        kconfig.parse_fragment(fragment(tmp_path, line + "\n"))


def test_a_missing_fragment_is_named(tmp_path: Path) -> None:
    with pytest.raises(kconfig.BadFragment, match=r"none\.config"):
        kconfig.parse_fragment(tmp_path / "none.config")


def test_of_several_requests_the_last_one_counts_and_stands_last(tmp_path: Path) -> None:
    first = fragment(tmp_path, "CONFIG_PREEMPT_VOLUNTARY=y\nCONFIG_NET=y\n")
    second = fragment(tmp_path, "CONFIG_PREEMPT_VOLUNTARY=n\nCONFIG_PREEMPT=y\n", "b.config")
    merged = kconfig.merge([first, second])
    assert [request.line for request in merged] == [
        "CONFIG_NET=y",
        "CONFIG_PREEMPT_VOLUNTARY=n",
        "CONFIG_PREEMPT=y",
    ]


def request(tmp_path: Path, line: str) -> kconfig.Request:
    return kconfig.parse_fragment(fragment(tmp_path, line + "\n"))[0]


@pytest.mark.parametrize(
    ("line", "options", "verdict"),
    [
        ("CONFIG_VETH=y", {"VETH": "y"}, "ok"),
        ("CONFIG_VETH=y", {"VETH": "m"}, "failed"),
        ("CONFIG_VETH=y", {}, "failed"),
        ("CONFIG_VETH=n", {}, "ok"),
        ("CONFIG_VETH=n", {"VETH": "y"}, "failed"),
        # The mark forgives a tree without the symbol, not one that refuses it.
        ("CONFIG_VETH=y # optional: from v9", {}, "failed"),
        ("CONFIG_NEWER=y # optional: from v9", {}, "forgiven"),
        ("CONFIG_NEWER=y", {}, "failed"),
        ("CONFIG_VETH=y # optional in v6.1: why", {}, "forgiven"),
        ("CONFIG_VETH=y # optional in v7.3: why", {}, "failed"),
        ("CONFIG_HZ=1000", {"HZ": "250"}, "failed"),
    ],
)
def test_what_did_not_take_effect(
    tmp_path: Path, source: Path, line: str, options: dict[str, str], verdict: str
) -> None:
    failed, forgiven = kconfig.check([request(tmp_path, line)], options, base="v6.1", source=source)
    assert {"failed": (1, 0), "forgiven": (0, 1), "ok": (0, 0)}[verdict] == (
        len(failed),
        len(forgiven),
    )


def test_the_reason_is_what_the_tree_says(tmp_path: Path, source: Path) -> None:
    lines = ["CONFIG_VETH=y", "CONFIG_KUNIT=y", "CONFIG_NO_SUCH=y"]
    failed, _ = kconfig.check(
        [request(tmp_path, line) for line in lines], {}, base="v6.1", source=source
    )
    veth, kunit, none = map(kconfig.describe, failed)
    assert "net/Kconfig:4 (depends on NET && NETDEVICES && !S390)" in veth
    assert "lib/Kconfig.debug:1" in kunit
    assert "no Kconfig file of this tree defines it" in none


FAKE_MAKE = r"""#!/bin/sh
# Understands: make -C SOURCE O=DIR [KCONFIG_ALLCONFIG=FILE] allnoconfig|olddefconfig.
for word in "$@"; do case $word in
    O=*) out=${word#O=} ;; KCONFIG_ALLCONFIG=*) all=${word#*=} ;; esac; done
echo "make $*" >>"$out/calls"
[ ! -e "$out/broken" ] || { echo "Kconfig:3: syntax error"; exit 2; }
if [ -n "${all-}" ]; then cp "$all" "$out/.config"; fi
# What the tree does not define, or refuses, disappears; the last line for a symbol counts.
grep -v -e CONFIG_NEWER -e CONFIG_VETH= "$out/.config" |
    awk -F= '{ last[$1] = $0; if (!($1 in at)) at[$1] = NR; line[NR] = $1 }
        END { for (i = 1; i <= NR; i++) if (at[line[i]] == i) print last[line[i]] }' |
    grep -v '=n$' >"$out/.new"
mv "$out/.new" "$out/.config"
"""


@pytest.fixture
def make(tmp_path: Path) -> list[str]:
    path = tmp_path / "make"
    path.write_text(FAKE_MAKE)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return [str(path)]


def test_configure_writes_and_checks(tmp_path: Path, source: Path, make: list[str]) -> None:
    one = fragment(tmp_path, "CONFIG_NET=y\nCONFIG_NEWER=y # optional: later\nCONFIG_IDE=n\n")
    out = tmp_path / "out"
    out.mkdir()
    result = kconfig.configure(source, out, [one], base="v6.1", make=make)
    assert result.options == {"NET": "y"}
    assert [missed.request.name for missed in result.forgiven] == ["NEWER"]
    assert "#" not in (out / ".skbhome-requests.config").read_text()


def test_every_option_that_failed_is_listed(tmp_path: Path, source: Path, make: list[str]) -> None:
    one = fragment(tmp_path, "CONFIG_VETH=y\nCONFIG_NEWER=y\nCONFIG_NET=y\n")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(kconfig.OptionsNotSet, match="2 requested options") as caught:
        kconfig.configure(source, out, [one], base="v6.1", make=make)
    text = str(caught.value)
    assert "a.config:1: CONFIG_VETH=y, but it is n" in text
    assert "a.config:2: CONFIG_NEWER=y" in text


def test_the_kernels_own_complaint_is_shown(tmp_path: Path, source: Path, make: list[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "broken").touch()
    with pytest.raises(kconfig.ConfigureFailed, match="syntax error"):
        kconfig.configure(
            source, out, [fragment(tmp_path, "CONFIG_NET=y\n")], base="v6.1", make=make
        )


def test_a_configuration_of_ones_own_is_kept_and_conflicts_are_told(
    tmp_path: Path, source: Path, make: list[str]
) -> None:
    own = fragment(tmp_path, "CONFIG_NET=m\n# CONFIG_KUNIT is not set\nCONFIG_EXT4_FS=y\n", "own")
    one = fragment(tmp_path, "CONFIG_NET=y\nCONFIG_KUNIT=y\nCONFIG_HZ=1000\n")
    out = tmp_path / "out"
    out.mkdir()
    result = kconfig.configure(source, out, [one], base="v6.1", start=own, make=make)
    assert result.options["EXT4_FS"] == "y" and result.options["NET"] == "y"
    assert result.overridden == (
        "CONFIG_NET: yours m, used y (a.config:1)",
        "CONFIG_KUNIT: yours n, used y (a.config:2)",
    )
    assert "olddefconfig" in (out / "calls").read_text()


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\xff\xfe\x00CONFIG"])
def test_a_file_that_is_no_configuration_is_refused(
    tmp_path: Path, source: Path, make: list[str], content: bytes
) -> None:
    own = tmp_path / "own"
    own.write_bytes(content)
    with pytest.raises(kconfig.BadFragment, match="own"):
        kconfig.configure(source, tmp_path, [], base="v6.1", start=own, make=make)


def test_all_fragments_of_the_project_can_be_read() -> None:
    files = sorted(paths.KCONFIG.glob("*.config"))
    assert files
    for path in files:
        assert kconfig.parse_fragment(path), path
        assert path.read_text().startswith("# "), f"{path.name} does not say what it is for"


def test_no_fragment_lies_about_unused() -> None:
    used = {path for flavour in flavours.all_flavours() for path in flavour.files()}
    assert used == set(paths.KCONFIG.glob("*.config"))


def test_only_the_debug_flavour_pays_for_checks() -> None:
    lean = {r.name: r.value for r in kconfig.merge(flavours.get("default").files())}
    debug = {r.name: r.value for r in kconfig.merge(flavours.get("debug").files())}
    for name in ("KASAN", "PROVE_LOCKING", "DEBUG_ATOMIC_SLEEP", "DEBUG_KMEMLEAK", "DEBUG_NET"):
        assert name not in lean and debug[name] == "y"
    for name in ("SLUB_STATS", "KUNIT", "FAILSLAB", "KPROBE_EVENTS"):
        assert lean[name] == debug[name] == "y"
