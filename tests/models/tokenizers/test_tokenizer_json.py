"""Subwords as the library `tokenizers` encodes and decodes them."""

import base64
import json
import random
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from service.errors import BadCheckpoint, UnknownCharacter
from service.models.tokenizers import read_tokenizer
from service.models.tokenizers.decode_stream import DecodeStream
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.subwords import SubwordTokenizer
from tests.models.tokenizers.tokenizer_files import (
    LIBRARIES,
    TEXT,
    bpe,
    byte_fallback,
    changed,
    unigram,
    word_piece,
)

texts = st.text(st.sampled_from(TEXT), max_size=40) | st.text(max_size=20)
each = pytest.mark.parametrize("name", LIBRARIES)


def served(library, unknown=UnknownPolicy.ERROR):
    return SubwordTokenizer(library.to_str().encode(), unknown)


@cache
def pair(name):
    library = LIBRARIES[name]()
    unknown = UnknownPolicy.UNK if "level" not in name else UnknownPolicy.ERROR
    return library, served(library, unknown)


@each
@settings(deadline=None)
@given(text=texts)
def test_a_text_has_the_tokens_of_the_library(name, text):
    library, tokenizer = pair(name)
    encoding = library.encode(text, add_special_tokens=False)
    assert tokenizer.encode(text) == encoding.ids
    for token, start, stop in tokenizer.encode_with_offsets(text):
        assert 0 <= start <= stop <= len(text)
        if "level BPE" in name:
            written = tokenizer.text_of(token)
            assert "\ufffd" in written or written.removeprefix(" ") in text[start:stop]


def test_offsets_are_in_characters():
    tokenizer = pair("byte-level BPE")[1]
    offsets = tokenizer.encode_with_offsets("é🙂 the\u4e2d!")
    assert {(start, stop) for _, start, stop in offsets if stop > 2} >= {(2, 6), (6, 7), (7, 8)}
    assert {(start, stop) for _, start, stop in offsets if stop <= 2} == {(0, 1), (1, 2)}


@each
def test_random_tokens_have_the_text_of_the_library(name):
    library, tokenizer = pair(name)
    tokenizer.check_decoder()
    rng = random.Random(1)
    plain = [i for i in range(len(tokenizer)) if i not in tokenizer.special_ids]
    whole = [i for i in plain if "\ufffd" not in tokenizer.text_of(i)]
    n_alike = 0
    for _ in range(300):
        ids = rng.choices(whole, k=8)
        stream = DecodeStream(tokenizer, is_start=True)
        streamed = "".join([*map(stream.push, ids), stream.finish()])
        assert streamed == tokenizer.decode(ids, is_start=True)
        n_alike += streamed == library.decode(ids)
        ids = rng.choices(plain, k=8)
        stream = DecodeStream(tokenizer)
        streamed = "".join([*map(stream.push, ids), stream.finish()])
        assert streamed == tokenizer.decode(ids)
    # The library keeps ## at the start of a text.
    assert n_alike == 300 or ("WordPiece" in name and n_alike > 100)


@each
@settings(deadline=None)
@given(text=texts)
def test_a_text_that_is_encoded_is_decoded_as_by_the_library(name, text):
    library, tokenizer = pair(name)
    ids = [i for i in tokenizer.encode(text) if i not in tokenizer.special_ids]
    if not ids or tokenizer._may_begin(ids[0]):
        assert tokenizer.decode(ids, is_start=True) == library.decode(ids)


def test_partial_characters():
    partial = {name: pair(name)[1].has_partial_characters for name in LIBRARIES}
    assert {name for name, is_partial in partial.items() if is_partial} == {
        "byte-level BPE",
        "byte-level BPE with a prefix space",
        "byte fallback",
    }
    tokenizer = pair("byte fallback")[1]
    stream = DecodeStream(tokenizer)
    ids = [tokenizer.tokens.index(f"<0x{byte:02X}>") for byte in "ж".encode()]
    assert [stream.push(i) for i in ids] == ["", "ж"]


def test_special_tokens():
    tokenizer = pair("unigram")[1]
    assert tokenizer.special == SpecialTokens(pad=1, unknown=0, begin=2, end=(3,))
    assert tokenizer.special_ids == (0, 1, 2, 3, 4)
    assert tokenizer.suppressed_ids == (0, 1, 2, 4)
    assert [tokenizer.bytes_of(i) for i in range(5)] == [b""] * 5
    assert pair("byte-level BPE")[1].special.end == (0,)


def test_a_special_token_in_a_text_is_text():
    tokenizer = pair("byte-level BPE")[1]
    ids = tokenizer.encode("a<|endoftext|>")
    assert 0 not in ids
    assert tokenizer.decode(ids) == "a<|endoftext|>"
    # A unigram model finds the piece in the text even so.
    strict = served(unigram())
    with pytest.raises(UnknownCharacter, match=r"no token for .*</s>"):
        strict.encode("the </s>")
    assert 3 not in pair("unigram")[1].encode("the </s>")


def test_names_that_are_words_are_special_only_if_the_file_marks_them():
    library = Tokenizer(models.WordLevel({"PAD": 0, "a": 1, "<oov>": 2}, unk_token="<oov>"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert served(library).special == SpecialTokens(unknown=2)
    assert served(library).encode("PAD a") == [0, 1]
    library.add_special_tokens(["PAD"])
    assert served(library).special == SpecialTokens(pad=0, unknown=2)
    assert served(library).decode([1, 1], is_start=True) == library.decode([1, 1]) == "a a"


def test_a_text_without_a_token():
    content = word_piece().to_str().encode()
    with pytest.raises(UnknownCharacter, match="no token for 'жа' at offset 4 of the text"):
        SubwordTokenizer(content).encode("the жа")
    the = SubwordTokenizer(content, UnknownPolicy.SKIP).encode("the жа the")
    assert the == SubwordTokenizer(content).encode("the the")
    unknown = SubwordTokenizer(content, UnknownPolicy.UNK)
    assert unknown.encode("жа") == [unknown.special.unknown] == [0]


def test_a_vocabulary_that_leaves_out_characters_is_only_for_skipping():
    library = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    with pytest.raises(BadCheckpoint, match="leaves out characters that have no token"):
        served(library)
    assert served(library, UnknownPolicy.SKIP).encode("acb") == library.encode("acb").ids == [2]
    library.pre_tokenizer = pre_tokenizers.ByteLevel()
    with pytest.raises(BadCheckpoint, match="leaves out characters that have no token"):
        served(library)
    library = Tokenizer(models.Unigram([("a", -1.0), ("b", -2.0)]))
    with pytest.raises(
        BadCheckpoint, match=r"Unigram model of tokenizer\.json has no unknown token"
    ):
        served(library, UnknownPolicy.SKIP)


@each
def test_it_is_read_again(name):
    tokenizer = pair(name)[1]
    again = read_tokenizer(
        tokenizer.tokens, tokenizer.unknown, tokenizer.options, dict(tokenizer.files)
    )
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    assert again.options == tokenizer.options
    assert again.special_ids == tokenizer.special_ids
    with pytest.raises(BadCheckpoint, match=r"the bundle has no tokenizer\.json"):
        read_tokenizer(tokenizer.tokens, tokenizer.unknown, tokenizer.options)
    with pytest.raises(BadCheckpoint, match="are not those of the vocabulary"):
        read_tokenizer(
            tokenizer.tokens[::-1], tokenizer.unknown, tokenizer.options, tokenizer.files
        )
    special = SpecialTokens(pad=0, unknown=0, end=(5,))
    given = SubwordTokenizer(tokenizer.files["tokenizer.json"], special=special)
    again = read_tokenizer(given.tokens, given.unknown, given.options, given.files)
    assert (again.special, again.end_ids, again.text_of(5)) == (special, (5,), "")


# -- decoders that work across tokens


def test_a_decoder_that_cleans_across_tokens_is_refused():
    library = unigram()
    library.decoder = decoders.Sequence(
        [decoders.Metaspace(), decoders.Fuse(), decoders.Replace("e ", "e")]
    )
    with pytest.raises(BadCheckpoint, match=r"decoder Replace of tokenizer\.json works across"):
        served(library)
    for end in (decoders.Strip(" ", 0, 1), decoders.Strip(" ", 2, 0), decoders.Strip("e", 1, 0)):
        library.decoder = decoders.Sequence([decoders.Metaspace(), decoders.Fuse(), end])
        with pytest.raises(BadCheckpoint, match=r"decoder Strip of tokenizer\.json works across"):
            served(library)


def test_the_check_compares_with_the_library():
    library = byte_fallback()
    library.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Replace("a", "b")])
    tokenizer = served(library)
    with pytest.raises(BadCheckpoint, match="ByteFallback, Replace, writes some tokens depending"):
        tokenizer.check_decoder()  # a byte token of "a" becomes "b", but not in our bytes


# -- hostile and odd files


def cases():
    """Return (change of a BPE file, the refusal)."""

    def model(**fields):
        return lambda value: value["model"].update(fields)

    def part(**fields):
        return lambda value: value.update(fields)

    return {
        "no model": (lambda value: value.pop("model"), "no object 'model'"),
        "model": (model(type="Neural"), "the model of tokenizer.json is 'Neural'; served are BPE"),
        "dropout": (model(dropout=0.1), "has a dropout"),
        "merges": (model(merges=[["a", "zz"]]), "cannot be read"),
        "hole": (lambda value: value["model"]["vocab"].update({"new": 9999}), "each once"),
        "same id": (lambda value: value["model"]["vocab"].update({"new": 7}), "each once"),
        "normalizer": (part(normalizer={"type": "Odd"}), "normalizer of tokenizer.json is 'Odd'"),
        "pattern": (
            part(
                pre_tokenizer={
                    "type": "Split",
                    "pattern": {"Regex": "(a+)+$"},
                    "behavior": "Isolated",
                    "invert": False,
                }
            ),
            "may take unlimited time",
        ),
        "growth": (
            part(
                normalizer={
                    "type": "Sequence",
                    "normalizers": [
                        {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 9}
                    ]
                    * 2,
                }
            ),
            "may lengthen a text 1296 times",
        ),
        "many": (
            part(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 17}),
            "more than 16 of 'normalizer'",
        ),
        "depth": (part(normalizer=nested(8)), "nested too deep"),
        "decoder": (part(decoder={"type": "CTC"}), "decoder of tokenizer.json is 'CTC'"),
        "incomplete": (part(decoder={"type": "Strip"}), "cannot be read"),
        "long charsmap": (precompiled(b"\0\0\0\0" + b"x" * 65), "more than 64 bytes"),
        "cut charsmap": (precompiled(b"\xff\xff\xff\xffabc"), "charsmap of .* is cut off"),
        "word": (
            model(type="WordPiece", max_input_chars_per_word=10**9, unk_token="a"),
            "at most 1000 is served",
        ),
    }


def precompiled(content):
    charsmap = base64.b64encode(content).decode()
    return lambda value: value.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap}
    )


def nested(depth):
    part = {"type": "NFC"}
    for _ in range(depth):
        part = {"type": "Sequence", "normalizers": [part]}
    return part


@pytest.mark.parametrize("case", cases())
def test_a_file_that_is_not_served(case):
    change, sentence = cases()[case]
    with pytest.raises(BadCheckpoint, match=sentence):
        SubwordTokenizer(changed(bpe(), change))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"model": 5}', b'{"model": {}}', b"[" * 100_000]
)
def test_a_broken_file(content):
    with pytest.raises(BadCheckpoint):
        SubwordTokenizer(content)


def test_a_file_that_is_too_large():
    with pytest.raises(BadCheckpoint, match="at most 33554432 are read"):
        SubwordTokenizer(b" " * (32 * 1024 * 1024 + 1))


def test_mutated_files_are_read_or_refused():
    rng = random.Random(0)
    contents = [LIBRARIES[name]().to_str().encode() for name in ("unigram", "byte fallback")]
    n_refused = 0
    for i in range(200):
        content = bytearray(contents[i % 2])
        for _ in range(rng.randrange(1, 4)):
            content[rng.randrange(len(content))] = rng.choice(b'0123456789{}[]",:ae-')
        try:
            tokenizer = SubwordTokenizer(bytes(content))
            tokenizer.check_decoder(20)
            tokenizer.encode(TEXT)
        except (BadCheckpoint, UnknownCharacter):
            n_refused += 1
    assert 20 < n_refused < 200


def test_what_is_around_a_text_is_left_out():
    library = bpe()
    plain = served(library).encode(TEXT)
    library.enable_truncation(3)
    library.enable_padding(length=999)
    assert served(library).encode(TEXT) == plain


def test_a_file_without_the_type_of_its_model():
    for library in (bpe(), word_piece(), unigram()):
        content = changed(library, lambda value: value["model"].pop("type"))
        expected = served(library, UnknownPolicy.SKIP).encode(TEXT)
        assert SubwordTokenizer(content, UnknownPolicy.SKIP).encode(TEXT) == expected


def test_published_patterns_are_read():
    pattern = r"\s+"
    library = unigram()
    library.normalizer = normalizers.Replace(Regex(pattern), " ")
    assert (
        served(library, UnknownPolicy.SKIP).encode("the   times") == library.encode("the times").ids
    )


def test_a_large_vocabulary_is_read_in_time():
    words = {f"w{i}": i for i in range(100_000)} | {"[UNK]": 100_000}
    content = Tokenizer(models.WordPiece(words, unk_token="[UNK]")).to_str().encode()
    assert len(SubwordTokenizer(content)) == 100_001
    assert json.loads(content)["model"]["vocab"]["w7"] == 7


def test_a_panic_of_the_library_is_a_refusal():
    content = changed(unigram(), precompiled(b"\0\0\0\0"))
    with pytest.raises(UnknownCharacter, match="cannot encode the text: index out of bounds"):
        SubwordTokenizer(content, UnknownPolicy.SKIP).encode("abc")
    both = {"type": "Strip", "content": "a", "start": 1, "stop": 1}
    content = changed(byte_fallback(), lambda value: value.update(decoder=both))
    with pytest.raises(BadCheckpoint, match=r"cannot decode its tokens|tokens around them"):
        SubwordTokenizer(content).check_decoder()


def test_options_of_a_decoder_that_are_left_out():
    old = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    content = changed(unigram(), lambda value: value.update(decoder=old))
    tokenizer = SubwordTokenizer(content, UnknownPolicy.SKIP)
    assert tokenizer.joiner == " "
    tokenizer.check_decoder()
