"""The newest tarball of a series from kernel.org, checked against its published checksum."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.bases import Base
from harness.sources.model import BadChecksum, NoNetwork, NotThere, SourceError, newer, sha256

#: Where the tarballs are; SKBHOME_KERNEL_ORG names a mirror of the same layout.
URL = "https://www.kernel.org/pub/linux/kernel"

#: Seconds without a byte before a connection counts as dead, and for a whole tarball.
STALL = 20.0
DOWNLOAD_TIMEOUT = 1800.0
_CHUNK = 1 << 18

# Not OSError as such: a full disk is no broken connection.
_BROKEN = (
    urllib.error.URLError,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
    http.client.HTTPException,
)


@dataclass(frozen=True)
class Offer:
    """The newest tarball of a series.

    Attributes:
        version: e.g. ``5.10.262``.
        sha256: as published in sha256sums.asc.
        url: of the .tar.xz.
    """

    version: str
    sha256: str
    url: str
    filename: str


def newest(base: Base, *, log: Path) -> Offer:
    """Return the newest point release of ``base`` that has a published checksum.

    Raises:
        NoNetwork: the server cannot be reached.
        NotThere: the directory has no tarball of that series.
    """
    directory = f"{os.environ.get('SKBHOME_KERNEL_ORG', URL).rstrip('/')}/{base.tarball}"
    sums = _get(f"{directory}/sha256sums.asc").decode(errors="replace")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(f"{directory}/sha256sums.asc: {len(sums.splitlines())} lines\n")
    pattern = rf"^([0-9a-f]{{64}})  (linux-({re.escape(base.series)}(?:\.\d+)?)\.tar\.xz)$"
    best: Offer | None = None
    for checksum, filename, version in re.findall(pattern, sums, re.M):
        if best is None or newer(version, best.version):
            best = Offer(version, checksum, f"{directory}/{filename}", filename)
    if best is None:
        raise NotThere(f"{directory} has no tarball of {base.series}")
    return best


def download(offer: Offer, into: Path, *, log: Path) -> Path:
    """Download an offered tarball into ``into``, going on where an earlier run stopped.

    Raises:
        BadChecksum: the file is not what was published; it is removed.
        NoNetwork, NotThere: it could not be had; what came is kept for the next run.
    """
    into.mkdir(parents=True, exist_ok=True)
    # The checksum is part of the name: bytes of another file are never gone on with.
    part = into / f"{offer.filename}.{offer.sha256[:16]}.part"
    resumed = part.exists() and part.stat().st_size > 0
    _receive(offer.url, part)
    found = sha256(part)
    if found != offer.sha256 and resumed:
        # What the earlier run left may be what is wrong: once from the start.
        part.unlink()
        _receive(offer.url, part)
        found = sha256(part)
    if found != offer.sha256:
        part.unlink()
        raise BadChecksum(
            f"{offer.url}: SHA-256 is {found}, sha256sums.asc says {offer.sha256}",
            log=log,
            hint="run the command again; if it stays, use --tree with source of your own",
        )
    return part.replace(into / offer.filename)


def _get(url: str) -> bytes:
    with _errors(url), urllib.request.urlopen(url, timeout=STALL) as answer:
        data = answer.read(1 << 26)
        assert isinstance(data, bytes)
        return data


def _receive(url: str, part: Path) -> None:
    """Append to ``part`` what it lacks of ``url``."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT
    try:
        with _errors(url), urllib.request.urlopen(request, timeout=STALL) as answer:
            length = answer.headers.get("Content-Length")
            left = int(length) if length is not None else None
            # A server that knows no ranges answers 200 with the whole file.
            with part.open("ab" if answer.status == 206 else "wb") as out:
                while chunk := answer.read(_CHUNK):
                    out.write(chunk)
                    left = left - len(chunk) if left is not None else None
                    if time.monotonic() > deadline:
                        raise NoNetwork(f"{url}: not done after {DOWNLOAD_TIMEOUT:.0f} s")
            if left:
                raise NoNetwork(f"{url}: the connection ended {left} bytes early")
    except _WholeAlready:
        return


class _WholeAlready(Exception):
    """The server has nothing beyond the bytes that are here."""


@contextlib.contextmanager
def _errors(url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as err:
        if err.code == 416:
            raise _WholeAlready from err
        if err.code in (403, 404, 410):
            raise NotThere(f"{url}: {err.code} {err.reason}") from err
        raise SourceError(f"{url}: {err.code} {err.reason}") from err
    except _BROKEN as err:
        reason = getattr(err, "reason", None) or err
        raise NoNetwork(
            f"{url} cannot be read: {reason}", hint="check the network, then run again"
        ) from err
