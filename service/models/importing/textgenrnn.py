"""textgenrnn's network from its weights, which it saves without an architecture, and its options.

Source: textgenrnn, `textgenrnn_model` and `textgenrnn_generate`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from service.errors import BadCheckpoint
from service.models.importing.assumptions import Assumptions
from service.models.importing.checkpoint import JsonObject, StoredLayer
from service.models.importing.keras_layer import ATTENTION
from service.models.importing.vocabulary import Vocabulary
from service.models.layers import AttentionAverage
from service.models.spec import ModelSpec

OPTIONS = {
    "rnn_layers": int,
    "rnn_size": int,
    "rnn_bidirectional": bool,
    "max_length": int,
    "max_words": int,
    "dim_embeddings": int,
    "word_level": bool,
    "single_text": bool,
}
"""The options of textgenrnn's config that matter here, and their types."""

_NAMES = {"embedding", "attention", "output"}
_RNN = re.compile(r"rnn_[1-9][0-9]?")
_MAX_LENGTH = 40
_BIDIRECTIONAL_ARRAYS = 6


def is_textgenrnn(layers: Sequence[StoredLayer]) -> bool:
    """Return whether the names of a file's layers are those of textgenrnn's network."""
    names = {layer.keras_name or "" for layer in layers}
    return names >= {*_NAMES, "rnn_1"} and all(map(_RNN.fullmatch, names - _NAMES))


def textgenrnn_architecture(
    layers: Sequence[StoredLayer], options: JsonObject | None, assumptions: Assumptions
) -> JsonObject:
    """Return the Keras config of a network whose layers have textgenrnn's names.

    `options` are textgenrnn's own config, if it is given. Raises BadCheckpoint if it and the shapes
    contradict each other.
    """
    options = options or {}
    _check_types(options)
    by_name = {str(layer.keras_name): layer for layer in layers}
    rnns = [f"rnn_{i}" for i in range(1, len(by_name) - len(_NAMES) + 1)]
    if missing := [name for name in rnns if name not in by_name]:
        raise BadCheckpoint(f"the file has textgenrnn's layers, but no {missing[0]}")
    size, width = _matrix(by_name["embedding"], 0)
    units, _ = _matrix(by_name["rnn_1"], 1)
    is_bidirectional = len(by_name["rnn_1"].arrays) == _BIDIRECTIONAL_ARRAYS
    found = {
        "rnn_layers": len(rnns),
        "rnn_size": units,
        "rnn_bidirectional": is_bidirectional,
        "dim_embeddings": width,
    }
    for name, value in found.items():
        if options.get(name, value) != value:
            raise BadCheckpoint(
                f"the config's {name} is {options[name]}, but the weights are made for {value}: "
                "give the config that was saved with these weights"
            )
    length = _length(options, assumptions)
    rnn: dict[str, Any] = {
        "class_name": "LSTM",
        "config": {
            "units": units,
            "return_sequences": True,
            "activation": "tanh",
            "recurrent_activation": "sigmoid",  # in every version of Keras
        },
    }
    if is_bidirectional:
        rnn = {"class_name": "Bidirectional", "config": {"layer": rnn}}
    embedding = {"input_dim": size, "output_dim": width}
    dense = {"units": size, "activation": "softmax"}
    before = ["embedding", *rnns]
    entries = [
        _entry("the input", "InputLayer", {"batch_input_shape": [None, length]}),
        _entry("embedding", "Embedding", embedding, "the input"),
        *(_entry(name, rnn["class_name"], rnn["config"], before[i]) for i, name in enumerate(rnns)),
        _entry("the merge", "Concatenate", {}, *before),
        _entry("attention", ATTENTION, {}, "the merge"),
        _entry("output", "Dense", dense, "attention"),
    ]
    graph = {
        "layers": entries,
        "input_layers": [["the input", 0, 0]],
        "output_layers": [["output", 0, 0]],
    }
    return {"class_name": "Functional", "config": graph}


def textgenrnn_vocabulary(
    vocabulary: Vocabulary, spec: ModelSpec, options: JsonObject | None, assumptions: Assumptions
) -> Vocabulary:
    """Return a vocabulary with textgenrnn's rules if the network is textgenrnn's."""
    if not any(isinstance(layer, AttentionAverage) for layer in spec.layers):
        return vocabulary
    options = options or {}
    is_word_level = options.get("word_level")
    if is_word_level is None:
        is_word_level = any(len(t) > 1 and t not in ("<s>", "<pad>") for t in vocabulary.tokens)
        assumptions.note(
            f"the tokens are taken to be {'words' if is_word_level else 'characters'}, as they "
            "look, and `<s>` to begin each text: textgenrnn's config is not given"
        )
    return replace(
        vocabulary,
        tokenizer=vocabulary.tokenizer or ("textgenrnn_words" if is_word_level else "textgenrnn"),
        is_single_text=options.get("single_text") is True,
    )


def _length(options: JsonObject, assumptions: Assumptions) -> int:
    length = options.get("max_length")
    if isinstance(length, int):
        return length
    if assumptions.window is not None:
        return assumptions.window
    assumptions.note(
        f"the window is assumed to be {_MAX_LENGTH} tokens, textgenrnn's max_length where none is "
        "set; its config, or assume.window, can change it"
    )
    return _MAX_LENGTH


def _check_types(options: JsonObject) -> None:
    for name, kind in OPTIONS.items():
        value = options.get(name)
        if value is not None and type(value) is not kind:
            raise BadCheckpoint(
                f"the config's {name} is {str(value)[:80]!r}, not "
                f"{'true or false' if kind is bool else 'a whole number'}"
            )


def _matrix(layer: StoredLayer, place: int) -> tuple[int, int]:
    shape = layer.shapes[place] if place < len(layer.arrays) else ()
    if len(shape) != 2:
        raise BadCheckpoint(f"layer {layer.path!r} of textgenrnn has no array {place} of two axes")
    return shape[0], shape[1]


def _entry(name: str, kind: str, config: Mapping[str, Any], *inputs: str) -> dict[str, Any]:
    nodes = [[[source, 0, 0, {}] for source in inputs]] if inputs else []
    return {
        "class_name": kind,
        "name": name,
        "config": {**config, "name": name},
        "inbound_nodes": nodes,
    }
