"""What this machine has and lacks, what each lack costs, and how to mend it.

Each check is a small function that returns one :class:`Finding`. Nothing here
may need a package that is not in Python's own library: it also runs where
the rest cannot.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

from harness import packages, paths, process
from harness.errors import HarnessError

#: MiB of disk that one base takes, baseline and patched.
DISK_MIB = 6 * 1024

#: MiB of memory: a guest of 1 GiB, the compilers, and what is there anyway.
MEMORY_MIB = 3 * 1024


class Status(Enum):
    """How a check came out; only ``fail`` keeps the main job from working."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: what was looked at, one or two words.
        status: how it came out.
        found: what is there.
        cost: what its lack costs; empty where nothing lacks.
        mend: how to get it.
    """

    name: str
    status: Status
    found: str
    cost: str = ""
    mend: str = ""


def system() -> Finding:
    """Look at the distribution and the processor's architecture."""
    try:
        release = dict(
            line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line
        )
    except (OSError, ValueError):
        release = {}
    name = release.get("PRETTY_NAME", "unknown").strip('"')
    machine = platform.machine()
    found = f"{name}, {machine}"
    if machine != "x86_64":
        return Finding(
            "system",
            Status.FAIL,
            found,
            "the kernels are built for x86-64, with the system's own compiler",
            "use an x86-64 machine",
        )
    debian = "debian" in (release.get("ID", ""), *release.get("ID_LIKE", "").strip('"').split())
    if not debian or shutil.which("apt-get") is None:
        return Finding(
            "system",
            Status.WARN,
            found,
            "nothing is installed by itself, and source comes from kernel.org alone",
            "use Debian 12, or install by hand what the packages check names",
        )
    return Finding("system", Status.OK, found)


def required_packages() -> Finding:
    """Look for the Debian packages that the main job needs."""
    return _packages("packages", [p for p in packages.PACKAGES if not p.optional], Status.FAIL)


def optional_packages() -> Finding:
    """Look for the Debian packages that make things quicker."""
    return _packages("extras", [p for p in packages.PACKAGES if p.optional], Status.WARN)


def _packages(name: str, wanted: Sequence[packages.Package], bad: Status) -> Finding:
    try:
        absent = packages.missing(wanted)
    except HarnessError as err:
        return Finding(name, Status.WARN, err.what, "it is not known what lacks", err.hint or "")
    if not absent:
        return Finding(name, Status.OK, " ".join(p.name for p in wanted))
    names = " ".join(package.name for package in absent)
    return Finding(
        name,
        bad,
        f"missing: {names}",
        "does not work: " + "; ".join(sorted({package.needed_for for package in absent})),
        f"scripts/apply-and-build installs them, or as root: apt-get install {names}",
    )


def python() -> Finding:
    """Look at the interpreter and the harness's own environment."""
    version = platform.python_version()
    venv = paths.build_root() / "venv"
    if Path(sys.prefix).resolve() == venv.resolve():
        return Finding("python", Status.OK, f"{version} in {venv}")
    return Finding(
        "python",
        Status.WARN,
        f"{version}, not in {venv}",
        "virtme-ng and pytest may lack, or be of another version",
        "start the harness through scripts/, which make that environment",
    )


def compiler() -> Finding:
    """Look for gcc, and see that it compiles."""
    if shutil.which("gcc") is None:
        return Finding(
            "compiler", Status.FAIL, "no gcc", "no kernel can be built", "apt-get install gcc"
        )
    first = _first_line(["gcc", "--version"])
    done = process.run(
        ["gcc", "-x", "c", "-o", os.devnull, "-"],
        timeout=30,
        stdin=b"int main(void) { return 0; }\n",
        check=False,
    )
    if done.returncode != 0:
        return Finding(
            "compiler",
            Status.FAIL,
            f"{first}, which cannot link a program",
            "no kernel can be built",
            "apt-get install gcc libc6-dev",
        )
    return Finding("compiler", Status.OK, first)


def git() -> Finding:
    """Look for git; worktrees are moved with a command of git 2.17."""
    if shutil.which("git") is None:
        return Finding("git", Status.FAIL, "no git", "no tree can be made", "apt-get install git")
    found = _first_line(["git", "--version"])
    numbers = re.search(r"(\d+)\.(\d+)", found)
    if numbers and (int(numbers[1]), int(numbers[2])) < (2, 25):
        return Finding(
            "git", Status.FAIL, found, "no tree can be made", "install git 2.25 or newer"
        )
    return Finding("git", Status.OK, found)


def disk() -> Finding:
    """Look at the room where everything is built."""
    where = _existing(paths.build_root())
    try:
        free = shutil.disk_usage(where).free >> 20
    except OSError as err:
        return Finding("disk", Status.FAIL, f"{where}: {err.strerror}", "nothing can be built", "")
    found = f"{free / 1024:.1f} GiB free in {where}"
    # What the trees take already is part of the need; counting it takes seconds.
    used = _used_mib(paths.trees()) if free < DISK_MIB else 0
    if used:
        found += f", {used / 1024:.1f} GiB used by trees"
    if not os.access(where, os.W_OK):
        return Finding(
            "disk",
            Status.FAIL,
            f"{where} is not writable",
            "nothing can be built",
            "set SKBHOME_BUILD to a directory of your own",
        )
    if free + used < DISK_MIB:
        return Finding(
            "disk",
            Status.WARN if free > 512 and used else Status.FAIL,
            found,
            f"one base, baseline and patched, takes up to {DISK_MIB // 1024} GiB",
            "make room, or set SKBHOME_BUILD to a directory on a larger disk",
        )
    return Finding("disk", Status.OK, found)


def memory() -> Finding:
    """Look at the memory that programs can get."""
    try:
        fields = dict(
            line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if line
        )
        available = int(fields["MemAvailable"].split()[0]) >> 10
    except (OSError, ValueError, KeyError):
        return Finding("memory", Status.WARN, "unknown", "a guest may not start", "")
    found = f"{available / 1024:.1f} GiB available"
    if available < MEMORY_MIB:
        return Finding(
            "memory",
            Status.WARN,
            found,
            f"a build with a guest takes about {MEMORY_MIB // 1024} GiB; either may be killed",
            "end what takes most of it, or pass --memory to scripts/vm",
        )
    return Finding("memory", Status.OK, found)


def cpus() -> Finding:
    """Count the CPUs that this process may run on."""
    count = len(os.sched_getaffinity(0))
    if count < 2:
        return Finding(
            "cpus",
            Status.WARN,
            str(count),
            "builds take twice as long, and guests of several CPUs run in turns",
            "give the machine a second CPU",
        )
    return Finding("cpus", Status.OK, str(count))


def kvm() -> Finding:
    """Ask whether guests really run under KVM: by booting something, once; it is remembered."""
    from harness import accel  # noqa: PLC0415 - QEMU may lack: the check must not keep others away

    if shutil.which("qemu-system-x86_64") is None:
        return Finding("kvm", Status.WARN, "unknown: there is no QEMU to try it with", "", "")
    try:
        probed = accel.probe()
    except HarnessError as err:
        return Finding("kvm", Status.WARN, err.what, "guests may not start", err.hint or "")
    if probed.name == "kvm":
        return Finding("kvm", Status.OK, "works")
    return Finding(
        "kvm",
        Status.WARN,
        f"not used: {probed.reason}",
        "guests are emulated (TCG): everything in them takes about ten times longer",
        "run on a machine, or a virtual machine with nesting, whose /dev/kvm you may use",
    )


def qemu() -> Finding:
    """Look for QEMU."""
    if shutil.which("qemu-system-x86_64") is None:
        return Finding(
            "qemu",
            Status.FAIL,
            "none",
            "no kernel can be booted",
            "apt-get install qemu-system-x86",
        )
    return Finding("qemu", Status.OK, _first_line(["qemu-system-x86_64", "--version"]))


def virtme() -> Finding:
    """Look for virtme-ng."""
    found = shutil.which("vng") or shutil.which("virtme-ng")
    if found is None:
        return Finding(
            "virtme-ng",
            Status.FAIL,
            "none",
            "no kernel can be booted",
            "start the harness through scripts/, which install it",
        )
    return Finding("virtme-ng", Status.OK, _first_line([found, "--version"]))


def network() -> Finding:
    """See whether the servers that source comes from can be connected to."""
    hosts = list(_mirrors())
    if not hosts:
        return Finding(
            "network", Status.WARN, "apt names no mirror", "source comes from kernel.org"
        )
    reached, lost = [], []
    for host, port in hosts[:2]:
        try:
            socket.create_connection((host, port), timeout=3).close()
            reached.append(host)
        except OSError as err:
            lost.append(f"{host} ({err.strerror or err})")
    if reached or os.environ.get("http_proxy") or os.environ.get("https_proxy"):
        return Finding("network", Status.OK, f"reached {', '.join(reached) or 'through a proxy'}")
    return Finding(
        "network",
        Status.WARN,
        f"not reached: {', '.join(lost)}",
        "only what is already downloaded can be built",
        "connect the machine, or pass your own source with --tree",
    )


def _mirrors() -> Iterator[tuple[str, int]]:
    if shutil.which("apt-get") is None:
        return
    done = process.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"],
        timeout=30,
        check=False,
        split_stderr=True,
    )
    seen = set()
    for line in done.output.splitlines():
        if not line.startswith(("http://", "https://")):
            continue  # a disc's address has brackets and spaces in it
        url = urlsplit(line.strip())
        if url.hostname and url.hostname not in seen:
            seen.add(url.hostname)
            yield url.hostname, url.port or (443 if url.scheme == "https" else 80)


#: Every check, in the order in which people read them.
CHECKS: tuple[Callable[[], Finding], ...] = (
    system,
    required_packages,
    optional_packages,
    python,
    compiler,
    git,
    disk,
    memory,
    cpus,
    kvm,
    qemu,
    virtme,
    network,
)

#: What must hold before a build starts, and is quick to see.
QUICK: tuple[Callable[[], Finding], ...] = (system, required_packages, compiler, git, disk, memory)


class Unfit(HarnessError):
    """This machine lacks something that the job cannot do without."""


def run(checks: Sequence[Callable[[], Finding]] = CHECKS) -> list[Finding]:
    """Return what each check found; one that breaks is a finding, too."""
    findings = []
    for check in checks:
        try:
            findings.append(check())
        except Exception as err:  # noqa: BLE001 - one broken check must not hide the others
            name = check.__name__.replace("_", " ")
            findings.append(Finding(name, Status.WARN, f"the check itself failed: {err!r}"))
    return findings


def report(finding: Finding) -> str:
    """Return a finding in lines for people."""
    lines = [f"{finding.status.value:<5} {finding.name:<10} {finding.found}"]
    if finding.cost:
        lines.append(f"{'':16} costs: {finding.cost}")
    if finding.mend and finding.status is not Status.OK:
        lines.append(f"{'':16} mend:  {finding.mend}")
    return "\n".join(lines)


def require(checks: Sequence[Callable[[], Finding]] = QUICK) -> list[Finding]:
    """Return the findings of checks that must not fail.

    Raises:
        Unfit: listing those that did.
    """
    findings = run(checks)
    failed = [finding for finding in findings if finding.status is Status.FAIL]
    if failed:
        raise Unfit(
            "this machine lacks what the job needs: " + ", ".join(f.name for f in failed),
            tail="\n".join(report(finding) for finding in failed),
            hint="mend that, then run scripts/doctor",
        )
    return findings


def _first_line(argv: Sequence[str]) -> str:
    done = process.run(argv, timeout=30, check=False, env={"LC_ALL": "C"})
    return done.output.partition("\n")[0].strip()


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _used_mib(path: Path) -> int:
    """Return how much is below ``path`` as du counts it; 0 if that takes too long."""
    if not path.is_dir():
        return 0
    try:
        done = process.run(["du", "-sm", path], timeout=20, check=False, split_stderr=True)
        return int(done.output.split()[0])
    except (HarnessError, ValueError, IndexError):
        return 0
