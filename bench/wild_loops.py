"""The generation loops of the tutorials and of the article, as their authors wrote them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf

from bench.baseline import build_model, generate_text


@dataclass(frozen=True, slots=True)
class Loop:
    """`run(n)` generates n tokens; `tokens` are enough for a measurement."""

    run: Callable[[int], Any]
    tokens: int


def one_hot() -> Loop:
    """Keras's example: a window of 40 one-hot characters, one `predict` each."""
    layers = keras.layers
    n, size = 40, 57
    model = keras.Sequential(
        [keras.Input((n, size)), layers.LSTM(128), layers.Dense(size, activation="softmax")]
    )

    def run(tokens: int) -> None:
        sentence = list(range(n))
        for _ in range(tokens):
            x = np.zeros((1, n, size))
            for t, i in enumerate(sentence):
                x[0, t, i] = 1.0
            preds = np.log(np.asarray(model.predict(x, verbose=0)[0]).astype("float64"))
            preds = np.exp(preds) / np.sum(np.exp(preds))
            sentence = [*sentence[1:], int(np.argmax(np.random.multinomial(1, preds, 1)))]  # noqa: NPY002 (theirs)

    return Loop(run, 20)


def next_word() -> Loop:
    """The next-word recipe: `pad_sequences` and one `predict` each."""
    layers, size = keras.layers, 3_000
    model = keras.Sequential(
        [
            keras.Input((15,)),
            layers.Embedding(size, 100),
            layers.LSTM(150),
            layers.Dense(size, activation="softmax"),
        ]
    )

    def run(tokens: int) -> None:
        text = [5, 6, 7]
        for _ in range(tokens):
            padded = keras.utils.pad_sequences([text], maxlen=15, padding="pre")
            text.append(int(np.argmax(model.predict(padded, verbose=0), axis=-1)[0]))

    return Loop(run, 20)


class MyModel(keras.Model):  # type: ignore[misc]
    """The tutorial's model: Embedding(66, 256) → GRU(1024) → Dense(66)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = keras.layers.Embedding(66, 256)
        self.gru = keras.layers.GRU(1024, return_sequences=True, return_state=True)
        self.dense = keras.layers.Dense(66)

    def call(self, inputs: Any, states: Any = None) -> Any:
        """Return logits and states."""
        x = self.embedding(inputs)
        if states is None:
            states = tf.zeros((tf.shape(x)[0], 1024))
        x, states = self.gru(x, initial_state=states)
        return self.dense(x), states


def one_step() -> Loop:
    """TensorFlow's tutorial: `OneStep.generate_one_step` with `@tf.function`."""
    model = MyModel()
    model(tf.zeros((1, 6), tf.int64))
    characters = [chr(48 + i) for i in range(65)]
    ids_from_chars = keras.layers.StringLookup(vocabulary=characters, mask_token=None)
    chars_from_ids = keras.layers.StringLookup(
        vocabulary=ids_from_chars.get_vocabulary(), invert=True, mask_token=None
    )
    mask = tf.one_hot(0, 66, on_value=-np.inf, off_value=0.0)  # [UNK] is never sampled

    @tf.function  # type: ignore[untyped-decorator]
    def generate_one_step(inputs: Any, states: Any = None) -> Any:
        ids = ids_from_chars(tf.strings.unicode_split(inputs, "UTF-8")).to_tensor()
        logits, states = model(ids, states=states)
        logits = logits[:, -1, :] / 1.0 + mask
        drawn = tf.squeeze(tf.random.categorical(logits, num_samples=1), axis=-1)
        return chars_from_ids(drawn), states

    def run(tokens: int) -> None:
        states, character = None, tf.constant(["ROMEO:"])
        text = [character]
        for _ in range(tokens):
            character, states = generate_one_step(character, states)
            text.append(character)
        tf.strings.join(text)[0].numpy().decode("utf-8")

    return Loop(run, 300)


def article() -> Loop:
    """The article's eager loop, as `bench.baseline` has it."""
    model = build_model()
    return Loop(lambda tokens: generate_text(model, tokens), 100)
