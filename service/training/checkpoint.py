"""A training on disk: `last`, from which it goes on, and `best`, which is served in the end.

Each is one safetensors file whose header holds, as JSON, what is not an array; it replaces the
one before in one rename, so a crash at any moment leaves a whole file.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from service.errors import BadCheckpoint

BEST, LAST = "best.safetensors", "last.safetensors"

Arrays = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Arrays by name, and the plain values beside them."""

    arrays: dict[str, npt.NDArray[np.float32]]
    facts: dict[str, Any]


def write(path: Path, arrays: Arrays, facts: Mapping[str, Any]) -> None:
    """Put a snapshot in place of the one at `path`, whole or not at all."""
    temporary = path.with_suffix(f".{os.getpid()}.part")  # no other process writes into it
    try:
        with temporary.open("wb") as file:
            file.write(save(dict(arrays), {"facts": json.dumps(facts)}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # a disk that is full has its room back
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else the rename itself may be lost
    finally:
        os.close(folder)


def read(path: Path) -> Snapshot | None:
    """The snapshot at `path`, or None where there is none. Raises BadCheckpoint."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "numpy") as file:
            facts = json.loads(file.metadata()["facts"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{path.name} cannot be read: {error}") from error
    return Snapshot(arrays, facts)
