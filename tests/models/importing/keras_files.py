"""A set of small networks, written by a real Keras in each of its formats.

`python keras_files.py keras|tf_keras FOLDER` writes FOLDER/<network>/<format> and, beside it,
expected.npz: Keras's logits for 256 random tokens and its greedy text, one step at a time.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

# ruff: noqa: E402, PLC0415 - the choice of a Keras comes before the import of one

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
FRAMEWORK, FOLDER = sys.argv[1], Path(sys.argv[2])
os.environ["TF_USE_LEGACY_KERAS"] = "1" if FRAMEWORK == "tf_keras" else "0"

import h5py
import numpy as np
import tensorflow as tf

if FRAMEWORK == "keras":
    import keras
else:
    import tf_keras as keras
layers = keras.layers

VOCABULARY = "\n !abcd中文字。"
SIZE = len(VOCABULARY)
TOKENS = np.random.default_rng(1).integers(SIZE, size=256)


def first(*shape):
    if FRAMEWORK == "keras":
        return {"input": [keras.Input(batch_shape=(1, None, *shape))], "first": {}}
    return {"input": [], "first": {"batch_input_shape": [1, None, *shape]}}


def sequential(*recurrent, embedding=True, **output):
    start = first() if embedding else first(SIZE)
    middle = []
    for i, (kind, options) in enumerate(recurrent):
        extra = {} if embedding or i else start["first"]
        middle.append(kind(return_sequences=True, stateful=True, **options, **extra))
        middle.append(layers.Dropout(0.2))
    entry = [layers.Embedding(SIZE, 6, **start["first"])] if embedding else []
    return keras.Sequential([*start["input"], *entry, *middle, layers.Dense(SIZE, **output)])


def functional():
    entry = keras.Input(batch_shape=(1, None))
    x = layers.Embedding(SIZE, 6, mask_zero=False)(entry)
    x = layers.GRU(12, return_sequences=True, stateful=True)(x)
    x = layers.Dropout(0.1)(x)
    x = layers.LSTM(10, return_sequences=True, stateful=True)(x)
    x = layers.TimeDistributed(layers.Dense(SIZE))(x)
    return keras.Model(entry, layers.Activation("softmax")(x))


class PeepholeLSTMCell(layers.LSTMCell):
    """The cell that TensorFlow had until 2.8."""

    def build(self, input_shape):
        super().build(input_shape)
        self.input_gate_peephole_weights = self.peephole("input")
        self.forget_gate_peephole_weights = self.peephole("forget")
        self.output_gate_peephole_weights = self.peephole("output")

    def peephole(self, gate):
        return self.add_weight(shape=(self.units,), name=f"{gate}_gate_peephole_weights")

    def call(self, inputs, states, training=None):  # noqa: ARG002 - Keras passes it
        h, c = states
        z = inputs @ self.kernel + h @ self.recurrent_kernel + self.bias
        z_i, z_f, z_g, z_o = tf.split(z, 4, axis=1)
        i = self.recurrent_activation(z_i + self.input_gate_peephole_weights * c)
        f = self.recurrent_activation(z_f + self.forget_gate_peephole_weights * c)
        c = f * c + i * self.activation(z_g)
        o = self.recurrent_activation(z_o + self.output_gate_peephole_weights * c)
        h = o * self.activation(c)
        return h, [h, c]


def peephole():
    cell = PeepholeLSTMCell(12, recurrent_activation="hard_sigmoid")
    embedding = layers.Embedding(SIZE, 6, batch_input_shape=[1, None])
    recurrent = layers.RNN(cell, return_sequences=True, stateful=True)
    return keras.Sequential([embedding, recurrent, layers.Dense(SIZE)])


LSTM, GRU = layers.LSTM, layers.GRU
UNUSUAL = {"units": 12, "use_bias": False, "recurrent_activation": "hard_sigmoid"}
NETWORKS = {
    "lstm": lambda: sequential((LSTM, {"units": 12})),
    "gru_after": lambda: sequential((GRU, {"units": 12, "reset_after": True})),
    "gru_before": lambda: sequential((GRU, {"units": 12, "reset_after": False})),
    "two_lstm": lambda: sequential((LSTM, {"units": 12}), (LSTM, {"units": 12})),
    "one_hot": lambda: sequential((LSTM, {"units": 12}), embedding=False, activation="softmax"),
    "functional": functional,
    "unusual": lambda: sequential((LSTM, UNUSUAL), use_bias=False),
}
if FRAMEWORK == "tf_keras":
    NETWORKS["peephole"] = peephole


def stateless(model):
    """The same model for any batch: Keras 3 cannot export one with states."""
    text = model.to_json().replace('"stateful": true', '"stateful": false')
    copy = keras.models.model_from_json(text.replace('_shape": [1, null', '_shape": [null, null'))
    copy.set_weights(model.get_weights())
    return copy


def write(name, model):
    folder = FOLDER / name
    folder.mkdir(parents=True)
    if FRAMEWORK == "tf_keras":
        model.save_weights(folder / "save_weights" / "ckpt_1")
        tf.train.Checkpoint(model=model).save(folder / "train_checkpoint" / "ckpt")
        model.save_weights(folder / "weights_only.h5")
        model.save(folder / "saved_model", save_format="tf")
    else:
        tf.train.Checkpoint(model=model).save(folder / "train_checkpoint" / "ckpt")
        stateless(model).export(folder / "exported", verbose=False)
        model.save_weights(folder / "sharded.weights.json", max_shard_size=3e-6)
    model.save(folder / "whole.h5")
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    for variable in model.optimizer.variables:
        variable.assign(tf.ones(variable.shape, variable.dtype))
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    checkpoint.save(folder / "compiled" / "ckpt")
    tf.train.Checkpoint(model=model).save(folder / "compiled_alone" / "ckpt")


def write_cudnn(name, model):
    """The same weights as CuDNN's layers kept them, converted by tf_keras itself."""
    from tf_keras.src.layers.rnn import cudnn_gru, cudnn_lstm
    from tf_keras.src.saving.legacy import hdf5_format

    embedding, recurrent, _, dense = model.layers
    kind = cudnn_lstm.CuDNNLSTM if name == "lstm" else cudnn_gru.CuDNNGRU
    weights = hdf5_format._convert_rnn_weights(kind(12), recurrent.get_weights())
    with h5py.File(FOLDER / name / "cudnn.h5", "w") as file:
        file.attrs["layer_names"] = [b"embedding", b"rnn", b"dense"]
        file.attrs["keras_version"] = b"2.2.4"
        for layer, arrays in (
            ("embedding", embedding.get_weights()),
            ("rnn", weights),
            ("dense", dense.get_weights()),
        ):
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{i}:0".encode() for i in range(len(arrays))]
            for i, array in enumerate(arrays):
                group[f"{layer}/{i}:0"] = array


def expected(model, is_one_hot):
    @tf.function
    def step(token):
        row = tf.reshape(token, [1, 1])
        return model(tf.one_hot(row, SIZE) if is_one_hot else row)[0, 0]

    def reset():
        for layer in model.layers:
            with contextlib.suppress(AttributeError):
                layer.reset_states()

    reset()
    logits = [step(tf.constant(token)).numpy() for token in TOKENS]
    reset()
    token, greedy = np.int64(3), []
    for _ in range(200):
        token = step(tf.constant(token)).numpy().argmax()
        greedy.append(token)
    return {"tokens": TOKENS, "logits": logits, "greedy": greedy}


for name, make in NETWORKS.items():
    keras.utils.set_random_seed(7)
    model = make()
    rng = np.random.default_rng(7)
    model.set_weights([0.4 * rng.standard_normal(w.shape) for w in model.get_weights()])
    write(name, model)
    if FRAMEWORK == "tf_keras" and name in ("lstm", "gru_after"):
        write_cudnn(name, model)
    np.savez(FOLDER / name / "expected.npz", **expected(model, name == "one_hot"))

(FOLDER / "vocabulary.json").write_text(json.dumps(list(VOCABULARY)))
