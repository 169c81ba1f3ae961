"""A layer of a Keras config, its class and options checked against an allow-list.

Nothing in a config is executed or imported: a class is a name that is looked up in a table. Options
that do not affect a trained model's output (initialisers, regularisers, optimizers) are ignored.
Any other class or option is refused by its name.
"""

from dataclasses import dataclass, replace
from typing import Never, Self

from service.errors import BadCheckpoint
from service.models.cells import CELLS
from service.models.importing.checkpoint import JsonObject

RECURRENT = {
    name: cell_name
    for cell_name, cell in CELLS.items()
    for name in (cell.keras.layer, cell.keras.cudnn)
    if name is not None
}
"""The classes of recurrent layers: name → cell."""
RNN_CELLS = {cell.keras.cell: name for name, cell in CELLS.items() if cell.keras.cell is not None}
"""The classes of cells within an RNN: name → cell."""
NO_OPS = (
    *("Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout"),
    *("ActivityRegularization", "Identity"),
)
"""The layers that do nothing in inference."""
MERGES = {
    "Concatenate": "concatenate",
    "Add": "add",
    "Multiply": "multiply",
    "Average": "average",
}
MASK_OPERATIONS = ("NotEqual", "LogicalOr", "Any", "ExpandDims", "ZerosLike")
"""The operations as which Keras 3 writes the mask of an Embedding or a Masking."""
ATTENTION = "AttentionWeightedAverage"
"""textgenrnn's own layer, whose code is known."""
TEXT_LAYERS = ("TextVectorization", "StringLookup")

_STOCK = ", ".join(cell.keras.layer for cell in CELLS.values() if cell.keras.layer is not None)
SERVED = (
    f"Embedding, {_STOCK}, RNN of their cells, Bidirectional, Dense, TimeDistributed, Dropout, "
    "activations, BatchNormalization, LayerNormalization, Rescaling, Masking, Flatten, "
    "Concatenate, Add, Multiply, Average and a softmax"
)

_PROGRAM = "which is a program, and nothing in a file is ever executed"
_REASONS = {
    "Lambda": f"it contains Python code, {_PROGRAM}",
    "TFSMLayer": f"it names a SavedModel, {_PROGRAM}",
    "TorchModuleWrapper": f"it contains a pickle, {_PROGRAM}",
    "Sequential": "it is a model inside the model; save the inner model's layers as one chain",
    "IntegerLookup": "it converts text into tokens by its own table or file; import the layers "
    "after it and give its vocabulary as a file",
}
_REASONS |= dict.fromkeys(("Functional", "Model"), _REASONS["Sequential"])

_COMMON = {
    "name", "trainable", "dtype", "batch_input_shape", "batch_shape", "input_shape", "input_dtype",
    "activity_regularizer", "build_config", "quantization_config", "input_dim", "input_length",
}  # fmt: skip


def _parameters(*names: str) -> set[str]:
    """The options of trainable parameters, none of which affects a trained model."""
    kinds = ("initializer", "regularizer", "constraint")
    return {f"{name}_{kind}" for name in names for kind in kinds}


_KERNEL = _parameters("kernel", "bias")
_RNN = _COMMON | {
    "return_sequences", "return_state", "go_backwards", "stateful", "unroll", "time_major",
    "zero_output_for_mask", "implementation",
}  # fmt: skip
_CELL = _COMMON | _KERNEL | _parameters("recurrent") | {
    "units", "activation", "recurrent_activation", "use_bias", "unit_forget_bias", "reset_after",
    "dropout", "recurrent_dropout", "implementation", "seed",
}  # fmt: skip
_NORMALIZATION = _COMMON | _parameters("gamma", "beta", "moving_mean", "moving_variance") | {
    "axis", "epsilon", "center", "scale", "momentum",
}  # fmt: skip
_TEXT = _COMMON | {
    "max_tokens", "standardize", "split", "ngrams", "output_mode", "output_sequence_length",
    "pad_to_max_tokens", "sparse", "ragged", "vocabulary", "idf_weights", "encoding",
    "vocabulary_size", "num_oov_indices", "mask_token", "oov_token", "invert", "vocabulary_dtype",
    "has_input_vocabulary", "oov_method", "salt",
}  # fmt: skip
_EMBEDDING = _COMMON | _parameters("embeddings") | {"output_dim", "mask_zero"}
_OPTIONS = {
    "InputLayer": _COMMON | {"sparse", "ragged", "optional", "type_spec"},
    "Embedding": _EMBEDDING,
    "ReversibleEmbedding": _EMBEDDING | {"tie_weights", "reverse_dtype", "logit_soft_cap"},
    "RNN": _RNN | {"cell"},
    "Bidirectional": _RNN | {"merge_mode", "layer", "backward_layer"},
    "Dropout": _COMMON | {"rate", "noise_shape", "seed"},
    "SpatialDropout1D": _COMMON | {"rate", "noise_shape", "seed"},
    "GaussianNoise": _COMMON | {"stddev", "seed"},
    "GaussianDropout": _COMMON | {"rate", "seed"},
    "AlphaDropout": _COMMON | {"rate", "noise_shape", "seed"},
    "ActivityRegularization": _COMMON | {"l1", "l2"},
    "Identity": _COMMON,
    "Dense": _COMMON | _KERNEL | {"units", "activation", "use_bias"},
    "TimeDistributed": _COMMON | {"layer"},
    "Activation": _COMMON | {"activation"},
    "ReLU": _COMMON | {"max_value", "negative_slope", "threshold"},
    "ELU": _COMMON | {"alpha"},
    "Softmax": _COMMON | {"axis"},
    "BatchNormalization": _NORMALIZATION
    | {"synchronized", "fused", "renorm", "renorm_clipping", "renorm_momentum"}
    | {"virtual_batch_size", "mode"},
    "LayerNormalization": _NORMALIZATION | {"rms_scaling"},
    "Masking": _COMMON | {"mask_value"},
    "Flatten": _COMMON | {"data_format"},
    "LeakyReLU": _COMMON | {"negative_slope", "alpha"},
    "Rescaling": _COMMON | {"scale", "offset"},
    ATTENTION: _COMMON | {"return_attention"},
}  # fmt: skip
_OPTIONS |= dict.fromkeys(RECURRENT, _RNN | _CELL)
_OPTIONS |= dict.fromkeys(MERGES, _COMMON | {"axis"})
_OPTIONS |= dict.fromkeys(TEXT_LAYERS, _TEXT)
_OPTIONS |= dict.fromkeys(MASK_OPERATIONS, _COMMON | {"axis", "keepdims"})


_KERAS_1 = {"consume_less", "inner_activation", "inner_init", "init"}


@dataclass(frozen=True, slots=True)
class KerasLayer:
    """A layer of a config. `entry` is the whole of what the config has for it, `place` where."""

    name: str
    class_name: str
    config: JsonObject
    entry: JsonObject
    place: int = 0

    @classmethod
    def read(cls, entry: object, place: int = 0) -> Self:
        """Read a layer as a model's config lists it. Raises BadCheckpoint if it is not served."""
        if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
            raise BadCheckpoint("the config has a layer without a class_name")
        config = entry.get("config")
        config = config if isinstance(config, dict) else {}
        name = config.get("name", entry.get("name"))
        shown = name[:200] if isinstance(name, str) else "?"
        layer = cls(shown, entry["class_name"], config, entry, place)
        layer._check_class()
        return layer

    def _check_class(self) -> None:
        module, registered = self.entry.get("module"), self.entry.get("registered_name")
        is_foreign = module is not None and str(module).split(".")[0] not in ("keras", "tf_keras")
        is_known = self.class_name in _OPTIONS and registered in (None, self.class_name)
        if is_known and (self.class_name == ATTENTION or not is_foreign):
            if _KERAS_1 & self.config.keys():
                self.refuse(
                    "its options are those of Keras 1; load and save the model with Keras 2 first"
                )
            if unknown := sorted(self.config.keys() - _OPTIONS[self.class_name]):
                self.refuse(f"its option {unknown[0][:80]!r} is not known")
            return
        shown = self.class_name[:80]
        if reason := _REASONS.get(self.class_name):
            self.refuse(f"it is a {shown}: {reason}")
        if is_foreign or registered not in (None, self.class_name) or ">" in self.class_name:
            self.refuse(f"it is of the custom class {shown}, whose code is not in the file")
        self.refuse(f"it is a {shown}; served are {SERVED}")

    def refuse(self, reason: str) -> Never:
        """Raise BadCheckpoint with the layer's name."""
        raise BadCheckpoint(f"layer {self.name!r} cannot be served: {reason}")

    def integer(self, key: str) -> int:
        """Return an option that must be a positive integer. Raises BadCheckpoint."""
        value = self.config.get(key)
        if type(value) is not int or value < 1:
            self.refuse(f"its {key} is {str(value)[:80]}, not a positive whole number")
        return value

    def number(self, key: str, *, default: float) -> float:
        """Return an option that must be a number. Raises BadCheckpoint."""
        value = self.config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(f"its {key} is {str(value)[:80]!r}, not a number")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """Return an option that must be a boolean. Raises BadCheckpoint."""
        value = self.config.get(key, default)
        if not isinstance(value, bool):
            self.refuse(f"its {key} is {str(value)[:80]!r}, not true or false")
        return value

    def expect(self, key: str, *allowed: object) -> None:
        """Refuse the layer if an option is set to anything but the allowed values."""
        value = self.config.get(key, allowed[0])
        if value not in allowed:
            shown = ", ".join(str(each) for each in allowed)
            self.refuse(f"its {key} is {str(value)[:80]}; served is {shown}")

    def inner(self, key: str) -> Self:
        """Return the layer that this one wraps. Raises BadCheckpoint."""
        inner = type(self).read(self.config.get(key))
        return replace(inner, name=self.name, entry=self.entry, place=self.place)


CELL_OPTIONS = frozenset(_CELL)
"""The options of a cell within an RNN."""


def stated_activation(config: JsonObject, key: str) -> object:
    """Return an activation as a config states it: null is linear, absent is None."""
    return (config[key] or "linear") if key in config else None
