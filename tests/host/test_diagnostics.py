"""Compiler warnings as sets, read from logs that a kernel's build has written."""

import json
from pathlib import Path

import pytest

from harness import diagnostics
from harness.diagnostics import CompilerWarning

pytestmark = pytest.mark.host

DATA = Path(__file__).parent / "data/warnings"


def parse(name: str) -> diagnostics.Record:
    return diagnostics.parse((DATA / name).read_text().splitlines(keepends=True))


def test_a_warning_has_file_function_flag_and_message_but_no_line() -> None:
    assert parse("baseline.log") == {
        "net/core/sock_diag.o": {
            CompilerWarning(
                "net/core/sock_diag.c",
                "old_helper",
                "-Wunused-variable",
                "unused variable 'unused'",
            ),
            CompilerWarning(
                "net/core/sock_diag.c",
                "",
                "-Wunused-function",
                "'old_helper' defined but not used",
            ),
        }
    }


def test_moved_warnings_are_not_new_and_a_like_one_elsewhere_is() -> None:
    before = diagnostics.all_of(parse("baseline.log"))
    after = diagnostics.all_of(parse("patched.log"))
    (new,) = after - before
    assert new.function == "sock_diag_added"
    assert str(new) == (
        "net/core/sock_diag.c in sock_diag_added(): unused variable 'unused' [-Wunused-variable]"
    )


def test_the_same_number_of_warnings_hides_nothing() -> None:
    lines = (DATA / "baseline.log").read_text().replace("old_helper", "new_helper").splitlines()
    swapped = diagnostics.all_of(diagnostics.parse(lines))
    assert len(swapped) == len(diagnostics.all_of(parse("baseline.log")))
    assert len(swapped - diagnostics.all_of(parse("baseline.log"))) == 2


def test_warnings_without_a_column_or_a_flag() -> None:
    record = parse("extra-warnings.log")
    assert len(record["fs/namei.o"]) == 10
    assert set(record) == {"kernel/sched/core.o", "mm/page_alloc.o", "fs/namei.o", "lib/vsprintf.o"}
    (only,) = record["lib/vsprintf.o"]
    assert (only.function, only.flag) == ("va_format", "-Wsuggest-attribute=format")


def test_an_object_that_is_not_compiled_again_keeps_its_warnings() -> None:
    first = parse("baseline.log")
    second = diagnostics.parse(["  CC      net/core/dev.o\n", "  LD      vmlinux\n"], first)
    assert second == first


def test_an_object_that_is_compiled_again_loses_the_old_ones() -> None:
    assert diagnostics.parse(["  CC      net/core/sock_diag.o\n"], parse("baseline.log")) == {}
    after = diagnostics.parse(
        (DATA / "patched.log").read_text().splitlines(), parse("baseline.log")
    )
    assert after == parse("patched.log")


def test_a_header_that_warns_in_many_objects_counts_once() -> None:
    text = "../include/linux/skbuff.h:5:1: warning: odd [-Wodd]\n"
    record = diagnostics.parse(["  CC      a.o\n", text, "  CC [M]  b.o\n", text])
    assert set(record) == {"a.o", "b.o"}
    assert len(diagnostics.all_of(record)) == 1


def test_the_function_does_not_outlive_its_file_or_its_object() -> None:
    record = diagnostics.parse(
        [
            "  CC      a.o",
            "../a.c: In function 'f':",
            "../b.h:1:1: warning: in a header [-Wx]",
            "  CC      c.o",
            "../a.c:9:1: warning: elsewhere [-Wx]",
        ]
    )
    assert {warning.function for warning in diagnostics.all_of(record)} == {""}


def test_tools_that_name_addresses() -> None:
    first = diagnostics.parse(
        ["  AR      x.a", "net/core/dev.o: warning: objtool: f()+0x12: unreachable instruction"]
    )
    second = diagnostics.parse(
        ["  AR      x.a", "net/core/dev.o: warning: objtool: f()+0x99: unreachable instruction"]
    )
    assert first == second != {}
    (modpost,) = diagnostics.all_of(
        diagnostics.parse(
            [
                "  MODPOST vmlinux.symvers",
                "WARNING: modpost: vmlinux.o(.text+0x1a2): Section mismatch in reference from the "
                "function f() to the variable .init.data:x",
            ]
        )
    )
    assert modpost.flag == "modpost" and "0x" not in modpost.message


def test_a_record_survives_json() -> None:
    record = parse("extra-warnings.log")
    assert diagnostics.from_json(json.loads(json.dumps(diagnostics.to_json(record)))) == record


@pytest.mark.parametrize("loaded", [None, [], {"a.o": [{"file": "x"}]}, {"a.o": 3}])
def test_json_of_another_kind_is_refused(loaded: object) -> None:
    with pytest.raises(ValueError, match="not a record"):
        diagnostics.from_json(loaded)


def test_the_first_error_is_not_the_last_line() -> None:
    text = (DATA / "errors.log").read_text()
    first = diagnostics.first_error(text).splitlines()
    assert "linux/not_there.h: No such file or directory" in first[0]
    assert "Error 2" not in "\n".join(first)
    # With that one gone, the next one comes with the function that it is in.
    rest = text.replace("fatal error", "note")
    first = diagnostics.first_error(rest).splitlines()
    assert "In function" in first[0] and "missing_name" in first[1]


def test_an_error_of_the_linker_is_found() -> None:
    first = diagnostics.first_error((DATA / "link-error.log").read_text())
    assert first.splitlines()[0].endswith("undefined reference to `f'")


def test_no_error_in_a_log_without_one() -> None:
    assert diagnostics.first_error((DATA / "patched.log").read_text()) == ""
