"""The calls of a model's layers, in the order in which they are computed.

A config is a chain (Sequential) or a graph of calls (functional). A functional model may take
states as further inputs and return them as further outputs if that is a carried state; any other
model has one input of tokens and one output.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from service.errors import BadCheckpoint
from service.models.importing.checkpoint import JsonObject
from service.models.importing.keras_layer import MASK_OPERATIONS, RECURRENT, TEXT_LAYERS, KerasLayer

_MODELS = ("Sequential", "Functional", "Model")
_MASKS = (*MASK_OPERATIONS, "Concatenate")
_MAX_DEPTH = 200
_OTHER_MASK = "it is given a mask that is not its input's own"
_ONE_STREAM = "one stream of tokens is served"
_MASKED = ("InputLayer", "Embedding", *TEXT_LAYERS)  # whose output's zeros are a mask
_Tensor = tuple[str, int, int]  # a layer's name, the number of the call, of its output


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a layer; `inputs` are the places of other calls in the tuple of all calls."""

    layer: KerasLayer
    inputs: tuple[int, ...]
    arguments: JsonObject
    is_state_given: bool = False  # by the model's own inputs: its state is carried


def read_calls(config: JsonObject) -> tuple[Call, ...]:
    """Return the calls of a config, the input first, the output last. Raises BadCheckpoint."""
    class_name, inner = config.get("class_name"), config.get("config")
    # Keras wrote a bare list of layers for a Sequential model until 2.2.2.
    entries = inner.get("layers") if isinstance(inner, dict) else inner
    module, registered = config.get("module"), config.get("registered_name")
    is_keras = module is None or str(module).split(".")[0] in ("keras", "tf_keras")
    if class_name not in _MODELS or not is_keras or registered not in (None, class_name):
        raise BadCheckpoint(
            f"the model is of the class {str(class_name)[:80]!r}, whose code is not in the file; "
            "save its weights alone (save_weights) and import those"
        )
    if not isinstance(entries, list) or not entries:
        raise BadCheckpoint("the model's config has no list of layers")
    layers = [KerasLayer.read(entry, i) for i, entry in enumerate(entries)]
    if class_name == "Sequential":
        return _chain(layers, inner)
    assert isinstance(inner, dict)
    return _Graph(inner, layers).calls()


def _chain(layers: list[KerasLayer], config: Any) -> tuple[Call, ...]:
    if layers[0].class_name != "InputLayer":
        first, options = layers[0], dict[str, object]()
        for key in ("batch_input_shape", "batch_shape", "input_shape", "input_dim", "input_length"):
            if first.config.get(key) is not None:
                options[key] = first.config[key]
        if first.class_name.endswith("Embedding"):
            options.pop("input_dim", None)  # of tokens
        built = config.get("build_input_shape") if isinstance(config, dict) else None
        entry = {"build_config": {"input_shape": built}}
        layers = [KerasLayer("the input", "InputLayer", options, entry), *layers]
    layers = [layers[0], *(layer for layer in layers[1:] if layer.class_name != "InputLayer")]
    return tuple(Call(layer, (i - 1,) if i else (), {}, False) for i, layer in enumerate(layers))


class _Graph:
    """Puts the calls that lead to a functional model's output into order."""

    def __init__(self, config: JsonObject, layers: Sequence[KerasLayer]) -> None:
        self._layers = {layer.name: layer for layer in layers}
        self._inputs = list(_tensors(config.get("input_layers")))
        self._outputs = list(_tensors(config.get("output_layers")))
        self._states: set[str] = set()  # inputs that are states
        self._masked: set[_Tensor] = set()  # whose zeros are the mask
        self._masks: set[_Tensor] = set()  # that have been checked
        self._places: dict[tuple[str, int], int] = {}
        self._calls: list[Call] = []

    def calls(self) -> tuple[Call, ...]:
        if not self._inputs or not self._outputs:
            raise BadCheckpoint("the model's config names no input or no output")
        if len(self._inputs) > 1 or len(self._outputs) > 1:
            self._drop_states()
        (name, number, _), *_ = self._outputs
        self._add(name, number)
        is_input = [call.layer.class_name == "InputLayer" for call in self._calls]
        if not is_input[0] or sum(is_input) > 1:
            raise BadCheckpoint("the model's layers do not lead from one input to its output")
        return tuple(self._calls)

    def _drop_states(self) -> None:
        """Take the inputs that are states, and the outputs that return them, as a carried state."""
        found = f"it has {_count(self._inputs, 'input')} and {_count(self._outputs, 'output')}"
        given: dict[str, _Tensor] = {}  # input → the output that it is the state of
        for layer in self._layers.values():
            if layer.class_name in RECURRENT or layer.class_name == "RNN":
                for number, node in enumerate(_nodes(layer)):
                    _, *states = _tensors(node)
                    for i, (name, _, _) in enumerate(states):
                        given[name] = (layer.name, number, i + 1)
        tokens = [name for name, _, _ in self._inputs if name not in given]
        returned = [tensor for tensor in self._outputs if tensor[2] > 0]
        is_carried = sorted(given.values()) == sorted(returned)
        if len(tokens) != 1 or len(self._outputs) - len(returned) != 1 or not is_carried:
            raise BadCheckpoint(f"{found}; {_ONE_STREAM}")
        self._states = set(given)
        self._outputs = [tensor for tensor in self._outputs if tensor[2] == 0]

    def _add(self, name: str, number: int, depth: int = 0) -> int:
        """Add a call after those that it reads; return its place."""
        place = self._places.get((name, number))
        if place is not None:
            if place < 0:
                raise BadCheckpoint(f"the model's config leads in a circle to {name[:80]!r}")
            return place
        layer = self._layers.get(name)
        if layer is None:
            raise BadCheckpoint(f"the model's config names {name[:80]!r}, which is no layer")
        nodes = _nodes(layer)
        if layer.class_name != "InputLayer" and number >= len(nodes):
            layer.refuse(f"its call {number} is not in the config")
        if depth > _MAX_DEPTH:
            layer.refuse(f"the model is deeper than {_MAX_DEPTH} layers")
        self._places[name, number] = -1
        node = nodes[number] if number < len(nodes) else None
        inputs, masks = _split_mask(node)
        is_given = False
        places = []
        for other, call, output in inputs:
            if other in self._states:
                is_given = True
                continue
            self._check_output(other, output)
            places.append(self._add(other, call, depth + 1))
        if _numbers(node):
            layer.refuse("it computes with a number that is written in the model's code")
        for mask in masks:
            self._check_mask(layer, mask)
        self._calls.append(Call(layer, tuple(places), _arguments(node), is_given))
        self._places[name, number] = len(self._calls) - 1
        return len(self._calls) - 1

    def _check_mask(self, layer: KerasLayer, tensor: _Tensor, depth: int = 0) -> None:
        """Refuse a layer with a mask that is not the one of the model's input.

        Keras 3 writes the mask of merged layers as operations: Add as LogicalOr, Concatenate as Any
        of a Concatenate. Of one mask these give the same again.
        """
        if tensor in self._masks:
            return
        self._masks.add(tensor)
        name, number, _ = tensor
        operation = self._layers.get(name)
        nodes = [] if operation is None else _nodes(operation)
        is_known = operation is not None and operation.class_name in _MASKS
        if operation is None or not is_known or number >= len(nodes) or depth > _MAX_DEPTH:
            layer.refuse(_OTHER_MASK)
        if operation.class_name == "ZerosLike":  # adds nothing to the other operand
            return
        read = list(_tensors(nodes[number]))
        if operation.class_name != "NotEqual":
            if operation.config.get("axis", -1) not in (-1, 2):
                layer.refuse(_OTHER_MASK)
            for each in read:
                self._check_mask(layer, each, depth + 1)
            return
        source = self._layers.get(read[0][0]) if len(read) == 1 else None
        is_zero = _numbers(nodes[number]) == [0]
        self._masked.update(read)
        is_own = source is not None and source.class_name in _MASKED and is_zero
        if not is_own or len(self._masked) > 1:
            layer.refuse(_OTHER_MASK)

    def _check_output(self, name: str, output: int) -> None:
        layer = self._layers.get(name)
        if output == 0 or layer is None:
            return
        # h, the first state, is the output where the layer returns the last step alone.
        if output != 1 or layer.config.get("return_sequences", False) is not False:
            raise BadCheckpoint(f"the model uses a state of layer {name[:80]!r} as an output")


def _count(tensors: Sequence[_Tensor], what: str) -> str:
    return f"{len(tensors)} {what}{'s' * (len(tensors) != 1)}"


def _nodes(layer: KerasLayer) -> list[object]:
    nodes = layer.entry.get("inbound_nodes")
    return nodes if isinstance(nodes, list) else []


def _split_mask(node: object) -> tuple[list[_Tensor], list[_Tensor]]:
    """Return the tensors that a call reads, and those that are its mask (Keras 3)."""
    if not isinstance(node, dict) or not isinstance(node.get("kwargs"), dict):
        return list(_tensors(node)), []
    arguments = {key: value for key, value in node["kwargs"].items() if key != "mask"}
    return list(_tensors([node.get("args"), arguments])), list(_tensors(node["kwargs"].get("mask")))


def _numbers(node: object) -> list[float]:
    """Return the numbers among the arguments of a call (Keras 3)."""
    if not isinstance(node, dict):
        return []
    args, kwargs = node.get("args"), node.get("kwargs")
    values = [*(args if isinstance(args, list) else ()), *_values(kwargs)]
    return [value for value in values if type(value) in (int, float)]


def _values(value: object) -> list[object]:
    return list(value.values()) if isinstance(value, dict) else []


def _arguments(node: object) -> JsonObject:
    """Return the arguments of a call that are no tensors."""
    arguments = node.get("kwargs") if isinstance(node, dict) else None
    return arguments if isinstance(arguments, dict) else {}


def _tensors(value: Any) -> Iterator[_Tensor]:
    """Yield the outputs of layers that a piece of config mentions.

    Keras 2 writes an output as [name, node, tensor] or [name, node, tensor, {arguments}], Keras 3
    as an object with `keras_history`.
    """
    if isinstance(value, dict):
        history = value.get("keras_history")
        yield from _tensors(history if history is not None else list(value.values()))
    elif isinstance(value, list):
        is_tensor = len(value) in (3, 4) and isinstance(value[0], str)
        if is_tensor and type(value[1]) is int and type(value[2]) is int:
            yield value[0], value[1], value[2]
            yield from _tensors(value[3:])
        else:
            for item in value:
                yield from _tensors(item)
