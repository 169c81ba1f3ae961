"""The layers between a model's input and its output, converted one call after the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Never

from service.models.cell import Activation, LayerSpec
from service.models.cells import CELLS
from service.models.importing.assumptions import Assumptions
from service.models.importing.keras_graph import Call
from service.models.importing.keras_layer import (
    ATTENTION,
    CELL_OPTIONS,
    MERGES,
    NO_OPS,
    RECURRENT,
    RNN_CELLS,
    SERVED,
    KerasLayer,
    stated_activation,
)
from service.models.layers import (
    ActivationLayer,
    AttentionAverage,
    Dense,
    Flatten,
    LayerNormalization,
    Merge,
    MergeMode,
    ReLU,
    Rescaling,
    ScaleShift,
    SelectStep,
    StepOf,
)
from service.models.spec import AnyLayer

_CUDNN = {"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": True}
_MERGE_MODES = {
    "concat": MergeMode.CONCATENATE,
    "sum": MergeMode.ADD,
    "mul": MergeMode.MULTIPLY,
    "ave": MergeMode.AVERAGE,
}


_ACTIVATIONS = ("Activation", "ReLU", "LeakyReLU", "ELU")
_NORMALIZATIONS = ("BatchNormalization", "LayerNormalization")


@dataclass(frozen=True, slots=True)
class WeightSource:
    """A layer whose arrays a part of a spec is made of: all, or `count` of them from `start` on.

    `part` is the path of the part within the layer where a format stores it apart. The kernel of an
    output that is an Embedding read backwards `is_transposed`.
    """

    layer: KerasLayer
    part: str = ""
    start: int = 0
    count: int | None = None
    is_transposed: bool = False


@dataclass(frozen=True, slots=True)
class _Value:
    """The output of a call: a node of the spec, see `Layer.inputs`."""

    node: int
    has_steps: bool


def is_recurrent(layer: KerasLayer) -> bool:
    """Whether a layer has a state, Bidirectional included."""
    return layer.class_name in RECURRENT or layer.class_name in ("RNN", "Bidirectional")


class KerasNetwork:
    """Converts calls into `layers` of a spec and the `sources` of their weights.

    `calls` are all those before the output; the first `start` lead to the network's input.
    """

    def __init__(self, calls: Sequence[Call], start: int, assumptions: Assumptions) -> None:
        self._calls = calls = calls[start:]
        self._start = start
        self._assumptions = assumptions
        self._is_windowed = False
        self.layers: list[AnyLayer] = []
        self.sources: list[WeightSource] = []
        recurrent = [call.layer for call in calls if is_recurrent(call.layer)]
        self.last_recurrent = recurrent[-1].name
        states = [_unwrapped(layer).flag("stateful", default=False) for layer in recurrent]
        self.is_stateful = all(states) or any(call.is_state_given for call in calls)
        self.has_masking = any(call.layer.class_name == "Masking" for call in calls)
        whole = [call.layer for call in calls if _reads_whole_window(call.layer)]
        self.not_carried = whole[0].name if whole else None
        self.is_sequence = self._has_steps_at_the_end()

    def _has_steps_at_the_end(self) -> bool:
        """Whether there is a prediction after each step."""
        has_steps = [True]
        for call in self._calls:
            if is_recurrent(call.layer):
                has_steps.append(_unwrapped(call.layer).flag("return_sequences", default=False))
            elif call.layer.class_name in ("Flatten", ATTENTION):
                has_steps.append(False)
            else:
                has_steps.append(all(has_steps[place] for place in self._places(call)))
        return has_steps[-1]

    def _places(self, call: Call) -> list[int]:
        """The inputs of a call: 0 is the network's input, i + 1 its call i."""
        places = [i - self._start + 1 for i in call.inputs]
        if min(places) < 0:
            call.layer.refuse("it reads the model's input beside the embedding")
        return places

    def build(self, *, is_windowed: bool) -> None:
        """Convert all calls. Raises BadCheckpoint."""
        self._is_windowed = is_windowed
        values = [_Value(0, has_steps=True)]
        for call in self._calls:
            inputs = [values[place] for place in self._places(call)]
            values.append(self._convert(call, inputs))
        if is_windowed and values[-1].has_steps:
            self._add(SelectStep(), values[-1])

    def _convert(self, call: Call, inputs: Sequence[_Value]) -> _Value:
        layer, name = call.layer, call.layer.class_name
        if name == "TimeDistributed":
            layer = layer.inner("layer")
            name = layer.class_name
            if name not in ("Dense", "Rescaling", *_ACTIVATIONS, *NO_OPS, *_NORMALIZATIONS):
                layer.refuse(f"it is a TimeDistributed({name}); served are {SERVED}")
        if name in MERGES:
            return self._merge(layer, inputs)
        if len(inputs) != 1:
            layer.refuse(f"it has {len(inputs)} inputs; only a merge has more than one")
        convert: Mapping[str, Callable[[KerasLayer, _Value], _Value]] = {
            "Bidirectional": self._bidirectional,
            "Masking": self._masking,
            "Dense": self._dense,
            "Rescaling": self._rescaling,
            "BatchNormalization": self._batch_normalization,
            "LayerNormalization": self._layer_normalization,
            "Flatten": self._whole_window,
            ATTENTION: self._whole_window,
            **dict.fromkeys(_ACTIVATIONS, self._activation),
        } | dict.fromkeys(("RNN", *RECURRENT), self._recurrent)
        if name in NO_OPS:
            return inputs[0]
        return convert.get(name, _refuse)(layer, inputs[0])

    def _masking(self, layer: KerasLayer, x: _Value) -> _Value:
        layer.expect("mask_value", 0.0, None)
        if x.node:
            layer.refuse("it masks a layer's output; a Masking is served after the input")
        return x

    # -- recurrent layers

    def _recurrent(self, layer: KerasLayer, x: _Value) -> _Value:
        self._check_steps(layer, x)
        is_backwards = layer.flag("go_backwards", default=False)
        is_sequence = layer.flag("return_sequences", default=False)
        if is_backwards and is_sequence:
            layer.refuse("go_backwards is set: it returns the sequence from its end")
        cells = _cells(layer)
        if is_backwards and len(cells) > 1:
            layer.refuse("go_backwards is set for several cells")
        start, seen = 0, dict[str, int]()
        for cell in cells:
            spec = self._layer_spec(layer, cell, is_backwards=is_backwards)
            count = _n_arrays(spec)
            part = "" if len(cells) == 1 else f"cells/{_numbered(_snake_case(cell), seen)}"
            x = self._add(spec, x, source=WeightSource(layer, part, start, count))
            start += count
        if is_sequence or not self._is_windowed:
            return _Value(x.node, is_sequence)
        step = StepOf.FIRST if is_backwards else StepOf.LAST
        return replace(self._add(SelectStep(step=step), x), has_steps=False)

    def _check_steps(self, layer: KerasLayer, x: _Value) -> None:
        if x.has_steps:
            return
        layer.refuse(
            "it follows a layer whose return_sequences is not set, yet another recurrent layer "
            "follows it"
        )

    def _bidirectional(self, layer: KerasLayer, x: _Value) -> _Value:
        self._check_steps(layer, x)
        mode = layer.config.get("merge_mode", "concat")
        if mode not in _MERGE_MODES:
            layer.refuse(
                f"its merge_mode is {str(mode)[:80]}; served are {', '.join(_MERGE_MODES)}"
            )
        forward = layer.inner("layer")
        backward = forward
        if layer.config.get("backward_layer") is not None:
            backward = layer.inner("backward_layer")
        is_sequence = forward.flag("return_sequences", default=False)
        ends, start = [], 0
        for inner, part in ((forward, "forward_layer"), (backward, "backward_layer")):
            cells = _cells(inner)
            if len(cells) > 1:
                layer.refuse("it wraps several cells; write a Bidirectional for each")
            is_backwards = part == "backward_layer"
            spec = self._layer_spec(inner, cells[0], is_backwards=is_backwards)
            count = _n_arrays(spec)
            ends.append(self._add(spec, x, source=WeightSource(layer, part, start, count)))
            start += count
        if not is_sequence:
            steps = (StepOf.LAST, StepOf.FIRST)
            ends = [
                self._add(SelectStep(step=step), end) for step, end in zip(steps, ends, strict=True)
            ]
        merged = self._add(Merge(mode=_MERGE_MODES[mode]), *ends)
        return _Value(merged.node, is_sequence)

    def _layer_spec(self, layer: KerasLayer, inner: KerasLayer, *, is_backwards: bool) -> LayerSpec:
        names = RNN_CELLS if inner.class_name in RNN_CELLS else RECURRENT
        cell_name = names[inner.class_name]
        cell, config, name = CELLS[cell_name], inner.config, layer.name
        if inner.class_name.startswith("CuDNN"):
            config = {**_CUDNN, **config}
        decide = self._assumptions
        return LayerSpec(
            cell_name,
            inner.integer("units"),
            decide.activation("activation", name, stated_activation(config, "activation"), "tanh"),
            decide.activation(
                "recurrent_activation",
                name,
                stated_activation(config, "recurrent_activation"),
                cell.keras_recurrent_activation,
            )
            if len(cell.gates) > 1
            else Activation.SIGMOID,
            inner.flag("use_bias", default=True),
            not cell.has_reset_after
            # Keras 2.0 has no such option and applies the reset gate before the product.
            or decide.flag("reset_after", name, config.get("reset_after"), default=False),
            go_backwards=is_backwards,
        )

    # -- other layers

    def _dense(self, layer: KerasLayer, x: _Value) -> _Value:
        activation = self._assumptions.activation_of_dense(
            layer.name, layer.config.get("activation")
        )
        use_bias = layer.flag("use_bias", default=True)
        dense = Dense(units=layer.integer("units"), activation=activation, use_bias=use_bias)
        return self._add(dense, x, source=WeightSource(layer))

    def _activation(self, layer: KerasLayer, x: _Value) -> _Value:
        if layer.class_name in ("ReLU", "LeakyReLU"):
            return self._add(_relu(layer), x)
        if layer.class_name == "Activation":
            stated = layer.config.get("activation")
        else:
            layer.expect("alpha", 1.0)
            stated = "elu"
        activation = self._assumptions.activation_of_dense(layer.name, stated)
        return self._add(ActivationLayer(activation=activation), x)

    def _rescaling(self, layer: KerasLayer, x: _Value) -> _Value:
        scale, offset = layer.number("scale", default=1.0), layer.number("offset", default=0.0)
        return self._add(Rescaling(scale=scale, offset=offset), x)

    def _batch_normalization(self, layer: KerasLayer, x: _Value) -> _Value:
        self._check_axis(layer, x)
        layer.expect("renorm", False)
        layer.expect("mode", 0)
        return self._add(ScaleShift(), x, source=WeightSource(layer))

    def _layer_normalization(self, layer: KerasLayer, x: _Value) -> _Value:
        self._check_axis(layer, x)
        layer.expect("rms_scaling", False)
        normalization = LayerNormalization(epsilon=layer.number("epsilon", default=0.001))
        return self._add(normalization, x, source=WeightSource(layer))

    def _check_axis(self, layer: KerasLayer, x: _Value) -> None:
        axis = layer.config.get("axis", -1)
        axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
        if axis not in (-1, 2 if x.has_steps else 1):
            layer.refuse(f"its axis is {str(axis)[:80]}; the last one is served")

    def _whole_window(self, layer: KerasLayer, x: _Value) -> _Value:
        if layer.class_name == "Flatten" and not x.has_steps:
            return x
        self._check_steps(layer, x)
        if layer.class_name == "Flatten":
            return replace(self._add(Flatten(), x), has_steps=False)
        layer.expect("return_attention", False)
        added = self._add(AttentionAverage(), x, source=WeightSource(layer))
        return replace(added, has_steps=False)

    def _merge(self, layer: KerasLayer, inputs: Sequence[_Value]) -> _Value:
        if layer.class_name == "Concatenate":
            layer.expect("axis", -1, 2 if inputs[0].has_steps else 1)
        if len({x.has_steps for x in inputs}) > 1:
            layer.refuse("it merges a sequence with a single step")
        if len(inputs) == 1:
            if layer.class_name != "Concatenate":
                layer.refuse("it computes with a number that is written in the model's code")
            return inputs[0]
        return self._add(Merge(mode=MergeMode(MERGES[layer.class_name])), *inputs)

    def _add(self, layer: AnyLayer, *inputs: _Value, source: WeightSource | None = None) -> _Value:
        """Add a layer; its inputs are left out where they are the layer before."""
        nodes = tuple(x.node for x in inputs)
        is_next = nodes == (len(self.layers),)
        self.layers.append(replace(layer, inputs=() if is_next else nodes))
        if source is not None:
            self.sources.append(source)
        return _Value(len(self.layers), inputs[0].has_steps)


def _refuse(layer: KerasLayer, _: _Value) -> Never:
    layer.refuse(f"it is a {layer.class_name} in an unusual place; served are {SERVED}")


def _relu(layer: KerasLayer) -> AnyLayer:
    if layer.class_name == "LeakyReLU":  # Keras 2 calls the slope alpha
        key = "alpha" if "alpha" in layer.config else "negative_slope"
        return ReLU(negative_slope=layer.number(key, default=0.3))
    slope, threshold, limit = (
        None if layer.config.get(key) is None else layer.number(key, default=0.0)
        for key in ("negative_slope", "threshold", "max_value")
    )
    relu = ReLU(negative_slope=slope or 0.0, threshold=threshold or 0.0, max_value=limit)
    return ActivationLayer(activation=Activation.RELU) if relu == ReLU() else relu


def _reads_whole_window(layer: KerasLayer) -> bool:
    return layer.class_name in ("Bidirectional", "Flatten", ATTENTION) or (
        is_recurrent(layer) and layer.config.get("go_backwards") is True
    )


def _unwrapped(layer: KerasLayer) -> KerasLayer:
    return layer.inner("layer") if layer.class_name == "Bidirectional" else layer


def _cells(layer: KerasLayer) -> list[KerasLayer]:
    """Return the cells of an RNN, or the layer itself if it is one of a single cell."""
    if layer.class_name in RECURRENT:
        return [layer]
    if layer.class_name != "RNN":
        layer.refuse(f"it wraps a {layer.class_name}; served are {', '.join(RECURRENT)} and RNN")
    entry = layer.config.get("cell")
    inner = entry.get("config") if isinstance(entry, dict) else None
    is_stack = isinstance(entry, dict) and entry.get("class_name") == "StackedRNNCells"
    entries = inner.get("cells") if is_stack and isinstance(inner, dict) else entry
    if is_stack and isinstance(inner, dict) and inner.get("reverse_state_order"):
        layer.refuse("its cells have their states in reverse order")
    entries = entries if isinstance(entries, list) else [entries]
    return [_cell(layer, each) for each in entries]


def _cell(layer: KerasLayer, entry: object) -> KerasLayer:
    class_name = entry.get("class_name") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(class_name, str):
        layer.refuse("it has no cell that can be read")
    plain = class_name.removeprefix("Addons>").removeprefix("Custom>")
    config = entry.get("config")
    if plain not in RNN_CELLS or not isinstance(config, dict):
        layer.refuse(f"its cell is a {class_name[:80]}; served are {', '.join(RNN_CELLS)}")
    if unknown := sorted(config.keys() - CELL_OPTIONS):
        layer.refuse(f"its cell's option {unknown[0][:80]!r} is not known")
    return KerasLayer(layer.name, plain, config, entry, layer.place)


def _n_arrays(spec: LayerSpec) -> int:
    cell = CELLS[spec.cell]
    return len(cell.keras_shapes(cell.weight_shapes(spec, 1)))


def _snake_case(cell: KerasLayer) -> str:
    """Return the name under which Keras stores a cell: lstm_cell, gru_cell, simple_rnn_cell."""
    return RNN_CELLS[cell.class_name] + "_cell"


def _numbered(name: str, seen: dict[str, int]) -> str:
    number = seen[name] = seen.get(name, -1) + 1
    return f"{name}_{number}" if number else name
