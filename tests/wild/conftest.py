"""What the authors made, for the tests of this folder."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def authored(tmp_path_factory):
    """A function: the folder of what the authors made with a framework, made once."""
    made = {}

    def folder(framework, *kinds):
        key = (framework, *kinds)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(framework)
            command = [sys.executable, str(HERE / "author.py"), framework, str(made[key])]
            done = subprocess.run(
                [*command, *kinds], capture_output=True, text=True, check=False, timeout=800
            )
            assert done.returncode == 0, done.stderr[-4000:]
        return made[key]

    return folder
