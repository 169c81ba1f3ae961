"""Configs and shapes → specs: what is accepted, what is noted, what is refused."""

import copy

import numpy as np
import pytest

from service.errors import BadCheckpoint
from service.models.cell import Activation
from service.models.importing.assumptions import Assumptions
from service.models.importing.checkpoint import StoredArray, StoredLayer
from service.models.importing.infer_spec import infer_spec
from service.models.importing.keras_config import read_architecture
from tests.models.importing.keras_writer import SEQUENTIAL, config_with, layer

EMBEDDING, LSTM, DENSE = SEQUENTIAL["config"]["layers"][1:]


def read(config, assume=None, keras_version="2.15.0"):
    assumptions = Assumptions(assume or {}, keras_version)
    spec, _ = read_architecture(config, assumptions)
    return spec, assumptions.sentences


def chain(*layers, inputs="keras_2"):
    """A functional model that is a chain of layers."""
    entries = [{"class_name": "InputLayer", "name": "entry", "config": {"name": "entry"},
                "inbound_nodes": []}]  # fmt: skip
    for each in copy.deepcopy(layers):
        before = entries[-1]["name"]
        node = [[[before, 0, 0, {}]]]
        if inputs == "keras_3":
            tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [before, 0, 0]}}
            node = [{"args": [tensor], "kwargs": {"training": False, "mask": None}}]
        entries.append(each | {"name": each["config"]["name"], "inbound_nodes": node})
    ends = {"input_layers": [["entry", 0, 0]], "output_layers": [[entries[-1]["name"], 0, 0]]}
    return {"class_name": "Functional", "config": {"name": "m", "layers": entries} | ends}


@pytest.fixture
def stored():
    """A function: a path and shapes → a stored layer without numbers."""

    def made(path, *shapes):
        arrays = (StoredArray(shape, "float32", lambda: np.zeros(1)) for shape in shapes)
        return StoredLayer(path, tuple(arrays), is_embedding="embed" in path)

    return made


def test_a_list_of_layers_is_the_sequential_model_of_keras_2_0():
    old = {"class_name": "Sequential", "config": SEQUENTIAL["config"]["layers"]}
    assert read(old) == read(SEQUENTIAL)


@pytest.mark.parametrize("inputs", ["keras_2", "keras_3"])
def test_a_functional_chain_is_read_in_the_order_of_its_links(inputs):
    config = chain(EMBEDDING, LSTM, DENSE, inputs=inputs)
    config["config"]["layers"].reverse()
    assert read(config) == read(SEQUENTIAL)


def test_a_branch_is_refused_by_the_layer_that_joins():
    config = chain(EMBEDDING, LSTM, DENSE)
    config["config"]["layers"][3]["inbound_nodes"] = [[["lstm", 0, 0, {}], ["embedding", 0, 0, {}]]]
    with pytest.raises(BadCheckpoint, match="'dense' cannot be served: it has 2 inputs"):
        read(config)


def test_an_initial_state_is_refused():
    config = chain(EMBEDDING, LSTM, DENSE)
    arguments = {"initial_state": [["entry", 0, 0]]}
    config["config"]["layers"][2]["inbound_nodes"] = [[["embedding", 0, 0, arguments]]]
    with pytest.raises(BadCheckpoint, match="'lstm' cannot be served: it has 2 inputs"):
        read(config)


def test_a_state_used_as_an_output_is_refused():
    config = chain(EMBEDDING, LSTM, DENSE)
    config["config"]["layers"][3]["inbound_nodes"] = [[["lstm", 0, 1, {}]]]
    with pytest.raises(BadCheckpoint, match="uses a state of layer 'lstm'"):
        read(config)


def test_links_in_a_circle_are_refused():
    config = chain(EMBEDDING, LSTM, DENSE)
    config["config"]["layers"][1]["inbound_nodes"] = [[["lstm", 0, 0, {}]]]
    with pytest.raises(BadCheckpoint, match="not a chain"):
        read(config)


def test_two_outputs_are_refused():
    config = chain(EMBEDDING, LSTM, DENSE)
    config["config"]["output_layers"].append(["lstm", 0, 0])
    with pytest.raises(BadCheckpoint, match="2 output_layers"):
        read(config)


def test_a_window_model_is_refused_unless_a_carried_state_is_wanted():
    window = config_with(return_sequences=False)
    with pytest.raises(BadCheckpoint, match=r'`assume` \{"state": "carried"\}'):
        read(window)
    _, sentences = read(window, {"state": "carried"})
    assert "'lstm' was trained to predict after a window" in sentences[0]


def test_a_stateful_layer_without_sequences_carries_its_state():
    _, sentences = read(config_with(return_sequences=False, stateful=True))
    assert sentences == []


def test_a_window_before_another_layer_is_refused():
    with pytest.raises(BadCheckpoint, match="yet another recurrent layer follows"):
        read(config_with(layer("LSTM", units=2), return_sequences=False))


def test_masking_is_ignored_and_noted():
    masked = {"class_name": "Embedding", "config": EMBEDDING["config"] | {"mask_zero": True}}
    assert "mask_zero is set" in read(config_with(replace={1: masked}))[1][0]


def test_options_without_a_say_in_the_numbers_are_ignored():
    noise = {"stateful": True, "dropout": 0.5, "unroll": True, "implementation": 1,
             "kernel_initializer": {"class_name": "Evil"}, "time_major": False}  # fmt: skip
    assert read(config_with(**noise)) == read(SEQUENTIAL)


def test_cudnn_layers_have_the_activations_that_cudnn_has():
    cudnn = layer("CuDNNGRU", units=2, return_sequences=True)
    spec, sentences = read(config_with(replace={2: cudnn}))
    assert spec.layers[0].cell == "gru"
    assert spec.layers[0].reset_after
    assert sentences == []


def test_a_gru_from_before_the_option_resets_before():
    gru = layer("GRU", units=2, return_sequences=True, activation="tanh",
                recurrent_activation="hard_sigmoid")  # fmt: skip
    spec, sentences = read(config_with(replace={2: gru}))
    assert not spec.layers[0].reset_after
    assert sentences == [
        "reset_after is assumed to be false: the file does not state it; `assume` can change it"
    ]


def test_no_activation_is_a_linear_one():
    assert read(config_with(activation=None))[0].layers[0].activation is Activation.LINEAR


def test_an_embedding_for_another_vocabulary_is_refused():
    other = {"class_name": "Embedding", "config": EMBEDDING["config"] | {"input_dim": 4}}
    with pytest.raises(BadCheckpoint, match=r"'embedding' .* has 4 tokens, but 'dense' predicts"):
        read(config_with(replace={1: other}))


@pytest.mark.parametrize(("missing", "what"), [(2, "recurrent"), (3, "Dense")])
def test_a_model_without_its_parts_is_refused(missing, what):
    config = copy.deepcopy(SEQUENTIAL)
    del config["config"]["layers"][missing:]
    with pytest.raises(BadCheckpoint, match=f"no {what} layer"):
        read(config)


def test_layers_out_of_order_are_put_in_the_one_order_in_which_widths_fit(stored):
    layers = [
        stored("b", (5, 28), (7, 28), (28,)),
        stored("a", (2, 15), (5, 15), (2, 15)),
        stored("embedding", (9, 2)),
        stored("dense", (7, 9), (9,)),
    ]
    assumptions = Assumptions({}, "3")
    spec, ordered = infer_spec(layers, assumptions)
    assert [each.path for each in ordered] == ["embedding", "a", "b", "dense"]
    assert [each.cell for each in spec.layers] == ["gru", "lstm"]
    assert "the order of layers is a, b" in assumptions.sentences


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ([("x", (3, 8), (2, 8), (8,)), ("dense", (4, 3), (3,))], "do not form one chain"),
        ([("dense", (4, 3), (3,))], "0 layers with the shapes"),
        ([("x", (3, 8), (2, 8), (8,))], "exactly one Dense"),
        ([("x", (3, 8), (2, 8), (8,)), ("norm", (2,), (2,)), ("dense", (2, 3), (3,))],
         "a kernel has two axes"),
        ([("x", (3, 8), (2, 8), (8,)), ("e", (4, 3)), ("dense", (2, 3), (3,))],
         "has 4 tokens, but the output predicts 3"),
        ([("x", (3, 8), (2, 8), (8,), (8,)), ("dense", (2, 3), (3,))], "it has 4 arrays"),
    ],
)  # fmt: skip
def test_shapes_of_another_model_are_refused(layers, sentence, stored):
    with pytest.raises(BadCheckpoint, match=sentence):
        infer_spec([stored(*each) for each in layers], Assumptions({}, "2"))


def test_a_bare_hard_sigmoid_needs_to_know_which_keras(stored):
    layers = [stored("x", (3, 8), (2, 8), (8,)), stored("dense", (2, 3), (3,))]
    assumptions = Assumptions({"recurrent_activation": "hard_sigmoid"}, None)
    with pytest.raises(Exception, match="hard_sigmoid_02 for Keras 2 or hard_sigmoid_6"):
        infer_spec(layers, assumptions)
