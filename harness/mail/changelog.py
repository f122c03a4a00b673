"""What changed since the version before: data beside the series, put under the ``---``.

``patches/BASE/changes.toml``::

    [v2]
    series = ["rebased onto 5.10.263"]
    "net: record the CPU that allocated an skb" = ["explain why it is an int"]

``series`` goes into the cover letter, the others under the ``---`` of the patch with that
subject. Reviewers read all versions, the newest first.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

NAME = "changes.toml"
SERIES = "series"


@dataclass(frozen=True)
class Changelog:
    """What changed, by version and by patch.

    Attributes:
        versions: from the number of a version to what changed in it, by the subject of the
            patch, or :data:`SERIES`.
    """

    versions: Mapping[int, Mapping[str, Sequence[str]]]

    def below(self, subject: str, version: int) -> str:
        """Return what goes under the ``---`` of a patch; empty for a first version."""
        blocks = []
        for number in sorted(self.versions, reverse=True):
            lines = self.versions[number].get(subject, ())
            if number <= version and lines:
                blocks.append(f"v{number}:\n{_items(lines)}")
        return "\n".join(blocks)

    def letter(self, version: int) -> str:
        """Return what goes into the cover letter; empty for a first version."""
        blocks = []
        for number in sorted(self.versions, reverse=True):
            if not 1 < number <= version:
                continue
            rows = self.versions[number]
            items = [_items(rows[SERIES])] if SERIES in rows else []
            items += [
                f" - {subject}:\n{textwrap.indent(_items(lines), '  ')}"
                for subject, lines in rows.items()
                if subject != SERIES
            ]
            blocks.append(f"Changes in v{number}:\n" + "".join(items))
        return "\n".join(blocks)


def read(directory: Path, subjects: Sequence[str], version: int) -> Changelog:
    """Read the changelog of a directory of patches.

    Args:
        subjects: of the patches.
        version: that is about to be sent.

    Raises:
        UsageError: the file is not what it should be, names a patch of this version that there
            is not, or says nothing about a version after the first.
    """
    path = directory / NAME
    versions: dict[int, dict[str, list[str]]] = {}
    if path.is_file():
        try:
            loaded = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
            raise UsageError(f"{path}: {err}") from err
        for name, rows in loaded.items():
            match = re.fullmatch(r"v(\d+)", name)
            if match is None or not isinstance(rows, dict) or not _listed(rows):
                raise UsageError(
                    f"{path}: [{name}] is not a version with lists of changes",
                    hint='like: [v2], then: series = ["what changed", "what else"]',
                )
            versions[int(match[1])] = rows
    strange = [s for s in versions.get(version, {}) if s not in (SERIES, *subjects)]
    if strange:
        raise UsageError(
            f"{path}: [v{version}] speaks of {strange[0]!r}, and no patch is called that",
            hint="give the subject as the patch has it, without [PATCH]",
        )
    if version > 1 and not versions.get(version):
        raise UsageError(
            f"nothing says what changed in v{version}",
            hint=f"add [v{version}] to {path}; harness/mail/changelog.py shows the form",
        )
    return Changelog(versions)


def _listed(rows: Mapping[str, object]) -> bool:
    return all(
        isinstance(lines, list) and all(isinstance(line, str) for line in lines)
        for lines in rows.values()
    )


def _items(lines: Sequence[str]) -> str:
    return "".join(
        textwrap.fill(line, 72, initial_indent=" - ", subsequent_indent="   ") + "\n"
        for line in lines
    )
