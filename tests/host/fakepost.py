"""A mail server on the loopback, and a person whose git sends through it."""

from __future__ import annotations

import email
import email.policy
import socket
import subprocess
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from fakekernel import git

from harness import paths

#: A name that no ASCII header can carry as it is.
NAME = "Bjørn Größe"
ADDRESS = "bjorn@example.org"


def need_send_email() -> None:
    """Skip what needs git send-email where that is not installed."""
    core = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True)
    if not Path(core.stdout.strip(), "git-send-email").exists():
        pytest.skip("no git send-email (apt install git-email libmailtools-perl)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """What arrived, and which mail (by its number, from 1) is to be refused."""

    port: int = field(default_factory=free_port)
    raw: list[bytes] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    refuse: int = 0
    seen: int = 0

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.seen += 1
        if self.seen == self.refuse:
            return "554 5.7.1 not today"
        self.raw.append(envelope.content)
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 OK"

    @property
    def mails(self) -> list[EmailMessage]:
        policy = email.policy.default
        return [email.message_from_bytes(raw, policy=policy) for raw in self.raw]  # type: ignore[misc]

    @property
    def texts(self) -> list[str]:
        """Their bodies, decoded, with this machine's line ends."""
        return [str(mail.get_content()).replace("\r\n", "\n") for mail in self.mails]

    def start(self) -> Controller:
        controller = Controller(self, hostname="127.0.0.1", port=self.port)
        controller.start()
        return controller

    def save(self, directory: Path) -> list[Path]:
        """Write what arrived as files, as a mail program saves them."""
        directory.mkdir(parents=True, exist_ok=True)
        files = []
        for number, raw in enumerate(self.raw):
            path = directory / f"{number:02}.eml"
            path.write_bytes(raw.replace(b"\r\n", b"\n"))
            files.append(path)
        return files


def person(top: Path, monkeypatch: pytest.MonkeyPatch, port: int) -> Path:
    """Be somebody with a git configuration; return that file."""
    config = top / "gitconfig"
    config.write_text(
        f'[user]\n\tname = {NAME}\n\temail = {ADDRESS}\n[sendemail]\n'
        f'\tsmtpServer = 127.0.0.1\n\tsmtpServerPort = {port}\n\taliasFileType = mutt\n'
        f'\taliasesFile = "{top}/aliases"\n'
    )  # fmt: skip
    (top / "aliases").write_text("alias list Net Developers <netdev@vger.example.org>\n")
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "EMAIL", "GIT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("HOME", str(top))
    root = top / "root"
    if not root.exists():
        root.mkdir()
        git(root, "init", "-q")
    monkeypatch.setattr(paths, "ROOT", root)
    return config
