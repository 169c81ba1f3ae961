"""What a checkpoint holds, whatever its format: layers of arrays, and perhaps a config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
JsonObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array whose shape has been checked against the file's size; `read` fetches its numbers."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Array]


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """One layer's arrays in Keras's order: kernel, recurrent kernel, bias, peepholes.

    `path` is what the file calls the layer. `keras_name` is the layer's name in the model, where
    the file tells it. `is_embedding` is set where a name says so. `config` is the layer's own,
    which only the oldest checkpoints have.
    """

    path: str
    arrays: tuple[StoredArray, ...]
    keras_name: str | None = None
    is_embedding: bool = False
    config: JsonObject | None = None

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The arrays' shapes."""
        return tuple(array.shape for array in self.arrays)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file read as far as its shapes. `config` is the model's, where the format has one."""

    format: str
    layers: tuple[StoredLayer, ...]
    config: JsonObject | None = None
    keras_version: str | None = None
    notes: tuple[str, ...] = field(default=())
