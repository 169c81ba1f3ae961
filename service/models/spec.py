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
from service.models.layers import LAYERS, MergeMode, SelectStep, StepOf
from service.models.layers.layer import Layer
from service.models.window import Padding, Window

T = TypeVar("T")

AnyLayer = LayerSpec | Layer

FloatArray = npt.NDArray[np.float32]

MAX_LAYERS = 8
"""Recurrent layers of a model, at most."""
MAX_PARAMETERS = 512 * 1024 * 1024

FOLD_LIMIT_BYTES = 32 * 1024 * 1024
"""Largest table that the embedding and the first kernel are folded into."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Tokens → (embedding | one-hot) → layers → dense → logits.

    `embedding_dim` is None where the tokens enter the first layer one-hot. The output reads the
    last layer, at its last step if it has steps. A step whose token is `mask_token` keeps every
    state (Keras's mask_zero); with `mask_zero_input` so does a step whose input is all 0 (Keras's
    Masking). `window` None: the state is carried from token to token. Raises BadCheckpoint outside
    the limits, where a cell is not one of `CELLS`, or where the layers do not fit each other.
    """

    vocabulary_size: int
    embedding_dim: int | None
    layers: tuple[AnyLayer, ...]
    output_bias: bool = True
    mask_token: int | None = None
    window: Window | None = None
    mask_zero_input: bool = False

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
        for name, token in {"mask_token": self.mask_token, "window.pad": self._pad}.items():
            if token is not None and not 0 <= token < self.vocabulary_size:
                raise BadCheckpoint(
                    f"{name} is {token}; the tokens are 0 to {self.vocabulary_size - 1}"
                )
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
        is_carried = self.window is None and not self.is_masked
        return is_carried and not is_special and len(self.recurrent_layers) == len(self.layers)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(int(np.prod(shape, dtype=object)) for shape in self.weight_shapes.values())

    @property
    def is_masked(self) -> bool:
        """Whether some steps keep the state."""
        return self.mask_token is not None or self.mask_zero_input

    @property
    def state_units(self) -> tuple[int, ...]:
        """Width of every state tensor, layer by layer: (h_0, c_0, h_1, c_1, …) for LSTMs.

        The state of a windowed model is its window, and where it `carries_window` the states of its
        layers, too: `WindowProgram` has the format.
        """
        if self.window is None:
            return self.layer_state_units
        units = self.layer_state_units if self.carries_window else ()
        return (self.window.length + 1, *units)

    @property
    def carries_window(self) -> bool:
        """Whether a text that fits in the window needs one step of the network a token.

        The pads before it are masked, so that its state is the carried one.
        """
        return (
            self.window is not None
            and self.window.padding is Padding.LEFT
            and not self.window.is_sliding
            and not self.window.keeps_first
            and self._masks_pads
            and not any(_needs_window(layer) for layer in self.layers)
        )

    @property
    def layer_state_units(self) -> tuple[int, ...]:
        """Width of every state tensor of the recurrent layers, layer by layer."""
        return tuple(
            layer.units for layer in self.recurrent_layers for _ in CELLS[layer.cell].states
        )

    @property
    def state_bytes(self) -> int:
        """Size of one state in float32."""
        return 4 * sum(self.state_units)

    @property
    def state_json(self) -> str | dict[str, object]:
        """What a state is: "carried", or the window that each prediction reads."""
        if self.window is None:
            return "carried"
        window = self.window.to_json()
        window["masked"] = self._masks_pads
        return {"window": window.pop("length")} | window

    @property
    def is_bounded(self) -> bool:
        """Whether every h stays in (-1, 1), which int8 needs."""
        return all(is_bounded(layer) for layer in self.recurrent_layers)

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical name → shape of every weight, in canonical order.

        Kernels are (input, gates * units), with the blocks in the order of `Cell.gates`. A layer's
        weights are named `layers.{i}.{name}`, where i is its index in `layers`.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        if self.embedding_dim is not None:
            shapes["embedding"] = (self.vocabulary_size, self.embedding_dim)
        widths = self.widths
        for i, layer in enumerate(self.layers):
            width = widths[self.inputs_of(i)[0]]
            if isinstance(layer, Layer):
                parts = layer.weight_shapes(width)
            else:
                parts = CELLS[layer.cell].weight_shapes(layer, width)
            shapes |= {f"layers.{i}.{name}": shape for name, shape in parts.items()}
        shapes["output.kernel"] = (widths[-1], self.vocabulary_size)
        if self.output_bias:
            shapes["output.bias"] = (self.vocabulary_size,)
        return shapes

    def inputs_of(self, i: int) -> tuple[int, ...]:
        """What `layers[i]` reads: 0 is the model's input, j + 1 the output of `layers[j]`."""
        return self.layers[i].inputs or (i,)

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of the model's input and of each layer's output."""
        return tuple(width for width, _ in self._nodes())

    @property
    def has_steps(self) -> bool:
        """Whether the last layer's output has steps, of which the output reads the last."""
        return self._nodes()[-1][1]

    @property
    def _pad(self) -> int | None:
        return None if self.window is None else self.window.pad

    @property
    def _masks_pads(self) -> bool:
        return self.mask_zero_input if self._pad is None else self._pad == self.mask_token

    def _nodes(self) -> list[tuple[int, bool]]:
        """Width of each node, and whether it has steps. Raises BadCheckpoint if none is right."""
        nodes = [(self.embedding_dim or self.vocabulary_size, True)]
        for i, layer in enumerate(self.layers):
            inputs, name = self.inputs_of(i), f"layer {i} ({_layer_summary(layer)})"
            least = layer.n_inputs if isinstance(layer, Layer) else 1
            if not (len(inputs) == 1 if least == 1 else len(inputs) >= least):
                raise BadCheckpoint(f"{name} reads {len(inputs)} inputs; it needs {least}")
            if not all(0 <= j <= i for j in inputs):
                raise BadCheckpoint(f"{name} reads {inputs}; the inputs before it are 0 to {i}")
            steps = {nodes[j][1] for j in inputs}
            needs_steps = not isinstance(layer, Layer) or layer.reduces_steps
            if len(steps) > 1 or (needs_steps and steps == {False}):
                raise BadCheckpoint(f"{name} reads one step where it needs all steps of a window")
            if self.window is None and _needs_window(layer):
                raise BadCheckpoint(
                    f"{name} reads a whole window: say how many tokens, by `assume.window`"
                )
            widths = [nodes[j][0] for j in inputs]
            if isinstance(layer, Layer):
                length = 1 if self.window is None else self.window.length
                nodes.append(
                    (layer.width(widths, length), not layer.reduces_steps and True in steps)
                )
            else:
                nodes.append((layer.units, True))
            if nodes[-1][0] < 1:
                raise BadCheckpoint(f"{name} has the width {nodes[-1][0]}; it must be at least 1")
        return nodes

    def to_json(self) -> dict[str, object]:
        """Return the spec as plain JSON values; `from_json` is the inverse.

        A value that bundles of format 1 did not have from the start is left out at its default, so
        that a model's digest stays the same.
        """
        values = asdict(self) | {"layers": [_layer_json(layer) for layer in self.layers]}
        values["window"] = None if self.window is None else self.window.to_json()
        values["mask_zero_input"] = self.mask_zero_input or None
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
        """The architecture in one line, e.g. `Embedding(65, 256) → LSTM(1024) → Dense(65)`.

        A layer that reads something else than the layer before has its inputs in brackets: 0 is the
        model's input, i the output of layer i, counted from 1.
        """
        first = (
            f"OneHot({self.vocabulary_size})"
            if self.embedding_dim is None
            else f"Embedding({self.vocabulary_size}, {self.embedding_dim})"
        )
        middle = []
        for i, layer in enumerate(self.layers):
            is_named = isinstance(layer, Layer) and layer.n_inputs > 1
            reads = "" if self.inputs_of(i) == (i,) or is_named else f"[{self.inputs_of(i)[0]}]"
            middle.append(_layer_summary(layer) + reads)
        parts = [first, *middle, f"Dense({self.vocabulary_size})"]
        if self.is_masked:
            what = "zeros" if self.mask_zero_input else str(self.mask_token)
            parts.insert(1, f"Masking({what})")
        window = "" if self.window is None else f", {self.window.summary}"
        return " → ".join(parts) + window


def is_bounded(layer: LayerSpec) -> bool:
    """Whether the layer's h stays in (-1, 1)."""
    return (
        CELLS[layer.cell].is_bounded
        and layer.activation is Activation.TANH
        and (layer.recurrent_activation.is_gate or len(CELLS[layer.cell].gates) == 1)
    )


def _needs_window(layer: AnyLayer) -> bool:
    if isinstance(layer, LayerSpec):
        return layer.go_backwards
    is_first = isinstance(layer, SelectStep) and layer.step is StepOf.FIRST
    return layer.reads_whole_window or is_first


def _layer_summary(layer: AnyLayer) -> str:
    if isinstance(layer, Layer):
        return layer.summary
    direction = ", backwards" if layer.go_backwards else ""
    return f"{CELLS[layer.cell].label}({layer.units}{direction})"


def _layer_json(layer: AnyLayer) -> dict[str, object]:
    values = asdict(layer) | {"inputs": list(layer.inputs)}
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
    """Select the weights of `ModelSpec.layers[i]`, by name within the layer."""
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
