"""Small models whose tokens are words or bytes, with random weights, in a folder to serve from."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from service.models.cell import LayerSpec
from service.models.reference import ReferenceModel
from service.models.spec import ModelRef, ModelSpec
from service.models.store import ModelStore
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.subwords import SubwordTokenizer
from service.models.tokenizers.tokenizer import Tokenizer
from service.models.tokenizers.word_rules import keras_rules
from service.models.tokenizers.words import WordTokenizer
from service.models.window import Padding, Window
from tests.bundles import put_model

PAD, BEGIN, END, FIRST = 0, 1, 2, 3
WORDS = ("", "<s>", "</s>", "the", "cat", "sat", "on", "a", "mat", "été", "中文", "🙂", "café")
LENGTH = 6  # of the window

WORD_TOKENIZER = WordTokenizer(
    WORDS,
    UnknownPolicy.ERROR,
    keras_rules(),
    SpecialTokens(pad=PAD, begin=BEGIN, end=(END,)),
)
# textgenrnn's: its begin token is before every prompt, and ends a text, too.
BEGUN_TOKENIZER = WordTokenizer(
    WORDS,
    UnknownPolicy.ERROR,
    keras_rules(),
    SpecialTokens(pad=PAD, begin=BEGIN, end=(BEGIN,), is_begin_added=True),
)


def byte_level() -> SubwordTokenizer:
    """A byte-level BPE of few merges, so that most characters beyond ASCII are several tokens."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(["the cat sat on the mat, and the cat sat"], trainer)
    return SubwordTokenizer(library.to_str().encode(), UnknownPolicy.ERROR)


def tokenizers() -> dict[str, Tokenizer]:
    """The tokenizer of each model."""
    return {
        "words": WORD_TOKENIZER,
        "window": WORD_TOKENIZER,
        "begun": BEGUN_TOKENIZER,
        "bytes": byte_level(),
    }


def new_home(folder: Path) -> Path:
    """Make a folder to serve the models from: `words` is the default one."""
    (folder / "imports").mkdir()
    store, names = folder / "model_store", []
    for seed, (name, tokenizer) in enumerate(tokenizers().items()):
        window = Window(LENGTH, Padding.LEFT, PAD) if name == "window" else None
        spec = ModelSpec(len(tokenizer), None, (LayerSpec("lstm", 12),), window=window)
        put_model(store, name, spec, tokenizer=tokenizer, random_seed=seed)
        names.append(f"{name}@1")
    registry = {"aliases": {"default": "words@1"}, "loaded": names}
    (store / "registry.json").write_text(json.dumps(registry))
    return folder


def author(folder: Path, name: str, prompt: Sequence[int], n: int) -> list[int]:
    """The most likely tokens after a prompt, as an author's loop computes them, in float64.

    Tokens that are never sampled are left out; an end token ends nothing.
    """
    bundle, ids = ModelStore(folder / "model_store").read(ModelRef(name, 1)), list(prompt)
    reference, never = ReferenceModel(bundle.spec, bundle.weights), bundle.tokenizer.suppressed_ids
    for _ in range(n):
        logits = reference.run(ids)[-1]
        logits[list(never)] = -np.inf
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :]
