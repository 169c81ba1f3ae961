"""Kinds of other times and libraries: textgenrnn, tf.train.Saver, Keras 1, PyTorch, int8."""

import json

import h5py
import numpy as np
from author import STEPS, Author, kind, shake, texts
from carried_kinds import whole_text_again

TEXT, LINES = texts()
CHARS = sorted(set(TEXT))
C2I = {c: i for i, c in enumerate(CHARS)}
V = len(CHARS)
RANDOM = np.random.default_rng(5)


@kind("textgenrnn", "window 40, left pads, attention average", "tf_keras")
def textgenrnn(author: Author) -> None:
    k, layers = author.k, author.k.layers
    tokens = {c: i for i, c in enumerate([*CHARS, "<s>"], 1)}
    size, length, width, units = len(tokens) + 1, 40, 20, 24

    class AttentionWeightedAverage(layers.Layer):
        def build(self, shape):
            self.W = self.add_weight(shape=(shape[2], 1), name="attention_W")
            super().build(shape)

        def call(self, x):
            logits = k.backend.dot(x, self.W)
            logits = k.backend.reshape(logits, (-1, length))
            ai = k.backend.exp(logits - k.backend.max(logits, axis=-1, keepdims=True))
            weights = ai / (k.backend.sum(ai, axis=1, keepdims=True) + k.backend.epsilon())
            return k.backend.sum(x * k.backend.expand_dims(weights), axis=1)

    inputs = k.Input((length,), name="input")
    embedded = layers.Embedding(size, width, name="embedding")(inputs)
    embedded = layers.SpatialDropout1D(0.0, name="dropout")(embedded)
    rnn_1 = layers.LSTM(units, return_sequences=True, name="rnn_1")(embedded)
    rnn_2 = layers.LSTM(units, return_sequences=True, name="rnn_2")(rnn_1)
    joined = layers.Concatenate(name="rnn_concat")([embedded, rnn_1, rnn_2])
    attention = AttentionWeightedAverage(name="attention")(joined)
    outputs = layers.Dense(size, activation="softmax", name="output")(attention)
    model = shake(k.Model(inputs, outputs), quiet=(0, size - 1))
    text, names = "The old ", {i: c for c, i in tokens.items()}
    whole = ["<s>", *text]
    out = ""
    for _ in range(STEPS):
        encoded = np.array([tokens.get(c, 0) for c in whole])
        encoded = k.preprocessing.sequence.pad_sequences([encoded], maxlen=length)
        p = model.predict_on_batch(encoded)[0]
        best = int(np.argmax(p))
        author.chose(p, best)
        whole.append(names[best])
        out += names[best]
    author.wrote(text, out)
    path = author.folder / "textgenrnn_weights.hdf5"
    model.save_weights(str(path), save_format="h5")
    config = {
        "rnn_layers": 2, "rnn_size": units, "rnn_bidirectional": False, "max_length": length,
        "max_words": 10000, "dim_embeddings": width, "word_level": False, "single_text": False,
    }  # fmt: skip
    author.case("weights `.hdf5`", path, vocabulary=json.dumps(tokens), config=json.dumps(config))


@kind("char-rnn-tensorflow (`tf.train.Saver`)", "carried", "tf_keras")
def char_rnn_tensorflow(author: Author) -> None:
    import tensorflow as tf

    units = 24
    arrays = {
        "embedding": RANDOM.normal(0, 1.5, (V, units)),
        "rnnlm/softmax_w": RANDOM.normal(0, 0.5, (units, V)),
        "rnnlm/softmax_b": RANDOM.normal(0, 0.3, V),
    }
    for i in (0, 1):
        cell = f"rnnlm/multi_rnn_cell/cell_{i}/basic_lstm_cell"
        arrays[f"{cell}/kernel"] = RANDOM.normal(0, 0.6, (2 * units, 4 * units))
        arrays[f"{cell}/bias"] = RANDOM.normal(0, 0.3, 4 * units)
    arrays = {name: a.astype(np.float32) for name, a in arrays.items()}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, array in arrays.items():
            tf.compat.v1.get_variable(name, initializer=array)
        tf.compat.v1.get_variable("global_step", initializer=np.int64(1000))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(author.folder / "save/model.ckpt"), 1000)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    state = [(np.zeros(units), np.zeros(units)) for _ in (0, 1)]

    def step(token):
        x = arrays["embedding"][token]
        for i in (0, 1):
            cell = f"rnnlm/multi_rnn_cell/cell_{i}/basic_lstm_cell"
            c, h = state[i]
            z = np.concatenate([x, h]) @ arrays[f"{cell}/kernel"] + arrays[f"{cell}/bias"]
            i_, j, f, o = np.split(z, 4)
            c = c * sigmoid(f + 1.0) + sigmoid(i_) * np.tanh(j)
            h = np.tanh(c) * sigmoid(o)
            state[i], x = (c, h), h
        logits = x @ arrays["rnnlm/softmax_w"] + arrays["rnnlm/softmax_b"]
        e = np.exp(logits - logits.max())
        return e / e.sum()

    prompt, out = "The ", ""
    for c in prompt[:-1]:
        step(C2I[c])
    token = C2I[prompt[-1]]
    for _ in range(STEPS):
        p = step(token)
        token = int(np.argmax(p))
        author.chose(p, token)
        out += CHARS[token]
    author.wrote(prompt, out)
    author.case("tf.train.Saver", author.folder / "save", vocabulary=json.dumps(CHARS))


@kind("Keras 1", "window 40, one-hot, filled from the front", "tf_keras")
def keras_1(author: Author) -> None:
    units, length = 24, 20
    names = [f"lstm_1_{m}_{g}" for g in "icfo" for m in "WUb"]
    shapes = {"W": (V, units), "U": (units, units), "b": (units,)}
    lstm = {n: RANDOM.normal(0, 0.7, shapes[n.split("_")[2]]).astype(np.float32) for n in names}
    dense = {
        "dense_1_W": RANDOM.normal(0, 0.6, (units, V)).astype(np.float32),
        "dense_1_b": RANDOM.normal(0, 0.3, V).astype(np.float32),
    }
    with h5py.File(author.folder / "model.h5", "w") as file:
        weights = file.create_group("model_weights")
        file.attrs["model_config"] = json.dumps(
            {"class_name": "Sequential", "config": [
                {"class_name": "LSTM", "config": {
                    "name": "lstm_1", "output_dim": units, "init": "glorot_uniform",
                    "inner_init": "orthogonal", "forget_bias_init": "one", "activation": "tanh",
                    "inner_activation": "hard_sigmoid", "return_sequences": False,
                    "go_backwards": False, "stateful": False, "consume_less": "cpu",
                    "unroll": False, "trainable": True, "W_regularizer": None,
                    "U_regularizer": None, "b_regularizer": None,
                    "input_dim": V, "dropout_W": 0.0, "dropout_U": 0.0, "input_dtype": "float32",
                    "batch_input_shape": [None, length, V], "input_length": length}},
                {"class_name": "Dense", "config": {
                    "name": "dense_1", "output_dim": V, "bias": True, "activation": "linear",
                    "init": "glorot_uniform", "trainable": True, "W_regularizer": None,
                    "b_regularizer": None, "activity_regularizer": None, "W_constraint": None,
                    "b_constraint": None, "input_dim": None}},
                {"class_name": "Activation", "config": {
                    "name": "activation_1", "trainable": True, "activation": "softmax"}}]}
        ).encode()  # fmt: skip
        weights.attrs["layer_names"] = [b"lstm_1", b"dense_1", b"activation_1"]
        for name, arrays in (("lstm_1", lstm), ("dense_1", dense), ("activation_1", {})):
            group = weights.create_group(name)
            group.attrs["weight_names"] = [a.encode() for a in arrays]
            for a, value in arrays.items():
                group[a] = value

    def hard(x):
        return np.clip(0.2 * x + 0.5, 0, 1)

    def net(window):
        h = c = np.zeros(units)
        for x in window:
            z = {g: x @ lstm[f"lstm_1_W_{g}"] + h @ lstm[f"lstm_1_U_{g}"] + lstm[f"lstm_1_b_{g}"]
                 for g in "icfo"}  # fmt: skip
            c = hard(z["f"]) * c + hard(z["i"]) * np.tanh(z["c"])
            h = hard(z["o"]) * np.tanh(c)
        logits = h @ dense["dense_1_W"] + dense["dense_1_b"]
        e = np.exp(logits - logits.max())
        return e / e.sum()

    sentence = seed = TEXT[100 : 100 + length]
    out = ""
    for _ in range(STEPS):
        x = np.zeros((length, V), np.float32)
        for t, char in enumerate(sentence):
            x[t, C2I[char]] = 1.0
        p = net(x)
        best = int(np.argmax(p))
        author.chose(p, best)
        sentence = sentence[1:] + CHARS[best]
        out += CHARS[best]
    author.wrote(seed, out)
    author.case(".h5", author.folder / "model.h5", vocabulary=json.dumps(CHARS))


def plain(author: Author):
    """An Embedding, an LSTM and a Dense, for kinds that differ in their files."""
    k, layers = author.k, author.k.layers
    return shake(
        k.Sequential(
            [
                k.Input((None,)) if author.is_keras_3 else layers.InputLayer((None,)),
                layers.Embedding(V, 16),
                layers.LSTM(32, return_sequences=True),
                layers.Dense(V),
            ]
        )
    )


@kind("sharded weights, `export()`", "the whole text again", "keras")
def keras_3_files(author: Author) -> None:
    model = plain(author)
    whole_text_again(author, model, "The old ")
    options = {"vocabulary": json.dumps(CHARS)}
    model.save_weights(str(author.folder / "s.weights.json"), max_shard_size=0.00003)
    author.case(".weights.json", author.folder / "s.weights.json", **options)
    model.export(str(author.folder / "exported"), verbose=False)
    author.case("export()", author.folder / "exported", **options)


@kind("quantised int8", "float32 arithmetic on the stored weights", "keras")
def quantised(author: Author) -> None:
    model = plain(author)
    model.quantize("int8")
    model.save(str(author.folder / "model.keras"))
    # The promise is float32 arithmetic on the stored weights, so the author's net has those.
    copy = plain(author)
    for mine, layer in zip(copy.layers, model.layers, strict=True):
        stored = {w.path.rpartition("/")[2]: np.asarray(w, np.float32) for w in layer.weights}
        for name, axis in (("kernel", 0), ("embeddings", 1)):
            scale = stored.pop(f"{name}_scale", None)
            if scale is not None:
                stored[name] /= np.expand_dims(scale.ravel(), axis)
        mine.set_weights([stored[w.path.rpartition("/")[2]] for w in mine.weights])
    whole_text_again(author, copy, "The old ")
    author.case(".keras", author.folder / "model.keras", vocabulary=json.dumps(CHARS))


@kind("tied `ReversibleEmbedding`", "the whole text again", "keras")
def tied(author: Author) -> None:
    k, layers = author.k, author.k.layers
    embedding = layers.ReversibleEmbedding(V, 24)
    inputs = k.Input((None,), dtype="int32")
    hidden = layers.LSTM(24, return_sequences=True)(embedding(inputs))
    model = shake(k.Model(inputs, embedding(hidden, reverse=True)))
    whole_text_again(author, model, "The old ")
    author.whole(model, vocabulary=json.dumps(CHARS))


@kind("PyTorch LSTM or GRU in safetensors", "carried", "keras")
def pytorch(author: Author) -> None:
    from safetensors.numpy import save_file

    units, width = 24, 16

    def normal(*shape, gain=0.6):
        return RANDOM.normal(0, gain, shape).astype(np.float32)

    arrays = {
        "embedding.weight": normal(V, width, gain=1.5),
        "rnn.weight_ih_l0": normal(3 * units, width),
        "rnn.weight_hh_l0": normal(3 * units, units),
        "rnn.bias_ih_l0": normal(3 * units),
        "rnn.bias_hh_l0": normal(3 * units),
        "fc.weight": normal(V, units),
        "fc.bias": normal(V),
    }
    save_file(arrays, author.folder / "model.safetensors")
    h = np.zeros(units)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def step(token, h):
        x = arrays["embedding.weight"][token]
        gi = arrays["rnn.weight_ih_l0"] @ x + arrays["rnn.bias_ih_l0"]
        gh = arrays["rnn.weight_hh_l0"] @ h + arrays["rnn.bias_hh_l0"]
        (ir, iz, in_), (hr, hz, hn) = np.split(gi, 3), np.split(gh, 3)
        r, z = sigmoid(ir + hr), sigmoid(iz + hz)
        n = np.tanh(in_ + r * hn)
        h = (1 - z) * n + z * h
        logits = arrays["fc.weight"] @ h + arrays["fc.bias"]
        e = np.exp(logits - logits.max())
        return e / e.sum(), h

    prompt, out = "The old ", ""
    for c in prompt[:-1]:
        _, h = step(C2I[c], h)
    token = C2I[prompt[-1]]
    for _ in range(STEPS):
        p, h = step(token, h)
        token = int(np.argmax(p))
        author.chose(p, token)
        out += CHARS[token]
    author.wrote(prompt, out)
    author.case("GRU", author.folder / "model.safetensors", vocabulary=json.dumps(CHARS))
