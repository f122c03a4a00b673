"""Stands in for virtme-run and QEMU: `python fakevm.py VIRTME-ARGUMENTS`.

What it does is said by a kernel argument, `--kopt=fake=NAME`:

  ok        prints a kernel's first lines, then runs the real agent on this machine
  stubborn  like ok, but neither a hang-up nor a polite signal ends it
  silent    prints nothing
  refuse    complains on stderr like QEMU and ends
  twice     the first time like silent, the second time like ok
  mute      prints a kernel's first lines, then nothing
  gone      prints a kernel's first lines and ends
  babble    prints a kernel's first lines; what the agent sends is no frame
  hangup    prints a kernel's first lines; the agent's connection closes, and QEMU stays
  panic     prints a panic and ends
  noroot    prints the panic of a kernel that cannot mount its root, and ends

While it runs it prints whatever appears in $FAKE_VM_DIR/say (piecewise, so that
lines are split), and ends behind a panic unless that says that it stays. It
answers QEMU's monitor.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

BANNER = (
    "[    0.000000] Linux version 5.10.0-fake (user@build)\n"
    "[    0.000000] Command line: console=ttyS0\n"
    "[    0.100000] smp: Brought up 1 node, 2 CPUs\n"
)
PANIC = (
    "[    0.500000] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000b00\n"
    "[    0.500001] CPU: 0 PID: 1 Comm: agent Not tainted 5.10.0-fake #1\n"
    "[    0.500002] Call Trace:\n"
    "[    0.500003]  dump_stack+0x57/0x6a\n"
    "[    0.500004]  panic+0xfb/0x2d7\n"
    "[    0.500005] ---[ end Kernel panic - not syncing: Attempted to kill init! ]---\n"
)
NOROOT = PANIC.replace(
    "Attempted to kill init! exitcode=0x00000b00",
    "VFS: Unable to mount root fs on unknown-block(0,0)",
)
REGISTERS = "CPU#0\nRIP=ffffffff81000010 RFL=00000246\nCPU#1\nRIP=00007f0000001000 HLT=1\n"


HERE = Path(__file__).parent


# For the tests that use it.


def wait_for(condition: Callable[[], object], timeout: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def processes(directory: Path) -> list[str]:
    """The command lines of processes that carry the stand-in's variable."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if f"FAKE_VM_DIR={directory}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(f"{entry.name}: {(entry / 'cmdline').read_bytes()!r}")
        except OSError:
            continue
    return found


# What it does.


def say(text: str, piece: int = 7) -> None:
    raw = text.replace("\n", "\r\n").encode()
    for at in range(0, len(raw), piece):
        os.write(1, raw[at : at + piece])


def chardev(arguments: list[str], name: str) -> socket.socket:
    (spec,) = (word for word in arguments if word.startswith(f"socket,id={name},"))
    options = dict(part.split("=", 1) for part in spec.split(",")[1:])
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(b"\0" + options["path"].encode())
    return sock


def main() -> int:
    arguments = sys.argv[1:]
    directory = Path(os.environ["FAKE_VM_DIR"])
    name = next((a[len("--kopt=fake=") :] for a in arguments if a.startswith("--kopt=fake=")), "ok")
    init = next(a[len("--kopt=init=") :] for a in arguments if a.startswith("--kopt=init="))
    with (directory / "argv").open("a") as out:
        out.write(json.dumps(arguments) + "\n")
    (directory / "pid").write_text(str(os.getpid()))
    if name == "twice":
        name = "silent" if len((directory / "argv").read_text().splitlines()) == 1 else "ok"
    if name == "refuse":
        os.write(2, b"qemu-system-x86_64: cannot set up guest memory 'pc.ram'\n")
        return 1
    monitor = chardev(arguments, "skbhome-monitor")
    port = chardev(arguments, "skbhome-agent")
    if name == "silent":
        time.sleep(1000)
    if name == "stubborn":
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    say(BANNER)
    if name == "mute":
        time.sleep(1000)
    if name == "gone":
        return 0
    if name in ("babble", "hangup"):
        if name == "babble":
            port.sendall(b"a login prompt in place of an agent: ")
        else:
            port.close()
        time.sleep(1000)
    if name in ("panic", "noroot"):
        say(PANIC if name == "panic" else NOROOT)
        return 0
    port.set_inheritable(True)
    agent = subprocess.Popen([init, "--connect", str(port.fileno())], pass_fds=[port.fileno()])
    (directory / "agent").write_text(str(agent.pid))
    port.close()
    return loop(agent, monitor, directory)


def loop(agent: subprocess.Popen[bytes], monitor: socket.socket, directory: Path) -> int:
    words = directory / "say"
    monitor_text = b""
    while agent.poll() is None:
        if words.exists():
            time.sleep(0.02)  # whoever writes it may not be done
            text = words.read_text()
            words.unlink()
            say(text)
            if "Kernel panic" in text and "stays" not in text:
                agent.kill()
                return 0
        if select.select([monitor], [], [], 0.02)[0]:
            monitor_text += monitor.recv(4096)
            for line in monitor_text.replace(b"}{", b"}\n{").split(b"\n"):
                try:
                    request = json.loads(line)
                except ValueError:
                    continue
                monitor_text = b""
                answer: object = {}
                if request["execute"] == "human-monitor-command":
                    told = request["arguments"]["command-line"]
                    answer = REGISTERS if told.startswith("info registers") else ""
                    if told == "nmi":
                        say(PANIC.replace("Attempted to kill init!", "NMI: Not continuing"))
                reply = json.dumps({"return": answer, "id": request.get("id")})
                monitor.sendall(reply.encode() + b"\r\n")
    return agent.returncode


if __name__ == "__main__":
    sys.exit(main())
