"""Files of textgenrnn's network and of models that read text, written by a real Keras.

`python text_files.py keras|tf_keras FOLDER` writes the models and, for each, <name>.npz: what the
author's model makes of `texts`.
"""

import json
import os
import sys
from pathlib import Path

# ruff: noqa: E402 - the choice of a Keras comes before the import of one

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
    from tf_keras.src.layers.rnn import cudnn_lstm
L, K = keras.layers, keras.backend

TEXTS = ["The CAT sat.", "a re-do,  don't", "sat on\tthe É mat", "zebra cat", "The end The", "mat"]
LENGTH = 7


def shaken(model):
    rng = np.random.default_rng(7)
    for weight in model.trainable_variables:
        weight.assign(0.7 * rng.standard_normal(weight.shape))
    return model


def save(name, model, texts, *endings):
    """Save a model that reads text, with the ids and the probabilities of each text."""
    shaken(model)
    for ending in endings:
        model.save(FOLDER / f"{name}{ending}")
    loop = []
    ids = [np.asarray(model.layers[0](tf.constant([text]))).ravel() for text in texts]
    predicted = [np.asarray(model(tf.constant([[text]]))).ravel() for text in texts]
    text = texts[0]
    for _ in range(3 * LENGTH):  # the author's loop
        row = np.asarray(model(tf.constant([[text]]))).ravel()
        word = model.layers[0].get_vocabulary()[row.argmax()]
        text += word if model.layers[0]._split == "character" else f" {word}"
        loop.append(row)
    padded = np.array([np.pad(row, (0, LENGTH))[:LENGTH] for row in ids])
    tokens = np.array(model.layers[0].get_vocabulary())
    np.savez(FOLDER / f"{name}.npz", ids=padded, probabilities=predicted, loop=loop, tokens=tokens)
    (FOLDER / f"{name}.json").write_text(json.dumps(texts))


def text_model(layer):
    size = len(layer.get_vocabulary())
    return keras.Sequential(
        [
            keras.Input((1,), dtype="string"),
            *(layer, L.Embedding(size, 8), L.LSTM(12), L.Dense(size, activation="softmax")),
        ]
    )


def text_models():
    listed = ["cat", "the", "sat", "mat", "on", "redo", "dont", "end", "a"]
    words = L.TextVectorization(output_sequence_length=LENGTH, vocabulary=listed)
    save("listed", text_model(words), TEXTS, ".keras", ".h5")
    adapted = L.TextVectorization(output_sequence_length=LENGTH, standardize="lower")
    adapted.adapt(TEXTS)
    save("adapted", text_model(adapted), TEXTS, ".keras")
    characters = L.TextVectorization(
        output_sequence_length=LENGTH, standardize=None, split="character"
    )
    characters.adapt(["The cat sat on a mat."])
    save("characters", text_model(characters), ["The cat", "sat", "xyz cat"], ".keras")


def lookup_models():
    """StringLookup in the model: it reads the characters of a text, or words that are split."""
    for name, options, texts in (
        ("lookup", {"vocabulary": sorted(set("the cat sat"))}, ["the cat", "sat x"]),
        ("masked_lookup", {"vocabulary": ["cat", "the", "sat"], "mask_token": ""}, ["the cat"]),
    ):
        layer = L.StringLookup(**options)
        size = layer.vocabulary_size()
        is_masked = "mask_token" in options
        inputs = keras.Input((None,), dtype="string")
        hidden = L.Embedding(size, 8, mask_zero=is_masked)(layer(inputs))
        hidden = L.LSTM(12, return_sequences=True)(hidden)
        model = shaken(keras.Model(inputs, L.Dense(size, activation="softmax")(hidden)))
        model.save(FOLDER / f"{name}.keras")
        split = [text.split() if is_masked else list(text) for text in texts]
        np.savez(
            FOLDER / f"{name}.npz",
            tokens=np.array(layer.get_vocabulary()),
            ids=[np.asarray(layer(tf.constant(each)))[:2] for each in split],
            probabilities=[np.asarray(model(tf.constant([each])))[0, -1] for each in split],
        )
        (FOLDER / f"{name}.json").write_text(json.dumps(texts))


def textgenrnn(name, *, is_cudnn, is_bidirectional):
    size, width, units, length = 12, 5, 6, 9

    class AttentionWeightedAverage(L.Layer):
        def build(self, shape):
            self.W = self.add_weight(shape=(shape[2], 1), name="attention_W")
            super().build(shape)

        def call(self, x):
            logits = K.reshape(K.dot(x, self.W), (-1, length))
            ai = K.exp(logits - K.max(logits, axis=-1, keepdims=True))
            weights = ai / (K.sum(ai, axis=1, keepdims=True) + K.epsilon())
            return K.sum(x * K.expand_dims(weights), axis=1)

    def network(kind):
        def rnn(number):
            if not is_bidirectional:
                return kind(units, return_sequences=True, name=f"rnn_{number}")
            return L.Bidirectional(kind(units, return_sequences=True), name=f"rnn_{number}")

        inputs = keras.Input((length,), name="input")
        embedded = L.Embedding(size, width, name="embedding")(inputs)
        first = rnn(1)(embedded)
        second = rnn(2)(first)
        joined = L.Concatenate(name="rnn_concat")([embedded, first, second])
        joined = AttentionWeightedAverage(name="attention")(joined)
        return keras.Model(inputs, L.Dense(size, activation="softmax", name="output")(joined))

    path = FOLDER / f"{name}.hdf5"
    if is_cudnn:
        shaken(network(cudnn_lstm.CuDNNLSTM)).save_weights(path, save_format="h5")
        model = network(L.LSTM)
        model.load_weights(path)  # Keras 2 converts
    else:
        model = shaken(network(L.LSTM))
        model.save_weights(path, save_format="h5")
    with h5py.File(path, "a") as file:
        file.attrs["keras_version"] = b"2.1.5"  # whose LSTM has hard sigmoids by default
    tokens = np.random.default_rng(3).integers(0, size, 3 * length)
    rows = [([0] * length + list(tokens[:n]))[-length:] for n in range(1, len(tokens) + 1)]
    np.savez(FOLDER / f"{name}.npz", tokens=tokens, probabilities=model.predict(np.array(rows)))


FOLDER.mkdir(parents=True, exist_ok=True)
text_models()
lookup_models()
if FRAMEWORK == "tf_keras":
    textgenrnn("plain", is_cudnn=False, is_bidirectional=False)
    textgenrnn("cudnn", is_cudnn=True, is_bidirectional=False)
    textgenrnn("both_ways", is_cudnn=True, is_bidirectional=True)
