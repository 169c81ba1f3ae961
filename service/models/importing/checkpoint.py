"""The content of a checkpoint in any format: layers of arrays and, in some, a config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
JsonObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array in a file, its shape checked against the file's size; `read` loads its numbers."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Array]


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """One layer's arrays in Keras's order: kernel, recurrent kernel, bias, peepholes.

    `path` is the layer's place in the file, `keras_name` its name in the model if the file has it.
    `is_embedding` is true if one of the names contains "embed". `config` is the layer's own, which
    only the oldest checkpoints have.
    """

    path: str
    arrays: tuple[StoredArray, ...]
    keras_name: str | None = None
    is_embedding: bool = False
    config: JsonObject | None = None

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each array."""
        return tuple(array.shape for array in self.arrays)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file of which only the shapes are read. `config` is the model's, if the format has one.

    `assets` are the files that layers keep beside their weights, such as vocabularies, by path.
    """

    format: str
    layers: tuple[StoredLayer, ...]
    config: JsonObject | None = None
    keras_version: str | None = None
    notes: tuple[str, ...] = ()
    assets: Mapping[str, bytes] = field(default_factory=dict)
