"""Every series of the repository passes its checks, and survives the mail."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import flavours, git, paths, prefixes, series
from harness.checks import cover, report, run
from harness.checks.context import Context
from harness.checks.run import Report
from harness.mail import changelog, compose, outbox, sign
from harness.mail import send as sending
from harness.mail.compose import Parts, Wanted
from harness.mail.identity import Identity

#: So many prefixes, at most, are built and booted here.
MOST_PREFIXES = 2

#: The first time, the touched files are compiled once per patch.
pytestmark = [pytest.mark.tree, pytest.mark.timeout(1200)]


def test_it_passes_its_checks(context: Context) -> None:
    found = Report(context.base, [])
    run.run(context, found, lambda told: None)
    print("\n".join(report.line(each) for each in found.told if each.result.summary))
    assert found.ok, "\n" + "\n".join(report.details(found))
    assert not context.compiled or any(each.result.check == "W=1" for each in found.told)


def test_every_prefix_builds_and_boots(context: Context, tmp_path: Path) -> None:
    """Where nearly all of them are known to: somewhere else that takes hours."""
    flavour = flavours.get(context.base.flavour)
    left = prefixes.unknown(context.base, flavour)
    if left > MOST_PREFIXES:
        pytest.skip(f"{left} prefixes are not known (scripts/check-series --bisect tries them)")
    outcomes = prefixes.check(context.base, flavour, tmp_path, lambda outcome: None)
    bad = [f"{each.prefix.patch.name}: {each.verdict}" for each in outcomes if not each.ok]
    assert not bad, bad


def test_it_comes_out_of_the_mail_as_it_was(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakepost = pytest.importorskip("fakepost")
    fakepost.need_send_email()
    monkeypatch.setattr(outbox.Outbox, "path", tmp_path / "box")
    server = fakepost.Server()
    controller = server.start()
    try:
        fakepost.person(tmp_path, monkeypatch, server.port)
        sender = Identity(fakepost.NAME, fakepost.ADDRESS)
        wanted = Wanted(1, "net-next", False, ("netdev@vger.example.org",), (), sender)
        repo = context.home.repo
        signed = sign.commits(repo, context.start, context.commits, sender)
        subjects = [place.patch.subject for place in context.places]
        parts = Parts(repo, context.start, signed, subjects, cover.read(context.patches),
                      changelog.Changelog({}))  # fmt: skip
        box = outbox.prepare(
            context.base, 1, "key", lambda into: (compose.compose(parts, wanted, into), signed[-1])
        )
        sending.send(paths.ROOT, box, wanted, lambda mail: None)
    finally:
        controller.stop()
    mails = server.save(tmp_path / "received")
    assert len(mails) == len(signed) + 1
    made, failure = series.apply_aside(context.home, context.start, mails[1:])
    assert failure is None
    trees = [
        git.read(repo, "rev-parse", f"{commit}^{{tree}}") for commit in (*made, *context.commits)
    ]
    # Not only the last one: who bisects stops at any of them.
    assert trees[: len(made)] == trees[len(made) :]
