"""Tarballs over HTTP, from a server of our own on the loopback."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fakekernel import BASE, isolate

from harness.sources import kernelorg
from harness.sources.model import BadChecksum, NoNetwork, NotThere, SourceError

pytestmark = pytest.mark.host

DATA = bytes(range(256)) * 4000


@dataclass
class Server:
    """What a test's server has, and how badly it behaves."""

    url: str
    files: dict[str, bytes]
    #: Connections end after this many bytes of a body, while there are entries left.
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    stall: bool = False
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    isolate(tmp_path, monkeypatch)
    release = threading.Event()
    state = Server("", {})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            data = state.files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            start = 0
            if wanted and state.ranges:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(data):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            body = data[start:]
            if state.stall:
                self.wfile.write(body[:10])
                self.wfile.flush()
                release.wait(10)
            elif state.cuts and self.path.endswith(".xz"):
                self.wfile.write(body[: state.cuts.pop(0)])
            else:
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.setenv("SKBHOME_KERNEL_ORG", state.url)
    publish(state, "5.10.9", DATA)
    try:
        yield state
    finally:
        release.set()
        http.shutdown()
        http.server_close()
        thread.join()


def publish(server: Server, version: str, data: bytes, checksum: str = "") -> None:
    sums = server.files.get("/v5.x/sha256sums.asc", b"").decode()
    line = f"{checksum or hashlib.sha256(data).hexdigest()}  linux-{version}.tar.xz\n"
    server.files["/v5.x/sha256sums.asc"] = (sums + line).encode()
    server.files[f"/v5.x/linux-{version}.tar.xz"] = data


def test_the_newest_point_release_is_the_highest_number(server: Server, tmp_path: Path) -> None:
    for version in ("5.10", "5.10.100", "5.10.20", "5.100.3", "5.1.999"):
        publish(server, version, DATA)
    offer = kernelorg.newest(BASE, log=tmp_path / "log")
    assert offer.version == "5.10.100"
    assert offer.url == f"{server.url}/v5.x/linux-5.10.100.tar.xz"


def test_a_tarball_is_downloaded_and_verified(server: Server, tmp_path: Path) -> None:
    offer = kernelorg.newest(BASE, log=tmp_path / "log")
    got = kernelorg.download(offer, tmp_path / "store", log=tmp_path / "log")
    assert got.name == "linux-5.10.9.tar.xz"
    assert got.read_bytes() == DATA
    assert [each.name for each in (tmp_path / "store").iterdir()] == [got.name]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.cuts = [300_000]
    server.ranges = ranges
    offer = kernelorg.newest(BASE, log=tmp_path / "log")
    with pytest.raises(NoNetwork, match="early|IncompleteRead|cannot be read"):
        kernelorg.download(offer, tmp_path / "store", log=tmp_path / "log")
    assert not list((tmp_path / "store").glob("*.xz"))
    got = kernelorg.download(offer, tmp_path / "store", log=tmp_path / "log")
    assert got.read_bytes() == DATA
    assert server.asked[-1][1] is not None
    assert server.asked[-1][1] != "bytes=0-"


def test_a_download_that_was_whole_but_not_renamed(server: Server, tmp_path: Path) -> None:
    offer = kernelorg.newest(BASE, log=tmp_path / "log")
    store = tmp_path / "store"
    store.mkdir()
    (store / f"{offer.filename}.{offer.sha256[:16]}.part").write_bytes(DATA)
    assert kernelorg.download(offer, store, log=tmp_path / "log").read_bytes() == DATA


def test_a_damaged_rest_is_started_over_once(server: Server, tmp_path: Path) -> None:
    offer = kernelorg.newest(BASE, log=tmp_path / "log")
    store = tmp_path / "store"
    store.mkdir()
    (store / f"{offer.filename}.{offer.sha256[:16]}.part").write_bytes(b"x" * 1000)
    assert kernelorg.download(offer, store, log=tmp_path / "log").read_bytes() == DATA


def test_a_wrong_checksum_is_named_and_the_file_not_kept(server: Server, tmp_path: Path) -> None:
    publish(server, "5.10.10", DATA, checksum="0" * 64)
    offer = kernelorg.newest(BASE, log=tmp_path / "log")
    with pytest.raises(BadChecksum) as caught:
        kernelorg.download(offer, tmp_path / "store", log=tmp_path / "log")
    assert "linux-5.10.10.tar.xz" in str(caught.value)
    assert "0" * 64 in str(caught.value)
    assert not list((tmp_path / "store").iterdir())


def test_a_series_that_is_not_there(server: Server, tmp_path: Path) -> None:
    server.files["/v5.x/sha256sums.asc"] = b"nothing of use\n"
    with pytest.raises(NotThere, match="no tarball of 5.10"):
        kernelorg.newest(BASE, log=tmp_path / "log")
    del server.files["/v5.x/sha256sums.asc"]
    with pytest.raises(NotThere, match="404"):
        kernelorg.newest(BASE, log=tmp_path / "log")


def test_nobody_listens(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKBHOME_KERNEL_ORG", "http://127.0.0.1:9")
    with pytest.raises(NoNetwork, match="refused"):
        kernelorg.newest(BASE, log=tmp_path / "log")


def test_a_server_that_stalls_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stall = True
    monkeypatch.setattr(kernelorg, "STALL", 0.3)
    with pytest.raises(NoNetwork, match="timed out"):
        kernelorg.newest(BASE, log=tmp_path / "log")


def test_a_full_disk_is_no_network_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = kernelorg.newest(BASE, log=tmp_path / "log")
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(OSError) as caught:
        kernelorg.download(offer, tmp_path / "store", log=tmp_path / "log")
    assert not isinstance(caught.value, SourceError)
