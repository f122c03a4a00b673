"""harness.guesttools: compiled when needed, never half a program; and the program itself."""

import json
import os
import subprocess

import pytest

from harness import guesttools
from harness.errors import CommandFailed, UsageError

pytestmark = pytest.mark.host

PROGRAM = '#include <stdio.h>\nint main(void)\n{\n\tputs("%s");\n\treturn 0;\n}\n'


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A directory of guest programs of the test's own."""
    monkeypatch.setenv("SKBHOME_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(guesttools, "SOURCES", tmp_path)
    monkeypatch.setattr(guesttools, "MORE", ())
    (tmp_path / "hello.c").write_text(PROGRAM % "one")
    return tmp_path


def says(program):
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout.strip()


def test_compiled_once(sources):
    program = guesttools.tool("hello")
    assert says(program) == "one"
    first = program.stat()
    assert guesttools.tool("hello").stat().st_ino == first.st_ino


def test_compiled_again_when_the_source_changed(sources):
    guesttools.tool("hello")
    (sources / "hello.c").write_text(PROGRAM % "two")
    assert says(guesttools.tool("hello")) == "two"


def test_compiled_again_without_its_stamp(sources):
    """An interrupted run leaves no stamp: what lies there is not trusted."""
    program = guesttools.tool("hello")
    program.write_text("#!/bin/sh\necho half\n")
    (program.parent / ".hello.stamp").unlink()
    assert says(guesttools.tool("hello")) == "one"


def test_a_source_that_does_not_compile(sources):
    program = guesttools.tool("hello")
    (sources / "hello.c").write_text("int main(void) { return x; }\n")
    with pytest.raises(CommandFailed, match=r"compiling hello\.c") as caught:
        guesttools.tool("hello")
    assert "undeclared" in caught.value.output
    assert not (program.parent / ".hello.stamp").exists()


def test_dynamic_where_there_is_no_static_library(sources, monkeypatch):
    """A compiler without static libraries still makes a program."""
    wrapper = sources / "cc"
    wrapper.write_text('#!/bin/sh\ncase " $* " in *" -static "*) exit 1;; esac\nexec gcc "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CC", str(wrapper))
    assert says(guesttools.tool("hello")) == "one"


@pytest.fixture
def parts(sources):
    """A program of several sources and a header."""
    directory = sources / "greet"
    directory.mkdir()
    (directory / "greet.h").write_text('#define TEXT "one"\nvoid greet(const char *text);\n')
    (directory / "main.c").write_text(
        '#include "greet.h"\nint main(void)\n{\n\tgreet(TEXT);\n\treturn 0;\n}\n'
    )
    (directory / "greet.c").write_text(
        '#include <stdio.h>\n#include "greet.h"\n'
        "void greet(const char *text)\n{\n\tputs(text);\n}\n"
    )
    return directory


def test_a_directory_is_one_program(parts):
    program = guesttools.tool("greet")
    assert says(program) == "one"
    first = program.stat()
    assert guesttools.tool("greet").stat().st_ino == first.st_ino


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("greet.h", '"one"', '"two"'),
        ("main.c", "TEXT", '"two"'),
        ("greet.c", "puts(text)", 'printf("two%.0s\\n", text)'),
    ],
)
def test_compiled_again_when_any_of_its_files_changed(parts, file, old, new):
    guesttools.tool("greet")
    text = (parts / file).read_text()
    (parts / file).write_text(text.replace(old, new))
    assert says(guesttools.tool("greet")) == "two"


def test_compiled_again_with_another_source(parts):
    guesttools.tool("greet")
    (parts / "more.c").write_text("#error more\n")
    with pytest.raises(CommandFailed, match=r"compiling greet") as caught:
        guesttools.tool("greet")
    assert "more.c" in caught.value.output


def test_a_directory_without_sources_is_no_program(sources):
    (sources / "greet").mkdir()
    with pytest.raises(UsageError, match="known: hello$"):
        guesttools.tool("greet")


def test_a_directory_is_known(parts):
    with pytest.raises(UsageError, match="known: greet, hello$"):
        guesttools.tool("nothing")


def test_unknown_program(sources):
    with pytest.raises(UsageError, match="known: hello"):
        guesttools.tool("nothing")
    with pytest.raises(UsageError, match="nothing"):
        guesttools.script("nothing")


# --- tcpflow, on the host's own loopback


def tcpflow(*words, status=0):
    port = 20000 + os.getpid() % 20000
    done = subprocess.run(
        [guesttools.tool("tcpflow"), "--port", str(port), "--timeout", "10", *words],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout) if done.stdout else {}


def test_bulk():
    flow = tcpflow("--bytes", "300000", "--conns", "3", "--read", "777")
    assert flow["tx"]["sent"] == flow["rx"]["received"] == 900000
    assert flow["rx"]["eofs"] == flow["rx"]["conns"] == 3
    assert flow["rx"]["mismatches"] == 0


def test_request_response():
    flow = tcpflow("--mode", "rr", "--count", "50", "--req", "10", "--rsp", "3000")
    assert flow["tx"]["trips"] == 50
    assert flow["tx"]["received"] == 150000


@pytest.mark.parametrize("how", [[], ["--peek"], ["--splice"], ["--read", "7"]], ids=str)
def test_a_wrong_byte_is_seen(how):
    flow = tcpflow("--bytes", "100000", "--corrupt", "70001", *how, status=1)
    assert flow["rx"]["mismatches"] > 0
    assert 70001 - 65536 <= flow["rx"]["first_mismatch"] <= 70001


def test_peek_and_discard():
    flow = tcpflow("--bytes", "100000", "--peek", "--trunc", "2", "--read", "1000")
    assert flow["rx"]["received"] == 100000
    assert flow["rx"]["peeked"] >= 100000
    assert 0 < flow["rx"]["truncated"] < 100000


def test_zerocopy_notifications():
    flow = tcpflow("--bytes", "1M", "--zerocopy", "--write", "16K")
    assert flow["tx"]["zc_done"] == flow["tx"]["zc_sends"] > 0


def test_receiver_goes_early():
    flow = tcpflow("--bytes", "20M", "--stop-after", "1000", "--rx-end", "rst", "--hold-ms", "20")
    assert flow["rx"]["received"] == 1000
    assert flow["tx"]["resets"] == 1
    assert flow["tx"]["sent"] < 20 << 20


def test_usage_and_limits():
    tcpflow("--addr", "nowhere", status=2)
    tcpflow("--bytes", "ten", status=2)
    flow = tcpflow("--bytes", "1M", "--hold-ms", "5000", "--timeout", "1", status=3)
    assert flow["timeout"]


# --- wire: what can be seen without devices


def wire(*words):
    return subprocess.run(
        [guesttools.tool("wire"), *words], capture_output=True, text=True, timeout=20
    )


def test_wire_explains_itself():
    done = wire("--help")
    assert done.returncode == 0
    assert "SPEC: KIND:NAME" in done.stdout


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "--a, --b"),
        (["--a", "tun:t0@x"], "--a, --b"),
        (["--a", "tun:t0@x", "--b", "tap:t1@x"], "Ethernet"),
        (["--a", "sink", "--b", "sink"], "device"),
        (["--a", "wan:t0", "--b", "sink"], "--a: no such kind"),
        (["--a", "sink", "--b", "tun"], "--b: the device's name"),
        (["--a", "tun:t0,colour=red", "--b", "sink"], "no such option: colour"),
        (["--a", "tun:t0,queues=0", "--b", "sink"], "out of range"),
        (["--a", "tun:a name", "--b", "sink"], "not a name"),
        (["--a", "tun:t0,addr4=1.2.3.4 dev x", "--b", "sink"], "not an address"),
        (["--a", "tap:t0,tso", "--b", "tap:t1"], "vnet_hdr at the other end"),
        (["--a", "tun:t0", "--b", "sink", "--churn", "5"], "queues=2"),
        (["--a", "tun:t0", "--b", "tun:t1", "--checked", "5"], "sink"),
        (["--a", "tun:t0", "--b", "sink", "--how", "guess"], "no such way"),
        (["--a", "tun:t0", "--b", "sink", "--a-cpu", "0,x"], "not a number"),
    ],
)
def test_wire_refuses(words, complaint):
    done = wire(*words)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not done.stdout


def test_wire_says_what_failed():
    done = wire("--a", "tun:t0@there-is-no-such-netns", "--b", "sink")
    assert done.returncode == 1
    assert "there-is-no-such-netns" in json.loads(done.stdout)["error"]
    assert "ready" not in done.stderr
