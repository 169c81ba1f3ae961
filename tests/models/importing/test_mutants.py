"""Damaged files of every format end in a result or in one of four errors, and nothing else."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from service.errors import BadCheckpoint, TooLarge, Validation
from service.models.importing.importer import Importer
from service.models.importing.request import ImportLimits, ImportRequest
from service.models.store import ModelStore
from tests.models.importing.mutants import FORMATS

ROOT = Path(__file__).parents[3]
TOTAL = 1_000_000
SEED = 12
LIMITS = ImportLimits(read_cpu_s=5.0)
ENDS = {"hdf5": (signal.SIGPROF, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)}


def outcomes(name, count, folder):
    """Read `count` mutants in a process of its own, which is started again if a signal ends it.

    The HDF5 library can loop for ever, or write to memory that is not its own. Such a mutant is
    imported once more, as a user's file is: that has to end in a model or in a refusal.
    """
    found, first = Counter(), 0
    while first < count:
        command = [sys.executable, "-m", "tests.models.importing.mutants"]
        arguments = [name, str(SEED), str(first), str(count), str(folder)]
        done = subprocess.run(
            command + arguments, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            found.update(json.loads(done.stdout))
            break
        assert -done.returncode in ENDS.get(name[:4], ()), (done.returncode, done.stderr[-3000:])
        found[signal.Signals(-done.returncode).name] += 1
        number = int((folder / "progress").read_text())
        with contextlib.suppress(BadCheckpoint, Validation, TooLarge):
            importer = Importer(folder / "work", ModelStore(folder / "store"), LIMITS)
            importer.run(ImportRequest(Path("m.h5"), f"m{number}"))
        first = number + 1
    return found


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "total", [2_400, pytest.param(TOTAL, marks=[pytest.mark.soak, pytest.mark.timeout(0)])]
)
def test_a_damaged_file_ends_in_a_result_or_a_refusal(name, total, tmp_path):
    found = outcomes(name, -(-total // len(FORMATS)), tmp_path)
    assert found["BadCheckpoint"]
    if name != "other_file":
        assert found["read"]  # the damage is not always at the door
