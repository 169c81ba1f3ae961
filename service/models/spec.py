"""What a recurrent language model is made of: frozen values and the shapes they imply."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Self

import numpy as np
import numpy.typing as npt

from service.errors import BadCheckpoint, Validation

FloatArray = npt.NDArray[np.float32]

MAX_LAYERS = 4
MAX_PARAMETERS = 512 * 1024 * 1024

FOLD_LIMIT_BYTES = 32 * 1024 * 1024
"""The embedding is folded into the first kernel while the table stays below this."""


class Cell(StrEnum):
    """The recurrences that Carousel knows; `reference.py` has their equations."""

    LSTM = "lstm"
    PEEPHOLE_LSTM = "peephole_lstm"
    GRU = "gru"


class Activation(StrEnum):
    """The element-wise functions a gate or a candidate may use.

    Keras 1, Keras 2 and tf_keras call `clip(0.2 x + 0.5, 0, 1)` hard_sigmoid, Keras 3 calls
    `clip(x / 6 + 0.5, 0, 1)` so: the slope is part of the name here.
    """

    LINEAR = "linear"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    HARD_SIGMOID_02 = "hard_sigmoid_02"
    HARD_SIGMOID_6 = "hard_sigmoid_6"
    RELU = "relu"


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One recurrent layer. `reset_after` has a meaning for a GRU only."""

    cell: Cell
    units: int
    activation: Activation = Activation.TANH
    recurrent_activation: Activation = Activation.SIGMOID
    use_bias: bool = True
    reset_after: bool = True

    @property
    def gates(self) -> int:
        """How many blocks of `units` columns a kernel has: 4 (i, f, g, o) or 3 (z, r, h)."""
        return 3 if self.cell is Cell.GRU else 4

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the layer's state tensors in Keras order: h first."""
        return ("h",) if self.cell is Cell.GRU else ("h", "c")

    @property
    def is_bounded(self) -> bool:
        """Whether h stays in (-1, 1) by construction, which is what int8 relies on."""
        gates = {Activation.SIGMOID, Activation.HARD_SIGMOID_02, Activation.HARD_SIGMOID_6}
        return self.activation is Activation.TANH and self.recurrent_activation in gates


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Tokens → (embedding | one-hot) → recurrent layers → dense → logits.

    `embedding_dim` is None where the tokens enter the first layer one-hot.
    """

    vocabulary_size: int
    embedding_dim: int | None
    layers: tuple[LayerSpec, ...]
    output_bias: bool = True

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            raise BadCheckpoint(
                f"the model has {len(self.layers)} recurrent layers; 1 to {MAX_LAYERS} are served"
            )
        sizes = {"vocabulary_size": self.vocabulary_size, "embedding_dim": self.embedding_dim or 1}
        sizes |= {f"layers.{i}.units": layer.units for i, layer in enumerate(self.layers)}
        for name, size in sizes.items():
            if size < 1:
                raise BadCheckpoint(f"{name} is {size}; it must be at least 1")
        if self.parameters > MAX_PARAMETERS:
            raise BadCheckpoint(
                f"the model has {self.parameters} parameters; the limit is {MAX_PARAMETERS}"
            )

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(int(np.prod(shape, dtype=object)) for shape in self.weight_shapes.values())

    @property
    def state_units(self) -> tuple[int, ...]:
        """Width of every state tensor, in order: (h_0, c_0, h_1, c_1, …)."""
        return tuple(layer.units for layer in self.layers for _ in layer.states)

    @property
    def state_bytes(self) -> int:
        """Size of one state in float32: the whole memory of a conversation."""
        return 4 * sum(self.state_units)

    @property
    def is_bounded(self) -> bool:
        """Whether every h stays in (-1, 1): what int8 needs."""
        return all(layer.is_bounded for layer in self.layers)

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical name → shape of every weight, in canonical order.

        Kernels are (input, gates * units) with gate blocks in Keras order: i, f, g, o for the
        LSTMs and z, r, h for the GRU. `peephole` is (3, units): input, forget, output gate.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        width = self.vocabulary_size
        if self.embedding_dim is not None:
            shapes["embedding"] = (self.vocabulary_size, self.embedding_dim)
            width = self.embedding_dim
        for i, layer in enumerate(self.layers):
            columns = layer.gates * layer.units
            shapes[f"layers.{i}.kernel"] = (width, columns)
            shapes[f"layers.{i}.recurrent_kernel"] = (layer.units, columns)
            if layer.use_bias:
                doubled = layer.cell is Cell.GRU and layer.reset_after
                shapes[f"layers.{i}.bias"] = (2, columns) if doubled else (columns,)
            if layer.cell is Cell.PEEPHOLE_LSTM:
                shapes[f"layers.{i}.peephole"] = (3, layer.units)
            width = layer.units
        shapes["output.kernel"] = (width, self.vocabulary_size)
        if self.output_bias:
            shapes["output.bias"] = (self.vocabulary_size,)
        return shapes

    def to_json(self) -> dict[str, object]:
        """The spec as plain JSON values; `from_json` is its inverse."""
        return asdict(self) | {"layers": [asdict(layer) for layer in self.layers]}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self:
        """Read a spec back. Raises BadCheckpoint on anything that `to_json` did not write."""
        try:
            layers = value["layers"]
            fields = {key: item for key, item in value.items() if key != "layers"}
            if not isinstance(layers, list):
                raise TypeError("layers is not a list")
            return cls(layers=tuple(_layer(layer) for layer in layers), **fields)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise BadCheckpoint(f"the architecture cannot be read: {error}") from error

    @property
    def summary(self) -> str:
        """The architecture on one line, e.g. `Embedding(65, 256) → LSTM(1024) → Dense(65)`."""
        names = {Cell.LSTM: "LSTM", Cell.PEEPHOLE_LSTM: "PeepholeLSTM", Cell.GRU: "GRU"}
        first = (
            f"OneHot({self.vocabulary_size})"
            if self.embedding_dim is None
            else f"Embedding({self.vocabulary_size}, {self.embedding_dim})"
        )
        middle = (f"{names[layer.cell]}({layer.units})" for layer in self.layers)
        return " → ".join((first, *middle, f"Dense({self.vocabulary_size})"))


def _layer(value: Mapping[str, object]) -> LayerSpec:
    fields = dict(value)
    fields["cell"] = Cell(str(fields["cell"]))
    for name in ("activation", "recurrent_activation"):
        fields[name] = Activation(str(fields[name]))
    return LayerSpec(**fields)  # type: ignore[arg-type]


class Weights(dict[str, FloatArray]):
    """Canonical weights by canonical name, checked against a spec when made."""

    def __init__(self, spec: ModelSpec, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Raises BadCheckpoint where a weight is missing, left over, misshapen or not finite."""
        expected = spec.weight_shapes
        if missing := expected.keys() - arrays.keys():
            raise BadCheckpoint(f"these weights are missing: {', '.join(sorted(missing))}")
        if extra := arrays.keys() - expected.keys():
            raise BadCheckpoint(
                f"the model has no place for these weights: {', '.join(sorted(extra))}"
            )
        super().__init__()
        for name, shape in expected.items():
            array = arrays[name]
            if array.shape != shape:
                raise BadCheckpoint(f"{name} has shape {array.shape}; the model needs {shape}")
            weight = np.ascontiguousarray(array, dtype=np.float32)
            if not np.isfinite(weight).all():
                raise BadCheckpoint(f"{name} holds values that are not finite")
            weight.flags.writeable = False
            self[name] = weight


_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, order=True)
class ModelRef:
    """A model's name and version: `name@version`. Versions count from 1."""

    name: str
    version: int

    def __post_init__(self) -> None:
        check_name(self.name)
        if not 1 <= self.version < 10**9:
            raise Validation(f"version is {self.version}; it must be from 1 to 999999999")

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name@version`. Raises Validation."""
        name, _, version = text.partition("@")
        if not version.isascii() or not version.isdigit() or len(version) > 9:
            raise Validation(f"{text[:80]!r} is not a model reference; write name@version")
        return cls(name, int(version))


def check_name(name: str) -> str:
    """Return `name` if a model or an alias may be called so, else raise Validation."""
    if not _NAME.fullmatch(name):
        raise Validation(
            f"{name[:80]!r} is not a name; use 1 to 64 of a-z, 0-9, '.', '_', '-', "
            "beginning with a letter or a digit"
        )
    return name
