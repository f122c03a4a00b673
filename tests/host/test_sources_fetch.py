"""Which source is taken, what is used again, and what is never trusted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fakekernel import BASE, FakeApt, fake_apt, git, isolate, make_package, make_tarball, make_tree

from harness import disk, paths
from harness.sources import fetch, kernelorg, local
from harness.sources.model import (
    BadChecksum,
    BadSignature,
    NoNetwork,
    NotAKernel,
    SourceError,
    newer,
    sha256,
)

pytestmark = pytest.mark.host

OFFLINE = [100, "E: Failed to fetch http://mirror.invalid/  Could not resolve 'mirror.invalid'"]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    isolate(tmp_path, monkeypatch)
    return fake_apt(tmp_path / "bin", monkeypatch)


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("deb"))


def test_the_distributions_package_comes_first(fake: FakeApt, deb: Path) -> None:
    fake.offer(deb)
    source = fetch.fetch(BASE)
    assert (source.version, source.origin) == ("5.10.7", "distribution")
    assert source.checksum == sha256(deb)
    assert source.archive is not None
    assert source.archive.parent == paths.downloads() / "v5.10"
    assert source.describe() == {
        "version": "5.10.7-1",
        "origin": "distribution",
        "checksum": sha256(deb),
    }


def test_the_rt_patch_is_kept_if_there_is_one(
    fake: FakeApt, deb: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fake.offer(deb)
    source = fetch.fetch(BASE)
    assert source.rt_patch is not None
    assert source.rt_patch.read_bytes() == b"the rt patch"
    other = make_package(tmp_path_factory.mktemp("plain"), version="5.10.8", rt_patch=False)
    fake.offer(other, version="5.10.8-1")
    assert fetch.fetch(BASE).rt_patch is None


def test_a_second_run_downloads_nothing(fake: FakeApt, deb: Path) -> None:
    fake.offer(deb)
    first = fetch.fetch(BASE)
    assert fetch.fetch(BASE) == first
    assert fake.called("download-file") == 1


def test_a_newer_release_is_downloaded(
    fake: FakeApt, deb: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fake.offer(deb)
    fetch.fetch(BASE)
    newer_deb = make_package(tmp_path_factory.mktemp("newer"), version="5.10.8")
    fake.offer(newer_deb, version="5.10.8-1")
    assert fetch.fetch(BASE).version == "5.10.8"
    assert fake.called("download-file") == 2


@pytest.mark.parametrize("damage", ["short", "changed", "unstamped"])
def test_an_archive_that_is_not_whole_is_fetched_again(
    fake: FakeApt, deb: Path, damage: str
) -> None:
    fake.offer(deb)
    archive = fetch.fetch(BASE).archive
    assert archive is not None
    data = archive.read_bytes()
    if damage == "short":
        archive.write_bytes(data[:-1])
    elif damage == "changed":
        archive.write_bytes(data[:-1] + b"x")
    else:
        archive.with_name(archive.name + ".stamp").unlink()
    again = fetch.fetch(BASE).archive
    assert again is not None
    assert again.read_bytes() == data
    assert fake.called("download-file") == 2


def test_offline_uses_what_is_here_and_says_so(
    fake: FakeApt, deb: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.offer(deb)
    first = fetch.fetch(BASE)
    capsys.readouterr()
    fake.write(update={"old-security": OFFLINE})
    assert fetch.fetch(BASE) == first
    told = capsys.readouterr().err
    assert "cannot be reached" in told
    assert "using 5.10.7, downloaded and verified earlier" in told


def test_offline_never_uses_a_damaged_archive(fake: FakeApt, deb: Path) -> None:
    fake.offer(deb)
    archive = fetch.fetch(BASE).archive
    assert archive is not None
    archive.write_bytes(archive.read_bytes()[:-1])
    fake.write(update={"old-security": OFFLINE})
    with pytest.raises(NoNetwork):
        fetch.fetch(BASE)


def test_offline_may_be_forbidden(fake: FakeApt, deb: Path) -> None:
    fake.offer(deb)
    fetch.fetch(BASE)
    fake.write(update={"old-security": OFFLINE})
    with pytest.raises(NoNetwork):
        fetch.fetch(BASE, offline_ok=False)


def test_offline_with_nothing_here_says_what_was_tried(fake: FakeApt) -> None:
    fake.write(update={"old-security": OFFLINE})
    with pytest.raises(NoNetwork) as caught:
        fetch.fetch(BASE)
    text = str(caught.value)
    assert "old-security" in text
    assert "http://127.0.0.1:9/v5.x/sha256sums.asc" in text
    assert "next: " in text
    assert not list(paths.downloads().rglob("*.deb"))


@pytest.mark.parametrize(
    ("plan", "kind"),
    [
        ({"update": {"old-security": [100, "E: 'http://x InRelease' is not signed."]}},
         BadSignature),
        ({"short": 10}, BadChecksum),
    ],
)  # fmt: skip
def test_what_is_not_what_it_claims_stops_everything(
    fake: FakeApt,
    deb: Path,
    plan: dict[str, object],
    kind: type[SourceError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("another source was tried")

    monkeypatch.setattr(kernelorg, "newest", never)
    fake.offer(deb)
    fake.write(**plan)
    with pytest.raises(kind):
        fetch.fetch(BASE)
    assert not list((paths.downloads() / "v5.10").glob("*.deb"))


def test_kernel_org_is_next(fake: FakeApt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tarball = make_tarball(tmp_path)
    offer = kernelorg.Offer("5.10.7", sha256(tarball), "http://x.invalid/", "linux-5.10.7.tar.xz")

    def download(offer: kernelorg.Offer, into: Path, *, log: Path) -> Path:
        return Path(shutil.copy(tarball, into / offer.filename))

    monkeypatch.setattr(kernelorg, "newest", lambda base, *, log: offer)
    monkeypatch.setattr(kernelorg, "download", download)
    source = fetch.fetch(BASE)
    assert (source.version, source.origin, source.rt_patch) == ("5.10.7", "kernel.org", None)
    into = tmp_path / "into"
    into.mkdir()
    fetch.unpack(source, into, log=tmp_path / "log")
    assert (into / "net/core/dev.c").exists()


def test_a_package_is_unpacked(fake: FakeApt, deb: Path, tmp_path: Path) -> None:
    fake.offer(deb)
    into = tmp_path / "into"
    into.mkdir()
    fetch.unpack(fetch.fetch(BASE), into, log=tmp_path / "log")
    assert (into / "net/core/dev.c").exists()
    assert [each.name for each in tmp_path.glob("unpack.*")] == []


def test_an_archive_that_changed_since_is_not_unpacked(
    fake: FakeApt, deb: Path, tmp_path: Path
) -> None:
    fake.offer(deb)
    source = fetch.fetch(BASE)
    assert source.archive is not None
    source.archive.write_bytes(b"something else")
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(BadChecksum, match="has changed"):
        fetch.unpack(source, into, log=tmp_path / "log")


def test_no_room_is_said_before_anything_starts(
    fake: FakeApt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_mib", lambda directory: 10)
    with pytest.raises(disk.DiskTooSmall, match="downloading v5.10 needs 500 MiB"):
        fetch.fetch(BASE)
    assert fake.calls == []


# --- a person's own tree ----------------------------------------------------


def test_an_unpacked_tree_of_ones_own(fake: FakeApt, tmp_path: Path) -> None:
    mine = make_tree(tmp_path / "mine", version="5.10.99")
    source = fetch.fetch(BASE, tree=mine)
    assert (source.version, source.origin, source.path) == ("5.10.99", "local", mine)
    assert fake.calls == []
    assert fetch.fetch(BASE, tree=mine).checksum == source.checksum
    (mine / "net/core/dev.c").write_text("changed")
    assert fetch.fetch(BASE, tree=mine).checksum != source.checksum


def test_a_checkout_of_ones_own_counts_as_its_head(fake: FakeApt, tmp_path: Path) -> None:
    mine = make_tree(tmp_path / "mine")
    git(mine, "init", "-q")
    with pytest.raises(SourceError, match="no commit"):
        fetch.fetch(BASE, tree=mine)
    git(mine, "add", ".")
    git(mine, "commit", "-q", "-m", "x")
    source = fetch.fetch(BASE, tree=mine)
    assert source.checksum == git(mine, "rev-parse", "HEAD^{tree}")
    (mine / "net/core/dev.c").write_text("changed")
    assert fetch.fetch(BASE, tree=mine).checksum == source.checksum


@pytest.mark.parametrize("empty", [False, True])
def test_a_tree_inside_somebody_elses_repository_is_no_checkout(
    fake: FakeApt, tmp_path: Path, empty: bool
) -> None:
    outer = tmp_path / "outer"
    mine = make_tree(outer / "mine")
    if empty:
        (mine / ".git").mkdir()
    git(outer, "init", "-q")
    git(outer, "commit", "-q", "--allow-empty", "-m", "x")
    source = fetch.fetch(BASE, tree=mine)
    assert source.path == mine
    assert source.checksum == local.fingerprint(mine)


@pytest.mark.parametrize("lacks", ["Makefile", "Kbuild", "net", "PATCHLEVEL", "everything", "is"])
def test_a_tree_that_is_no_kernel_says_why(fake: FakeApt, tmp_path: Path, lacks: str) -> None:
    mine = tmp_path / "mine"
    if lacks != "is":
        make_tree(mine)
    if lacks == "everything":
        shutil.rmtree(mine)
        mine.mkdir()
    elif lacks == "PATCHLEVEL":
        (mine / "Makefile").write_text("VERSION = 5\nall:\n\techo PATCHLEVEL = 1\n")
    elif lacks == "net":
        shutil.rmtree(mine / "net")
    elif lacks != "is":
        (mine / lacks).unlink()
    with pytest.raises(NotAKernel) as caught:
        fetch.fetch(BASE, tree=mine)
    assert str(mine) in str(caught.value)
    if lacks not in ("everything", "is"):
        assert lacks in str(caught.value)
    assert caught.value.status == 2


def test_versions_are_compared_as_numbers() -> None:
    assert newer("5.10.100", "5.10.99")
    assert newer("5.10.1", "5.10")
    assert not newer("5.10.9", "5.10.9")
