"""What a proof consists of, as data: commands, how long each may take, what each speaks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase

from harness import flavours
from harness.bases import Base
from harness.errors import UsageError
from harness.flavours import Flavour

#: Stands for the directory of a stage's own files in its command.
HERE = "{here}"

#: Has pytest leave out what has passed (:mod:`harness.proof.outcomes`). One word: of a file by
#: itself pytest would think that it is the tests to run, before it knows the option.
GO_ON = (f"--known={HERE}/known.json",)

#: The stage that a seed matters to.
FAULTS = "faults"

#: The flavours that all VM tests run on.
TESTED = ("default", "rt", "kcsan", "debug", "rt-debug")

#: Percent of the lines of harness/ that the host tests are to reach.
COVERAGE = 85.0

_HOUR = 3600.0


class Kind(Enum):
    """What a stage leaves behind, and so how it is read."""

    CHECK = "check"
    HOST = "host"
    KERNEL = "kernel"
    TESTS = "tests"
    PREFIXES = "prefixes"
    MUTANTS = "mutants"


class Part(Enum):
    """A part of the repository that decides how a stage ends."""

    #: What the patches change, and no message of theirs.
    PATCHES = "patches"
    #: All that is mailed or decides a check: messages, cover letter, waivers, changelog.
    BESIDE = "beside the patches"
    HARNESS = "harness"
    HOST_TESTS = "host tests"
    VM_TESTS = "VM tests"
    MUTANTS = "mutants"
    SOURCE = "source"


@dataclass(frozen=True)
class Stage:
    """One step of a proof.

    Attributes:
        name: what people call it.
        title: what it does, one line.
        argv: a program of scripts/ and its arguments; :data:`HERE` stands for a directory.
        chance: more of them, which nobody has asked for and which no result depends on.
        limit: seconds that it may take.
        parts: what it speaks for, beside the kernels of its flavours.
        flavours: those that it needs a kernel of; the fragments of each count as well.
        arms: which kernels of these flavours.
    """

    name: str
    title: str
    kind: Kind
    argv: tuple[str, ...]
    limit: float
    parts: tuple[Part, ...]
    flavours: tuple[Flavour, ...] = ()
    arms: tuple[str, ...] = field(default=("patched",))
    chance: tuple[str, ...] = ()


def of(base: Base, *, seed: int, drawn: bool = False) -> list[Stage]:
    """Return the stages of a base's proof, those that take minutes before those that take hours.

    Args:
        seed: what the fault scenarios start from.
        drawn: nobody has asked for that one.
    """
    own = flavours.get(base.flavour)
    debug = flavours.get("debug")
    tests = ("test", "--base", base.name, "-v", *GO_ON)
    start = ("--seed", str(seed))
    both = ("patched", "baseline")
    vm = (Part.PATCHES, Part.SOURCE, Part.VM_TESTS)
    found = [
        Stage(
            "series",
            "every check of the series that boots nothing",
            Kind.CHECK,
            ("check-series", base.name, "--json", f"{HERE}/series.json"),
            0.5 * _HOUR,
            (Part.PATCHES, Part.BESIDE, Part.SOURCE, Part.HARNESS),
        ),
        Stage(
            "host",
            f"the harness's own tests, which reach {COVERAGE:.0f} % of its lines",
            Kind.HOST,
            ("test", "-m", "host", "-q", "--cov", f"--cov-report=json:{HERE}/coverage.json"),
            0.5 * _HOUR,
            (Part.HARNESS, Part.HOST_TESTS),
        ),
        *(
            Stage(
                f"kernel-{flavour.name}",
                f"builds, boots, passes its KUnit tests ({flavour.description})",
                Kind.KERNEL,
                ("apply-and-build", base.name, "--flavour", flavour.name, "--json"),
                2.5 * _HOUR,
                # The source may not be there before; its version is in the kernel's release.
                (Part.PATCHES,),
                (flavour,),
            )
            for flavour in flavours.all_flavours()
        ),
    ]
    found += [_vm(base, flavours.get(name)) for name in TESTED[:2]]
    found += [
        Stage(
            "slow",
            "VM tests that take minutes even on the default flavour",
            Kind.TESTS,
            (*tests, "-m", "vm and slow", "--slow"),
            4 * _HOUR,
            vm,
            (own,),
            both,
        ),
        Stage(
            FAULTS,
            "memory that runs out, CPUs that go, random order; also on the debug kernel",
            Kind.TESTS,
            (*tests, "-m", "vm and faults", "--faults", "--slow", *(() if drawn else start)),
            8 * _HOUR,
            vm,
            (own, debug),
            chance=start if drawn else (),
        ),
        Stage(
            "prefixes",
            "every prefix of the series builds without a new warning, and boots",
            Kind.PREFIXES,
            ("check-series", base.name, "--bisect", "--json", f"{HERE}/prefixes.json"),
            8 * _HOUR,
            (Part.PATCHES, Part.SOURCE),
            (own,),
            (),
        ),
    ]
    found += [_vm(base, flavours.get("kcsan"))]
    found += [
        Stage(
            "mutants",
            "each bug that is put back is found by a test",
            Kind.MUTANTS,
            ("test", "--mutants", "--base", base.name),
            24 * _HOUR,
            (*vm, Part.MUTANTS),
            (own,),
            (),
        ),
    ]
    return found + [_vm(base, flavours.get(name)) for name in ("debug", "rt-debug")]


def _vm(base: Base, flavour: Flavour) -> Stage:
    return Stage(
        f"vm-{flavour.name}",
        f"all VM tests on the flavour {flavour.name}, both kernels",
        Kind.TESTS,
        ("test", "--base", base.name, "-v", *GO_ON, "-m", "vm", "--flavour", flavour.name),
        # A guest of a slow flavour gets less work, too.
        (2 + flavour.slow) * _HOUR,
        (Part.PATCHES, Part.SOURCE, Part.VM_TESTS),
        (flavour,),
        ("patched", "baseline"),
    )


def chosen(stages: Sequence[Stage], names: Sequence[str]) -> list[Stage]:
    """Return the stages that are named, all if none is; ``*`` stands for any part of a name.

    Raises:
        UsageError: a name fits none.
    """
    for name in names:
        if not any(fnmatchcase(stage.name, name) for stage in stages):
            known = ", ".join(stage.name for stage in stages)
            raise UsageError(f"no stage {name!r}", hint=f"known: {known}")
    return [
        stage
        for stage in stages
        if not names or any(fnmatchcase(stage.name, name) for name in names)
    ]
