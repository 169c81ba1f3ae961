"""Kinds whose authors read a window of characters or notes from a zero state for each token."""

import json

import numpy as np
from author import STEPS, Author, kind, shake, texts

TEXT, LINES = texts()
LOWER = TEXT.lower().replace("\n", " ")
CHARS = sorted(set(LOWER))
C2I = {c: i for i, c in enumerate(CHARS)}
V = len(CHARS)


def sequential(author: Author, shape: tuple[int, ...], *layers):
    """A Sequential model with its input's shape, as either Keras has it."""
    k = author.k
    first = k.Input(shape) if author.is_keras_3 else k.layers.InputLayer(shape)
    return k.Sequential([first, *layers])


def one_hot_loop(author: Author, model, length: int, seed: str) -> None:
    """Write as Keras's example does: a seed shorter than the window stays so."""
    sentence, out = seed, ""
    for _ in range(STEPS):
        x = np.zeros((1, length, V), np.float32)
        for t, char in enumerate(sentence):
            x[0, t, C2I[char]] = 1.0
        preds = model.predict_on_batch(x)[0]
        best = int(np.argmax(preds))
        author.chose(preds, best)
        sentence = sentence[1:] + CHARS[best]
        out += CHARS[best]
    author.wrote(seed, out)


@kind("Keras's `lstm_text_generation`", "window 40, one-hot, filled from the front")
def one_hot_window(author: Author) -> None:
    layers = author.k.layers
    model = sequential(author, (40, V), layers.LSTM(64), layers.Dense(V, activation="softmax"))
    shake(model)
    one_hot_loop(author, model, 40, LOWER[100:140])
    author.whole(model, vocabulary=json.dumps(CHARS))
    one_hot_loop(author, model, 40, "the old ")  # shorter than the window
    author.case(".keras, a short seed", author.folder / "model.keras", vocabulary=json.dumps(CHARS))
    author.weights(model, vocabulary=json.dumps(CHARS))
    author.case(
        ".weights.h5 with `assume`",
        author.folder / "model.weights.h5",
        vocabulary=json.dumps(CHARS),
        assume={"window": "40", "padding": "right"},
    )


@kind("character maps of Machine Learning Mastery", "window 10, left pads, one-hot")
def character_map(author: Author) -> None:
    layers = author.k.layers
    model = sequential(author, (10, V), layers.LSTM(75), layers.Dense(V, activation="softmax"))
    shake(model)
    text = seed = "the old"
    for _ in range(STEPS):
        encoded = [C2I[c] for c in text][-10:]
        encoded = [0] * (10 - len(encoded)) + encoded
        p = model.predict_on_batch(np.eye(V, dtype="float32")[[encoded]])[0]
        best = int(np.argmax(p))
        author.chose(p, best)
        text += CHARS[best]
    author.wrote(seed, text[len(seed) :])
    author.whole(model, vocabulary=json.dumps(C2I), assume={"padding": "left", "pad": "0"})


@kind("Machine Learning Mastery's Alice: `id / V`", "window 100, scaled, always full")
def scaled_integers(author: Author) -> None:
    layers = author.k.layers
    model = sequential(
        author,
        (100, 1),
        layers.LSTM(48, return_sequences=True),
        layers.Dropout(0.2),
        layers.LSTM(48),
        layers.Dropout(0.2),
        layers.Dense(V, activation="softmax"),
    )
    shake(model)
    seed = LOWER[300:400]
    pattern, out = [C2I[c] for c in seed], ""
    for _ in range(STEPS):
        x = np.reshape(pattern, (1, len(pattern), 1))
        x = x / float(V)
        p = model.predict_on_batch(x)[0]
        best = int(np.argmax(p))
        author.chose(p, best)
        out += CHARS[best]
        pattern.append(best)
        pattern = pattern[1:]
    author.wrote(seed, out)
    author.whole(model, vocabulary=json.dumps(CHARS))
    author.weights(model, vocabulary=json.dumps(CHARS))
    author.case(
        ".weights.h5 with `assume`",
        author.folder / "model.weights.h5",
        vocabulary=json.dumps(CHARS),
        assume={"window": "100", "padding": "none"},
    )


@kind("notes (Classical Piano Composer)", "window 50, scaled, always full")
def notes(author: Author) -> None:
    layers = author.k.layers
    names = sorted({"C4", "D4", "E-4", "F#5", "4.7.11", "0.4.7", "rest", "G3", "B2", "A5", "1.5.8"})
    n2i, size = {name: i for i, name in enumerate(names)}, len(names)
    model = sequential(
        author,
        (50, 1),
        layers.LSTM(32, return_sequences=True),
        layers.LSTM(32, return_sequences=True),
        layers.LSTM(32),
        layers.BatchNormalization(),
        layers.Dropout(0.3),
        layers.Dense(24, activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(0.3),
        layers.Dense(size, activation="softmax"),
    )
    shake(model)
    start = [names[i] for i in np.random.default_rng(3).integers(size, size=50)]
    pattern, out = [n2i[name] for name in start], []
    for _ in range(STEPS):
        x = np.reshape(pattern, (1, len(pattern), 1)) / float(size)
        p = model.predict_on_batch(x)[0]
        best = int(np.argmax(p))
        author.chose(p, best)
        out.append(names[best])
        pattern = [*pattern[1:], best]
    author.wrote(" ".join(start), "".join(" " + name for name in out))
    author.whole(model, vocabulary=json.dumps(names), assume={"tokenizer": "symbols"})
    author.weights(
        model,
        vocabulary=json.dumps(names),
        assume={"tokenizer": "symbols", "window": "50", "padding": "none"},
    )
    author.case(
        ".weights.h5 with `config`",
        author.folder / "model.weights.h5",
        vocabulary=json.dumps(names),
        config=model.to_json(),
        assume={"tokenizer": "symbols"},
    )


@kind("poems: characters, window 6, Bidirectional", "window 6, left pads")
def poems_bidirectional(author: Author) -> None:
    layers = author.k.layers
    model = sequential(
        author,
        (6,),
        layers.Embedding(V, 16),
        layers.Bidirectional(layers.GRU(24, return_sequences=True)),
        layers.Bidirectional(layers.LSTM(24), merge_mode="sum"),
        layers.Dense(V, activation="softmax"),
    )
    shake(model)
    left_pads(author, model, 6, "old")
    author.whole(model, vocabulary=json.dumps(CHARS))


@kind("poems: Flatten after the LSTM", "window 6, one-hot")
def poems_flatten(author: Author) -> None:
    layers = author.k.layers
    model = sequential(
        author,
        (6, V),
        layers.LSTM(32, return_sequences=True),
        layers.Flatten(),
        layers.Dense(V, activation="softmax"),
    )
    shake(model)
    one_hot_loop(author, model, 6, "the ol")
    author.whole(model, vocabulary=json.dumps(CHARS))


@kind("pads on the right (`np.pad`)", "window 12, right pads that are read")
def right_pads(author: Author) -> None:
    layers = author.k.layers
    model = sequential(
        author,
        (12,),
        layers.Embedding(V, 16),
        layers.LSTM(40),
        layers.Dense(V, activation="softmax"),
    )
    shake(model)
    text = seed = "the old"
    for _ in range(STEPS):
        ids = [C2I[c] for c in text][-12:]
        p = model.predict_on_batch(np.array([np.pad(ids, (0, 12 - len(ids)))]))[0]
        best = int(np.argmax(p))
        author.chose(p, best)
        text += CHARS[best]
    author.wrote(seed, text[len(seed) :])
    author.whole(model, vocabulary=json.dumps(CHARS), assume={"padding": "right"})


@kind("one word in, one word out", "window 1: the last character alone")
def markov(author: Author) -> None:
    layers = author.k.layers
    model = sequential(
        author,
        (1,),
        layers.Embedding(V, 10),
        layers.LSTM(50),
        layers.Dense(V, activation="softmax"),
    )
    shake(model)
    left_pads(author, model, 1, "the")
    author.whole(model, vocabulary=json.dumps(CHARS))


@kind("Masking before one-hot windows", "window 20, pads are skipped")
def masking(author: Author) -> None:
    layers = author.k.layers
    model = sequential(
        author,
        (20, V),
        layers.Masking(0.0),
        layers.LSTM(40),
        layers.Dense(V, activation="softmax"),
    )
    shake(model)
    one_hot_loop(author, model, 20, "the old")
    author.whole(model, vocabulary=json.dumps(CHARS))


def left_pads(author: Author, model, length: int, prompt: str) -> None:
    """Write with `pad_sequences`, whose pads are token 0."""
    pad = author.k.preprocessing.sequence.pad_sequences
    ids, out = [C2I[c] for c in prompt], ""
    for _ in range(STEPS):
        p = model.predict_on_batch(pad([ids], maxlen=length))[0]
        best = int(np.argmax(p))
        author.chose(p, best)
        ids.append(best)
        out += CHARS[best]
    author.wrote(prompt, out)


@kind("a fixed length, a prediction after each step", "window 10: the last ten characters, one-hot")
def fixed_length(author: Author) -> None:
    layers = author.k.layers
    model = sequential(
        author,
        (10, V),
        layers.LSTM(40, return_sequences=True),
        layers.TimeDistributed(layers.Dense(V, activation="softmax")),
    )
    shake(model)
    text = seed = "the old king of"
    for _ in range(STEPS):
        ids = [C2I[c] for c in text[-10:]]
        p = model.predict_on_batch(np.eye(V, dtype="float32")[[ids]])[0, -1]
        best = int(np.argmax(p))
        author.chose(p, best)
        text += CHARS[best]
    author.wrote(seed, text[len(seed) :])
    author.whole(model, vocabulary=json.dumps(CHARS))
