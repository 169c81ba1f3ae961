"""The specification of a recurrent language model, its weights, and its name."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from service.errors import BadCheckpoint, Validation
from service.models.cell import Activation, LayerSpec
from service.models.cells import CELLS
from service.models.layers import LAYERS, MergeMode, StepOf
from service.models.layers.layer import Layer
from service.models.window import Padding, Window

T = TypeVar("T")

AnyLayer = LayerSpec | Layer

FloatArray = npt.NDArray[np.float32]

MAX_LAYERS = 4
MAX_PARAMETERS = 512 * 1024 * 1024

FOLD_LIMIT_BYTES = 32 * 1024 * 1024
"""Largest table that the embedding and the first kernel are folded into."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Tokens → (embedding | one-hot) → layers → dense → logits.

    `embedding_dim` is None where the tokens enter the first layer one-hot. A step whose token is
    `mask_token` keeps every state (Keras's mask_zero). `window` None: the state is carried from
    token to token. Raises BadCheckpoint outside the limits or where a cell is not one of `CELLS`.
    """

    vocabulary_size: int
    embedding_dim: int | None
    layers: tuple[AnyLayer, ...]
    output_bias: bool = True
    mask_token: int | None = None
    window: Window | None = None

    def __post_init__(self) -> None:
        recurrent = self.recurrent_layers
        if not 1 <= len(recurrent) <= MAX_LAYERS:
            raise BadCheckpoint(
                f"the model has {len(recurrent)} recurrent layers; 1 to {MAX_LAYERS} are served"
            )
        for layer in recurrent:
            if layer.cell not in CELLS:
                raise BadCheckpoint(f"the cell {layer.cell!r} is none of {', '.join(CELLS)}")
        sizes = {"vocabulary_size": self.vocabulary_size, "embedding_dim": self.embedding_dim or 1}
        sizes |= {f"layers.{i}.units": layer.units for i, layer in enumerate(recurrent)}
        for name, size in sizes.items():
            if size < 1:
                raise BadCheckpoint(f"{name} is {size}; it must be at least 1")
        if self.parameters > MAX_PARAMETERS:
            raise BadCheckpoint(
                f"the model has {self.parameters} parameters; the limit is {MAX_PARAMETERS}"
            )

    @property
    def recurrent_layers(self) -> tuple[LayerSpec, ...]:
        """The recurrent layers, in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, LayerSpec))

    @property
    def is_stack(self) -> bool:
        """Whether it is a stack of recurrent layers alone, whose state is carried.

        Only a stack is trained, exported and computed by `int8_step`.
        """
        is_special = any(layer.go_backwards or layer.inputs for layer in self.recurrent_layers)
        is_carried = self.window is None and self.mask_token is None
        return is_carried and not is_special and len(self.recurrent_layers) == len(self.layers)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(int(np.prod(shape, dtype=object)) for shape in self.weight_shapes.values())

    @property
    def state_units(self) -> tuple[int, ...]:
        """Width of every state tensor, layer by layer: (h_0, c_0, h_1, c_1, …) for LSTMs."""
        return tuple(
            layer.units for layer in self.recurrent_layers for _ in CELLS[layer.cell].states
        )

    @property
    def state_bytes(self) -> int:
        """Size of one state in float32."""
        return 4 * sum(self.state_units)

    @property
    def is_bounded(self) -> bool:
        """Whether every h stays in (-1, 1), which int8 needs."""
        return all(
            CELLS[layer.cell].is_bounded
            and layer.activation is Activation.TANH
            and layer.recurrent_activation.is_gate
            for layer in self.recurrent_layers
        )

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical name → shape of every weight, in canonical order.

        Kernels are (input, gates * units), with the blocks in the order of `Cell.gates`.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        width = self.vocabulary_size
        if self.embedding_dim is not None:
            shapes["embedding"] = (self.vocabulary_size, self.embedding_dim)
            width = self.embedding_dim
        for i, layer in enumerate(self.recurrent_layers):
            parts = CELLS[layer.cell].weight_shapes(layer, width)
            shapes |= {f"layers.{i}.{name}": shape for name, shape in parts.items()}
            width = layer.units
        shapes["output.kernel"] = (width, self.vocabulary_size)
        if self.output_bias:
            shapes["output.bias"] = (self.vocabulary_size,)
        return shapes

    def to_json(self) -> dict[str, object]:
        """Return the spec as plain JSON values; `from_json` is the inverse.

        A value that bundles of format 1 did not have from the start is left out at its default, so
        that a model's digest stays the same.
        """
        values = asdict(self) | {"layers": [_layer_json(layer) for layer in self.layers]}
        return {k: v for k, v in values.items() if v is not None or k == "embedding_dim"}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self:
        """Read the value of `to_json`. Raises BadCheckpoint on any other value."""
        try:
            layers = value["layers"]
            fields = {key: item for key, item in value.items() if key != "layers"}
            if isinstance(window := fields.get("window"), dict):
                fields["window"] = Window(**window | {"padding": Padding(window["padding"])})
            if not isinstance(layers, list):
                raise TypeError("layers is not a list")
            return cls(layers=tuple(_layer(layer) for layer in layers), **fields)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise BadCheckpoint(f"the architecture cannot be read: {error}") from error

    @property
    def summary(self) -> str:
        """The architecture in one line, e.g. `Embedding(65, 256) → LSTM(1024) → Dense(65)`."""
        first = (
            f"OneHot({self.vocabulary_size})"
            if self.embedding_dim is None
            else f"Embedding({self.vocabulary_size}, {self.embedding_dim})"
        )
        middle = (f"{CELLS[layer.cell].label}({layer.units})" for layer in self.recurrent_layers)
        return " → ".join((first, *middle, f"Dense({self.vocabulary_size})"))


def _layer_json(layer: AnyLayer) -> dict[str, object]:
    values = asdict(layer)
    if not layer.inputs:
        del values["inputs"]
    if isinstance(layer, Layer):
        return {"kind": layer.kind} | values
    if not layer.go_backwards:
        del values["go_backwards"]
    return values


def _layer(value: Mapping[str, object]) -> AnyLayer:
    fields = dict(value)
    fields["inputs"] = tuple(int(i) for i in fields.get("inputs", ()))  # type: ignore[attr-defined]
    for name, read in _ENUMERATIONS.items():
        if name in fields:
            fields[name] = read(str(fields[name]))
    if "kind" not in fields:
        fields["cell"] = str(fields["cell"])
        return LayerSpec(**fields)  # type: ignore[arg-type]
    return LAYERS[str(fields.pop("kind"))](**fields)  # type: ignore[arg-type]


_ENUMERATIONS: Mapping[str, Callable[[str], object]] = {
    "activation": Activation,
    "recurrent_activation": Activation,
    "mode": MergeMode,
    "step": StepOf,
}


class Weights(dict[str, FloatArray]):
    """Read-only float32 weights by canonical name, checked against a spec when created."""

    def __init__(self, spec: ModelSpec, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Raises BadCheckpoint if a weight is missing, unexpected, misshapen or not finite."""
        expected = spec.weight_shapes
        if missing := expected.keys() - arrays.keys():
            raise BadCheckpoint(f"these weights are missing: {', '.join(sorted(missing))}")
        if extra := arrays.keys() - expected.keys():
            raise BadCheckpoint(
                f"these weights are not part of the model: {', '.join(sorted(extra))}"
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


def layer_weights(weights: Mapping[str, T], i: int) -> dict[str, T]:
    """Select the weights of recurrent layer `i`, by name within the layer."""
    prefix = f"layers.{i}."
    return {k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)}


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
    """Return `name` if it is a valid name of a model or an alias, else raise Validation."""
    if not _NAME.fullmatch(name):
        raise Validation(
            f"{name[:80]!r} is not a name; use 1 to 64 of a-z, 0-9, '.', '_', '-', "
            "beginning with a letter or a digit"
        )
    return name
