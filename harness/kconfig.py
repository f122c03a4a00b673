"""Turn fragments into a kernel configuration, and check that each request took effect.

A fragment has the lines of a kernel configuration, and comments::

    # What the fragment is for.
    CONFIG_VETH=y
    CONFIG_RANDOMIZE_BASE=n
    CONFIG_DEBUG_NET=y # optional: from v5.19
    CONFIG_PREEMPT_VOLUNTARY=y # optional in v7.3: the architecture has lazy preemption instead

``n`` means: must not be set. A request that did not take effect is an error.
Two marks relax that, each as little as it can:

* ``optional: WHY`` forgives a tree whose Kconfig files do not define the symbol
  at all. Where the symbol exists, the request must take effect.
* ``optional in BASE, BASE: WHY`` forgives the named bases whatever the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import process, stamp
from harness.errors import HarnessError

_LINE = re.compile(r"CONFIG_(?P<name>\w+)=(?P<value>\"[^\"]*\"|[^\s#\"]+)(?:\s+#\s*(?P<note>.*))?")
_NOTE = re.compile(r"optional(?:\s+in\s+(?P<bases>[^:]+))?:\s*(?P<why>\S.*)")
_UNSET = re.compile(r"# CONFIG_(\w+) is not set")

#: Seconds that one run of the kernel's configuration program may take.
TIMEOUT = 300.0


class BadFragment(HarnessError):
    """A line of a fragment cannot be read."""


class OptionsNotSet(HarnessError):
    """Options that were asked for are not in the resulting configuration."""


class ConfigureFailed(HarnessError):
    """The kernel's own configuration program failed."""


@dataclass(frozen=True)
class Request:
    """One option asked for by one line of a fragment.

    Attributes:
        name: the symbol, without ``CONFIG_``.
        value: ``y``, ``n``, a number or a quoted string.
        where: ``FILE:LINE``.
        optional: the tree may lack the symbol.
        optional_in: bases where the request may fail for any reason.
    """

    name: str
    value: str
    where: str
    optional: bool = False
    optional_in: frozenset[str] = frozenset()

    @property
    def line(self) -> str:
        """The request as the kernel's configuration program reads it."""
        return f"CONFIG_{self.name}={self.value}"


@dataclass(frozen=True)
class Missed:
    """A request that did not take effect.

    Attributes:
        actual: the value in the resulting configuration (``n`` where it is absent).
        why: what is known of the reason, for people.
        known: the tree's Kconfig files define the symbol.
    """

    request: Request
    actual: str
    why: str
    known: bool


@dataclass(frozen=True)
class Result:
    """A finished configuration.

    Attributes:
        path: the ``.config``.
        options: every option that is set, by name without ``CONFIG_``.
        forgiven: optional requests that this tree does not serve.
        overridden: lines for people: what a configuration of their own said
            otherwise, and which fragment decided instead.
    """

    path: Path
    options: Mapping[str, str] = field(repr=False)
    forgiven: tuple[Missed, ...] = ()
    overridden: tuple[str, ...] = ()


def parse_fragment(path: Path) -> list[Request]:
    """Return the requests of one fragment, in order.

    Raises:
        BadFragment: naming the file and the line.
    """
    found = []
    try:
        lines = path.read_text().splitlines()
    except OSError as err:
        raise BadFragment(f"cannot read the fragment {path}: {err.strerror}") from err
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path.name}:{number}"
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise BadFragment(
                f"{where}: not a line of a fragment: {line.strip()!r}",
                hint="write CONFIG_NAME=VALUE (n for an option that must not be set), "
                "then # optional: WHY if the tree may lack it",
            )
        found.append(
            Request(match["name"], match["value"], where, *_parse_note(match["note"], where))
        )
    return found


def _parse_note(note: str | None, where: str) -> tuple[bool, frozenset[str]]:
    if note is None:
        return False, frozenset()
    match = _NOTE.fullmatch(note.strip())
    if match is None:
        raise BadFragment(f"{where}: not a mark: {note!r}", hint="known: optional [in BASE]: WHY")
    if match["bases"] is None:
        return True, frozenset()
    return False, frozenset(name.strip() for name in match["bases"].split(","))


def merge(fragments: Iterable[Path]) -> list[Request]:
    """Return the requests of all fragments; of several for one option, the last one."""
    found: dict[str, Request] = {}
    for path in fragments:
        for request in parse_fragment(path):
            # Of two options of one choice the last one read wins: keep the later place.
            found.pop(request.name, None)
            found[request.name] = request
    return list(found.values())


def parse_config(text: str) -> dict[str, str]:
    """Return the options that a ``.config`` sets, by name without ``CONFIG_``.

    An option that is not set is absent, as is one that says ``is not set``.
    """
    options = {}
    for line in text.splitlines():
        if line.startswith("CONFIG_"):
            name, _, value = line[len("CONFIG_") :].partition("=")
            options[name] = value
    return options


def check(
    requests: Iterable[Request], options: Mapping[str, str], *, base: str, source: Path
) -> tuple[list[Missed], list[Missed]]:
    """Compare requests with a configuration; return what failed and what is forgiven.

    Args:
        base: name of the base, for ``optional in``.
        source: the kernel source, searched for the symbols that did not take effect.
    """
    missed = [
        (request, options.get(request.name, "n"))
        for request in requests
        if options.get(request.name, "n") != request.value
    ]
    if not missed:
        return [], []
    definitions = find_symbols(source, {request.name for request, _ in missed})
    failed: list[Missed] = []
    forgiven: list[Missed] = []
    for request, actual in missed:
        known = request.name in definitions
        why = definitions.get(request.name, "no Kconfig file of this tree defines it")
        one = Missed(request, actual, why, known)
        excused = (request.optional and not known) or base in request.optional_in
        (forgiven if excused else failed).append(one)
    return failed, forgiven


def find_symbols(source: Path, names: set[str]) -> dict[str, str]:
    """Return where the tree defines each symbol, with what it depends on: ``FILE:LINE (…)``."""
    wanted = re.compile(r"^(?:menu)?config\s+(" + "|".join(map(re.escape, names)) + r")\s*$", re.M)
    found: dict[str, list[str]] = {}
    for path in sorted(_kconfig_files(source)):
        text = path.read_text(errors="replace")
        for match in wanted.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            depends = _depends(text[match.end() :])
            place = f"{path.relative_to(source)}:{line}"
            found.setdefault(match[1], []).append(f"{place} ({depends})" if depends else place)
    return {name: "; ".join(places) for name, places in found.items()}


def _kconfig_files(source: Path) -> Iterable[Path]:
    # Kconfig files stand in these directories; the object directory and .git are not among them.
    yield from source.glob("Kconfig*")
    for top in source.iterdir():
        if top.is_dir() and (top / "Kconfig").exists() or top.name in ("arch", "lib", "kernel"):
            yield from top.rglob("Kconfig*")


def _depends(after: str) -> str:
    """Return the dependencies in what follows a ``config`` line, up to its end."""
    found = []
    for line in after.splitlines()[1:]:
        if line and not line[0].isspace():
            break
        words = line.split()
        if words[:2] == ["depends", "on"]:
            found.append(" ".join(words[2:]))
        if words[:1] in (["help"], ["---help---"]):
            break
    return "depends on " + " && ".join(found) if found else ""


def configure(
    source: Path,
    build_dir: Path,
    fragments: Sequence[Path],
    *,
    base: str,
    start: Path | None = None,
    make: Sequence[str] = ("make",),
    env: Mapping[str, str | None] | None = None,
    log: Path | None = None,
) -> Result:
    """Write ``build_dir/.config`` from the fragments and check every request.

    Args:
        source: the kernel source.
        fragments: in order; of several requests for one option the last one counts.
        base: name of the base, for what is optional there.
        start: a configuration of the person's own to start from; everything that
            neither it nor a fragment says gets the tree's default. Without it,
            everything that no fragment says is off.
        make: the command and the variables for it.

    Raises:
        OptionsNotSet: listing each request that did not take effect, and why.
        ConfigureFailed: the kernel's configuration program failed.
        BadFragment: a fragment, or ``start``, cannot be read.
    """
    requests = merge(fragments)
    merged = build_dir / ".skbhome-requests.config"
    config = build_dir / ".config"
    text = "".join(f"{request.line}\n" for request in requests)
    overridden: tuple[str, ...] = ()
    if start is None:
        stamp.write_atomic(merged, text)
        config.unlink(missing_ok=True)
        words = [f"KCONFIG_ALLCONFIG={merged}", "allnoconfig"]
    else:
        own = _read_start(start)
        overridden = _overridden(requests, own)
        # The last of several lines for one option, or for one choice, counts.
        stamp.write_atomic(config, own.rstrip("\n") + "\n" + text)
        words = ["olddefconfig"]
    done = process.run(
        [*make, "-C", source, f"O={build_dir}", *words],
        timeout=TIMEOUT,
        what="configuring the kernel",
        env=env,
        log=log,
        check=False,
    )
    if done.returncode != 0:
        raise ConfigureFailed(
            f"configuring the kernel: exit status {done.returncode}",
            log=log,
            tail=process.tail(done.output),
        )
    options = parse_config(config.read_text())
    failed, forgiven = check(requests, options, base=base, source=source)
    if failed:
        raise OptionsNotSet(
            f"{len(failed)} requested option{'s' * (len(failed) > 1)} did not take effect",
            log=config,
            tail="\n".join(describe(one) for one in failed),
            hint="name what the option depends on in a fragment, or mark it as optional: "
            "see harness/kconfig.py",
        )
    return Result(config, options, tuple(forgiven), overridden)


def describe(missed: Missed) -> str:
    """Return one line for people about a request that did not take effect."""
    request = missed.request
    return f"{request.where}: {request.line}, but it is {missed.actual}: {missed.why}"


def _read_start(start: Path) -> str:
    try:
        text = start.read_text()
    except (OSError, UnicodeDecodeError) as err:
        raise BadFragment(f"cannot read the configuration {start}: {err}") from err
    if not any(line.startswith("CONFIG_") for line in text.splitlines()):
        raise BadFragment(
            f"{start} is not a kernel configuration: no line starts with CONFIG_",
            hint="pass a .config, for example a copy of /boot/config-$(uname -r)",
        )
    return text


def _overridden(requests: Iterable[Request], own: str) -> tuple[str, ...]:
    said = parse_config(own)
    said.update({name: "n" for name in _UNSET.findall(own) if name not in said})
    return tuple(
        f"CONFIG_{request.name}: yours {said[request.name]}, used {request.value} ({request.where})"
        for request in requests
        if request.name in said and said[request.name] != request.value
    )
