"""Checkpoints of tf.train.Saver against TensorFlow 1's equations, written here from its paper."""

import json
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from service.errors import BadCheckpoint
from service.models.bundle import Precision
from service.models.importing.assumptions import Assumptions
from service.models.importing.canonical_weights import convert
from service.models.importing.detect_format import read_checkpoint
from service.models.importing.folder import ImportFolder
from service.models.importing.run_import import architecture_of
from service.models.program import OnnxProgram
from tests.models.importing.saver_writer import (
    CHAR_RNN,
    EMBEDDING,
    TOKENS,
    UNITS,
    saver_arrays,
    write_saver,
)

IDS = np.random.default_rng(5).integers(TOKENS, size=60)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, state, kernel, bias):
    """BasicLSTMCell: blocks i, j, f, o of [x; h], forget_bias 1."""
    h, c = state
    i, j, f, o = np.split(np.concatenate([x, h]) @ kernel + bias, 4)
    c = c * sigmoid(f + 1.0) + sigmoid(i) * np.tanh(j)
    h = np.tanh(c) * sigmoid(o)
    return h, (h, c)


def gru(x, state, gates, gates_bias, candidate, candidate_bias):
    """GRUCell of TensorFlow 1: blocks r, u; r before the product; u keeps."""
    (h,) = state
    r, u = np.split(sigmoid(np.concatenate([x, h]) @ gates + gates_bias), 2)
    c = np.tanh(np.concatenate([x, r * h]) @ candidate + candidate_bias)
    h = u * h + (1 - u) * c
    return h, (h,)


CELLS = {"basic_lstm_cell": (lstm, 2), "gru_cell": (gru, 1)}


def expected(arrays, cell, *, one_hot=False, output=("rnnlm/softmax_w", "rnnlm/softmax_b")):
    step, states = CELLS[cell]
    layers = [
        [a.astype(float) for name, a in arrays.items() if f"cell_{i}/" in name] for i in range(2)
    ]
    state = [(np.zeros(UNITS),) * states] * 2
    rows = []
    for token in IDS:
        x = np.eye(TOKENS)[token] if one_hot else arrays["embedding"][token].astype(float)
        for i in range(2):
            x, state[i] = step(x, state[i], *layers[i])
        rows.append(x @ arrays[output[0]] + arrays[output[1]])
    return np.array(rows)


def read(folder, source):
    with ImportFolder(folder, 1 << 30) as files:
        checkpoint = read_checkpoint(files, PurePosixPath(source))
        assumptions = Assumptions({}, checkpoint.keras_version)
        spec, layers = architecture_of(checkpoint, assumptions)
        return spec, convert(spec, layers, assumptions), assumptions.sentences


@pytest.mark.parametrize(
    ("cell", "renamed"),
    [
        ("basic_lstm_cell", {}),
        ("basic_lstm_cell", {"kernel": "weights", "/bias": "/biases"}),
        ("basic_lstm_cell", {"rnnlm/multi_rnn_cell": "rnn/multi_rnn_cell"}),
        ("basic_lstm_cell", {"basic_lstm_cell": "BasicLSTMCell/Linear", "kernel": "Matrix"}),
        ("gru_cell", {}),
    ],
)
def test_the_logits_are_those_of_tensorflow_1s_equations(cell, renamed, tmp_path, feed):
    arrays = saver_arrays(cell)
    named = {}
    for name, array in arrays.items():
        new = name
        for old, other in renamed.items():
            new = new.replace(old, other)
        named[new] = array
    write_saver(tmp_path / "save", named)
    spec, weights, notes = read(tmp_path, "save")
    assert spec.embedding_dim == EMBEDDING
    logits = feed(OnnxProgram(spec, weights, Precision.FLOAT32), IDS)
    assert np.abs(logits - expected(arrays, cell)).max() < 1e-4
    assert any("forget_bias" in note for note in notes) == (cell == "basic_lstm_cell")


def test_one_hot_inputs_and_hzy46s_names(tmp_path, feed):
    arrays = saver_arrays("basic_lstm_cell", inputs=TOKENS)
    del arrays["embedding"]
    arrays["softmax/Variable"] = arrays.pop("rnnlm/softmax_w")
    arrays["softmax/Variable_1"] = arrays.pop("rnnlm/softmax_b")
    write_saver(tmp_path / "save", arrays)
    spec, weights, _ = read(tmp_path, "save")
    assert spec.embedding_dim is None
    logits = feed(OnnxProgram(spec, weights, Precision.FLOAT32), IDS)
    wanted = expected(
        arrays, "basic_lstm_cell", one_hot=True, output=("softmax/Variable", "softmax/Variable_1")
    )
    assert np.abs(logits - wanted).max() < 1e-4


def test_slots_and_counters_are_not_weights(tmp_path):
    arrays = saver_arrays("basic_lstm_cell")
    slots = {f"{name}/Adam{i}": a for name, a in arrays.items() for i in ("", "_1")}
    slots |= {"rnnlm/softmax_w/my_average": arrays["rnnlm/softmax_w"]}
    write_saver(tmp_path / "save", arrays | slots | {"Variable": np.float32(0.002).reshape(())})
    spec, _, _ = read(tmp_path, "save")
    assert [layer.units for layer in spec.layers] == [UNITS, UNITS]


@pytest.mark.parametrize("path", ["/home/me/model.ckpt-1000", r"C:\\me\\model.ckpt-1000"])
def test_an_absolute_path_in_checkpoint_is_the_file_beside_it(path, tmp_path):
    write_saver(tmp_path / "save", saver_arrays("basic_lstm_cell"), state=path)
    _, _, notes = read(tmp_path, "save")
    assert any("model.ckpt-1000 beside it is read" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("rnn/layer_norm_basic_lstm_cell/kernel", "BasicLSTMCell, LSTMCell, GRUCell"),
        (f"{CHAR_RNN}/cell_0/basic_lstm_cell/w_f_diag", "has a variable 'w_f_diag'"),
        ("attention/v", "'attention/v' belongs to no layer"),
    ],
)
def test_other_variables_are_refused_by_name(name, sentence, tmp_path):
    write_saver(tmp_path / "save", saver_arrays("basic_lstm_cell") | {name: np.ones(5, "f4")})
    with pytest.raises(BadCheckpoint, match=sentence):
        read(tmp_path, "save")


@pytest.mark.tf
def test_a_file_of_tensorflows_own_saver_is_read(tmp_path):
    import tensorflow as tf  # noqa: PLC0415 - loaded by this test only

    arrays = saver_arrays("basic_lstm_cell")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, array in arrays.items():
            tf.compat.v1.get_variable(name, initializer=array)
        tf.compat.v1.train.get_or_create_global_step()
        session.run(tf.compat.v1.global_variables_initializer())
        folder = tmp_path / "made" / "save"
        folder.mkdir(parents=True)
        tf.compat.v1.train.Saver().save(session, str(folder / "model.ckpt"), 1000)
    (tmp_path / "made").rename(tmp_path / "moved")
    assert json.dumps(str(folder))[1:-1] in Path(tmp_path, "moved/save/checkpoint").read_text()
    ours = read(tmp_path, "moved/save")[1]
    write_saver(tmp_path / "save", arrays)
    other = read(tmp_path, "save")[1]
    assert all((ours[name] == other[name]).all() for name in other)
