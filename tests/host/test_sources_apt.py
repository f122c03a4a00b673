"""The distribution's package: which mirror, which version, and what may go wrong."""

from __future__ import annotations

import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fakekernel import BASE, FakeApt, fake_apt, isolate, make_package

from harness import paths
from harness.bases import Base
from harness.sources import apt
from harness.sources.model import (
    BadChecksum,
    BadSignature,
    NoNetwork,
    NotThere,
    SourceError,
    sha256,
)

pytestmark = pytest.mark.host


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    isolate(tmp_path, monkeypatch)
    return tmp_path / "log"


@pytest.fixture
def fake(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    return fake_apt(tmp_path / "bin", monkeypatch)


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("deb"))


# --- mirrors ----------------------------------------------------------------


def test_mirrors_are_the_systems_own_archives_of_the_distribution(fake: FakeApt) -> None:
    assert apt.mirrors() == [
        apt.Mirror("http://mirror.invalid/debian/", False),
        apt.Mirror("http://mirror.invalid/debian-sec/", True),
    ]


def test_without_indexes_the_suites_name_tells(fake: FakeApt) -> None:
    fake.write(
        targets=[
            ["http://mirror.invalid/a/", "stable", "", ""],
            ["http://mirror.invalid/a/", "stable-updates", "", ""],
            ["http://mirror.invalid/b/", "stable-security", "", ""],
            ["http://mirror.invalid/c/", "older/updates", "", ""],
        ]
    )
    assert apt.mirrors() == [
        apt.Mirror("http://mirror.invalid/a/", False),
        apt.Mirror("http://mirror.invalid/b/", True),
        apt.Mirror("http://mirror.invalid/c/", True),
    ]


def test_a_security_archive_beside_the_main_one_is_tried(fake: FakeApt) -> None:
    fake.write(targets=[["http://mirror.invalid/debian/", "stable", "Debian", "Debian"]])
    assert apt.Mirror("http://mirror.invalid/debian-security/", True) in apt.mirrors()


def test_no_archive_of_the_distribution(fake: FakeApt, log: Path) -> None:
    fake.write(targets=[["http://other.invalid/repo/", "any", "Somebody", "Else"]])
    with pytest.raises(NotThere, match="no archive of the distribution"):
        apt.newest(BASE, log=log)


def test_no_apt_at_all(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotThere, match="apt-get was not found"):
        apt.newest(BASE, log=log)


def test_a_missing_keyring_is_an_error_rather_than_unverified(
    fake: FakeApt, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "KEYRING", tmp_path / "none.gpg")
    with pytest.raises(BadSignature, match="cannot be verified|can be verified") as caught:
        apt.newest(BASE, log=log)
    assert "debian-archive-keyring" in str(caught.value)


# --- choosing ---------------------------------------------------------------


def test_security_suites_come_from_the_security_archive(
    fake: FakeApt, log: Path, deb: Path
) -> None:
    fake.offer(deb)
    offer = apt.newest(BASE, log=log)
    assert (offer.version, offer.package_version) == ("5.10.7", "5.10.7-1")
    assert offer.sha256 == sha256(deb)
    text = (offer.config.parent / "archive.sources").read_text()
    assert "URIs: http://mirror.invalid/debian-sec/\n" in text
    assert f"Signed-By: {apt.KEYRING}\n" in text


def test_every_call_of_apt_has_the_private_configuration(
    fake: FakeApt, log: Path, deb: Path, tmp_path: Path
) -> None:
    fake.offer(deb)
    apt.download(apt.newest(BASE, log=log), tmp_path / "store", log=log)
    acting = [call for call in fake.calls if "indextargets" not in call]
    assert {call[0] for call in acting} == {"apt-get", "apt-cache", "apt-helper"}
    for call in acting:
        config = Path(call[call.index("-c") + 1])
        assert config.is_relative_to(paths.downloads())
    text = config.read_text()
    for directory in ("Dir::State", "Dir::State::Lists", "Dir::State::status", "Dir::Cache"):
        assert f'{directory} "{paths.downloads()}/' in text


def test_the_newest_of_all_suites_is_taken(fake: FakeApt, log: Path, deb: Path) -> None:
    base = Base(**{**vars(BASE), "suites": ("older", "newer", "backports")})
    fake.offer(deb, suite="older", version="5.10.9-1")
    fake.offer(deb, suite="newer", version="5.10.11-1~bpo1+1")
    fake.offer(deb, suite="backports", version="5.10.11-1")
    offer = apt.newest(base, log=log)
    assert (offer.package_version, offer.suite) == ("5.10.11-1", "backports")


def test_another_series_under_the_same_name_is_not_taken(
    fake: FakeApt, log: Path, deb: Path
) -> None:
    fake.offer(deb, version="5.100.1-1")
    with pytest.raises(NotThere, match="no linux-source-5.10 in old-security"):
        apt.newest(BASE, log=log)


def test_a_suite_that_fails_is_told_and_the_other_one_used(
    fake: FakeApt, log: Path, deb: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = Base(**{**vars(BASE), "suites": ("gone", "newer")})
    fake.offer(deb, suite="newer")
    fake.write(update={"gone": [100, "E: The repository 'x' does not have a Release file."]})
    assert apt.newest(base, log=log).suite == "newer"
    assert "gone" in capsys.readouterr().err


# --- what goes wrong --------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("W: Failed to fetch http://x/InRelease  Could not resolve 'x'", NoNetwork),
        ("E: Failed to fetch http://x/InRelease  Temporary failure resolving 'x'", NoNetwork),
        ("E: Failed to fetch http://x/  Could not connect to x:80 (1.2.3.4)", NoNetwork),
        ("E: Failed to fetch http://x/  Connection failed [IP: 127.0.0.1 80]", NoNetwork),
        ("E: Failed to fetch http://x/  404  Not Found [IP: 127.0.0.1 80]", NotThere),
        ("E: The repository 'http://x y Release' does not have a Release file.", NotThere),
        ("W: GPG error: http://x y InRelease: The following signatures couldn't be verified"
         " because the public key is not available: NO_PUBKEY 0123456789ABCDEF", BadSignature),
        ("E: The repository 'http://x y InRelease' is not signed.", BadSignature),
        ("E: Failed to fetch http://x/Packages.xz  Hash Sum mismatch", BadChecksum),
        ("E: Failed to fetch http://x/Packages.xz  File has unexpected size (1 != 2). Mirror sync"
         " in progress?", BadChecksum),
        # The worst news decides: a forged index must not pass as a network that is down.
        ("E: Failed to fetch http://x/  Connection failed\n"
         "E: The repository 'http://x y InRelease' is not signed.", BadSignature),
        ("E: Something quite new", SourceError),
    ],
)  # fmt: skip
def test_what_apt_says_gets_a_name(
    fake: FakeApt, log: Path, output: str, kind: type[SourceError]
) -> None:
    fake.write(update={"old-security": [100, output]})
    with pytest.raises(SourceError) as caught:
        apt.newest(BASE, log=log)
    assert type(caught.value) is kind
    text = str(caught.value)
    assert "old-security" in text
    assert output.splitlines()[-1] in text
    assert caught.value.log == log
    assert output.splitlines()[0] in log.read_text()


def test_an_apt_that_hangs_is_ended(
    fake: FakeApt, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = fake.directory / "apt-get"
    script.write_text(
        script.read_text().replace(
            'step = "update"', 'import time; time.sleep(60)\nstep = "update"'
        )
    )
    monkeypatch.setattr(apt, "UPDATE_TIMEOUT", 0.5)
    with pytest.raises(NoNetwork, match="not done after"):
        apt.newest(BASE, log=log)


@pytest.mark.parametrize("scheme", ["http", "mirror+file"])
def test_a_download_is_put_in_place_when_it_is_verified(
    fake: FakeApt, log: Path, deb: Path, tmp_path: Path, scheme: str
) -> None:
    fake.offer(deb)
    fake.write(scheme=scheme)
    got = apt.download(apt.newest(BASE, log=log), tmp_path / "store", log=log)
    assert got.read_bytes() == deb.read_bytes()
    assert [each.name for each in (tmp_path / "store").rglob("*.deb")] == [got.name]
    # Only apt-get knows what to do with the other kind of address.
    assert fake.called("download-file") == (scheme == "http")


@pytest.mark.parametrize("scheme", ["http", "mirror+file"])
def test_a_truncated_download_is_not_kept(
    fake: FakeApt, log: Path, deb: Path, tmp_path: Path, scheme: str
) -> None:
    fake.offer(deb)
    fake.write(short=100, scheme=scheme)
    offer = apt.newest(BASE, log=log)
    with pytest.raises(BadChecksum) as caught:
        apt.download(offer, tmp_path / "store", log=log)
    assert offer.filename in str(caught.value)
    assert offer.sha256 in str(caught.value)
    assert not list((tmp_path / "store").rglob("*.deb"))


def test_a_download_that_fails_leaves_no_archive(
    fake: FakeApt, log: Path, deb: Path, tmp_path: Path
) -> None:
    fake.offer(deb)
    fake.write(download={"old-security": [100, "E: Failed to fetch http://x/  Connection reset"]})
    with pytest.raises(NoNetwork):
        apt.download(apt.newest(BASE, log=log), tmp_path / "store", log=log)
    assert not list((tmp_path / "store").rglob("*.deb"))


# --- the real apt, over a signed archive on this disk -----------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, deb: Path) -> Path:
    """An archive with one suite, signed with a key made here; its keyring is beside it."""
    for tool in ("apt-get", "gpg", "gpgv"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool} on this machine")
    # The path of gpg's sockets must be short.
    top = tmp_path_factory.mktemp("archive")
    suite = top / "dists/old-security"
    (top / "pool").mkdir()
    shutil.copy(deb, top / "pool")
    architecture = subprocess.run(
        ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
    ).stdout.strip()
    packages = suite / f"main/binary-{architecture}/Packages"
    packages.parent.mkdir(parents=True)
    packages.write_text(
        "Package: linux-source-5.10\nVersion: 5.10.7-1\nArchitecture: all\n"
        "Maintainer: Nobody <nobody@example.org>\nDescription: a made-up kernel\n"
        f"Filename: pool/{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {sha256(deb)}\n\n"
    )
    release = suite / "Release"
    release.write_text(
        "Origin: Test\nLabel: Test\nSuite: old-security\nCodename: old-security\n"
        "Date: Fri, 01 Mar 2024 10:00:00 UTC\n"
        f"Architectures: {architecture} all\nComponents: main\nSHA256:\n"
        f" {sha256(packages)} {packages.stat().st_size} {packages.relative_to(suite)}\n"
    )
    home = top / "gpg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--no-tty", "--passphrase", ""]
    try:
        subprocess.run(
            [*gpg, "--quick-gen-key", "test@example.org", "ed25519", "sign", "never"],
            check=True,
            capture_output=True,
        )
        subprocess.run(
            [*gpg, "--output", suite / "InRelease", "--clearsign", release],
            check=True,
            capture_output=True,
        )
        (top / "keyring.gpg").write_bytes(
            subprocess.run([*gpg, "--export"], check=True, capture_output=True).stdout
        )
    finally:
        subprocess.run(
            ["gpgconf", "--homedir", home, "--kill", "all"], check=False, capture_output=True
        )
    release.unlink()
    return top


@pytest.fixture
def signed(archive: Path, tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the signed archive to spoil, which the code takes for the system's mirror."""
    copy = tmp_path / "archive"
    shutil.copytree(archive, copy, ignore=shutil.ignore_patterns("gpg"))
    monkeypatch.setattr(apt, "KEYRING", copy / "keyring.gpg")
    monkeypatch.setattr(apt, "mirrors", lambda: [apt.Mirror(f"file://{copy}/", True)])
    return copy


def test_real_apt_verifies_and_downloads(signed: Path, log: Path, tmp_path: Path) -> None:
    offer = apt.newest(BASE, log=log)
    assert (offer.version, offer.filename) == ("5.10.7", "linux-source-5.10_5.10.7-1_all.deb")
    got = apt.download(offer, tmp_path / "store", log=log)
    assert got == tmp_path / "store" / offer.filename
    assert sha256(got) == offer.sha256


def test_real_apt_refuses_a_changed_index(signed: Path, log: Path) -> None:
    packages = next(signed.rglob("Packages"))
    packages.write_text(packages.read_text().replace("5.10.7-1", "5.10.8-1", 1))
    with pytest.raises(BadChecksum):
        apt.newest(BASE, log=log)


def test_real_apt_refuses_a_forged_release(signed: Path, log: Path) -> None:
    release = signed / "dists/old-security/InRelease"
    release.write_text(release.read_text().replace("Label: Test", "Label: Fake"))
    with pytest.raises(BadSignature, match="old-security"):
        apt.newest(BASE, log=log)


def test_real_apt_refuses_an_unsigned_release(signed: Path, log: Path) -> None:
    release = signed / "dists/old-security/InRelease"
    text = release.read_text().partition("\n\n")[2].partition("-----BEGIN")[0]
    release.with_name("Release").write_text(text)
    release.unlink()
    with pytest.raises(BadSignature, match="old-security"):
        apt.newest(BASE, log=log)


def test_real_apt_refuses_another_key(
    signed: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if not other.exists():
        pytest.skip("there is no other keyring on this machine")
    monkeypatch.setattr(apt, "KEYRING", other)
    with pytest.raises(BadSignature):
        apt.newest(BASE, log=log)


def test_real_apt_refuses_a_changed_package(signed: Path, log: Path, tmp_path: Path) -> None:
    offer = apt.newest(BASE, log=log)
    package = next(signed.rglob("*.deb"))
    package.write_bytes(package.read_bytes()[:-1] + b"x")
    with pytest.raises(BadChecksum):
        apt.download(offer, tmp_path / "store", log=log)
    assert not list((tmp_path / "store").rglob("*.deb"))


def test_real_apt_goes_on_with_a_download_that_was_cut_off(
    signed: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []
    cut = True

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(signed))

        def do_GET(self) -> None:
            if not self.path.endswith(".deb"):
                super().do_GET()
                return
            data = (signed / self.path.lstrip("/")).read_bytes()
            wanted = self.headers.get("Range")
            asked.append(wanted)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            self.send_response(206 if start else 200)
            self.send_header("Last-Modified", "Fri, 01 Mar 2024 10:00:00 GMT")
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            self.wfile.write(data[start : start + 5000] if cut else data[start:])
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    monkeypatch.setattr(apt, "RETRIES", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        address = f"http://127.0.0.1:{http.server_port}/"
        monkeypatch.setattr(apt, "mirrors", lambda: [apt.Mirror(address, True)])
        offer = apt.newest(BASE, log=log)
        with pytest.raises(NoNetwork, match="cannot be reached"):
            apt.download(offer, tmp_path / "store", log=log)
        assert not (tmp_path / "store" / offer.filename).exists()
        cut = False
        got = apt.download(offer, tmp_path / "store", log=log)
        http.shutdown()
    assert sha256(got) == offer.sha256
    assert asked == [None, "bytes=5000-"]


def test_real_apt_without_the_suite(signed: Path, log: Path) -> None:
    shutil.rmtree(signed / "dists")
    with pytest.raises(NotThere):
        apt.newest(BASE, log=log)


def test_real_apt_without_network(signed: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "RETRIES", 0)
    # Port 9 of the loopback: nobody listens there.
    monkeypatch.setattr(apt, "mirrors", lambda: [apt.Mirror("http://127.0.0.1:9/x/", True)])
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(NoNetwork, match="cannot be reached") as caught:
        apt.newest(BASE, log=log)
    assert "proxy" in str(caught.value)
