"""The distribution's source package, through an apt configuration of our own.

The system's apt is asked two things only: which mirrors and proxies it uses.
Indexes, caches and state are private, so a run needs no privileges and leaves
the system's apt as it was; and an index counts only if the distribution's
archive key has signed it.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from functools import cache, cmp_to_key
from pathlib import Path

from harness import paths, process, progress
from harness.bases import Base
from harness.errors import CommandFailed, CommandTimeout
from harness.sources.model import (
    BadChecksum,
    BadSignature,
    NoNetwork,
    NotThere,
    SourceError,
    sha256,
)

#: The keys that sign the distribution's archives (package debian-archive-keyring).
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

#: apt's own downloader, which goes on with a file that is there in part.
HELPER = Path("/usr/lib/apt/apt-helper")

#: How often apt tries again before it gives up on a server, with growing pauses.
RETRIES = 2
UPDATE_TIMEOUT = 180.0
DOWNLOAD_TIMEOUT = 1800.0

# What apt writes, and what it means. The first match in the output decides, the
# worst news first: a bad signature must not pass as a network that is down.
_MEANINGS: tuple[tuple[str, type[SourceError]], ...] = (
    (
        r"NO_PUBKEY|BADSIG|EXPKEYSIG|REVKEYSIG|GPG error|is not signed|OpenPGP signature"
        r"|signatures? (were|was|couldn't|could not)|Clearsigned file isn't valid|NODATA",
        BadSignature,
    ),
    (r"Hash Sum mismatch|unexpected size|Hashes of (expected|received) file", BadChecksum),
    (r"404 +Not Found|does not have a Release file|403 +Forbidden|File not found", NotThere),
    (
        r"Could not resolve|failure resolving|Could not connect|Unable to connect|Cannot initiate"
        r"|Connection (timed out|failed|refused|reset)|Network is unreachable|No route to host"
        r"|connection timed out|Could not handshake|Failed to fetch|Some index files failed",
        NoNetwork,
    ),
)


@dataclass(frozen=True)
class Mirror:
    """One archive that the system's apt is configured with.

    Attributes:
        uri: the archive's address, as apt gives it.
        security: whether it is the security archive.
    """

    uri: str
    security: bool


@dataclass(frozen=True)
class Offer:
    """The newest source package of a base that a suite has.

    Attributes:
        version: upstream's point release, e.g. ``5.10.262``.
        package_version: the distribution's version, e.g. ``5.10.262-1``.
        sha256: from the signed index.
        size: bytes.
        filename: the archive's file name.
        config: the private apt configuration that knows it.
    """

    package: str
    version: str
    package_version: str
    sha256: str
    size: int
    filename: str
    suite: str
    config: Path


def mirrors() -> list[Mirror]:
    """Return the distribution's archives that the system's apt uses, most certain first.

    Origin and label come from the signed Release files that the system's apt
    has fetched. Where it has not fetched any yet, the suite's name has to do;
    a wrong guess is harmless, for what it leads to must still carry the
    distribution's signature.
    """
    wanted = "$(REPO_URI)\t$(RELEASE)\t$(ORIGIN)\t$(LABEL)"
    known = _targets(["--format", wanted])
    found: list[Mirror] = []
    for uri, _, origin, label in known:
        if origin == "Debian" and label in ("Debian", "Debian-Security"):
            found.append(Mirror(uri, label == "Debian-Security"))
    if not known:
        for uri, suite, _, _ in _targets(["--no-release-info", "--format", wanted]):
            found.append(Mirror(uri, bool(re.search(r"[-/](security|updates)$", suite))))
            if suite.endswith("-updates"):
                found[-1] = Mirror(uri, False)
    # Mirrors that carry both keep them side by side under these two names.
    if not any(mirror.security for mirror in found):
        for mirror in list(found):
            base, slash = re.subn(r"/debian(/?)$", r"/debian-security\1", mirror.uri)
            if slash:
                found.append(Mirror(base, True))
    return list(dict.fromkeys(found))


def newest(base: Base, *, log: Path) -> Offer:
    """Return the newest point release of ``base`` among its suites.

    Raises:
        NotThere: no apt, no archive of the distribution, or no such package.
        NoNetwork, BadSignature, BadChecksum, SourceError: an index could not be had.
    """
    try:
        archives = mirrors()
    except CommandFailed as err:
        raise NotThere(f"{base.name}: apt's sources cannot be listed ({err.what})") from err
    if not archives:
        raise NotThere(f"{base.name}: the system's apt has no archive of the distribution")
    if not KEYRING.exists():
        raise BadSignature(
            f"{base.name}: {KEYRING} is missing, so no index can be verified",
            hint="install the package debian-archive-keyring",
        )
    offers: list[Offer] = []
    problems: list[SourceError] = []
    for suite in base.suites:
        security = suite.endswith("-security")
        candidates = [mirror for mirror in archives if mirror.security == security]
        if not candidates:
            kind = "security archive" if security else "main archive"
            problems.append(NotThere(f"{suite}: no {kind} among the system's apt sources"))
        for mirror in candidates:
            try:
                offers += _offers(base, mirror, suite, log)
                break
            except (BadSignature, BadChecksum):
                raise
            except SourceError as err:
                problems.append(err)
    if offers:
        for problem in problems:
            progress.say(f"note: {problem.what}")
        return max(offers, key=cmp_to_key(_compare))
    if problems:
        # "Cannot be reached" says more about what to do than "is not there".
        raise next((p for p in problems if isinstance(p, NoNetwork)), problems[0])
    raise NotThere(f"{base.name}: no {base.package} in {', '.join(base.suites)}")


def download(offer: Offer, into: Path, *, log: Path) -> Path:
    """Download an offered package into ``into``; its checksum is verified here as well.

    A download that the network cut off is gone on with. The file appears under
    its name only when it is whole and right.

    Raises:
        BadChecksum: the file is not what the signed index says; it is removed.
        NoNetwork, NotThere, SourceError: it could not be had.
    """
    partial = into / "partial"
    partial.mkdir(parents=True, exist_ok=True)
    # The checksum is part of the name: bytes of another file are never gone on with.
    part = partial / f"{offer.sha256[:16]}.deb"
    for old in partial.glob("*.deb"):
        if old != part:
            old.unlink()
    what = f"downloading {offer.package} {offer.package_version}"
    wanted = f"{offer.package}={offer.package_version}"
    shown = process.run(
        ["apt-get", "-c", offer.config, "--print-uris", "download", wanted],
        timeout=60,
        what=what,
        env={"LC_ALL": "C.UTF-8"},
        split_stderr=True,
    )
    address = re.match(r"'((?:https?|file):[^']+)' ", shown.output)
    if address is not None and HELPER.exists():
        argv: list[str | Path] = [HELPER, "-c", offer.config, "download-file"]
        argv += [address[1], part, f"SHA256:{offer.sha256}"]
        _apt(argv, what, DOWNLOAD_TIMEOUT, log)
    else:
        # This starts from the beginning every time, but knows every kind of address.
        _apt(
            ["apt-get", "-c", offer.config, "download", wanted],
            what,
            DOWNLOAD_TIMEOUT,
            log,
            cwd=partial,
        )
        for got in partial.glob(f"{offer.package}_*.deb"):
            got.replace(part)
    if not part.exists():
        raise SourceError(f"{what}: apt left no archive", log=log)
    # Where the archive is on this machine, apt's helper makes a link to it.
    if part.is_symlink():
        target = part.resolve()
        part.unlink()
        shutil.copyfile(target, part)
    found = sha256(part)
    if found != offer.sha256:
        part.unlink()
        raise BadChecksum(
            f"{offer.filename}: SHA-256 is {found}, the signed index says {offer.sha256}",
            log=log,
            hint="run the command again; if it stays, the mirror is broken: choose another",
        )
    return part.replace(into / offer.filename)


# Even a question makes apt write its caches, if it may.
_READ_ONLY = ("-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=")


def _targets(options: list[str]) -> list[tuple[str, str, str, str]]:
    # "Created-By: Packages" leaves one line per archive, suite and component.
    listing = process.run(
        ["apt-get", *_READ_ONLY, "indextargets", *options, "Created-By: Packages"],
        timeout=60,
        what="asking apt for its mirrors",
        env={"LC_ALL": "C.UTF-8"},
        split_stderr=True,
    )
    rows = [line.split("\t") for line in listing.output.splitlines()]
    # A disc has no other suites than its own.
    return [
        (row[0], row[1], row[2], row[3])
        for row in rows
        if len(row) == 4 and not row[0].startswith("cdrom:")
    ]


def _offers(base: Base, mirror: Mirror, suite: str, log: Path) -> list[Offer]:
    config = _configure(paths.downloads() / "apt" / base.name / suite, mirror, suite)
    _apt(
        ["apt-get", "-c", config, "update"],
        f"reading the index of {suite} ({mirror.uri})",
        UPDATE_TIMEOUT,
        log,
    )
    shown = process.run(
        ["apt-cache", "-c", config, "show", base.package],
        timeout=60,
        check=False,
        env={"LC_ALL": "C.UTF-8"},
        split_stderr=True,
    )
    offers = []
    for stanza in shown.output.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", stanza, re.M))
        matched = re.match(r"(?:\d+:)?(\d+(?:\.\d+)+)", fields.get("Version", ""))
        if matched is None or not {"SHA256", "Size", "Filename"} <= fields.keys():
            continue
        version = matched[1]
        if version != base.series and not version.startswith(base.series + "."):
            continue
        offers.append(
            Offer(
                package=base.package,
                version=version,
                package_version=fields["Version"],
                sha256=fields["SHA256"],
                size=int(fields["Size"]),
                filename=fields["Filename"].rpartition("/")[2],
                suite=suite,
                config=config,
            )
        )
    return offers


def _configure(root: Path, mirror: Mirror, suite: str) -> Path:
    """Write a private apt configuration for one suite, and return its path."""
    for name in ("lists/partial", "cache/archives/partial", "state"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    (root / "archive.sources").write_text(
        f"Types: deb\nURIs: {mirror.uri}\nSuites: {suite}\nComponents: main\n"
        f"Architectures: {_architecture()}\nTargets: Packages\nLanguages: none\n"
        f"Signed-By: {KEYRING}\n"
    )
    config = root / "apt.conf"
    # Given with -c, this is read after the system's configuration: proxies and the
    # like stay, hooks that act on the system's own state go.
    config.write_text(
        "#clear APT::Update::Pre-Invoke;\n"
        "#clear APT::Update::Post-Invoke;\n"
        "#clear APT::Update::Post-Invoke-Success;\n"
        f'Dir::State "{root}/state";\n'
        f'Dir::State::Lists "{root}/lists";\n'
        f'Dir::State::status "{root}/status";\n'
        f'Dir::Cache "{root}/cache";\n'
        f'Dir::Etc::sourcelist "{root}/archive.sources";\n'
        'Dir::Etc::sourceparts "/dev/null";\n'
        'Dir::Etc::preferences "/dev/null";\n'
        'Dir::Etc::preferencesparts "/dev/null";\n'
        # The unprivileged user that apt would switch to cannot write here.
        'APT::Sandbox::User "root";\n'
        # Without this an index that cannot be fetched is a mere warning.
        'APT::Update::Error-Mode "any";\n'
        'APT::Get::AllowUnauthenticated "false";\n'
        'Acquire::AllowInsecureRepositories "false";\n'
        'Acquire::AllowWeakRepositories "false";\n'
        f'Acquire::Retries "{RETRIES}";\n'
        'Acquire::http::Timeout "30";\n'
        'Acquire::https::Timeout "30";\n'
    )
    return config


@cache
def _architecture() -> str:
    done = process.run(["dpkg", "--print-architecture"], timeout=30, split_stderr=True)
    return done.output.strip()


def _apt(
    argv: list[str | Path], what: str, timeout: float, log: Path, cwd: Path | None = None
) -> None:
    try:
        process.run(argv, timeout=timeout, what=what, log=log, cwd=cwd, env={"LC_ALL": "C.UTF-8"})
    except CommandTimeout as err:
        raise NoNetwork(err.what, log=log, tail=err.tail, hint=_NETWORK_HINT) from err
    except CommandFailed as err:
        lines = [line for line in err.output.splitlines() if line.startswith(("E:", "W:", "Err:"))]
        told = "\n".join(lines) or err.output
        for pattern, kind in _MEANINGS:
            if re.search(pattern, told):
                raise kind(
                    f"{what}: {_TITLES[kind]}",
                    log=log,
                    tail=process.tail("\n".join(lines)),
                    hint=_NETWORK_HINT if kind is NoNetwork else None,
                ) from err
        raise SourceError(f"{what}: {err.what}", log=log, tail=process.tail(told)) from err


_NETWORK_HINT = "check the network and the system's apt settings (proxy, mirror), then run again"
_TITLES: dict[type[SourceError], str] = {
    BadSignature: "the signature is missing or wrong",
    BadChecksum: "a file differs from the checksum in its signed index",
    NotThere: "the archive does not have it",
    NoNetwork: "the archive cannot be reached",
}


def _compare(left: Offer, right: Offer) -> int:
    for relation, answer in (("gt", 1), ("lt", -1)):
        done = process.run(
            ["dpkg", "--compare-versions", left.package_version, relation, right.package_version],
            timeout=30,
            check=False,
        )
        if done.returncode == 0:
            return answer
    return 0
