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
from service.models.window import Padding, Window
from tests.models.importing.keras_writer import SEQUENTIAL, config_with, layer

EMBEDDING, LSTM, DENSE = SEQUENTIAL["config"]["layers"][1:]


def read(config, assume=None, keras_version="2.15.0"):
    assumptions = Assumptions(assume or {}, keras_version)
    return read_architecture(config, assumptions).spec, assumptions.sentences


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


def merged(class_name, *extra, mask=None, **layer_options):
    """A model of Keras 3 with a masked Embedding, and an operation `merge` before its LSTM.

    `mask` are operations, each (class_name, arguments); a text is the name of a layer it reads.
    """
    config = chain(EMBEDDING, layer(class_name, **layer_options), LSTM, DENSE, inputs="keras_3")
    entries = config["config"]["layers"]
    entries[1]["config"]["mask_zero"] = True

    def tensor(value):
        if not isinstance(value, str):
            return value
        return {"class_name": "__keras_tensor__", "config": {"keras_history": [value, 0, 0]}}

    entries[2]["inbound_nodes"][0]["args"] = [tensor("embedding"), *map(tensor, extra)]
    for i, (operation, *arguments) in enumerate(mask or ()):
        node = {"args": [tensor(each) for each in arguments], "kwargs": {}}
        entries.append({"class_name": operation, "name": f"mask_{i}",
                        "config": {"name": f"mask_{i}"}, "inbound_nodes": [node]})  # fmt: skip
    if mask:
        entries[3]["inbound_nodes"][0]["kwargs"]["mask"] = tensor(f"mask_{len(mask) - 1}")
    return config


OWN = ("NotEqual", "entry", 0)


def test_the_mask_of_merged_layers_is_the_one_of_the_input():
    either = [("LogicalOr", f"mask_{i}", f"mask_{i}") for i in range(150)]
    spec, _ = read(merged("Add", "embedding", mask=[OWN, *either]))  # takes no 2**150 steps
    assert spec.mask_token == 0
    joined = [
        *(OWN, ("ExpandDims", "mask_0"), ("ZerosLike", "embedding"), ("LogicalOr", *_MASKS_1_2)),
        *(("Concatenate", "mask_3", "mask_3"), ("Any", "mask_4")),
    ]
    assert read(merged("Average", "embedding", mask=joined))[0].mask_token == 0


_MASKS_1_2 = ("mask_1", "mask_2")


@pytest.mark.parametrize(
    "mask",
    [
        [("NotEqual", "entry", 1)],
        [("NotEqual", "my_add", 0)],
        [OWN, ("NotEqual", "embedding", 0), ("LogicalOr", "mask_0", "mask_1")],
    ],
)
def test_a_mask_of_another_kind_is_refused(mask):
    with pytest.raises(BadCheckpoint, match=r"'lstm' .* a mask that is not its input's own"):
        read(merged("Add", "embedding", mask=mask))


@pytest.mark.parametrize("class_name", ["Add", "Multiply"])
@pytest.mark.parametrize("extra", [(0.5,), ()])
def test_a_calculation_with_a_number_is_refused(class_name, extra):
    with pytest.raises(BadCheckpoint, match="computes with a number that is written in the model"):
        read(merged(class_name, *extra, mask=[OWN]))


def test_layers_whose_steps_keras_zeroes_are_refused_before_a_flatten():
    config = with_length(4, return_sequences=True, zero_output_for_mask=True)
    config["config"]["layers"].insert(3, layer("Flatten"))
    assert read(config)[0].window == Window(4, Padding.LEFT, 0)
    config["config"]["layers"][1]["config"]["mask_zero"] = True
    with pytest.raises(BadCheckpoint, match=r"'lstm' .* gives zeros for masked pads"):
        read(config)
    both_ways = config["config"]["layers"][2] = layer("Bidirectional", layer=LSTM)
    both_ways["config"]["layer"]["config"]["return_sequences"] = True
    with pytest.raises(BadCheckpoint, match=r"'my_bidirectional' .* gives zeros for masked pads"):
        read(config)


def test_a_rescaling_after_the_input_reads_the_ids_themselves():
    config = one_hot(1, layer("Rescaling", scale=0.25))
    assumptions = Assumptions({}, "3")
    architecture = read_architecture(config, assumptions)
    assert architecture.sources[0].arrays[0].read().tolist() == [[0.0], [1.0], [2.0]]
    assert "which its first layer rescales" in assumptions.sentences[0]


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
    with pytest.raises(
        BadCheckpoint, match="'lstm' cannot be served: it reads the model's input beside"
    ):
        read(config)


def test_a_state_used_as_an_output_is_refused():
    config = chain(EMBEDDING, LSTM, DENSE)
    config["config"]["layers"][3]["inbound_nodes"] = [[["lstm", 0, 1, {}]]]
    with pytest.raises(BadCheckpoint, match="uses a state of layer 'lstm'"):
        read(config)


def test_links_in_a_circle_are_refused():
    config = chain(EMBEDDING, LSTM, DENSE)
    config["config"]["layers"][1]["inbound_nodes"] = [[["lstm", 0, 0, {}]]]
    with pytest.raises(BadCheckpoint, match="leads in a circle to 'lstm'"):
        read(config)


def test_two_outputs_are_refused():
    config = chain(EMBEDDING, LSTM, DENSE)
    config["config"]["output_layers"].append(["lstm", 0, 0])
    with pytest.raises(
        BadCheckpoint, match="1 input and 2 outputs; one stream of tokens is served"
    ):
        read(config)


def with_length(n, **options):
    """SEQUENTIAL with an input of n tokens, its LSTM returning the last step alone."""
    config = config_with(**{"return_sequences": False} | options)
    config["config"]["layers"][0]["config"]["batch_input_shape"] = [None, n]
    return config


def test_a_window_of_unknown_length_is_asked_for():
    with pytest.raises(BadCheckpoint, match=r"how many tokens are read for each .*assume\.window"):
        read(with_length(None))
    spec, _ = read(with_length(None), {"window": "7"})
    assert spec.window == Window(7, Padding.LEFT, 0)


def test_a_window_is_read_as_its_author_pads_it():
    spec, sentences = read(with_length(4))
    assert spec.window == Window(4, Padding.LEFT, 0)
    assert "latest 4 tokens are read from a zero state" in sentences[0]
    assert "padded with token 0 on the left" in sentences[0]
    right, _ = read(with_length(4), {"padding": "right", "pad": "2"})
    assert right.window == Window(4, Padding.RIGHT, 2)
    none, _ = read(with_length(4), {"padding": "none"})
    assert none.window == Window(4, Padding.NONE)


def test_a_window_is_carried_if_that_is_wanted():
    spec, sentences = read(with_length(4), {"state": "carried"})
    assert spec.window is None
    assert "'lstm' was trained to predict after a window" in sentences[0]


def test_a_window_is_read_where_the_file_would_carry_if_that_is_wanted():
    spec, _ = read(SEQUENTIAL, {"state": "window", "window": "6"})
    assert spec.window == Window(6, Padding.LEFT, 0)


@pytest.mark.parametrize(
    ("assume", "sentence"),
    [
        ({"window": "5"}, "a window of 4 tokens, but assume.window is 5"),
        ({"state": "carried", "window": "4"}, "leave one out"),
        ({"pad": "3"}, "the model has tokens 0 to 2"),
        ({"pad": "zero"}, "the model reads ids"),
        ({"scale": "9"}, "input is not scaled"),
        ({"mask": "true"}, "pads are not masked"),
    ],
)
def test_an_assumption_that_contradicts_the_file_is_refused(assume, sentence):
    with pytest.raises(BadCheckpoint, match=sentence):
        read(with_length(4), assume)


def bidirectional(**options):
    config = with_length(4)
    lstm = config["config"]["layers"][2]
    config["config"]["layers"][2] = layer("Bidirectional", layer=lstm, **options)
    return config


def test_a_bidirectional_cannot_be_carried():
    config = bidirectional()
    assert read(config)[0].window == Window(4, Padding.LEFT, 0)
    with pytest.raises(BadCheckpoint, match="'my_bidirectional' reads a whole window at once"):
        read(config, {"state": "carried"})


def one_hot(width, *before):
    """A window of 4 steps of `width` numbers, with no Embedding."""
    config = with_length(4)
    entry, _, *rest = config["config"]["layers"]
    entry["config"]["batch_input_shape"] = [None, 4, width]
    config["config"]["layers"] = [entry, *before, *rest]
    return config


def one_step_of(width):
    config = one_hot(width)
    config["config"]["layers"][0]["config"]["batch_input_shape"] = [None, 1, width]
    return config


def test_a_one_hot_window_is_filled_from_the_front_and_slides():
    assert read(one_hot(3))[0].window == Window(4, Padding.RIGHT, None, is_sliding=True)
    left = read(one_hot(3), {"padding": "left"})[0]
    assert left.window == Window(4, Padding.LEFT, 0)
    masked = read(one_hot(3, layer("Masking", mask_value=0.0)))[0]
    assert masked.mask_zero_input


def test_a_scaled_input_is_an_embedding_of_width_1():
    assumptions = Assumptions({}, "2")
    architecture = read_architecture(one_hot(1), assumptions)
    assert architecture.spec.embedding_dim == 1
    assert architecture.spec.window == Window(4, Padding.NONE)
    rows = architecture.sources[0].arrays[0].read()
    assert rows.tolist() == [[0.0], [np.float32(1 / 3)], [np.float32(2 / 3)]]
    assert "id divided by 3" in assumptions.sentences[0]
    by_9 = read_architecture(one_hot(1), Assumptions({"scale": "9"}, "2"))
    assert by_9.sources[0].arrays[0].read()[2] == np.float32(2 / 9)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (one_hot(300), "reads vectors of 300 numbers, and the file has no table from words"),
        (one_step_of(10), r"one step of 10 numbers: .* `X.reshape\(-1, 10, 1\)`"),
        (config_with(layer("Rescaling", scale=[1, 2])), "its scale is '\\[1, 2\\]', not a number"),
        (one_hot(4), "reads 4 tokens but predicts 3: was the padding counted once"),
        (with_length(4) | {"class_name": "MyModel"}, "'MyModel', whose code is not in the file"),
        (config_with(layer("Conv1D")), "'my_conv1d' cannot be served: it is a Conv1D; served are"),
        (config_with(layer("Dense", units=3, activation="sigmoid")), "no distribution over"),
        (config_with(layer("BatchNormalization", axis=1)), "its axis is 1"),
        (config_with(layer("LayerNormalization", rms_scaling=True)), "rms_scaling is True"),
        (config_with(layer("Masking", mask_value=0.0)), "a Masking is served after the input"),
        (config_with(consume_less="cpu"), "'lstm' .* those of Keras 1; load and save the model"),
        (bidirectional(merge_mode=None), "merge_mode is None"),
    ],
)
def test_what_cannot_be_served_is_refused_with_a_reason(config, sentence):
    if "no distribution" in sentence:
        del config["config"]["layers"][4]
    with pytest.raises(BadCheckpoint, match=sentence):
        read(config)


def test_a_stateful_layer_without_sequences_carries_its_state():
    _, sentences = read(config_with(return_sequences=False, stateful=True))
    assert sentences == []


def test_a_window_before_another_layer_is_refused():
    with pytest.raises(BadCheckpoint, match="yet another recurrent layer follows"):
        read(config_with(layer("LSTM", units=2, return_sequences=True), return_sequences=False))


def test_the_masked_token_is_in_the_spec():
    masked = {"class_name": "Embedding", "config": EMBEDDING["config"] | {"mask_zero": True}}
    assert read(config_with(replace={1: masked}))[0].mask_token == 0


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
    with pytest.raises(BadCheckpoint, match="reads 4 tokens but predicts 3: was the padding"):
        read(config_with(replace={1: other}))


@pytest.mark.parametrize(("missing", "what"), [(2, "Dense"), (3, "Dense")])
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
        ([("x", (3, 8), (2, 8), (8,))], "one Dense layer of the output: none"),
        ([("x", (3, 8), (2, 8), (8,)), ("norm", (2,), (2,)), ("dense", (2, 3), (3,))],
         "a kernel has two axes"),
        ([("x", (), (2, 8), (8,)), ("dense", (2, 3), (3,))], "a kernel has two axes"),
        ([("x", (3, 8), (2, 8, 1), (8,)), ("dense", (2, 3), (3,))],
         r"recurrent kernel has shape \(2, 8, 1\), not an LSTM's"),
        ([("x", (3, 8), (2, 8), (8,)), ("e", (4, 3)), ("dense", (2, 3), (3,))],
         "has 4 tokens, but the output predicts 3"),
        ([("x", (3, 8), (2, 8), (8,), (8,)), ("dense", (2, 3), (3,))], "it has 4 arrays"),
    ],
)  # fmt: skip
def test_shapes_of_another_model_are_refused(layers, sentence, stored):
    with pytest.raises(BadCheckpoint, match=sentence):
        infer_spec([stored(*each) for each in layers], Assumptions({}, "2"))


@pytest.mark.parametrize(
    "other",
    [
        ("layers/batch_normalization", (2,), (2,), (2,), (2,)),
        ("layers/layer_normalization", (2,), (2,)),
        ("layers/dense_1", (2, 2), (2,)),
        ("layers/bidirectional/forward_layer/cell", (3, 8), (2, 8), (8,)),
    ],
)
def test_weights_that_need_an_architecture_ask_for_it_with_the_lines_that_write_it(other, stored):
    layers = [("lstm", (3, 8), (2, 8), (8,)), other, ("dense", (2, 3), (3,))]
    with pytest.raises(BadCheckpoint) as error:
        infer_spec([stored(*each) for each in layers], Assumptions({}, "2"))
    assert (
        "give the architecture as `config` (--config model.json); in Python, where the model is "
        "built: `architecture = model.to_json()` and "
        "`open('model.json', 'w').write(architecture)`"
    ) in str(error.value)


def test_weights_of_a_scaled_input_need_the_window(stored):
    layers = [stored("lstm", (1, 8), (2, 8), (8,)), stored("dense", (2, 3), (3,))]
    with pytest.raises(BadCheckpoint, match=r"tokens are read for each .*assume\.window"):
        infer_spec(layers, Assumptions({}, "2"))
    spec, (source, *_) = infer_spec(layers, Assumptions({"window": "9", "scale": "4"}, "2"))
    assert spec.window == Window(9, Padding.NONE)
    assert source.arrays[0].read().tolist() == [[0.0], [0.25], [0.5]]


def test_weights_alone_are_read_as_a_window_if_that_is_wanted(stored):
    layers = [
        stored("embedding", (3, 2)),
        stored("lstm", (2, 8), (2, 8), (8,)),
        stored("dense", (2, 3), (3,)),
    ]
    assert infer_spec(layers, Assumptions({}, "2"))[0].window is None
    spec, _ = infer_spec(layers, Assumptions({"window": "9", "mask": "true"}, "2"))
    assert spec.window == Window(9, Padding.LEFT, 0)
    assert spec.mask_token == 0


def test_a_bare_hard_sigmoid_needs_to_know_which_keras(stored):
    layers = [stored("x", (3, 8), (2, 8), (8,)), stored("dense", (2, 3), (3,))]
    assumptions = Assumptions({"recurrent_activation": "hard_sigmoid"}, None)
    with pytest.raises(Exception, match="hard_sigmoid_02 for Keras 2 or hard_sigmoid_6"):
        infer_spec(layers, assumptions)
