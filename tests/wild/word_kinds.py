"""Kinds whose tokens are words or pieces of words."""

import json

import numpy as np
from author import STEPS, Author, kind, shake, texts

TEXT, LINES = texts()


def tokenizer_class(author: Author):
    """The `Tokenizer` that authors import, in either Keras."""
    if author.is_keras_3:
        from keras.src.legacy.preprocessing.text import Tokenizer

        return Tokenizer
    return author.k.preprocessing.text.Tokenizer


def word_loop(author: Author, model, tokenizer, length: int, prompt: str, **padding) -> None:
    """Write as the Streamlit pages do: tokenize the whole text, pad, predict, argmax, look up."""
    pad_sequences = author.k.preprocessing.sequence.pad_sequences
    seed_text = prompt
    for _ in range(STEPS):
        token_list = tokenizer.texts_to_sequences([seed_text])[0]
        token_list = pad_sequences([token_list], maxlen=length, padding="pre", **padding)
        predicted = model.predict_on_batch(token_list)[0]
        best = int(np.argmax(predicted))
        author.chose(predicted, best)
        output_word = ""
        for word, index in tokenizer.word_index.items():
            if index == best:
                output_word = word
                break
        seed_text += " " + output_word
    author.wrote(prompt, seed_text[len(prompt) :])


def fitted(author: Author, **options):
    """A Tokenizer fitted on the lines, and the length of the longest line less one."""
    tokenizer = tokenizer_class(author)(**options)
    tokenizer.fit_on_texts(LINES)
    length = max(map(len, tokenizer.texts_to_sequences(LINES))) - 1
    return tokenizer, length


def sequential(author: Author, length: int, *layers):
    """A Sequential model that reads `length` ids."""
    k = author.k
    first = k.Input((length,)) if author.is_keras_3 else k.layers.InputLayer((length,))
    return k.Sequential([first, *layers])


@kind("next word", "window, left pads that are read, argmax")
def next_word(author: Author) -> None:
    layers = author.k.layers
    tokenizer, length = fitted(author)
    total = len(tokenizer.word_index) + 1
    model = sequential(
        author,
        length,
        layers.Embedding(total, 32),
        layers.LSTM(48, return_sequences=True),
        layers.Dropout(0.2),
        layers.LSTM(48),
        layers.Dense(total, activation="softmax"),
    )
    shake(model, quiet=(0,))
    word_loop(author, model, tokenizer, length, "The old King, of")
    author.whole(model, vocabulary=tokenizer.to_json())
    author.case(
        "word_index", author.folder / "model.h5", vocabulary=json.dumps(tokenizer.word_index)
    )
    words = ["", *tokenizer.index_word.values()]
    author.case("list", author.folder / "model.h5", vocabulary=json.dumps(words))
    author.weights(model, vocabulary=tokenizer.to_json())
    author.case(
        ".weights.h5 with `assume`",
        author.folder / "model.weights.h5",
        vocabulary=tokenizer.to_json(),
        assume={"window": str(length), "padding": "left"},
    )
    word_loop(author, model, tokenizer, length, "")
    author.case("an empty prompt", author.folder / "model.h5", vocabulary=tokenizer.to_json())


@kind("next word, Bidirectional and a second Dense", "window, left pads that are read, argmax")
def next_word_bidirectional(author: Author) -> None:
    layers = author.k.layers
    tokenizer, length = fitted(author, oov_token="<OOV>")
    total = len(tokenizer.word_index) + 1
    model = sequential(
        author,
        length,
        layers.Embedding(total, 24),
        layers.Bidirectional(layers.LSTM(32)),
        layers.Dense(40, activation="relu"),
        layers.Dense(total, activation="softmax"),
    )
    shake(model, quiet=(0, 1))
    word_loop(author, model, tokenizer, length, "Every river, unknowable word")
    author.whole(model, vocabulary=tokenizer.to_json())


@kind("next word with `mask_zero`, `Dense(64, relu)`, `num_words`", "window, masked left pads")
def next_word_masked(author: Author) -> None:
    layers = author.k.layers
    tokenizer, length = fitted(author, num_words=30)
    model = sequential(
        author,
        length,
        layers.Embedding(30, 24, mask_zero=True),
        layers.LSTM(40),
        layers.Dense(64, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(30, activation="softmax"),
    )
    shake(model, quiet=(0,))
    word_loop(author, model, tokenizer, length, "that every River runs")
    author.whole(model, vocabulary=tokenizer.to_json())
    word_loop(author, model, tokenizer, length, "")
    author.case("an empty prompt", author.folder / "model.h5", vocabulary=tokenizer.to_json())


@kind("words by hand: `sorted(set(text.lower().split()))`", "window 10, one-hot words")
def words_by_hand(author: Author) -> None:
    layers = author.k.layers
    words = TEXT.lower().split()
    names = sorted(set(words))
    w2i, size = {w: i for i, w in enumerate(names)}, len(names)
    k = author.k
    first = k.Input((10, size)) if author.is_keras_3 else layers.InputLayer((10, size))
    model = k.Sequential([first, layers.LSTM(40), layers.Dense(size, activation="softmax")])
    shake(model)
    sentence, out = words[20:30], ""
    prompt = " ".join(sentence)
    for _ in range(STEPS):
        x = np.zeros((1, 10, size), np.float32)
        for t, word in enumerate(sentence):
            x[0, t, w2i[word]] = 1.0
        p = model.predict_on_batch(x)[0]
        best = int(np.argmax(p))
        author.chose(p, best)
        sentence = [*sentence[1:], names[best]]
        out += " " + names[best]
    author.wrote(prompt, out)
    author.whole(model, vocabulary=json.dumps(names), assume={"tokenizer": "split"})


@kind("words of `TextVectorization`", "carried")
def text_vectorization(author: Author) -> None:
    k, layers = author.k, author.k.layers
    vectorize = layers.TextVectorization()
    vectorize.adapt(LINES)
    vocabulary = vectorize.get_vocabulary()
    size = len(vocabulary)
    model = k.Sequential(
        [
            k.Input((None,)) if author.is_keras_3 else layers.InputLayer((None,)),
            layers.Embedding(size, 24),
            layers.GRU(40, return_sequences=True),
            layers.Dense(size, activation="softmax"),
        ]
    )
    shake(model, quiet=(0, 1))
    text = prompt = "The old king - his horse?"
    for _ in range(STEPS):
        ids = np.asarray(vectorize([text]))
        p = model.predict_on_batch(ids)[0, -1]
        best = int(np.argmax(p))
        author.chose(p, best)
        text += " " + vocabulary[best]
    author.wrote(prompt, text[len(prompt) :])
    author.whole(
        model, vocabulary=json.dumps(vocabulary), assume={"tokenizer": "text_vectorization"}
    )


@kind("subwords: byte-level BPE (`tokenizer.json`)", "the whole text again")
def subwords(author: Author) -> None:
    import tokenizers

    k, layers = author.k, author.k.layers
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator([TEXT], trainer)
    size = bpe.get_vocab_size()
    model = k.Sequential(
        [
            k.Input((None,)) if author.is_keras_3 else layers.InputLayer((None,)),
            layers.Embedding(size, 24),
            layers.LSTM(40, return_sequences=True),
            layers.Dense(size),
        ]
    )
    shake(model, quiet=(0,))
    prompt = "The old king"
    ids, new = list(bpe.encode(prompt).ids), []
    for _ in range(STEPS):
        logits = np.asarray(model.predict_on_batch(np.array([ids], np.int32)))[0, -1]
        p = np.exp(logits - logits.max())
        best = int(np.argmax(logits))
        author.chose(p / p.sum(), best)
        ids.append(best)
        new.append(best)
    author.wrote(prompt, bpe.decode(new))
    author.whole(model, vocabulary=bpe.to_str())
