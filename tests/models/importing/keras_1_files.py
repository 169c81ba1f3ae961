"""A file as Keras 1 wrote it, with the probabilities that tf_keras computes from its numbers.

`python keras_1_files.py FOLDER` writes FOLDER/parts.h5, FOLDER/gpu.h5 (by `consume_less`), and
expected.npy: the probabilities after each of tokens.npy, (tokens, vocabulary).
"""

import json
import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import h5py
import numpy as np
import tf_keras as keras

FOLDER = Path(sys.argv[1])
L, V, WIDTH, UNITS = keras.layers, 9, 4, 6
TOKENS = np.random.default_rng(1).integers(0, V, 15)
_USUAL = {"trainable": True, "W_regularizer": None, "b_regularizer": None, "init": "uniform"}
_RECURRENT = _USUAL | {
    "output_dim": UNITS, "inner_init": "orthogonal", "activation": "tanh", "go_backwards": False,
    "inner_activation": "hard_sigmoid", "return_sequences": True, "stateful": False,
    "unroll": False, "U_regularizer": None, "dropout_W": 0.1, "dropout_U": 0.1,
    "input_length": None,
}  # fmt: skip


def config(consume_less):
    recurrent = _RECURRENT | {"consume_less": consume_less}
    layers = [
        ("Embedding", _USUAL | {
            "name": "embedding_1", "batch_input_shape": [None, None], "input_dtype": "int32",
            "input_dim": V, "output_dim": WIDTH, "input_length": None, "mask_zero": False,
            "activity_regularizer": None, "W_constraint": None, "dropout": 0.2,
        }),
        ("GRU", recurrent | {"name": "gru_1", "input_dim": WIDTH}),
        ("Dropout", {"name": "dropout_1", "p": 0.2, "trainable": True}),
        ("SimpleRNN", {k: v for k, v in recurrent.items() if k != "inner_activation"}
         | {"name": "simplernn_1", "input_dim": UNITS}),
        ("TimeDistributedDense", _USUAL | {
            "name": "timedistributeddense_1", "output_dim": V, "activation": "softmax",
            "activity_regularizer": None, "W_constraint": None, "b_constraint": None,
            "bias": True, "input_dim": UNITS, "input_length": None,
        }),
    ]  # fmt: skip
    listed = [{"class_name": name, "config": options} for name, options in layers]
    return {"class_name": "Sequential", "config": listed}


def write(name, consume_less, arrays):
    """Keras 1 stored one array for each gate and role, unless `consume_less` was gpu."""
    embedding, (kernel, recurrent, bias), simple, dense = arrays
    gates = [np.split(each, 3, axis=-1) for each in (kernel, recurrent, bias)]
    parts = {f"{role}_{gate}": gates[i][j] for j, gate in enumerate("zrh")
             for i, role in enumerate("WUb")}  # fmt: skip
    joined = dict(zip("WUb", (kernel, recurrent, bias), strict=True))
    layers = {
        "embedding_1": {"W": embedding},
        "gru_1": joined if consume_less == "gpu" else parts,
        "dropout_1": {},
        "simplernn_1": dict(zip("WUb", simple, strict=True)),
        "timedistributeddense_1": dict(zip("Wb", dense, strict=True)),
    }
    with h5py.File(FOLDER / name, "w") as file:
        file.attrs["keras_version"] = b"1.2.2"
        file.attrs["model_config"] = json.dumps(config(consume_less)).encode()
        weights = file.create_group("model_weights")
        weights.attrs["keras_version"] = b"1.2.2"
        weights.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, named in layers.items():
            group = weights.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}_{key}".encode() for key in named]
            for key, array in named.items():
                group[f"{layer}_{key}"] = array


FOLDER.mkdir(parents=True, exist_ok=True)
model = keras.Sequential(
    [
        keras.Input((None,)),
        L.Embedding(V, WIDTH),
        L.GRU(UNITS, reset_after=False, recurrent_activation="hard_sigmoid", return_sequences=True),
        L.SimpleRNN(UNITS, return_sequences=True),
        L.Dense(V, activation="softmax"),
    ]
)
rng = np.random.default_rng(7)
model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])
embedding, *others = [w.astype("float32") for w in model.get_weights()]
arrays = embedding, others[:3], others[3:6], others[6:]
write("parts.h5", "cpu", arrays)
write("gpu.h5", "gpu", arrays)
np.save(FOLDER / "expected.npy", np.asarray(model(TOKENS[None]))[0])
np.save(FOLDER / "tokens.npy", TOKENS)
