"""Trains small models as their authors do: `python trained.py <folder>`.

`sorted.keras` has the sorted characters of text.txt, `frequency.keras` those of its lower case by
frequency, `words.h5` is a next-word model of its lines, with a window and left pads.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tf_keras as k

_TEXT = """the old king of a small green hill told his horse that every river runs to sea and no
lamb was ever lost where little dogs laugh at moon or spoon while men fetch water in pails from
wells by mill doors under stars"""
WORDS = _TEXT.split()


def lines() -> list[str]:
    """Lines whose words follow each other by a rule, so that a small model can learn them."""
    random, found = np.random.default_rng(7), []
    for _ in range(400):
        i, line = int(random.integers(len(WORDS))), []
        for _ in range(int(random.integers(5, 9))):
            line.append(WORDS[i])
            i = (3 * i + int(random.integers(2))) % len(WORDS)
        found.append(" ".join(line).capitalize() + str(random.choice([".", "!", ", so?"])))
    return found


def characters(text: str, order: list[str], path: Path) -> None:
    c2i = {c: i for i, c in enumerate(order)}
    ids = np.array([c2i[c] for c in text])
    model = k.Sequential(
        [
            k.layers.Embedding(len(order), 24),
            k.layers.GRU(64, return_sequences=True),
            k.layers.Dense(len(order)),
        ]
    )
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(k.optimizers.Adam(1e-2), loss)
    n = (len(ids) - 1) // 40
    x, y = ids[: n * 40].reshape(n, 40), ids[1 : n * 40 + 1].reshape(n, 40)
    model.fit(x, y, batch_size=16, epochs=5, verbose=0)
    model.save(str(path))


def words(text: list[str], folder: Path) -> None:
    tokenizer = k.preprocessing.text.Tokenizer()
    tokenizer.fit_on_texts(text)
    total = len(tokenizer.word_index) + 1
    grams = [s[: i + 1] for s in tokenizer.texts_to_sequences(text) for i in range(1, len(s))]
    longest = max(map(len, grams))
    padded = k.preprocessing.sequence.pad_sequences(grams, maxlen=longest)
    model = k.Sequential(
        [
            k.layers.Embedding(total, 24, input_length=longest - 1),
            k.layers.LSTM(48),
            k.layers.Dense(total, activation="softmax"),
        ]
    )
    model.compile(k.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    model.fit(padded[:, :-1], padded[:, -1], epochs=8, batch_size=32, verbose=0)
    model.save(str(folder / "words.h5"))
    (folder / "tokenizer.json").write_text(tokenizer.to_json())


def main(folder: Path) -> None:
    text = lines()
    whole = "\n".join(text) + "\n"
    (folder / "text.txt").write_bytes(whole.encode())
    characters(whole, sorted(set(whole)), folder / "sorted.keras")
    lower = whole.lower()
    by_frequency = [c for c, _ in Counter(lower).most_common()]
    characters(lower, by_frequency, folder / "frequency.keras")
    words(text, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
