"""How the command ends: its exit code at Ctrl-C, on a closed pipe, and without an abort."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

INTERRUPTED = 128 + signal.SIGINT
CLOSED_PIPE = 128 + signal.SIGPIPE


class CommandGroup(TyperGroup):
    """The commands; one that writes into a closed pipe, as of `head`, ends without a word."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise typer.Exit(CLOSED_PIPE) from None
        return result


def leave_on_interrupt(clean_up: Callable[[], object] = lambda: None) -> None:
    """From now on Ctrl-C ends the process at once, after `clean_up`.

    Otherwise it would raise KeyboardInterrupt at any place, also where compiled code calls back
    into Python, which swallows it.
    """

    def end(*_: object) -> NoReturn:
        with contextlib.suppress(OSError):
            clean_up()
        leave(INTERRUPTED)

    signal.signal(signal.SIGINT, end)


def leave(code: int) -> NoReturn:
    """End the process with an exit code, with a word where a person has interrupted it.

    An interrupted interpreter is not shut down: threads that are in compiled code would be ended
    in it, which its C++ frames turn into an abort. Nor is one whose threads still run: it would
    wait for them, as for the compilation of a model that nobody waits for any more.
    """
    if code not in {INTERRUPTED, CLOSED_PIPE} and not _has_threads():
        raise SystemExit(code)
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        if code == INTERRUPTED:
            print("\ncarousel: interrupted; goodbye", file=sys.stderr, flush=True)
        sys.stderr.flush()
    os._exit(code)


def _has_threads() -> bool:
    return any(
        not thread.daemon
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
    )
