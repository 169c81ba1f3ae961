"""Conversion of a Keras config into a model's spec and the places of its weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.errors import BadCheckpoint
from service.models.importing.assumptions import Assumptions
from service.models.importing.checkpoint import JsonObject, StoredLayer
from service.models.importing.keras_graph import Call, read_calls
from service.models.importing.keras_layer import NO_OPS, SERVED, TEXT_LAYERS, KerasLayer
from service.models.importing.keras_network import KerasNetwork, WeightSource, is_recurrent
from service.models.importing.reading import InputKind, Reading, scaled_input, window_of
from service.models.layers import AttentionAverage, Flatten
from service.models.spec import ModelSpec

_NO_DISTRIBUTION = "its outputs are no distribution over the next token"


@dataclass(frozen=True, slots=True)
class KerasArchitecture:
    """A spec, where the weights of its parts are, and the layer that reads text, if any.

    `sources` are in the order of the spec: the embedding if any, the layers with weights, the
    output.
    """

    spec: ModelSpec
    sources: tuple[WeightSource | StoredLayer, ...]
    text_layer: KerasLayer | None = None


def read_architecture(config: JsonObject, assumptions: Assumptions) -> KerasArchitecture:
    """Return the architecture of a config. Raises BadCheckpoint."""
    calls = read_calls(config)
    for call in calls:
        if "bfloat16" in str(call.layer.config.get("dtype")):
            assumptions.note(
                "the model computes in bfloat16; it is served in float32 arithmetic on the stored "
                "weights, so the text can part from the author's"
            )
    body, output, dense = _output_of(calls)
    size = dense.integer("input_dim" if dense.class_name == "ReversibleEmbedding" else "units")
    if size < 2:
        dense.refuse(_NO_DISTRIBUTION)
    if not any(is_recurrent(call.layer) for call in body):
        raise BadCheckpoint(f"the model has no recurrent layer; served are {SERVED}")
    source = _Input.read(body, size, assumptions)
    network = KerasNetwork(body, source.calls, assumptions)
    reading = source.reading(network, size, assumptions)
    window = window_of(reading, assumptions)
    network.build(is_windowed=window is not None)
    # A Masking after the embedding replaces the mask of the embedding.
    mask = 0 if source.is_masked and not network.has_masking else None
    is_reverse = dense.class_name == "ReversibleEmbedding"
    spec = ModelSpec(
        size,
        source.embedding_dim,
        tuple(network.layers),
        not is_reverse and dense.flag("use_bias", default=True),
        mask_token=mask,
        window=window,
        mask_zero_input=network.has_masking,
    )
    last = WeightSource(output, is_transposed=is_reverse)
    _check_masked_ends(spec, [call.layer for call in body])
    return KerasArchitecture(spec, (*source.sources, *network.sources, last), source.text_layer)


def _output_of(calls: Sequence[Call]) -> tuple[tuple[Call, ...], KerasLayer, KerasLayer]:
    """Split off the output: the calls before it, the layer with its weights, the Dense in it."""
    end = len(calls) - 1
    while end > 0 and _is_after_output(calls[end].layer):
        _check_follows(calls[end], end)
        end -= 1
    call, layer = calls[end], calls[end].layer
    dense = _unwrapped(layer)
    if layer.class_name == "ReversibleEmbedding" and call.arguments.get("reverse") is True:
        layer.expect("tie_weights", True)
        layer.expect("logit_soft_cap", None)
    elif dense.class_name != "Dense":
        raise BadCheckpoint(
            "the model has no Dense layer at its end, which a softmax may follow: the last layer, "
            f"{layer.name!r}, is of the class {layer.class_name}, so {_NO_DISTRIBUTION}"
        )
    activation = dense.config.get("activation")
    if activation not in (None, "linear"):
        _check_output_activation(layer, activation)
        if end < len(calls) - 1 and activation == "softmax":
            _check_no_softmax(calls[end + 1 :])
    _check_follows(call, end)
    return tuple(calls[:end]), layer, dense


def _unwrapped(layer: KerasLayer) -> KerasLayer:
    return layer.inner("layer") if layer.class_name == "TimeDistributed" else layer


def _is_after_output(layer: KerasLayer) -> bool:
    """Whether a layer may follow the output: a softmax, or a layer that does nothing."""
    inner = _unwrapped(layer)
    if inner.class_name == "Softmax":
        inner.expect("axis", -1)
        return True
    if inner.class_name == "Activation":
        _check_output_activation(layer, inner.config.get("activation"))
        return True
    return inner.class_name in NO_OPS


def _check_no_softmax(calls: Sequence[Call]) -> None:
    for call in calls:
        inner = _unwrapped(call.layer)
        if inner.class_name == "Softmax" or inner.config.get("activation") == "softmax":
            call.layer.refuse("it is the second softmax of the output")


def _check_follows(call: Call, place: int) -> None:
    if len(call.inputs) > 1:
        call.layer.refuse(f"it has {len(call.inputs)} inputs; the output has one")
    if call.inputs != (place - 1,):
        call.layer.refuse("the output does not follow from one layer")


def _check_output_activation(layer: KerasLayer, activation: object) -> None:
    if activation not in ("softmax", "linear"):
        layer.refuse(
            f"its activation is {str(activation)[:80]!r}: {_NO_DISTRIBUTION}; "
            "served are softmax and linear"
        )


def _check_masked_ends(spec: ModelSpec, layers: Sequence[KerasLayer]) -> None:
    """Refuse what Keras computes otherwise where steps are masked."""
    if not spec.is_masked:
        return
    reads_all = any(isinstance(layer, Flatten | AttentionAverage) for layer in spec.layers)
    for layer in layers:
        is_zero = layer.class_name == "Bidirectional" or layer.config.get("zero_output_for_mask")
        if reads_all and is_zero:
            layer.refuse(
                "it gives zeros for masked pads, and a layer after it reads all steps of the "
                "window, which is not served: train it without the mask"
            )
        if layer.class_name == "Rescaling":
            layer.refuse("its input is masked, and versions of Keras differ in what it does then")


@dataclass(frozen=True, slots=True)
class _Input:
    """How tokens enter the network: `calls` are those before it."""

    kind: InputKind
    calls: int
    embedding_dim: int | None
    sources: tuple[WeightSource | StoredLayer, ...]
    is_masked: bool
    length: int | None
    built_length: int | None
    text_layer: KerasLayer | None

    @classmethod
    def read(cls, calls: Sequence[Call], size: int, assumptions: Assumptions) -> "_Input":
        """Read the first calls, up to the embedding if any."""
        entry = calls[0].layer
        shape, built = _shapes(entry)
        place, text_layer, kind = 1, None, InputKind.IDS
        if place < len(calls) and calls[place].layer.class_name in TEXT_LAYERS:
            text_layer, kind = calls[place].layer, InputKind.TEXT
            shape, built = _text_shape(text_layer, shape, built)
            place += 1
        if place < len(calls) and calls[place].layer.class_name.endswith("Embedding"):
            layer = calls[place].layer
            _check_embedding(layer, size, [call.layer for call in calls[place + 1 :]])
            length = layer.config.get("input_length")
            stated = length if type(length) is int else _first(shape)
            is_masked = layer.flag("mask_zero", default=False)
            sources = (WeightSource(layer),)
            dim = layer.integer("output_dim")
            return cls(
                *(kind, place + 1, dim, sources, is_masked, stated, _first(built), text_layer)
            )
        shape = shape if shape is not None else built
        if text_layer is not None or (shape is not None and len(shape) < 2):
            raise BadCheckpoint(
                f"the model has no Embedding after its input {entry.name!r}, which has one number "
                "for each token; a scaled input has a last axis of 1"
            )
        width = shape[1] if shape is not None else None
        length, built_length = _first(shape), _first(built)
        if width == 1:
            is_rescaled = len(calls) > 1 and calls[1].layer.class_name == "Rescaling"
            source = (scaled_input(size, assumptions, is_rescaled=is_rescaled),)
            return cls(InputKind.SCALED, 1, 1, source, False, length, built_length, None)
        if width not in (None, size):
            _refuse_width(entry, length, width, size)
        return cls(InputKind.ONE_HOT, 1, None, (), False, length, built_length, None)

    def reading(self, network: KerasNetwork, size: int, assumptions: Assumptions) -> Reading:
        """What the file tells about the author's loop."""
        is_masked = self.is_masked or network.has_masking
        if assumptions.mask is not None and assumptions.mask is not is_masked:
            raise BadCheckpoint(
                f"the file states that pads are {'' if is_masked else 'not '}masked; "
                "leave assume.mask out"
            )
        if assumptions.scale is not None and self.kind is not InputKind.SCALED:
            raise BadCheckpoint("the model's input is not scaled; leave assume.scale out")
        return Reading(
            self.kind,
            size,
            network.last_recurrent,
            self.length,
            self.built_length,
            network.is_stateful,
            network.is_sequence,
            network.not_carried,
            is_masked,
        )


def _check_embedding(layer: KerasLayer, size: int, others: Sequence[KerasLayer]) -> None:
    for other in others:
        if other.class_name == "Embedding":
            other.refuse("an Embedding can only be the first layer")
    tokens = layer.integer("input_dim")
    if tokens != size:
        hint = ": was the padding counted once?" if abs(tokens - size) == 1 else ""
        layer.refuse(f"it reads {tokens} tokens but predicts {size}{hint}")


def _refuse_width(entry: KerasLayer, length: int | None, width: int, size: int) -> None:
    if abs(width - size) == 1:
        entry.refuse(f"it reads {width} tokens but predicts {size}: was the padding counted once?")
    if length == 1:
        entry.refuse(
            f"it reads one step of {width} numbers: if these are the latest {width} tokens, as "
            "id / V, they are read at once, and nothing is recurrent; to be served, the model has "
            f"to be trained again with an input of {width} steps of one number: "
            f"`Input(({width}, 1))` and `X.reshape(-1, {width}, 1)`"
        )
    entry.refuse(
        f"it reads vectors of {width} numbers, and the file has no table from words to vectors"
    )


_Shape = tuple[Any, ...]


def _shapes(entry: KerasLayer) -> tuple[_Shape | None, _Shape | None]:
    """Return the shape that the input states, and that of the first input it was built for."""
    config = entry.config
    stated: _Shape | None = None
    for key in ("batch_shape", "batch_input_shape"):
        if isinstance(config.get(key), list):
            stated = tuple(config[key][1:])
    if stated is None and isinstance(config.get("input_shape"), list):
        stated = tuple(config["input_shape"])
    if stated is None and type(config.get("input_dim")) is int:  # Keras 1
        stated = (config.get("input_length"), config["input_dim"])
    build = entry.entry.get("build_config")
    shape = build.get("input_shape") if isinstance(build, dict) else None
    return stated, tuple(shape[1:]) if isinstance(shape, list) else None


def _text_shape(
    layer: KerasLayer, shape: _Shape | None, built: _Shape | None
) -> tuple[_Shape | None, _Shape | None]:
    if layer.class_name == "StringLookup":
        layer.expect("output_mode", "int")
        layer.expect("invert", False)
        return shape, built
    layer.expect("output_mode", "int")
    layer.expect("ngrams", None)
    length = layer.config.get("output_sequence_length")
    return (length,), None


def _first(shape: _Shape | None) -> int | None:
    return shape[0] if shape and type(shape[0]) is int else None
