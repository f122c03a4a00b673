"""A series goes to a mail server on the loopback, comes out whole, and never without asking."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fakeseries
import pytest
from fakekernel import BASE, Snapshot, git
from fakepost import ADDRESS, NAME, Server, free_port, need_send_email, person
from fakeseries import Desk

from harness import bases, paths, series, worktree
from harness.cli import send_series
from harness.errors import HarnessError, UsageError
from harness.mail import changelog, compose, evidence, outbox, sent
from harness.mail.identity import IdentityMissing
from harness.mail.outbox import AlreadySent
from harness.mail.recipients import UnknownRecipient
from harness.mail.send import NotSent
from harness.mail.sent import BrokenMailbox
from harness.series import SeriesError

pytestmark = pytest.mark.host

TO = "netdev@vger.example.org"
LONG = "/* straße " + "x" * 1200 + " */"


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A desk with a series that passed: a line of 1200 characters, a name that is not ASCII."""
    need_send_email()
    top = tmp_path_factory.mktemp("post") / "desk"
    top.mkdir()
    with pytest.MonkeyPatch.context() as monkeypatch:
        desk = fakeseries.prepare(top, monkeypatch)
        desk.edit(1, "Ann Author <ann@example.org>", "maintainers <m@project.invalid>")
        desk.edit(2, "Ann Author <ann@", "=?UTF-8?q?J=C3=BCrgen?= <juergen@")
        desk.edit(2, "+int patched_50;", f"+int patched_50; {LONG}")
        desk.edit(2, "Because.", "Because of Straße.\nFrom here on.")
        desk.edit(2, "From: =", "MIME-Version: 1.0\nContent-Type: text/plain; charset=UTF-8\n"
                  "Content-Transfer-Encoding: 8bit\nFrom: =")  # fmt: skip
        assert desk.found() == []
    snapshot = Snapshot(top)
    snapshot.save()
    return snapshot


@dataclass
class Post:
    """The series, the person, the server."""

    desk: Desk
    server: Server
    config: Path

    def main(self, *words: str, answer: str = "send 4 mails", to: str = TO) -> int:
        return send_series.main(
            ["v5.10", "--to", to, "--yes-sign-off", *words], ask=lambda question: answer
        )

    def refused(self, kind: type[HarnessError], words: str, *options: str, to: str = TO) -> None:
        """See that nothing at all is sent, for a reason that is told."""
        with pytest.raises(kind) as caught:
            self.main("--send", *options, to=to)
        assert re.search(words, str(caught.value)), str(caught.value)
        assert self.server.raw == [] and sent.versions(BASE) == []

    @property
    def box(self) -> outbox.Outbox:
        found = outbox.load(BASE, max(sent.versions(BASE), default=1))
        assert found is not None
        return found


@pytest.fixture
def post(checked: Snapshot, monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    desk = fakeseries.prepare(checked.restore(), monkeypatch)
    server = Server()
    controller = server.start()
    try:
        yield Post(desk, server, person(desk.top, monkeypatch, server.port))
    finally:
        controller.stop()


def tree_of_the_patches() -> str:
    repo = worktree.Home.of(BASE).repo
    patches = series.read(BASE.patches)
    made, failure = series.apply_aside(worktree.Home.of(BASE), git(repo, "rev-parse", "base"),
                                       patches)  # fmt: skip
    assert failure is None
    return git(repo, "rev-parse", f"{made[-1]}^{{tree}}")


def fresh(top: Path) -> Path:
    """Check the unpatched source out somewhere else."""
    repo = worktree.Home.of(BASE).repo
    git(repo, "worktree", "add", "-q", "--detach", top / "fresh", "base")
    return top / "fresh"


# --- what arrives ------------------------------------------------------------


def test_what_arrives_is_the_series(post: Post, capsys: pytest.CaptureFixture[str]) -> None:
    assert post.main("--send", "--prefix", "net-next", "--cc", "Ann <ann@example.org>") == 0
    mails = post.server.mails
    assert [mail["Subject"] for mail in mails] == [
        "[PATCH net-next 0/3] net: change three lines",
        "[PATCH net-next 1/3] net: change line 20",
        "[PATCH net-next 2/3] net: change line 50",
        "[PATCH net-next 3/3] net: test the lines",
    ]
    cover, letter = mails[0], post.server.texts[0]
    assert letter.startswith("They are wrong.")
    for number, mail in enumerate(mails):
        assert mail["From"].addresses[0].display_name == NAME
        assert mail["From"].addresses[0].addr_spec == ADDRESS
        assert mail["To"] == TO and "ann@example.org" in mail["Cc"]
        if number:
            assert mail["In-Reply-To"] == cover["Message-Id"] == mail["References"]
            assert f"Signed-off-by: {NAME} <{ADDRESS}>" in post.server.texts[number]
    assert len({mail["Message-Id"] for mail in mails}) == 4
    assert all(rcpt == [TO, "ann@example.org"] for rcpt in post.server.recipients)
    assert "1- 2  are the code" in letter
    assert "2 files changed, 4 insertions(+), 2 deletions(-)" in letter
    # No line is longer than a server has to take, whatever the patch has.
    assert all(len(line) <= 998 for raw in post.server.raw for line in raw.split(b"\r\n"))
    assert LONG in post.server.texts[2]

    # On a fresh base it gives the same files, and who wrote what is kept.
    there = fresh(post.desk.top)
    git(there, "am", "-q", *post.server.save(post.desk.top / "mails")[1:])
    assert git(there, "rev-parse", "HEAD^{tree}") == tree_of_the_patches()
    authors = git(there, "log", "--reverse", "--format=%an <%ae>", "base..").splitlines()
    assert authors == [f"{NAME} <{ADDRESS}>", "Jürgen <juergen@example.org>",
                       "Ann Author <ann@example.org>"]  # fmt: skip
    message = git(there, "log", "-1", "--format=%B", "HEAD~1")
    assert "Because of Straße.\nFrom here on." in message
    assert message.endswith(f"Assisted-by: AGENT:MODEL\nSigned-off-by: {NAME} <{ADDRESS}>")
    assert "1 lines" not in capsys.readouterr().err

    # What was sent is kept, and gives the same again.
    again = fresh(post.desk.top / "again")
    patches = sent.extract(sent.path(BASE, 1), post.desk.top / "mails")
    git(again, "am", "-q", *patches)
    assert git(again, "rev-parse", "HEAD^{tree}") == tree_of_the_patches()
    assert git(worktree.Home.of(BASE).repo, "rev-parse", "skbhome/v5.10/v1") == post.box.tip


def test_b4_takes_the_mailbox(post: Post) -> None:
    b4 = Path(sys.executable).with_name("b4")
    if not b4.exists():
        pytest.skip("no b4 (it needs Python 3.11)")
    post.main()
    there = fresh(post.desk.top)
    done = subprocess.run(
        [b4, "--offline-mode", "am", "-m", post.box.mbox, "-o", post.desk.top / "b4", "--no-cover"],
        cwd=there, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = (post.desk.top / "b4").glob("*.mbx")
    git(there, "am", "-q", found)
    assert git(there, "rev-parse", "HEAD^{tree}") == tree_of_the_patches()


# --- asking ------------------------------------------------------------------


def test_without_send_nothing_goes(post: Post, capsys: pytest.CaptureFixture[str]) -> None:
    assert post.main("--rfc") == 0
    said = capsys.readouterr()
    assert post.server.seen == 0 and "nothing was sent" in said.err
    assert "[RFC PATCH 1/3] net: change line 20" in said.out
    assert f"To: {TO}" in said.out and f"From: {NAME} <{ADDRESS}>" in said.out
    assert "it would send all 4 mails" in said.out
    assert "not checked: sparse: no sparse" in said.out
    assert "  Ann Author <ann@example.org>" in said.out.split("not among the recipients")[1]
    assert len(post.box.mails) == 4 and (post.box.path / "dry-run.log").is_file()


@pytest.mark.parametrize("answer", ["", "yes", "send 3 mails"])
def test_another_answer_sends_nothing(post: Post, answer: str) -> None:
    with pytest.raises(send_series.NotAgreed, match="nothing was sent"):
        post.main("--send", answer=answer)
    assert post.server.seen == 0


def test_nobody_signs_for_another(post: Post) -> None:
    asked = []

    def ask(question: str) -> str:
        asked.append(question)
        return "no"

    with pytest.raises(send_series.NotAgreed, match="lack your sign-off"):
        send_series.main(["v5.10", "--to", TO, "--send"], ask=ask)
    assert asked == ["Sign them off? [yes/no] "] and post.server.seen == 0
    # Without a terminal there is nobody to ask.
    with pytest.raises(send_series.NotAgreed, match="nobody to ask"):
        send_series.main(["v5.10", "--to", TO])


# --- half-way ----------------------------------------------------------------


def test_a_refused_mail_stops_it_and_the_rest_follows(
    post: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    post.server.refuse = 3
    with pytest.raises(NotSent, match="0002-.*was not sent .2 of 4 have gone") as caught:
        post.main("--send")
    assert "not today" in str(caught.value) and sent.versions(BASE) == []
    first = [mail["Message-Id"] for mail in post.server.mails]
    assert len(first) == 2
    capsys.readouterr()
    # A report that is finished meanwhile does not make the rest another version.
    reports(series.code_digest(BASE.patches))
    # Another answer than the one for the rest sends nothing.
    with pytest.raises(send_series.NotAgreed):
        post.main("--send")
    assert post.main("--send", answer="send 2 mails") == 0
    mails = post.server.mails
    assert [mail["Subject"].split("]")[0][-3:] for mail in mails] == ["0/3", "1/3", "2/3", "3/3"]
    assert [mail["Message-Id"] for mail in mails[:2]] == first
    assert {mail["In-Reply-To"] for mail in mails[1:]} == {first[0]}
    assert "2 of 4 have gone before" in capsys.readouterr().out
    assert sent.versions(BASE) == [1]


def test_half_a_version_is_not_continued_with_other_mails(post: Post) -> None:
    post.server.refuse = 2
    with pytest.raises(NotSent, match="1 of 4"):
        post.main("--send")
    with pytest.raises(AlreadySent, match="1 of the 4 mails of v1 have gone, and it has changed"):
        post.main("--send", "--prefix", "net")
    mail = post.box.mails[2]
    mail.write_text(mail.read_text() + "more\n")
    with pytest.raises(AlreadySent, match="its mails were edited"):
        post.main("--send")
    assert len(post.server.raw) == 1


def test_edited_mails_are_made_again_while_none_has_gone(post: Post) -> None:
    post.main()
    mail = post.box.mails[1]
    text = mail.read_text()
    mail.write_text(text + "more\n")
    post.main()
    assert "more" not in post.box.mails[1].read_text()


# --- the version after -------------------------------------------------------


def second(post: Post) -> None:
    """Send the first version, then change the series."""
    assert post.main("--send") == 0
    post.server.raw.clear()
    post.desk.edit(1, "+int patched_20;", "+int patched_twenty;")
    (post.desk.patches / "changes.toml").write_text(
        '[v2]\nseries = ["say it with more lines"]\n"net: change line 20" = ["ß in words"]\n'
    )
    assert post.desk.found() == []


def test_the_next_version_tells_what_changed(post: Post) -> None:
    second(post)
    # The kernel's repository may have been made again since.
    git(worktree.Home.of(BASE).repo, "tag", "-d", "skbhome/v5.10/v1")
    assert post.main("--send") == 0
    cover, first, other, _ = post.server.texts
    assert post.server.mails[1]["Subject"] == "[PATCH v2 1/3] net: change line 20"
    assert "Changes in v2:\n - say it with more lines\n" in cover
    assert "Range-diff against v1:" in cover
    assert "+    +int patched_twenty;" in re.sub(r"\n    ", "\n", cover).replace("++", "+    +")
    assert re.search(r"^---\nv2:\n - ß in words\n\n? net/core/dev.c", first, re.M), first
    assert "v2:" not in other
    there = fresh(post.desk.top)
    git(there, "am", "-q", *post.server.save(post.desk.top / "mails")[1:])
    assert git(there, "rev-parse", "HEAD^{tree}") == tree_of_the_patches()
    assert "ß in words" not in git(there, "log", "--format=%B", "base..")
    assert sent.versions(BASE) == [1, 2]


def test_a_letter_with_a_long_subject_that_is_not_ascii(post: Post) -> None:
    letter = post.desk.patches / "cover-letter"
    long = "net: die Straße nach Gießen, " + "und wieder zurück " * 2
    letter.write_text(letter.read_text().replace("net: change three lines", long.strip()))
    assert post.desk.found() == []
    assert post.main("--send", "--prefix", "net-next", "--rfc") == 0
    wanted = f"[RFC PATCH net-next 0/3] {long.strip()}"
    assert post.server.mails[0]["Subject"] == wanted == post.box.subject(post.box.mails[0])
    draft = post.box.mails[0].read_text()
    subject = re.search(r"^Subject:.*(?:\n .*)*", draft, re.M)
    assert subject is not None and len(subject[0].splitlines()) > 1
    assert all(len(line) <= 78 for line in subject[0].splitlines())


def test_a_draft_says_which_characters_it_uses() -> None:
    plain = "From 0\nSubject: x\n\nstrasse\n"
    assert compose.declared(plain) == plain
    declared = compose.declared(plain.replace("ss", "ß"))
    assert "charset=UTF-8\nContent-Transfer-Encoding: 8bit\n\nstraße\n" in declared
    assert compose.declared(declared) == declared


def test_a_version_goes_once_and_says_what_changed(post: Post) -> None:
    second(post)
    with pytest.raises(AlreadySent, match="v1 was sent"):
        post.main("--send", "--version", "1")
    changes = post.desk.patches / "changes.toml"
    for text, words in (
        ("", "nothing says what changed in v2"),
        ('[v2]\n"net: gone" = ["x"]\n', "'net: gone', and no patch is called that"),
        ("[v2\n", "changes.toml: "),
        ('[later]\nseries = ["x"]\n', "is not a version"),
    ):
        changes.write_text(text)
        post.desk.run()
        with pytest.raises(UsageError, match=words):
            post.main("--send")
    assert post.server.raw == []


def test_a_damaged_mailbox_of_the_version_before(post: Post) -> None:
    second(post)
    kept = sent.path(BASE, 1)
    whole = kept.read_bytes()
    for damaged in (b"", b"rubbish\n", whole[: len(whole) // 2]):
        kept.write_bytes(damaged)
        with pytest.raises(BrokenMailbox, match="v1.mbox is damaged"):
            post.main("--send")
    assert post.server.raw == []
    # Who does not want a comparison does not need it.
    assert post.main("--no-range-diff") == 0


# --- bad input ---------------------------------------------------------------


def test_an_edit_after_the_check(post: Post) -> None:
    post.desk.edit(1, "Because.", "Because of it.")
    post.refused(SeriesError, "has not passed on .* as it is now")


@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        (3, "+int test;", "+int test; "),
        (3, "They were not", "They\r\nwere not"),
        # It is for another kernel.
        (1, " int line_18;", " int line_1818;"),
    ],
)
def test_what_the_check_refuses(post: Post, number: int, old: str, new: str) -> None:
    post.desk.edit(number, old, new)
    assert post.desk.found() != []
    post.refused(SeriesError, "has not passed")


def test_an_unknown_base(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(name: str) -> bases.Base:
        raise UsageError(f"unknown base {name!r}")

    monkeypatch.setattr(bases, "get", get)
    post.refused(UsageError, "unknown base")


@pytest.mark.parametrize(
    ("name", "address", "words"),
    [
        ("", "", "no user.name and user.email"),
        ("A", "", "no user.email"),
        ("A", "a@localhost", "nobody can answer to"),
        ("A", "m@skbhome.invalid", "nobody can answer to"),
        ("A <b>", "a@example.org", "no mail can carry"),
    ],
)
def test_no_identity(post: Post, name: str, address: str, words: str) -> None:
    text = post.config.read_text()
    lines = [f"\tname = {name}"] * bool(name) + [f"\temail = {address}"] * bool(address)
    post.config.write_text("\n".join(["[user]", *lines, text[text.index("[sendemail]") :]]))
    post.refused(IdentityMissing, words)


def test_a_server_that_is_not_there(post: Post) -> None:
    text = post.config.read_text()
    post.config.write_text(text.replace(str(post.server.port), str(free_port())))
    post.refused(NotSent, "nothing was sent")
    # The mails are there still; with the server they go.
    post.config.write_text(text)
    assert post.main("--send") == 0 and len(post.server.raw) == 4


def test_recipients(post: Post) -> None:
    post.refused(UnknownRecipient, "'lsit' is neither .*\n.*known aliases: list", to="lsit")
    assert post.main("--send", to="list") == 0
    assert post.server.mails[0]["To"] == "Net Developers <netdev@vger.example.org>"
    assert post.server.recipients[0] == ["netdev@vger.example.org"]


def test_nobody_else_gets_it(post: Post, capsys: pytest.CaptureFixture[str]) -> None:
    """The person's configuration, trailers and authors add nobody; names survive."""
    with post.config.open("a") as config:
        config.write("\tto = a@example.org\n\tcc = b@example.org\n\ttoCmd = echo c@example.org\n")
    with pytest.raises(send_series.NotAgreed):
        post.main("--send", answer="no")
    assert "@example.org" not in (post.box.path / "dry-run.log").read_text().replace(ADDRESS, "")
    assert post.main("--send", "--cc", "Jürgen Größe <j@example.org>") == 0
    assert post.server.recipients == [[TO, "j@example.org"]] * 4
    assert post.server.mails[1]["Cc"].addresses[0].display_name == "Jürgen Größe"
    assert "Cc: Jürgen Größe <j@example.org>" in capsys.readouterr().out


def test_an_empty_series(post: Post) -> None:
    (post.desk.patches / "series").write_text("")
    post.refused(UsageError, "nothing to send")


def test_mails_that_give_something_else_are_not_made(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a message with a diff in it, which git am takes for the patch's."""
    below = changelog.Changelog.below
    lost = "diff --git a/net/core/sock.c b/net/core/sock.c\n--- a/net/core/sock.c\n" + (
        "+++ b/net/core/sock.c\n@@ -1 +1 @@\n-int sock;\n+int lost;\n"
    )
    monkeypatch.setattr(
        changelog.Changelog, "below", lambda self, *words: below(self, *words) or lost
    )
    post.refused(SeriesError, "do not give the same tree")


# --- evidence ----------------------------------------------------------------


def reports(digest: str) -> None:
    proof = {
        "base": "v5.10",
        "patches": {"count": 3, "sha256": digest},
        "machine": {"accelerator": "tcg", "CPUs": 2},
        "verdict": "Proved: 2 of 2 stages passed.",
        "stages": [
            {"stage": "host", "verdict": "passed", "counts": {"passed": 900, "failed": 0}},
            {"stage": "vm-default", "verdict": "passed", "counts": {"passed": 80}},
        ],
    }
    bench = {
        "title": "UDP into tun",
        "environment": {"accel": "tcg", "cpus": 4},
        "series": digest,
        "figures": [{"name": "IPIs", "baseline": 995, "patched": 0.02, "unit": "per 1000"}],
    }
    build = paths.build_root()
    for name, facts in (("proof", proof), ("bench", bench)):
        (build / name / "v5.10").mkdir(parents=True)
        (build / name / "v5.10/report.json").write_text(json.dumps(facts))


def test_the_evidence_goes_along(post: Post) -> None:
    reports(series.code_digest(BASE.patches))
    stage = paths.build_root() / "proof/v5.10/host"
    stage.mkdir()
    (stage / "stage.log").write_text(f"in {paths.build_root()}/trees\n")
    (stage / "latest.log").symlink_to("stage.log")
    assert post.main("--send") == 0
    letter = post.server.texts[0]
    assert "accelerator tcg, CPUs 2" in letter and "Proved: 2 of 2 stages passed." in letter
    assert "vm-default  passed  80 passed" in letter
    assert "IPIs  baseline 995, patched 0.02  per 1000" in letter
    assert all(len(line) <= 76 for line in letter.splitlines())
    with tarfile.open(post.box.path / "evidence.tar.gz") as tar:
        names = tar.getnames()
        assert all(member.isreg() for member in tar.getmembers())
        log = tar.extractfile("v5.10/proof/host/stage.log")
        assert log is not None and log.read() == b"in build/trees\n"
    assert "v5.10/bench/report.json" in names and "v5.10/proof/host/latest.log" not in names


def test_evidence_about_other_patches_is_not_used(
    post: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    reports("0" * 64)
    (paths.build_root() / "bench/v5.10/report.json").write_text("{")
    assert post.main() == 0
    assert "Proved" not in post.box.mails[0].read_text()
    said = capsys.readouterr().out
    assert "is about other patches (run scripts/prove)" in said and "cannot be read" in said
    digest = series.code_digest(BASE.patches)
    proof = paths.build_root() / "proof/v5.10/report.json"
    proof.write_text(json.dumps({"patches": {"sha256": digest}, "stages": ["odd"]}))
    assert "of a form that is not known" in evidence.collect(BASE).left_out[0]


def test_a_bench_report_of_any_shape_is_read(tmp_path: Path) -> None:
    for figures in ([], [{"metric": "x", "value": 1.23456}], ["odd"], [{}]):
        text = evidence._bench({"figures": figures, "environment": []})
        assert "What was measured" in text
    bars = [{"what": "nothing is freed elsewhere", "kept": "kept", "measured": "0.02 % " * 90}]
    text = evidence._bench({"bars": bars, "figures": [{"name": "not told"}], "environment": {
        "accelerator": "TCG", "emulator": "x"}})  # fmt: skip
    assert "(accelerator TCG)" in text and "  kept: nothing is freed" in text
    assert "not told" not in text and len(text) < 500
    many = evidence._bench({"figures": [{"name": f"figure {n}", "value": n} for n in range(40)]})
    assert "and 24 more, in the report" in many
