"""A contender of a benchmark: a process of its own that measures once for each line it reads.

So contenders take turns, each warm and with its own libraries, and one that waits costs nothing.
Only the standard library is imported, since a contender may run in another environment.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Self


class Contender:
    """The side of the benchmark: starts a module of this package, and asks it for measurements."""

    def __init__(
        self, module: str, *arguments: str, python: str = sys.executable, **environment: str
    ) -> None:
        """Start it, and wait until it is warm. Raises RuntimeError where it ends instead."""
        self._command: Sequence[str] = [python, "-m", f"bench.{module}", *arguments]
        self._process = subprocess.Popen(
            self._command,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._answer()

    def measure(self, *what: object) -> Any:
        """Ask for one measurement and return it, as JSON has it."""
        assert self._process.stdin is not None
        print(*what, file=self._process.stdin, flush=True)
        return self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"it has ended: {' '.join(self._command)}")
        return json.loads(line)


def compete(measure: Callable[[Sequence[str]], Any], about: object = None) -> None:
    """The side of the contender: say that it is warm, then measure for each line of words."""
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(line.split())), flush=True)
