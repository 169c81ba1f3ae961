"""PyTorch's layout in safetensors against the equations of PyTorch's documentation, in NumPy."""

from pathlib import PurePosixPath

import numpy as np
import pytest
from safetensors.numpy import save_file

from service.errors import BadCheckpoint
from service.models.bundle import Precision
from service.models.importing.assumptions import Assumptions
from service.models.importing.canonical_weights import convert
from service.models.importing.detect_format import read_checkpoint
from service.models.importing.folder import ImportFolder
from service.models.importing.run_import import architecture_of
from service.models.program import OnnxProgram

TOKENS, WIDTH, UNITS, LAYERS = 9, 5, 6, 2
GATES = {"lstm": 4, "gru": 3}
IDS = np.random.default_rng(2).integers(TOKENS, size=60)


def state_dict(kind, names=("embedding", "fc"), *, bias=True, dtype="float32"):
    rng = np.random.default_rng(8)
    embedding, output = names
    shapes = {f"{embedding}.weight": (TOKENS, WIDTH)} if embedding else {}
    for i in range(LAYERS):
        inputs = UNITS if i else WIDTH if embedding else TOKENS
        shapes[f"{kind}.weight_ih_l{i}"] = (GATES[kind] * UNITS, inputs)
        shapes[f"{kind}.weight_hh_l{i}"] = (GATES[kind] * UNITS, UNITS)
        if bias:
            shapes[f"{kind}.bias_ih_l{i}"] = (GATES[kind] * UNITS,)
            shapes[f"{kind}.bias_hh_l{i}"] = (GATES[kind] * UNITS,)
    shapes |= {f"{output}.weight": (TOKENS, UNITS), f"{output}.bias": (TOKENS,)}
    return {name: rng.normal(0, 0.7, shape).astype(dtype) for name, shape in shapes.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, h, c, w_ih, w_hh, b_ih, b_hh):
    i, f, g, o = np.split(w_ih @ x + b_ih + w_hh @ h + b_hh, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(x, h, c, w_ih, w_hh, b_ih, b_hh):
    i_r, i_z, i_n = np.split(w_ih @ x + b_ih, 3)
    h_r, h_z, h_n = np.split(w_hh @ h + b_hh, 3)
    r, z = sigmoid(i_r + h_r), sigmoid(i_z + h_z)
    n = np.tanh(i_n + r * h_n)
    return (1 - z) * n + z * h, c


def expected(kind, tensors, names=("embedding", "fc"), *, bias=True):
    tensors = {name: array.astype(float) for name, array in tensors.items()}
    embedding, output = names
    states, rows = [(np.zeros(UNITS), np.zeros(UNITS))] * LAYERS, []
    for token in IDS:
        x = tensors[f"{embedding}.weight"][token] if embedding else np.eye(TOKENS)[token]
        for i in range(LAYERS):
            w = [tensors[f"{kind}.weight_{part}_l{i}"] for part in ("ih", "hh")]
            b = [tensors[f"{kind}.bias_{part}_l{i}"] if bias else 0.0 for part in ("ih", "hh")]
            states[i] = {"lstm": lstm, "gru": gru}[kind](x, *states[i], *w, *b)
            x = states[i][0]
        rows.append(tensors[f"{output}.weight"] @ x + tensors[f"{output}.bias"])
    return np.array(rows)


def read(folder, name="model.safetensors"):
    with ImportFolder(folder, 1 << 30) as files:
        checkpoint = read_checkpoint(files, PurePosixPath(name))
        assumptions = Assumptions({}, checkpoint.keras_version)
        spec, layers = architecture_of(checkpoint, assumptions)
        return spec, convert(spec, layers, assumptions), assumptions.sentences


@pytest.mark.parametrize("names", [("embedding", "fc"), ("encoder", "decoder"), (None, "linear")])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_logits_are_those_of_pytorchs_equations(kind, bias, names, tmp_path, feed):
    tensors = state_dict(kind, names, bias=bias)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    spec, weights, notes = read(tmp_path)
    logits = feed(OnnxProgram(spec, weights, Precision.FLOAT32), IDS)
    assert np.abs(logits - expected(kind, tensors, names, bias=bias)).max() < 1e-4
    assert notes == []  # PyTorch's activations are fixed


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_float_types_are_read(dtype, tmp_path, feed):
    tensors = state_dict("gru", dtype=dtype)
    save_file(tensors, tmp_path / "model.safetensors")
    spec, weights, _ = read(tmp_path)
    logits = feed(OnnxProgram(spec, weights, Precision.FLOAT32), IDS)
    assert np.abs(logits - expected("gru", tensors)).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("lstm.weight_ih_l0_reverse", (24, 5), "reads the text from its end"),
        ("lstm.weight_hr_l0", (3, 6), "proj_size"),
        ("conv.weight", (3, 3, 3), "layer 'conv' cannot be served"),
        ("norm.running_mean", (3,), "layer 'norm' cannot be served"),
        ("lstm.weight_ih_l2", (24, 6), "only one of weight_ih and weight_hh"),
    ],
)
def test_other_layers_are_refused_by_name(name, shape, sentence, tmp_path):
    tensors = state_dict("lstm") | {name: np.zeros(shape, "f4")}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=sentence):
        read(tmp_path)


def test_a_transformer_is_refused_by_its_tensors(tmp_path):
    save_file({"h.0.attn.weight": np.zeros((3, 3), "f4")}, tmp_path / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"it has h\.0\.attn\.weight"):
        read(tmp_path)
