"""tokenizer.json against the library `tokenizers`, trained here on a small text."""

import json
import random
import time

import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Library

from service.errors import BadCheckpoint, UnknownCharacter
from service.models.importing.assumptions import Assumptions
from service.models.importing.tokenizer_choice import choose_tokenizer
from service.models.importing.vocabulary import read_vocabulary
from service.models.tokenizers import read_tokenizer
from service.models.tokenizers.decode_stream import DecodeStream
from service.models.tokenizers.round_trip import measure_round_trip
from service.models.tokenizers.special_tokens import UnknownPolicy
from service.models.tokenizers.subwords import SubwordTokenizer

TEXT = (
    """Mary had a little lamb, its fleece was white as snow.
And everywhere that Mary went the lamb was sure to go — naïve café, 中文字 and 🙂 emoji!
It followed her to school one day, which was against the rules; it's what they don't do.
"""
    * 3
)
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
SAMPLES = ["Mary had a lamb", " two  blanks ", "naïve 中文 🙂!", "it's", "unseen wørds", "", "\n\n"]


def trained(library: Library, trainer: object) -> Library:
    library.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
    return library


def byte_level() -> Library:
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return trained(
        library,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|endoftext|>", "<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )


def word_piece() -> Library:
    library = Library(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer()
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return trained(
        library,
        trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False),
    )


def unigram() -> Library:
    library = Library(models.Unigram())
    library.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    return trained(
        library,
        trainers.UnigramTrainer(
            vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
        ),
    )


def byte_fallback() -> Library:
    vocabulary = {token: i for i, token in enumerate(SPECIAL)}
    vocabulary |= {f"<0x{b:02X}>": 4 + b for b in range(256)}
    for piece in ["▁", "a", "b", "▁a", "ab", "▁ab", "é"]:
        vocabulary[piece] = len(vocabulary)
    merges = [("▁", "a"), ("a", "b"), ("▁a", "b")]
    library = Library(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
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
    library.add_special_tokens(SPECIAL)
    return library


KINDS = [byte_level, word_piece, unigram, byte_fallback]


def ours(library: Library, unknown: UnknownPolicy | None = None) -> SubwordTokenizer:
    content = library.to_str().encode()
    if unknown is None:
        has_unknown = bool({"<unk>", "[UNK]"} & set(library.get_vocab()))
        unknown = UnknownPolicy.UNK if has_unknown else UnknownPolicy.ERROR
    return SubwordTokenizer(content, unknown)


@pytest.mark.parametrize("make", KINDS)
def test_a_text_has_the_tokens_and_offsets_of_the_library(make) -> None:
    library = make()
    tokenizer = ours(library)
    for text in [*SAMPLES, TEXT]:
        encoding = library.encode(text, add_special_tokens=False)
        found = tokenizer.encode_with_offsets(text)
        assert [token for token, _, _ in found] == encoding.ids
        assert [(start, stop) for _, start, stop in found] == encoding.offsets


@pytest.mark.parametrize("make", KINDS)
def test_random_tokens_have_the_text_of_the_library(make) -> None:
    library = make()
    tokenizer = ours(library)
    tokenizer.check_decoder()
    for text in SAMPLES:
        ids = library.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, is_start=True) == library.decode(ids)


@pytest.mark.parametrize("make", KINDS)
def test_a_stream_has_the_text_of_the_whole(make) -> None:
    tokenizer = ours(make())
    rng = random.Random(3)
    for _ in range(200):
        ids = rng.choices(range(len(tokenizer)), k=20)
        stream = DecodeStream(tokenizer)
        assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids)


def test_a_check_of_the_decoder_finds_a_byte_that_differs() -> None:
    tokenizer = ours(byte_level())
    tokenizer._bytes = (*tokenizer._bytes[:-1], b"other")
    with pytest.raises(BadCheckpoint, match="token by token"):
        tokenizer.check_decoder()


@pytest.mark.parametrize("make", KINDS)
def test_a_bundle_keeps_the_tokenizer(make) -> None:
    tokenizer = ours(make())
    options = json.loads(json.dumps(dict(tokenizer.options)))
    read = read_tokenizer(tokenizer.tokens, tokenizer.unknown, options, tokenizer.files)
    assert (read.tokens, read.special, read.special_ids) == (
        tokenizer.tokens,
        tokenizer.special,
        tokenizer.special_ids,
    )
    assert read.encode(TEXT) == tokenizer.encode(TEXT)


def test_special_tokens_have_roles_by_name_and_no_text() -> None:
    tokenizer = ours(unigram())
    assert (tokenizer.special.pad, tokenizer.special.unknown) == (0, 1)
    assert (tokenizer.special.begin, tokenizer.end_ids) == (2, (3,))
    assert tokenizer.decode([0, 1, 2, 3]) == ""
    assert ours(byte_level()).end_ids == (0,)


def test_unknown_characters_follow_the_policy() -> None:
    library = unigram()
    with pytest.raises(UnknownCharacter, match="offset 4"):
        ours(library, UnknownPolicy.ERROR).encode("Mary✂")
    skipping = ours(library, UnknownPolicy.SKIP)
    assert skipping.special.unknown not in skipping.encode("Mary✂")


def test_only_byte_level_has_parts_of_characters() -> None:
    assert ours(byte_level()).has_partial_characters
    assert not ours(word_piece()).has_partial_characters


def test_a_round_trip_keeps_the_text() -> None:
    trip = measure_round_trip(ours(byte_level()))
    assert (trip.compared, trip.sequences, trip.identical) == ("text", 1000, 1000)


def changed(**parts: object) -> bytes:
    value = json.loads(byte_level().to_str())
    return json.dumps(value | parts).encode()


def split(pattern: dict[str, str]) -> dict[str, object]:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "no object 'model'"),
        (changed(pre_tokenizer=split({"Regex": "(a+)+$"})), "unlimited time"),
        (changed(pre_tokenizer=split({"Regex": ["a"]})), "unlimited time"),
        (changed(decoder={"type": ["ByteLevel"]}), "the decoder of"),
        (changed(pre_tokenizer=split({"String": ""})), "1 to 64"),
        (changed(normalizer={"type": "Precompiled", "precompiled_charsmap": ""}), "cut off"),
        (changed(decoder={"type": "BPEDecoder", "suffix": "</w>"}), "BPEDecoder"),
        (changed(decoder={"type": "CTC"}), "CTC"),
        (changed(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 99}), "16"),
        (changed(model={"type": "BPE", "dropout": 0.1, "vocab": {}, "merges": []}), "dropout"),
        (changed(model={"type": "BPE", "vocab": {"a": 0, "b": 7}, "merges": []}), "each once"),
        (b" " * (32 * 1024 * 1024 + 1), "at most"),
    ],
)
def test_a_file_that_cannot_be_served_is_refused(content: bytes, sentence: str) -> None:
    with pytest.raises(BadCheckpoint, match=sentence):
        SubwordTokenizer(content)


def test_the_files_own_template_is_not_applied() -> None:
    library = unigram()
    expected = library.encode("Mary had a lamb").ids
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    library.enable_truncation(2)
    assert ours(library).encode("Mary had a lamb") == expected


def test_a_large_file_is_read_in_time() -> None:
    library = Library(models.WordLevel({f"w{i}": i for i in range(100_000)}, unk_token="w0"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    content = library.to_str().encode()
    start = time.process_time()
    tokenizer = SubwordTokenizer(content, UnknownPolicy.UNK)
    assert time.process_time() - start < 5
    assert tokenizer.decode(tokenizer.encode("w5 w6"), is_start=True) == "w5 w6"


SENTENCE = "Mary had a lamb"
PROCESSORS = {
    "template": (
        unigram,
        processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
        ),
    ),
    "begin": (unigram, processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])),
    "end": (unigram, processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 3)])),
    "BERT": (word_piece, processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))),
    "sequence": (
        unigram,
        processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.RobertaProcessing(("</s>", 3), ("<s>", 2)),
            ]
        ),
    ),
    "byte level": (byte_level, processors.ByteLevel(trim_offsets=False)),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_an_imported_files_template_begins_each_prompt(name) -> None:
    make, processor = PROCESSORS[name]
    library = make()
    library.post_processor = processor
    vocabulary = read_vocabulary(library.to_str().encode())
    tokenizer = choose_tokenizer(vocabulary, library.get_vocab_size(), Assumptions({}, None))
    ids = library.encode(SENTENCE).ids
    if ids[-1] == 3:  # what a text ends with is left out: the prompt goes on
        ids = ids[:-1]
    assert tokenizer.encode_prompt(SENTENCE) == ids
    assert tokenizer.encode(SENTENCE) == library.encode(SENTENCE, add_special_tokens=False).ids


def test_a_template_of_several_tokens_before_a_text_is_refused() -> None:
    library = unigram()
    library.post_processor = processors.TemplateProcessing(
        single="<s> </s> $A", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    vocabulary = read_vocabulary(library.to_str().encode())
    with pytest.raises(BadCheckpoint, match="begins a text with '<s>', '</s>'; one token"):
        choose_tokenizer(vocabulary, library.get_vocab_size(), Assumptions({}, None))


@pytest.mark.parametrize(
    ("processor", "sentence"),
    [
        ({"type": "Other"}, "post_processor of tokenizer.json is 'Other'; served are"),
        ({"type": "TemplateProcessing", "single": [{"SpecialToken": {}}]}, "cannot be read: 'id'"),
        ({"type": "BertProcessing", "cls": ["", float("inf")], "sep": ["", 1]}, "cannot be read"),
        ({"type": "BertProcessing", "cls": ["", 500], "sep": ["", 1]}, "ids that are no tokens"),
    ],
)
def test_a_post_processor_that_is_not_known_is_refused(processor, sentence) -> None:
    value = json.loads(unigram().to_str()) | {"post_processor": processor}
    vocabulary = read_vocabulary(json.dumps(value).encode())
    with pytest.raises(BadCheckpoint, match=sentence):
        choose_tokenizer(vocabulary, len(vocabulary.tokens), Assumptions({}, None))
