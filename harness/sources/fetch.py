"""The newest point release of a base, from the first source that has it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Literal

from harness import disk, lock, paths, process, progress, stamp
from harness.bases import Base
from harness.errors import CommandFailed, CommandTimeout
from harness.sources import apt, kernelorg, local
from harness.sources.model import (
    BadChecksum,
    BadSignature,
    NoNetwork,
    Source,
    SourceError,
    newer,
    sha256,
)

__all__ = ["Source", "fetch", "unpack"]

#: MiB that a download takes at its peak (archive, its unpacking for the RT patch).
DOWNLOAD_MIB = 500
UNPACK_TIMEOUT = 600.0


def fetch(base: Base, *, tree: Path | None = None, offline_ok: bool = True) -> Source:
    """Return the newest point release of ``base``, downloaded and verified.

    Args:
        tree: a person's own kernel tree to use in place of a download.
        offline_ok: without network, use what an earlier run has downloaded and
            verified, and say so.

    Raises:
        NotAKernel: ``tree`` is not a kernel.
        BadSignature, BadChecksum: something is not what it claims to be. Other
            sources are not tried then, so that nobody overlooks it.
        SourceError: no source has it; NoNetwork if none could be reached.
    """
    if tree is not None:
        return local.inspect(base, tree)
    store = paths.downloads() / base.name
    with disk.guard(f"fetching {base.name}"):
        disk.need(store, DOWNLOAD_MIB, f"downloading {base.name}")
        with lock.held(paths.locks() / f"fetch-{base.name}.lock", f"fetching {base.name}"):
            store.mkdir(parents=True, exist_ok=True)
            for leftover in store.glob("unpack.*"):
                shutil.rmtree(leftover, ignore_errors=True)
            return _fetch(base, store, offline_ok)


def unpack(source: Source, into: Path, *, log: Path) -> None:
    """Unpack a source's archive into the empty directory ``into`` (about 1.5 GB).

    Raises:
        BadChecksum: the archive is no longer the file that was verified.
        CommandFailed: it cannot be unpacked.
    """
    assert source.archive is not None
    if sha256(source.archive) != source.checksum:
        raise BadChecksum(
            f"{source.archive} has changed since it was downloaded",
            hint="remove it and run the command again",
        )
    with tempfile.TemporaryDirectory(prefix="unpack.", dir=into.parent) as scratch:
        tarball = source.archive
        if source.archive.suffix == ".deb":
            tarball = _contents(source.archive, Path(scratch))[0]
        process.run(
            # The archive's owners mean nothing here, even to root.
            ["tar", "-xf", tarball, "-C", into, "--strip-components=1", "--no-same-owner"],
            timeout=UNPACK_TIMEOUT,
            what=f"unpacking {source.archive.name}",
            log=log,
        )


def _fetch(base: Base, store: Path, offline_ok: bool) -> Source:
    log = paths.logs() / "fetch" / f"{base.name}.log"
    log.unlink(missing_ok=True)
    problems: list[SourceError] = []
    origins: tuple[Literal["distribution"], Literal["kernel.org"]] = ("distribution", "kernel.org")
    for origin in origins:
        try:
            return _from(origin, base, store, log)
        except (BadSignature, BadChecksum):
            raise
        except SourceError as err:
            problems.append(err)
    if offline_ok and (found := downloaded(base)) is not None:
        progress.say(
            f"note: {problems[0].what}; using {found.version}, downloaded and verified earlier"
        )
        return found
    kind = NoNetwork if all(isinstance(p, NoNetwork) for p in problems) else SourceError
    raise kind(
        f"{base.name} cannot be fetched, neither from the distribution nor from kernel.org",
        log=log,
        tail="\n".join(f"{p.what}\n{p.tail or ''}".rstrip() for p in problems),
        hint=next((p.hint for p in problems if p.hint), None)
        or "check the network, or give kernel source of your own with --tree",
    )


def _from(
    origin: Literal["distribution", "kernel.org"], base: Base, store: Path, log: Path
) -> Source:
    """Get the newest release from one origin, downloading only what is not here yet."""
    if origin == "distribution":
        offer = apt.newest(base, log=log)
        package_version = offer.package_version
    else:
        tarball = kernelorg.newest(base, log=log)
        package_version = ""
    chosen = offer if origin == "distribution" else tarball
    archive = store / chosen.filename
    here = _verified(base, archive)
    if here is not None and here.checksum == chosen.sha256:
        return here
    progress.say(f"downloading {chosen.filename}")
    if origin == "distribution":
        archive = apt.download(offer, store, log=log)
    else:
        archive = kernelorg.download(tarball, store, log=log)
    rt_patch = _rt_patch(archive)
    stamp.write(
        _stamp(archive),
        chosen.sha256,
        {
            "version": chosen.version,
            "origin": origin,
            "package_version": package_version,
            "rt_patch": rt_patch.name if rt_patch else None,
        },
    )
    found = _verified(base, archive)
    assert found is not None
    return found


def downloaded(base: Base) -> Source | None:
    """Return the newest archive of ``base`` that is here and still what was verified."""
    store = paths.downloads() / base.name
    found = [_verified(base, mark.with_suffix("")) for mark in store.glob("*.stamp")]
    best: Source | None = None
    for source in found:
        if source is not None and (best is None or newer(source.version, best.version)):
            best = source
    return best


def _stamp(archive: Path) -> Path:
    return archive.with_name(archive.name + ".stamp")


def _verified(base: Base, archive: Path) -> Source | None:
    """Return the source in ``archive`` if the file is whole, by its checksum."""
    recorded = stamp.read(_stamp(archive))
    if recorded is None or not archive.exists():
        return None
    checksum, facts = recorded
    if sha256(archive) != checksum:
        return None
    rt_patch = archive.parent / facts["rt_patch"] if facts.get("rt_patch") else None
    return Source(
        base=base.name,
        version=facts["version"],
        origin=facts["origin"],
        checksum=checksum,
        archive=archive,
        rt_patch=rt_patch if rt_patch is not None and rt_patch.exists() else None,
        package_version=facts.get("package_version", ""),
    )


def _rt_patch(archive: Path) -> Path | None:
    """Take the PREEMPT_RT patch out of a source package, if it has one."""
    if archive.suffix != ".deb":
        return None
    with tempfile.TemporaryDirectory(prefix="unpack.", dir=archive.parent) as scratch:
        found = _contents(archive, Path(scratch))[1]
        if found is None:
            return None
        kept = archive.with_name(f"{archive.stem}.rt.patch.xz")
        shutil.copyfile(found, f"{kept}.new")
        return Path(f"{kept}.new").replace(kept)


def _contents(package: Path, scratch: Path) -> tuple[Path, Path | None]:
    """Unpack a source package; return its tarball and its RT patch, if it has one."""
    try:
        process.run(
            ["dpkg-deb", "-x", package, scratch],
            timeout=UNPACK_TIMEOUT,
            what=f"unpacking {package.name}",
        )
    except (CommandFailed, CommandTimeout) as err:
        raise SourceError(err.what, tail=err.tail, hint="see the message above") from err
    source = scratch / "usr/src"
    tarballs = sorted(source.glob("linux-source-*.tar.xz"))
    patches = sorted(source.glob("linux-patch-*-rt.patch.xz"))
    if len(tarballs) != 1:
        raise SourceError(f"{package.name} holds no linux-source tarball")
    return tarballs[0], patches[0] if patches else None
