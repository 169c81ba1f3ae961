"""The command `carousel` as a person runs it."""

import subprocess
import sys

from tests.process import ROOT, environment, free_port


def carousel(*arguments, folder, stdin="", **options) -> subprocess.CompletedProcess[str]:
    """Run the command with `folder`'s model store; it finds no server unless it is given one."""
    variables = environment(folder, free_port())
    settings = {k: v for k, v in variables.items() if k != "CAROUSEL_PORT"}
    return subprocess.run(
        [sys.executable, "-m", "service", *map(str, arguments)],
        env=settings | {"PYTHONIOENCODING": "utf-8"},
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        **options,
    )


def refused(*arguments, folder, **options) -> str:
    """The one sentence of a command that is refused."""
    done = carousel(*arguments, folder=folder, **options)
    assert (done.returncode, done.stdout) == (2, ""), done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("carousel: ")


def printed(*arguments, folder, **options) -> str:
    """What a command prints that succeeds."""
    done = carousel(*arguments, folder=folder, **options)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout
