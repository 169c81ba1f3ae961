"""The checkpoints of a training: `last`, to resume from, and `best`, which is published.

Each is one safetensors file whose header holds the values that are no arrays, as JSON. It replaces
the one before in one rename, so a crash at any moment leaves a complete file.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from service.errors import BadCheckpoint, reason_of
from service.training.states import JobState

BEST, LAST = "best.safetensors", "last.safetensors"

Arrays = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The content of a checkpoint: arrays by name, and plain values."""

    arrays: dict[str, npt.NDArray[np.float32]]
    facts: dict[str, Any]


def write(path: Path, arrays: Arrays, facts: Mapping[str, Any]) -> None:
    """Replace the snapshot at `path`, completely or not at all. Raises OSError."""
    temporary = path.with_suffix(f".{os.getpid()}.part")  # no other process writes into it
    try:
        with temporary.open("wb") as file:
            file.write(save(dict(arrays), {"facts": json.dumps(facts)}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # so that a full disk gets its space back
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else the rename itself may be lost
    finally:
        os.close(folder)


def read(path: Path) -> Snapshot | None:
    """Read the snapshot at `path`; None where there is none. Raises BadCheckpoint."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "numpy") as file:
            facts = json.loads(file.metadata()["facts"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{path.name} cannot be read: {reason_of(error)}") from error
    return Snapshot(arrays, facts)


def best_checkpoint(folder: Path) -> Path | None:
    """The best checkpoint of the latest attempt that has one, in the folder of a job."""

    def attempt(path: Path) -> int:
        return int(path.parent.name.rpartition("-")[2])

    return max(folder.glob(f"*/{BEST}"), key=attempt, default=None)


def clean(folder: Path, state: JobState) -> None:
    """Clear the folder of a job that is done with it, but for a cancelled one's best checkpoint."""
    if not state.is_over and state is not JobState.PUBLISHED:
        return
    best = best_checkpoint(folder) if state is JobState.CANCELLED else None
    if best is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.glob("*/*"):
        if path != best:
            path.unlink(missing_ok=True)
