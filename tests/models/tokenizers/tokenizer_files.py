"""Files of the library `tokenizers` as people make them: trained on a few lines of text."""

import json

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXT = (
    "It was the best of times, it was the worst of times; don't you think so?\n"
    "Éléonore said: “I can't, won't, and shan't!” — naïve façade, 中文 and 🙂🙃.\n"
    "The quick brown fox jumps over the lazy dog. 0123456789 (and [so] on)\n"
)
SPECIAL = ["[UNK]", "<pad>", "<s>", "</s>", "<extra>"]


def bpe(*, prefix_space=False, n_tokens=400):
    """Byte-level BPE as GPT-2's."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    library.decoder = decoders.ByteLevel()
    library.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
    return library


def unigram():
    """Unigram with Metaspace, as T5's."""
    library = Tokenizer(models.Unigram())
    library.normalizer = normalizers.NFKC()
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
    )
    library.train_from_iterator(TEXT.splitlines(), trainer)
    return library


def word_piece(*, cleanup=True):
    """WordPiece with ## as BERT's."""
    library = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece(cleanup=cleanup)
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=SPECIAL, show_progress=False)
    library.train_from_iterator(TEXT.splitlines(), trainer)
    return library


def byte_fallback():
    """BPE with byte tokens, as Llama's."""
    library = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    library.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=tokens, show_progress=False)
    library.train_from_iterator(TEXT.splitlines(), trainer)
    value = json.loads(library.to_str())
    value["added_tokens"] = value["added_tokens"][:3]  # byte tokens are no special ones
    return Tokenizer.from_str(json.dumps(value))


LIBRARIES = {
    "byte-level BPE": bpe,
    "byte-level BPE with a prefix space": lambda: bpe(prefix_space=True),
    "unigram": unigram,
    "WordPiece": word_piece,
    "WordPiece without cleanup": lambda: word_piece(cleanup=False),
    "byte fallback": byte_fallback,
}


def changed(library, change):
    """Return the content of a file after `change` of its JSON object."""
    value = json.loads(library.to_str())
    change(value)
    return json.dumps(value).encode()
