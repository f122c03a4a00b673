"""What every command line does the same way: errors become a message and an exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from harness import bases
from harness.errors import HarnessError

#: Exit status after Ctrl-C, as shells count it.
INTERRUPTED = 130


class _Terminated(BaseException):
    """SIGTERM or SIGHUP arrived; unwinds the stack so that everything started is ended."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def _terminate(signum: int, _frame: FrameType | None) -> None:
    raise _Terminated(signum)


def parser(prog: str, doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose --help is a module's docstring: a line, and the rest as it stands."""
    first, _, rest = (doc or "").partition("\n\n")
    return argparse.ArgumentParser(
        prog=prog,
        description=first,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_base(to: argparse.ArgumentParser) -> None:
    """Have a parser take the name of a base, the default one if there is none."""
    names = ", ".join(base.name for base in bases.all_bases())
    to.add_argument(
        "base",
        nargs="?",
        metavar="BASE",
        default=bases.default_base().name,
        help=f"the kernel series: {names} (default: %(default)s)",
    )


def run(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Call ``main`` with the arguments and return the status for ``sys.exit``.

    A :class:`HarnessError` is printed to stderr and gives its own status.
    Ctrl-C gives 130 and SIGTERM 143, after the stack has unwound, so that
    whatever was started is ended. Anything else is a mistake in this program
    and keeps its traceback.
    """
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _terminate)
    try:
        status = main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except HarnessError as err:
        print(f"error: {err}", file=sys.stderr, flush=True)
        return err.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return INTERRUPTED
    except _Terminated as err:
        print(f"ended by {signal.Signals(err.signum).name}", file=sys.stderr, flush=True)
        return 128 + err.signum
    except BrokenPipeError:
        # The reader of our output is gone; there is nobody to tell.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
