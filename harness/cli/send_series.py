"""Make the mails of a series, look at them, and send them if asked to, twice.

    scripts/send-series v5.10 --to netdev@vger.kernel.org --prefix net-next
    scripts/send-series v5.10 --to netdev@vger.kernel.org --prefix net-next --send

The first makes them in build/mail/BASE/vN/mails: signed off by you, threaded, with the cover
letter, what changed (patches/BASE/changes.toml), a range-diff against the version sent before,
and what scripts/prove and scripts/bench have seen. Then `git send-email --dry-run` looks at
them, and nothing is sent. With --send, the very same mails go out, one by one, after you have
typed what you are asked to type. If that fails half-way, the same command sends the rest.

It refuses if scripts/check-series has not passed on exactly these patches. Your name, your
address and the way mail leaves this machine are those of your git (user.name, user.email,
sendemail.*). What was sent is kept in patches/BASE/sent/vN.mbox. See docs/sending.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import bases, git, lock, paths, progress, series, stamp
from harness.bases import Base
from harness.checks import cover, passed
from harness.checks import recipients as maintainers
from harness.checks.context import Context, fingerprint
from harness.cli import _main
from harness.errors import HarnessError, UsageError
from harness.mail import (
    bundle,
    changelog,
    compose,
    evidence,
    identity,
    outbox,
    recipients,
    sent,
    sign,
)
from harness.mail import send as sending
from harness.mail.compose import Parts, Wanted
from harness.mail.identity import Identity
from harness.mail.outbox import AlreadySent, Outbox
from harness.series import SeriesError

#: Raised when what is made of the same series changes.
_RECIPE = "1"


class NotAgreed(HarnessError):
    """The person did not agree to something, or there was nobody to ask."""


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    found = _main.parser("send-series", __doc__)
    _main.add_base(found)
    found.add_argument(
        *("--to", "-t"),
        action="append",
        required=True,
        metavar="ADDRESS",
        help="whom it is for: an address, or one of your aliases (may be given several times)",
    )
    found.add_argument(
        "--cc", action="append", default=[], metavar="ADDRESS", help="who is to see it as well"
    )
    found.add_argument(
        "--cc-maintainers", action="store_true", help="and all that get_maintainer.pl names"
    )
    found.add_argument(
        "--version",
        *("-v",),
        type=int,
        metavar="N",
        help="of the series (default: one more than was sent)",
    )
    found.add_argument(
        "--prefix", default="", metavar="TREE", help="the tree that it is for, e.g. net-next"
    )
    found.add_argument("--rfc", action="store_true", help="ask for comments")
    found.add_argument(
        "--no-range-diff", action="store_true", help="no comparison with the version before"
    )
    found.add_argument(
        "--no-evidence", action="store_true", help="leave out what prove and bench have seen"
    )
    found.add_argument(
        "--yes-sign-off",
        action="store_true",
        help="add my Signed-off-by without asking: I have read the Developer Certificate of Origin",
    )
    found.add_argument("--send", action="store_true", help="send, after asking once more")
    return found


def main(argv: Sequence[str], ask: Callable[[str], str] | None = None) -> int:
    """Make the mails, and send them if asked to.

    Args:
        ask: shows a question and returns the answer; for tests.
    """
    options = parser().parse_args(argv)
    base = bases.get(options.base)
    asked = ask or _ask
    held = paths.locks() / f"mail-{base.name}.lock"
    with lock.held(held, f"sending {base.name}", timeout=0):
        return _main_held(base, options, asked)


def _main_held(base: Base, options: argparse.Namespace, ask: Callable[[str], str]) -> int:
    version = _version(base, options)
    sender = identity.of(paths.ROOT)
    if not series.read(base.patches):
        raise UsageError(f"{base.patches} has no patches: there is nothing to send")
    known = passed.of(base)
    if known is None:
        raise SeriesError(
            f"scripts/check-series has not passed on {base.patches} as it is now",
            hint=f"run scripts/check-series {base.name}; an edit makes its last verdict void",
        )
    sending.require(paths.ROOT)
    context = Context(base, paths.build_root() / "mail" / base.name)
    everybody = maintainers.of(context.tree, [place.patch.path for place in context.places])
    to = recipients.resolve(paths.ROOT, options.to)
    extra = everybody if options.cc_maintainers else []
    cc = recipients.resolve(paths.ROOT, [*options.cc, *extra])
    cc = [each for each in cc if not recipients.addresses([each]) & recipients.addresses(to)]
    wanted = Wanted(version, options.prefix, options.rfc, tuple(to), tuple(cc), sender)
    seen = evidence.Evidence("", ()) if options.no_evidence else evidence.collect(base)
    _agree_to_sign(base, version, sender, options, ask, len(context.places))
    box = _outbox(context, wanted, seen, options)
    bundle.write(base, box.path / "evidence.tar.gz")
    _summary(box, wanted, known, seen, everybody)
    print(f"\n{_dry(box, wanted)}")
    if not options.send:
        progress.say(
            f"nothing was sent. The mails are in {box.path / 'mails'} (and {box.mbox}, for "
            "mutt -f); read them, then run the same command with --send"
        )
        return 0
    return _send(box, wanted, ask)


def _version(base: Base, options: argparse.Namespace) -> int:
    before = sent.versions(base)
    version = options.version or (max(before, default=0) + 1)
    if version < 1:
        raise UsageError(f"--version {version}: versions begin with 1")
    if version in before:
        raise AlreadySent(
            f"v{version} was sent: {sent.path(base, version)}",
            hint=f"the next one is --version {max(before) + 1}",
        )
    return version


def _agree_to_sign(
    base: Base,
    version: int,
    sender: Identity,
    options: argparse.Namespace,
    ask: Callable[[str], str],
    count: int,
) -> None:
    """Make sure that the person wants their name under the patches."""
    known = outbox.load(base, version)
    again = known is not None and bool(known.gone)
    if options.yes_sign_off or again:
        return
    print(
        f"{sign.TRAILER}: {sender}\n"
        f"goes under {count} patches. It says that you may submit them under the terms of the\n"
        "Developer Certificate of Origin (Documentation/process/submitting-patches.rst)."
    )
    answer = ask("Sign them off? [yes/no] ")
    if answer.strip().lower() != "yes":
        raise NotAgreed(
            "the patches lack your sign-off, and without it they are not sent",
            hint="run it again and answer yes, or give --yes-sign-off",
        )


def _outbox(
    context: Context, wanted: Wanted, seen: evidence.Evidence, options: argparse.Namespace
) -> Outbox:
    """Return the mails, made if they are not there."""
    base = context.base
    subjects = [place.patch.subject for place in context.places]
    changes = changelog.read(base.patches, subjects, wanted.version)
    earlier = [number for number in sent.versions(base) if number < wanted.version]
    compared = max(earlier) if earlier and not options.no_range_diff else None
    if context.stopped is not None:
        raise context.stopped
    key = stamp.digest(
        [
            _RECIPE,
            fingerprint(base),
            str(wanted),
            *([sent.path(base, compared)] if compared is not None else []),
        ]
    )

    def make(into: Path) -> tuple[list[Path], str]:
        repository = context.home.repo
        signed = sign.commits(repository, context.start, context.commits, wanted.sender)
        bodies = [git.read(repository, "log", "-1", "--format=%B", each) for each in signed]
        sign.require(bodies, wanted.sender)
        before = sent.commits(base, compared, context.start) if compared is not None else None
        parts = Parts(
            repository=repository,
            start=context.start,
            commits=signed,
            subjects=subjects,
            letter=cover.read(base.patches),
            changelog=changes,
            evidence=seen.text,
            before=before,
        )
        mails = compose.compose(parts, wanted, into)
        _same_tree(context, mails[-len(signed) :])
        return mails, signed[-1]

    extra = stamp.digest([seen.text, context.start])
    return outbox.prepare(base, wanted.version, key, make, extra=extra)


def _same_tree(context: Context, mails: Sequence[Path]) -> None:
    """Make sure that who applies the mails gets what patches/ gives."""
    made, failure = series.apply_aside(context.home, context.start, list(mails))
    trees = [
        git.read(context.home.repo, "rev-parse", f"{tip}^{{tree}}")
        for tip in (made[-1:] or [context.start]) + [context.commits[-1]]
    ]
    if failure is not None or trees[0] != trees[1]:
        raise SeriesError(
            "the mails do not give the same tree as the patches",
            tail=failure.what if failure else None,
            hint="look for `diff`, `---` or a scissors line in the commit messages",
        )


def _summary(
    box: Outbox,
    wanted: Wanted,
    known: passed.Passed,
    seen: evidence.Evidence,
    everybody: Sequence[str],
) -> None:
    print(f"\nFrom: {wanted.sender}")
    for name, people in (("To", wanted.to), ("Cc", wanted.cc)):
        for each in people:
            print(f"{name}: {recipients.shown(each)}")
    print()
    for mail in box.mails:
        when = f"  (sent {box.gone[mail.name]})" if mail.name in box.gone else ""
        print(f"  {box.subject(mail)}{when}")
    print(f"\nchecked {known.when}")
    for title, lines in (
        ("not checked", known.not_checked),
        ("unverified", known.unverified),
        ("waived", known.waived),
        ("evidence left out", seen.left_out),
    ):
        for line in lines:
            print(f"{title}: {line}")
    if not seen.text:
        print("evidence: none in the cover letter")
    have = recipients.addresses([*wanted.to, *wanted.cc])
    missing = [each for each in everybody if not recipients.addresses([each]) & have]
    if missing:
        print("named by get_maintainer.pl and not among the recipients (--cc-maintainers):")
        for each in missing:
            print(f"  {each}")


def _dry(box: Outbox, wanted: Wanted) -> str:
    sending.dry_run(paths.ROOT, box, wanted)
    return (
        f"git send-email --dry-run: it would send all {len(box.mails)} mails "
        f"({box.path / 'dry-run.log'})"
    )


def _send(box: Outbox, wanted: Wanted, ask: Callable[[str], str]) -> int:
    left = len(box.waiting)
    expected = f"send {left} mails"
    if box.gone:
        print(f"{len(box.gone)} of {len(box.mails)} have gone before; the rest follows")
    if left:
        answer = ask(f"To send them for real, type `{expected}`: ")
        if answer.strip() != expected:
            raise NotAgreed(f"that was not `{expected}`: nothing was sent")
        sending.send(paths.ROOT, box, wanted, lambda mail: print(f"sent {mail.name}", flush=True))
    kept = sent.remember(box.base, box.version, box.mails, box.tip)
    print(f"all {len(box.mails)} mails of v{box.version} have gone")
    progress.say(
        f"{kept} has what was sent, tag {sent.tag(box.base, box.version)}: commit it, so that "
        "the next version can be compared with it"
    )
    return 0


def _ask(question: str) -> str:
    if not sys.stdin.isatty():
        raise NotAgreed(
            f"there is nobody to ask: {question.strip()}",
            hint="run it in a terminal (--yes-sign-off answers the question about the sign-off)",
        )
    return input(question)


if __name__ == "__main__":
    sys.exit(_main.run(main))
