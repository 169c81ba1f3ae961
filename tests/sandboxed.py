"""A child of test_sandbox.py that does what its argument says."""

import os
import signal
import sys
from pathlib import Path

from service.errors import StoreFull, Validation


def run(argument):  # noqa: C901, PLR0912 - one case for each ending
    match argument:
        case "echo":
            print("not a part of the answer")  # noqa: T201
            return [argument, sorted(os.environ), str(Path.cwd())]
        case "refuse":
            raise Validation("no \udc80 text")
        case "another error":
            raise StoreFull("not one that a child may raise")
        case "spin":
            while True:
                pass
        case "report and sleep":
            Path("pid").write_text(str(os.getpid()))
            signal.pause()
        case "sleep":
            signal.pause()
        case "allocate":
            bytearray(1 << 40)
        case "write":
            Path("file").write_bytes(bytes(10_000))
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "flood":
            return "x" * 20_000_000
        case "vanish":
            os._exit(0)
        case "exit":
            sys.exit(3)
        case _:
            raise RuntimeError("a bug")
    return None
