"""Conversion of a Keras config into a model's spec, by an allow-list of classes and options.

Nothing in a config is executed or imported: a class is a name that is looked up in a table. Options
that do not affect a trained model's output (initialisers, regularisers, optimizers) are ignored.
Any other class or option is refused by its name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Never, Self

from service.errors import BadCheckpoint
from service.models.cell import LayerSpec
from service.models.cells import CELLS
from service.models.importing.assumptions import Assumptions
from service.models.importing.checkpoint import JsonObject
from service.models.spec import MAX_LAYERS, ModelSpec

_LAYERS = {
    name: cell_name
    for cell_name, cell in CELLS.items()
    for name in (cell.keras.layer, cell.keras.cudnn)
    if name is not None
}
_RNN_CELLS = {cell.keras.cell: name for name, cell in CELLS.items() if cell.keras.cell is not None}
_CUDNN = {"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": True}
_NO_OP = ("Dropout", "SpatialDropout1D", "InputLayer")
_STOCK = ", ".join(cell.keras.layer for cell in CELLS.values() if cell.keras.layer is not None)
_SERVED = f"Embedding, {_STOCK}, Dropout, Dense, TimeDistributed(Dense) and a softmax"

_PROGRAM = "which is a program, and nothing in a file is ever executed"
_REASONS = {
    "Bidirectional": "it reads the text from its end, too, and cannot generate",
    "Lambda": f"it contains Python code, {_PROGRAM}",
    "TFSMLayer": f"it names a SavedModel, {_PROGRAM}",
    "TorchModuleWrapper": f"it contains a pickle, {_PROGRAM}",
    "StringLookup": "it converts text into tokens by its own table or file; import the layers "
    "after it and give its vocabulary as a file",
    "Sequential": "it is a model inside the model; save the inner model's layers as one chain",
}
_REASONS |= dict.fromkeys(("TextVectorization", "IntegerLookup"), _REASONS["StringLookup"])
_REASONS |= dict.fromkeys(("Functional", "Model"), _REASONS["Sequential"])

_COMMON = {
    "name", "trainable", "dtype", "batch_input_shape", "batch_shape", "input_shape", "input_dtype",
    "activity_regularizer", "build_config", "quantization_config",
}  # fmt: skip
_KERNEL = {
    f"{k}_{what}"
    for k in ("kernel", "bias")
    for what in ("initializer", "regularizer", "constraint")
}
_RNN = _COMMON | {
    "return_sequences", "return_state", "go_backwards", "stateful", "unroll", "time_major",
    "zero_output_for_mask", "implementation", "input_dim", "input_length",
}  # fmt: skip
_CELL = _COMMON | _KERNEL | {
    "units", "activation", "recurrent_activation", "use_bias", "unit_forget_bias", "reset_after",
    "recurrent_initializer", "recurrent_regularizer", "recurrent_constraint", "dropout",
    "recurrent_dropout", "implementation", "seed",
}  # fmt: skip
_OPTIONS = {
    "InputLayer": _COMMON | {"sparse", "ragged", "optional", "type_spec"},
    "Embedding": _COMMON | {
        "input_dim", "output_dim", "input_length", "mask_zero", "embeddings_initializer",
        "embeddings_regularizer", "embeddings_constraint",
    },
    "RNN": _RNN | {"cell"},
    "Dropout": _COMMON | {"rate", "noise_shape", "seed"},
    "SpatialDropout1D": _COMMON | {"rate", "noise_shape", "seed"},
    "Dense": _COMMON | _KERNEL | {"units", "activation", "use_bias", "input_dim"},
    "TimeDistributed": _COMMON | {"layer"},
    "Activation": _COMMON | {"activation"},
    "Softmax": _COMMON | {"axis"},
} | dict.fromkeys(_LAYERS, _RNN | _CELL)  # fmt: skip


@dataclass(frozen=True, slots=True)
class KerasLayer:
    """A layer of a config, its class and options checked against the allow-list."""

    name: str
    class_name: str
    config: JsonObject

    @classmethod
    def read(cls, entry: object) -> Self:
        """Read a layer as a model's config lists it. Raises BadCheckpoint if it is not served."""
        if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
            raise BadCheckpoint("the config has a layer without a class_name")
        config = entry.get("config")
        config = config if isinstance(config, dict) else {}
        name = config.get("name", entry.get("name"))
        layer = cls(name[:200] if isinstance(name, str) else "?", entry["class_name"], config)
        layer._check_class(entry)
        return layer

    def _check_class(self, entry: JsonObject) -> None:
        module, registered = entry.get("module"), entry.get("registered_name")
        is_foreign = module is not None and str(module).split(".")[0] not in ("keras", "tf_keras")
        if self.class_name in _OPTIONS and not is_foreign and registered in (None, self.class_name):
            if unknown := sorted(self.config.keys() - _OPTIONS[self.class_name]):
                self.refuse(f"its option {unknown[0][:80]!r} is not known")
            return
        shown = self.class_name[:80]
        if reason := _REASONS.get(self.class_name):
            self.refuse(f"it is a {shown}: {reason}")
        if is_foreign or registered is not None or ">" in self.class_name:
            self.refuse(f"it is of the custom class {shown}, whose code is not in the file")
        self.refuse(f"it is a {shown}; served are {_SERVED}")

    def refuse(self, reason: str) -> Never:
        """Raise BadCheckpoint with the layer's name."""
        raise BadCheckpoint(f"layer {self.name!r} cannot be served: {reason}")

    def integer(self, key: str) -> int:
        """Return an option that must be a positive integer. Raises BadCheckpoint."""
        value = self.config.get(key)
        if type(value) is not int or value < 1:
            self.refuse(f"its {key} is {str(value)[:80]}, not a positive whole number")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """Return an option that must be a boolean. Raises BadCheckpoint."""
        value = self.config.get(key, default)
        if not isinstance(value, bool):
            self.refuse(f"its {key} is {str(value)[:80]!r}, not true or false")
        return value


def read_architecture(
    config: JsonObject, assumptions: Assumptions
) -> tuple[ModelSpec, tuple[KerasLayer, ...]]:
    """Return the spec of a config and its layers with weights, in order. Raises BadCheckpoint."""
    return _Chain(assumptions).read(_layers_in_order(config))


class _Chain:
    """Reads layers in order and collects embedding, recurrent layers and output."""

    def __init__(self, assumptions: Assumptions) -> None:
        self._assumptions = assumptions
        self._embedding: KerasLayer | None = None
        self._recurrent: list[tuple[KerasLayer, LayerSpec]] = []
        self._output: tuple[KerasLayer, KerasLayer] | None = None  # the layer, and the Dense in it

    def read(self, layers: Sequence[KerasLayer]) -> tuple[ModelSpec, tuple[KerasLayer, ...]]:
        for layer in layers:
            if layer.class_name in _NO_OP:
                continue
            if layer.class_name == "Embedding":
                self._add_embedding(layer)
            elif layer.class_name in _LAYERS or layer.class_name == "RNN":
                self._add_recurrent(layer)
            elif layer.class_name in ("Dense", "TimeDistributed"):
                self._add_output(layer)
            else:
                self._check_last(layer)
        return self._finish()

    def _add_embedding(self, layer: KerasLayer) -> None:
        if self._embedding is not None or self._recurrent or self._output:
            layer.refuse("an Embedding can only be the first layer")
        if layer.flag("mask_zero", default=False):
            self._assumptions.note("mask_zero is set: token 0 is fed like any other token")
        self._embedding = layer

    def _add_recurrent(self, layer: KerasLayer) -> None:
        if self._output:
            layer.refuse("it follows the Dense layer")
        if layer.flag("go_backwards", default=False):
            layer.refuse("go_backwards is set: it reads the text from its end and cannot generate")
        if self._recurrent:
            last, _ = self._recurrent[-1]
            if not last.flag("return_sequences", default=False):
                last.refuse("return_sequences is not set, yet another recurrent layer follows")
        if len(self._recurrent) == MAX_LAYERS:
            layer.refuse(f"it is recurrent layer {MAX_LAYERS + 1}; 1 to {MAX_LAYERS} are served")
        self._recurrent.append((layer, self._layer_spec(layer)))

    def _layer_spec(self, layer: KerasLayer) -> LayerSpec:
        inner = _cell(layer) if layer.class_name == "RNN" else layer
        cell_name = (_RNN_CELLS if layer.class_name == "RNN" else _LAYERS)[inner.class_name]
        cell, config, name = CELLS[cell_name], inner.config, layer.name
        if layer.class_name.startswith("CuDNN"):
            config = {**_CUDNN, **config}
        decide = self._assumptions
        return LayerSpec(
            cell_name,
            inner.integer("units"),
            decide.activation("activation", name, _stated(config, "activation"), "tanh"),
            decide.activation(
                "recurrent_activation",
                name,
                _stated(config, "recurrent_activation"),
                cell.keras_recurrent_activation,
            ),
            inner.flag("use_bias", default=True),
            not cell.has_reset_after
            # Keras 2.0 has no such option and applies the reset gate before the product.
            or decide.flag("reset_after", name, config.get("reset_after"), default=False),
        )

    def _add_output(self, layer: KerasLayer) -> None:
        if not self._recurrent or self._output:
            layer.refuse("only one Dense layer is served, after the recurrent layers")
        dense = layer
        if layer.class_name == "TimeDistributed":
            dense = KerasLayer.read(layer.config.get("layer"))
            if dense.class_name != "Dense":
                layer.refuse(
                    f"it wraps a {dense.class_name}; only TimeDistributed(Dense) is served"
                )
        if dense.config.get("activation") not in (None, "linear", "softmax"):
            activation = str(dense.config.get("activation"))[:80]
            layer.refuse(f"its activation is {activation!r}; the output's may be softmax or linear")
        self._output = (layer, dense)

    def _check_last(self, layer: KerasLayer) -> None:
        activation = (
            layer.config.get("activation") if layer.class_name == "Activation" else "softmax"
        )
        if not self._output or activation not in ("softmax", "linear"):
            layer.refuse(
                f"its activation is {str(activation)[:80]!r}; served is a softmax after the Dense"
            )

    def _finish(self) -> tuple[ModelSpec, tuple[KerasLayer, ...]]:
        if not self._recurrent or self._output is None:
            missing = "Dense" if self._recurrent else "recurrent"
            raise BadCheckpoint(f"the model has no {missing} layer; served are {_SERVED}")
        last, _ = self._recurrent[-1]
        is_window = not last.flag("return_sequences", default=False)
        if is_window and not last.flag("stateful", default=False):
            if self._assumptions.state != "carried":
                last.refuse(
                    "it reads a window of tokens from a zero state for each prediction (neither "
                    "return_sequences nor stateful is set), which is not served yet; with its "
                    "state carried from token to token its text can differ from the first one on; "
                    '`assume` {"state": "carried"} serves it so'
                )
            self._assumptions.note(
                f"layer {last.name!r} was trained to predict after a window; its state is carried "
                "from token to token, as `assume` has it, so the text can differ from the author's"
            )
        output, dense = self._output
        size = dense.integer("units")
        layers = [layer for layer, _ in self._recurrent] + [output]
        embedding_dim = None
        if self._embedding is not None:
            embedding_dim = self._embedding.integer("output_dim")
            if self._embedding.integer("input_dim") != size:
                self._embedding.refuse(
                    f"it has {self._embedding.integer('input_dim')} tokens, "
                    f"but {output.name!r} predicts {size}"
                )
            layers.insert(0, self._embedding)
        recurrent = tuple(spec for _, spec in self._recurrent)
        spec = ModelSpec(size, embedding_dim, recurrent, dense.flag("use_bias", default=True))
        return spec, tuple(layers)


def _stated(config: JsonObject, key: str) -> object:
    """Return an activation as the config states it: null is linear, absent is None."""
    return (config[key] or "linear") if key in config else None


def _cell(layer: KerasLayer) -> KerasLayer:
    """Return the one cell of an RNN layer."""
    entry = layer.config.get("cell")
    class_name = entry.get("class_name") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(class_name, str):
        layer.refuse("it has no single cell")
    plain = class_name.removeprefix("Addons>").removeprefix("Custom>")
    config = entry.get("config")
    if plain not in _RNN_CELLS or not isinstance(config, dict):
        layer.refuse(f"its cell is a {class_name[:80]}; served are {', '.join(_RNN_CELLS)}")
    if unknown := sorted(config.keys() - _CELL):
        layer.refuse(f"its cell's option {unknown[0][:80]!r} is not known")
    return KerasLayer(layer.name, plain, config)


def _layers_in_order(config: JsonObject) -> list[KerasLayer]:
    class_name, inner = config.get("class_name"), config.get("config")
    # Keras wrote a bare list of layers for a Sequential model until 2.2.2.
    entries = inner.get("layers") if isinstance(inner, dict) else inner
    module, registered = config.get("module"), config.get("registered_name")
    is_keras = module is None or str(module).split(".")[0] in ("keras", "tf_keras")
    known = ("Sequential", "Functional", "Model")
    if class_name not in known or not is_keras or registered not in (None, class_name):
        raise BadCheckpoint(
            f"the model is of the class {str(class_name)[:80]!r}, whose code is not in the file; "
            "save its weights alone (save_weights) and import those"
        )
    if not isinstance(entries, list):
        raise BadCheckpoint("the model's config has no list of layers")
    if class_name == "Sequential":
        return [KerasLayer.read(entry) for entry in entries]
    assert isinstance(inner, dict)
    return _functional_chain(inner, entries)


def _functional_chain(config: JsonObject, entries: Sequence[object]) -> list[KerasLayer]:
    """Return the layers of a functional model from its input to its output."""
    layers = {layer.name: (layer, entry) for entry in entries for layer in [KerasLayer.read(entry)]}
    for end in ("input_layers", "output_layers"):
        if len(found := list(_tensors(config.get(end)))) != 1:
            raise BadCheckpoint(
                f"the model has {len(found)} {end}; only a chain with one is served"
            )
    chain: list[KerasLayer] = []
    (name,) = _tensors(config.get("output_layers"))
    while True:
        if name not in layers or len(chain) > len(layers):
            raise BadCheckpoint(f"the model's config leads to {name[:80]!r}, which is not a chain")
        layer, entry = layers[name]
        chain.append(layer)
        inputs = list(_tensors(entry.get("inbound_nodes") if isinstance(entry, dict) else None))
        if not inputs:
            break
        if len(inputs) > 1:
            layer.refuse(f"it has {len(inputs)} inputs; only a chain of layers is served")
        (name,) = inputs
    if chain[-1].class_name != "InputLayer" or len(chain) < len(layers):
        raise BadCheckpoint("the model's layers do not form one chain from input to output")
    return chain[::-1]


def _tensors(value: Any) -> Iterator[str]:
    """Yield the names of the layers whose outputs a piece of config mentions.

    Keras 2 writes an output as [name, node, tensor] or [name, node, tensor, {arguments}], Keras 3
    as an object with `keras_history`.
    """
    if isinstance(value, dict):
        history = value.get("keras_history")
        yield from _tensors(history if history is not None else list(value.values()))
    elif isinstance(value, list):
        if len(value) in (3, 4) and isinstance(value[0], str) and type(value[1]) is int:
            if value[2] != 0:
                raise BadCheckpoint(
                    f"the model uses a state of layer {value[0][:80]!r} as an output"
                )
            yield value[0]
            yield from _tensors(value[3:])
        else:
            for item in value:
                yield from _tensors(item)
