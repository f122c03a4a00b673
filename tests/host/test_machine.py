"""QEMU's process and its connections, apart from a guest: what may go wrong between the two."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakevm import wait_for

from harness.errors import HarnessError
from harness.vm import machine as machine_module
from harness.vm import wire
from harness.vm.machine import Machine

pytestmark = pytest.mark.host


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "log")
    yield made
    made.close()


def connect(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(30)
    sock.connect(b"\0" + name.encode())
    return sock


def started(machine: Machine, script: str = "exec sleep 1000") -> None:
    machine.start(["sh", "-c", script])


def test_a_command_that_is_not_there(machine: Machine) -> None:
    with pytest.raises(HarnessError, match="cannot start /no/such/virtme-run"):
        machine.start(["/no/such/virtme-run"])
    assert machine.pid == 0


def test_last_words_on_standard_error_are_kept(machine: Machine) -> None:
    started(
        machine,
        "echo console; echo 'WARNING: unable to write kernel messages to x' >&2; "
        "echo 'qemu: no such machine' >&2",
    )
    with machine.changed:
        assert machine.changed.wait_for(lambda: machine.ended, 30)
    assert machine.stderr == "qemu: no such machine\n"
    assert "unable to write" in machine.qemu_log.read_text()
    assert machine.console.since(0) == "console\n"


def test_somebody_else_who_knows_the_name_is_turned_away(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module.os, "geteuid", lambda: os.getuid() + 1)
    started(machine)
    with connect(machine.agent_socket) as stranger:
        assert stranger.recv(1) == b""
    monkeypatch.undo()
    # The name is still there for whom it is meant.
    with connect(machine.agent_socket) as agent:
        agent.sendall(wire.pack(wire.HELLO, payload=b"release=5.10.1\nnonsense\n"))
        assert wait_for(lambda: machine.connected, 30)
    assert machine.hello == {"release": "5.10.1"}


def test_frames_cut_anywhere_arrive_and_what_is_no_frame_ends_it(machine: Machine) -> None:
    got = []
    machine.on_frame = lambda *frame: got.append(frame)
    started(machine)
    with connect(machine.agent_socket) as agent:
        stream = wire.pack(wire.HELLO) + wire.pack(wire.STDOUT, 3, b"hello")
        for at in range(len(stream)):
            agent.sendall(stream[at : at + 1])
        assert wait_for(lambda: got == [(wire.STDOUT, 3, b"hello")], 30), got
        assert machine.lost is None
        agent.sendall(b"Segmentation fault\n".ljust(64, b"!"))
        assert wait_for(lambda: machine.lost is not None, 30)
        assert machine.lost is not None
        assert machine.lost.startswith("the agent sent not a frame: b'Segmentation fault")
        # It is not written to any more.
        machine.send(wire.PING)
        assert agent.recv(1) == b""


def test_a_quiet_agent_is_asked(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "QUIET", 0.05)
    started(machine)
    with connect(machine.agent_socket) as agent:
        agent.sendall(wire.pack(wire.HELLO))
        data = b""
        while len(data) < wire.HEADER.size:
            data += agent.recv(64)
        assert wire.Unpacker().feed(data[: wire.HEADER.size]) == [(wire.PING, 0, b"")]
        # Who does not listen does not ask, either.
        machine.hold(True)
        machine.hold(True)
        assert machine.silent_for == 0.0
        machine.hold(False)


def test_a_bug_of_ours_does_not_leave_anybody_waiting(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda args: None)

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    machine.on_frame = broken
    started(machine)
    with connect(machine.agent_socket) as agent:
        agent.sendall(wire.pack(wire.STDOUT, 1, b"x"))
        with machine.changed:
            assert machine.changed.wait_for(lambda: machine.lost is not None, 30)
    assert machine.lost == "the harness lost the guest: RuntimeError('a bug')"


# --- the monitor ---------------------------------------------------------------------


def answering(machine: Machine, *answers: bytes | None) -> threading.Thread:
    """Be QEMU's monitor: read the command, send the pieces; None hangs up."""
    sock = connect(machine.monitor_socket)
    assert wait_for(lambda: machine._monitor is not None, 30)

    def serve() -> None:
        data = b""
        while b"human-monitor-command" not in data or not data.endswith(b"}"):
            data += sock.recv(4096)
        for answer in answers:
            if answer is None:
                sock.close()
            else:
                sock.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def reply(text: object, command: str = "info version") -> bytes:
    return json.dumps({"return": text, "id": command}).encode() + b"\r\n"


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([b'{"QMP": {}}\r\n{"return": {}}\r\n', reply("7.2.0\r\n")], "7.2.0\r\n"),
        ([b'{"event": "RESUME"}\r\n' + reply("old", "another"), reply("new")], "new"),
        ([reply("cut")[:9], reply("cut")[9:]], "cut"),
        ([reply({"error": "no"})], None),
        ([b"no JSON at all\r\n"], None),
        ([reply("half")[:9], None], None),
        ([None], None),
    ],
    ids=["greeting", "others", "cut", "no-text", "garbage", "half", "hung-up"],
)
def test_the_monitor(machine: Machine, answers: list[bytes | None], found: str | None) -> None:
    started(machine)
    thread = answering(machine, *answers)
    assert machine.monitor("info version", timeout=30) == found
    thread.join(30)


def test_a_monitor_that_does_not_answer(machine: Machine) -> None:
    assert machine.monitor("info version") is None
    started(machine)
    assert machine.monitor("info version") is None
    with connect(machine.monitor_socket):
        assert wait_for(lambda: machine._monitor is not None, 30)
        assert machine.monitor("info version", timeout=0.2) is None
