"""Models of many architectures, written by a real Keras, each with its author's predictions.

`python architecture_files.py keras|tf_keras FOLDER` writes FOLDER/<name>.keras, <name>.h5 and
<name>.npy: the probabilities after each of TOKENS, (tokens, vocabulary). The rows that a windowed
model reads are made as its author makes them.
"""

import os
import sys
from pathlib import Path

# ruff: noqa: E402 - the choice of a Keras comes before the import of one

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
FRAMEWORK, FOLDER = sys.argv[1], Path(sys.argv[2])
os.environ["TF_USE_LEGACY_KERAS"] = "1" if FRAMEWORK == "tf_keras" else "0"

import numpy as np

if FRAMEWORK == "keras":
    import keras
else:
    import tf_keras as keras
L = keras.layers

V, N = 9, 5
TOKENS = [int(token) for token in np.random.default_rng(1).integers(1, V, size=3 * N)]


def chain(*layers, shape=(N,)):
    return keras.Sequential([keras.Input(shape), *layers])


def end(units=V):
    return L.Dense(units, activation="softmax")


def skip():
    entry = keras.Input((N,))
    x = L.Embedding(V, 4)(entry)
    a = L.LSTM(6, return_sequences=True)(x)
    b = L.Bidirectional(L.GRU(5, return_sequences=True), merge_mode="ave")(a)
    x = L.Concatenate()([x, a, b])
    c = L.LSTM(6)(x)
    d = L.SimpleRNN(6, go_backwards=True)(x)
    x = L.Multiply()([L.Add()([c, d]), L.Average()([d, c])])
    return keras.Model(entry, end()(x))


def masked():
    entry = keras.Input((N,))
    x = L.LSTM(6, return_sequences=True)(L.Embedding(V, 4, mask_zero=True)(entry))
    return keras.Model(entry, end()(L.Bidirectional(L.LSTM(5))(x)))


def residual():
    entry = keras.Input((N,))
    x = L.Embedding(V, 6, mask_zero=True)(entry)
    x = L.Add()([x, L.LSTM(6, return_sequences=True)(x)])
    x = L.Average()([L.GRU(6, return_sequences=True)(x), x])
    x = L.Concatenate()([x, L.LSTM(4, return_sequences=True)(x)])
    return keras.Model(entry, end()(L.LSTM(5)(x)))


def masking_residual():
    entry = keras.Input((N, V))
    x = L.Masking()(entry)
    x = L.Add()([x, L.LSTM(V, return_sequences=True)(x)])
    return keras.Model(entry, end()(L.LSTM(5)(x)))


def rectified():
    slope = {"alpha" if FRAMEWORK == "tf_keras" else "negative_slope": 0.1}
    return chain(
        *(L.Embedding(V, 4), L.LSTM(6, return_sequences=True), L.LeakyReLU()),
        L.TimeDistributed(L.LeakyReLU(**slope)),
        L.ReLU(max_value=0.4, negative_slope=0.25, threshold=0.05),
        *(L.GRU(6), L.ReLU(max_value=6), L.Rescaling(3.0, offset=-0.5), L.ReLU(), end()),
    )


def decoder():
    entry, h, c = keras.Input((None,)), keras.Input((6,)), keras.Input((6,))
    x = L.Embedding(V, 4)(entry)
    recurrent = L.LSTM(6, return_sequences=True, return_state=True)
    y, new_h, new_c = recurrent(x, initial_state=[h, c])
    return keras.Model([entry, h, c], [end()(y), new_h, new_c])


def unused_states():
    entry = keras.Input((None,))
    x, _, _ = L.LSTM(6, return_sequences=True, return_state=True)(L.Embedding(V, 4)(entry))
    return keras.Model(entry, L.TimeDistributed(end())(x))


def reversible():
    entry = keras.Input((None,))
    embedding = L.ReversibleEmbedding(V, 6)
    x = L.GRU(6, return_sequences=True)(embedding(entry))
    return keras.Model(entry, L.Softmax()(embedding(x, reverse=True)))


def many():
    recurrent = [L.LSTM(4, return_sequences=True) for _ in range(5)]
    return chain(L.Embedding(V, 4), *recurrent, end(), shape=(None,))


def ids(text):
    return np.array([0] * (N - len(text)) + text)[-N:]


def one_hot(text):
    rows = np.zeros((N, V))
    for i, token in enumerate(text[-N:]):
        rows[i, token] = 1
    return rows


def left_one_hot(text):
    return np.eye(V)[ids(text)]


def unscaled(text):
    return np.array(text[-N:], float)[:, None]


def scaled(text):
    return np.array(text[-N:])[:, None] / float(V)


def all_ids(text):
    return np.array(text)


MODELS = {
    "plain": (lambda: chain(L.Embedding(V, 4), L.LSTM(6), end()), ids),
    "two_dense": (
        lambda: chain(
            *(L.Embedding(V, 4), L.LSTM(6, return_sequences=True), L.Dropout(0.2), L.LSTM(6)),
            *(L.Dense(7, activation="relu"), L.Dense(V), L.Activation("softmax")),
        ),
        ids,
    ),
    "bidirectional": (
        lambda: chain(L.Embedding(V, 4), L.Bidirectional(L.LSTM(6)), L.Dense(8, "elu"), end()),
        ids,
    ),
    "bidirectional_mul": (
        lambda: chain(
            L.Embedding(V, 4),
            L.Bidirectional(L.GRU(6, return_sequences=True), merge_mode="mul"),
            L.Bidirectional(L.SimpleRNN(5), merge_mode="sum"),
            end(),
        ),
        ids,
    ),
    "one_hot": (lambda: chain(L.LSTM(6), end(), shape=(N, V)), one_hot),
    "masking": (lambda: chain(L.Masking(0.0), L.LSTM(6), end(), shape=(N, V)), one_hot),
    "left_one_hot": (lambda: chain(L.GRU(6), end(), shape=(N, V)), left_one_hot),
    "flatten": (
        lambda: chain(L.LSTM(6, return_sequences=True), L.Flatten(), end(), shape=(N, V)),
        left_one_hot,
    ),
    "piano": (
        lambda: chain(
            *(L.LSTM(6, return_sequences=True), L.LSTM(6), L.BatchNormalization()),
            *(L.Dropout(0.3), L.Dense(5), L.Activation("relu")),
            *(L.BatchNormalization(scale=False, epsilon=0.01), L.Dense(V), L.Softmax()),
            shape=(N, 1),
        ),
        scaled,
    ),
    "normalised": (
        lambda: chain(
            *(L.Embedding(V, 4), L.LayerNormalization(), L.LSTM(6, return_sequences=True)),
            *(L.LayerNormalization(center=False, epsilon=0.01), L.GRU(5, reset_after=False), end()),
        ),
        ids,
    ),
    "batch_of_steps": (
        lambda: chain(
            *(L.Embedding(V, 4), L.LSTM(6, return_sequences=True), L.BatchNormalization()),
            *(L.TimeDistributed(L.Dense(6, "tanh")), L.GaussianNoise(0.1), end()),
            shape=(None,),
        ),
        all_ids,
    ),
    "cells": (
        lambda: chain(
            L.Embedding(V, 4),
            L.RNN([L.LSTMCell(6), L.GRUCell(5), L.LSTMCell(4)], return_sequences=True),
            L.RNN(L.SimpleRNNCell(5), return_sequences=True),
            end(),
            shape=(None,),
        ),
        all_ids,
    ),
    "skip": (skip, ids),
    "masked": (masked, ids),
    "residual": (residual, ids),
    "masking_residual": (masking_residual, one_hot),
    "rectified": (rectified, ids),
    "rescaled": (lambda: chain(L.Rescaling(1 / V), L.LSTM(6), end(), shape=(N, 1)), unscaled),
    "decoder": (decoder, all_ids),
    "unused_states": (unused_states, all_ids),
    "many": (many, all_ids),
    "markov": (lambda: chain(L.Embedding(V, 4), L.LSTM(6), end(), shape=(1,)), lambda t: t[-1:]),
}
if FRAMEWORK == "keras":
    MODELS["reversible"] = (reversible, all_ids)


def probabilities(model, row, text):
    x = np.asarray(row(text))[None]
    if len(model.inputs) > 1:
        x = [x, np.zeros((1, 6)), np.zeros((1, 6))]
    # Eagerly where lengths differ: the graph of Keras 3.15's TimeDistributed is wrong then.
    predict = model if row is all_ids else model.predict_on_batch
    predicted = predict(x)
    predicted = np.asarray(predicted[0] if isinstance(predicted, list | tuple) else predicted)[0]
    return predicted[-1] if predicted.ndim == 2 else predicted


FOLDER.mkdir(parents=True, exist_ok=True)
for name, (make, row) in MODELS.items():
    keras.utils.set_random_seed(7)
    keras.backend.clear_session()
    model = make()
    rng = np.random.default_rng(7)
    arrays = [0.7 * rng.standard_normal(w.shape) for w in model.get_weights()]
    places = [i for i, w in enumerate(model.weights) if "moving_variance" in w.name]
    for i in places:
        arrays[i] = np.abs(arrays[i])
    model.set_weights(arrays)
    model.save(FOLDER / f"{name}.keras")
    model.save(FOLDER / f"{name}.h5")
    first = N if row in (scaled, unscaled) else 1
    texts = [TOKENS[:k] for k in range(first, len(TOKENS) + 1)]
    np.save(FOLDER / f"{name}.npy", [probabilities(model, row, text) for text in texts])
