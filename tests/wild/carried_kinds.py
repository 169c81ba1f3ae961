"""Kinds whose authors carry the state from token to token, or read the whole text again."""

import json

import numpy as np
from author import STEPS, Author, kind, shake, texts

TEXT, LINES = texts()
CHARS = sorted(set(TEXT))
C2I = {c: i for i, c in enumerate(CHARS)}
V = len(CHARS)


def carried_loop(author: Author, model, prompt: str) -> None:
    """Write as the tutorial does: the prompt at once, then one character at a time."""
    inputs, out = np.array([[C2I[c] for c in prompt]]), ""
    for _ in range(STEPS):
        logits = np.asarray(model(inputs))[0, -1]
        p = np.exp(logits - logits.max())
        best = int(np.argmax(logits))
        author.chose(p / p.sum(), best)
        inputs = np.array([[best]])
        out += CHARS[best]
    author.wrote(prompt, out)


@kind("TensorFlow tutorial, `Sequential`, stateful", "carried", "tf_keras")
def tutorial_sequential(author: Author) -> None:
    import tensorflow as tf

    k = author.k

    def build(batch: int):
        return k.Sequential(
            [
                k.layers.Embedding(V, 32, batch_input_shape=[batch, None]),
                k.layers.GRU(64, return_sequences=True, stateful=True),
                k.layers.Dense(V),
            ]
        )

    model = shake(build(16))
    folder = author.folder / "training_checkpoints"
    model.save_weights(str(folder / "ckpt_9"))
    one = build(1)
    one.load_weights(tf.train.latest_checkpoint(str(folder))).expect_partial()
    one.build(tf.TensorShape([1, None]))
    one.reset_states()
    carried_loop(author, one, "The old ")
    author.case("checkpoint", folder, vocabulary=json.dumps(CHARS))
    author.whole(one, vocabulary=json.dumps(CHARS))
    compiled = build(16)
    compiled.set_weights(model.get_weights())
    compiled.compile("adam", k.losses.SparseCategoricalCrossentropy(from_logits=True))
    zeros = np.zeros((16, 4), np.int32)
    compiled.train_on_batch(zeros, zeros)
    compiled.set_weights(model.get_weights())
    path = author.folder / "tfck"
    tf.train.Checkpoint(model=compiled, optimizer=compiled.optimizer).save(str(path / "ckpt"))
    author.case("tf.train.Checkpoint", path, vocabulary=json.dumps(CHARS))
    one.save(str(author.folder / "saved"))
    author.case("SavedModel", author.folder / "saved", vocabulary=json.dumps(CHARS))


@kind("TensorFlow tutorial, subclassed `MyModel` and `OneStep`", "carried")
def tutorial_subclassed(author: Author) -> None:
    import tensorflow as tf

    k = author.k
    vocabulary = ["[UNK]", *CHARS]
    size = len(vocabulary)

    class MyModel(k.Model):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = k.layers.Embedding(size, 32)
            self.gru = k.layers.GRU(64, return_sequences=True, return_state=True)
            self.dense = k.layers.Dense(size)

        def call(self, inputs, states=None, return_state=False, training=False):
            x = self.embedding(inputs)
            if states is None:
                x, states = self.gru(x, training=training)
            else:
                x, states = self.gru(x, initial_state=states, training=training)
            x = self.dense(x)
            return (x, states) if return_state else x

    model = MyModel()
    model(np.zeros((1, 3), np.int32))
    shake(model)
    prompt = "The old "
    ids, states, out = np.array([[C2I[c] + 1 for c in prompt]]), None, ""
    for _ in range(STEPS):
        logits, states = model(ids, states=states, return_state=True)
        logits = np.asarray(logits)[0, -1]
        p = np.exp(logits - logits.max())
        best = int(np.argmax(logits[1:])) + 1  # [UNK] is masked
        author.chose(p / p.sum(), best)
        ids = np.array([[best]])
        out += vocabulary[best]
    author.wrote(prompt, out)
    options = {"vocabulary": json.dumps(vocabulary), "assume": {"unknown_character": "unk"}}
    if author.is_keras_3:
        author.weights(model, **options)
    else:
        path = author.folder / "ck" / "ckpt_1"
        model.save_weights(str(path))
        author.case("checkpoint", path.parent, **options)
    path = author.folder / "tfck"
    tf.train.Checkpoint(model=model).save(str(path / "ckpt"))
    author.case("tf.train.Checkpoint", path, **options)


@kind("char-rnn-keras: stateful LSTMs, `TimeDistributed(Dense)`", "carried")
def char_rnn_keras(author: Author) -> None:
    layers = author.k.layers
    first = (
        [author.k.Input(batch_shape=(1, 1)), layers.Embedding(V, 24)]
        if author.is_keras_3
        else [layers.Embedding(V, 24, batch_input_shape=(1, 1))]
    )
    model = author.k.Sequential(
        [
            *first,
            layers.LSTM(48, return_sequences=True, stateful=True),
            layers.Dropout(0.2),
            layers.LSTM(48, return_sequences=True, stateful=True),
            layers.Dropout(0.2),
            layers.TimeDistributed(layers.Dense(V, activation="softmax")),
        ]
    )
    shake(model)
    prompt, out = "The king", ""
    for c in prompt[:-1]:
        model.predict_on_batch(np.array([[C2I[c]]]))
    last = C2I[prompt[-1]]
    for _ in range(STEPS):
        p = model.predict_on_batch(np.array([[last]]))[0, -1]
        last = int(np.argmax(p))
        author.chose(p, last)
        out += CHARS[last]
    author.wrote(prompt, out)
    author.whole(model, vocabulary=json.dumps(C2I))
    author.weights(model, vocabulary=json.dumps(C2I))


@kind("Géron: `Tokenizer(char_level=True)`, one-hot GRUs", "the whole text again", "tf_keras")
def geron(author: Author) -> None:
    k = author.k
    tokenizer = k.preprocessing.text.Tokenizer(char_level=True)
    tokenizer.fit_on_texts([TEXT])
    size = len(tokenizer.word_index)
    layers = k.layers
    model = shake(
        k.Sequential(
            [
                layers.GRU(32, return_sequences=True, input_shape=[None, size]),
                layers.GRU(32, return_sequences=True),
                layers.TimeDistributed(layers.Dense(size, activation="softmax")),
            ]
        )
    )
    text = prompt = "the king"
    for _ in range(STEPS):
        ids = np.array(tokenizer.texts_to_sequences([text])) - 1
        p = model.predict_on_batch(np.eye(size, dtype="float32")[ids])[0, -1]
        best = int(p.argmax())
        author.chose(p, best)
        text += tokenizer.sequences_to_texts([[best + 1]])[0]
    author.wrote(prompt, text[len(prompt) :])
    ordered = [c for c, _ in sorted(tokenizer.word_index.items(), key=lambda pair: pair[1])]
    author.whole(model, vocabulary=json.dumps(ordered), assume={"lower": "true"})


@kind("SimpleRNN, LayerNormalization, skip connection", "the whole text again")
def skip_connection(author: Author) -> None:
    k, layers = author.k, author.k.layers
    inputs = k.Input((None,), dtype="int32")
    x = layers.Embedding(V, 16)(inputs)
    a = layers.SimpleRNN(32, return_sequences=True)(x)
    b = layers.LayerNormalization()(layers.LSTM(32, return_sequences=True)(a))
    model = shake(k.Model(inputs, layers.Dense(V)(layers.Concatenate()([x, a, b]))), recurrent=0.8)
    whole_text_again(author, model, "The old ")
    author.whole(model, vocabulary=json.dumps(CHARS))


@kind("`RNN([cells])`, `StackedRNNCells`", "the whole text again")
def stacked_cells(author: Author) -> None:
    k, layers = author.k, author.k.layers
    cells = layers.StackedRNNCells([layers.GRUCell(24), layers.GRUCell(24)])
    model = k.Sequential(
        [
            k.Input((None,)) if author.is_keras_3 else layers.InputLayer((None,)),
            layers.Embedding(V, 16),
            layers.RNN([layers.LSTMCell(24), layers.LSTMCell(24)], return_sequences=True),
            layers.RNN(cells, return_sequences=True),
            layers.Dense(V, activation="softmax"),
        ]
    )
    whole_text_again(author, shake(model), "The old ")
    author.whole(model, vocabulary=json.dumps(CHARS))


def whole_text_again(author: Author, model, prompt: str) -> None:
    """Write with the whole text read again for each character."""
    ids, out = [C2I[c] for c in prompt], ""
    for _ in range(STEPS):
        row = np.asarray(model.predict_on_batch(np.array([ids], np.int32)))[0, -1]
        if row.min() < 0 or abs(row.sum() - 1) > 1e-3:
            row = np.exp(row - row.max())
            row /= row.sum()
        best = int(np.argmax(row))
        author.chose(row, best)
        ids.append(best)
        out += CHARS[best]
    author.wrote(prompt, out)
