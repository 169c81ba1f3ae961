"""The bench beside hostile clients runs, and ends by itself."""

import subprocess
import sys

import pytest

from bench.attacks import ATTACKS
from tests.process import ROOT

LIMIT_S = 240


@pytest.mark.soak
@pytest.mark.timeout(LIMIT_S + 30)
@pytest.mark.parametrize("name", [*ATTACKS, "idle_held"])
def test_polite_streams_go_on_beside_an_attack(name):
    """The ratio is a figure for a quiet machine; here every polite request is answered."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.hostile", "--turns", "1", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stderr
    assert f"| `{name}` |" in done.stdout
