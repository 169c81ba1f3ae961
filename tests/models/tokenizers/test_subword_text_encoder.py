"""SubwordTextEncoder: the ids are those that tensorflow_datasets 4.9.10 gives."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadCheckpoint
from service.models.tokenizers import read_tokenizer
from service.models.tokenizers.decode_stream import DecodeStream
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.subword_text_encoder import SubwordTextEncoder

SUBWORDS = [
    *("the_", "king", "king_", ", ", "\n", "s_", "'", "'s", "<and>", "qu", "een_", "é", "a\\&"),
    "中_",
]
IDS = {
    "the king's queen, the king\n": [1, 2, 8, 47, 10, 116, 116, 125, 4, 1, 2, 5],
    "the  king": [131, 119, 116, 47, 47, 2],
    "king_the king_ _ _": [2, 110, 1, 2, 110, 47, 110, 47, 110],
    "é中 é🙂": [12, 14, 12, 255, 174, 168, 145],
    "the<and> king <and>": [131, 119, 116, 9, 47, 3, 9],
    " ": [47],
    "_": [110],
    "kings' queens": [2, 130, 7, 47, 10, 116, 116, 125, 130],
}
NOT_THE_SAME = r"a_b \&undsc x"  # what the library decodes otherwise than it was written
NOT_THE_SAME_IDS = [
    *(13, 132, 125, 115, 130, 114, 113, 47, 107, 53, 132, 125, 115, 130, 114, 47, 47, 135)
]
TEXTS = st.text(st.sampled_from("theking'squn, _\n<and>é中🙂"), max_size=40)


@pytest.fixture(scope="module")
def tokenizer():
    return SubwordTextEncoder(SUBWORDS)


@pytest.mark.parametrize("text", IDS)
def test_ids_are_those_of_the_library(tokenizer, text):
    assert tokenizer.encode(text) == IDS[text]
    assert tokenizer.decode(IDS[text]) == text


def test_the_escape_of_an_underscore_is_that_of_the_library(tokenizer):
    assert tokenizer.encode(NOT_THE_SAME) == NOT_THE_SAME_IDS
    assert tokenizer.decode(NOT_THE_SAME_IDS) == r"a\&undscb \&undsc  x"


@given(TEXTS)
def test_a_text_is_decoded_as_it_was_encoded(text):
    tokenizer = SubwordTextEncoder([subword for subword in SUBWORDS if "\\" not in subword])
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, is_start=True) == text
    stream = DecodeStream(tokenizer, is_start=True)
    assert "".join([*map(stream.push, ids), stream.finish()]) == text
    position = 0
    for token, start, stop in tokenizer.encode_with_offsets(text):
        assert start in {position, position - 1}  # the bytes of a character share its offsets
        assert start < stop <= len(text)
        if (written := tokenizer.text_of(token)) != "\ufffd":
            assert written == text[start:stop]
        position = stop
    assert position == len(text)


def test_its_tokens(tokenizer):
    assert len(tokenizer) == 1 + len(SUBWORDS) + 256
    assert tokenizer.special == SpecialTokens(pad=0)
    assert tokenizer.suppressed_ids == (0,)
    assert tokenizer.has_partial_characters
    assert [tokenizer.text_of(i) for i in (0, 1, 2, 5)] == ["", "the ", "king", "\n"]
    rng = random.Random(0)
    ids = rng.choices(range(1, len(tokenizer)), k=50)
    assert tokenizer.decode([0, *ids, 0]) == tokenizer.decode(ids)


def test_a_reserved_token_that_ends_a_text():
    tokenizer = SubwordTextEncoder(["a_", "PAD", "<EOS>"])
    assert tokenizer.special == SpecialTokens(pad=0, end=(3,))
    assert tokenizer.text_of(3) == ""
    assert 3 not in tokenizer.encode("a <EOS>")
    assert tokenizer.decode(tokenizer.encode("PAD<EOS>")) == "PAD<EOS>"


@pytest.mark.parametrize("special", [None, SpecialTokens(pad=0, end=(0, 9))])
def test_it_is_read_again(special):
    tokenizer = SubwordTextEncoder(SUBWORDS, special=special)
    again = read_tokenizer(tokenizer.tokens, UnknownPolicy.ERROR, tokenizer.options)
    assert isinstance(again, SubwordTextEncoder)
    assert (again.tokens, again.special) == (tokenizer.tokens, tokenizer.special)
    assert again.options == tokenizer.options
    with pytest.raises(BadCheckpoint, match="not padding, subwords and 256 bytes"):
        read_tokenizer(tokenizer.tokens[:-1], UnknownPolicy.ERROR, tokenizer.options)


# -- files


def file_of(subwords):
    lines = [
        "### SubwordTextEncoder",
        "### Metadata: {}",
        *(f"'{subword}'" for subword in subwords),
    ]
    return ("\n".join(lines) + "\n").encode()


def test_a_file():
    subwords = [subword for subword in SUBWORDS if subword != "\n"]
    tokenizer = SubwordTextEncoder.from_file(file_of(subwords))
    assert tokenizer.tokens[1:-256] == tuple(subwords)
    assert len(SubwordTextEncoder.from_file(file_of([]))) == 257


def test_a_file_with_line_breaks_in_subwords():
    subwords = ["a_", "\n", ".\n", "b"]
    content = file_of(subwords)
    written = SubwordTextEncoder.from_file(content, 257 + 4)
    assert written.tokens[1:-256] == tuple(subwords)
    read = SubwordTextEncoder.from_file(content, 257 + 2)
    assert read.tokens[1:-256] == ("a_", "b")  # as load_from_file reads it
    for size, named in ((None, "an unknown number"), (300, "300")):
        with pytest.raises(BadCheckpoint, match=f"261 tokens, .* reads it 259, .* has {named}"):
            SubwordTextEncoder.from_file(content, size)


@pytest.mark.parametrize("subwords", [["&\nc", "','\n", "s_\n"], ["a", "'\n"], ["a\n'", "b"]])
def test_a_file_with_a_quote_beside_a_line_break_is_never_misread(subwords):
    try:
        tokenizer = SubwordTextEncoder.from_file(file_of(subwords), 257 + len(subwords))
    except BadCheckpoint:
        return
    assert tokenizer.tokens[1:-256] == tuple(subwords)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "cannot be read"),
        (b"### SubwordTextEncoder\n### Metadata: {}\n'\xff'\n", "cannot be read"),
        (b"'<pad>_'\n'<EOS>_'\n", "does not begin with the lines"),
        (file_of(["a"]).replace(b"\n", b"\r\n"), "as line breaks"),
        (b"### SubwordTextEncoder\n### Metadata: {}\nthe\n", "between single quotes"),
        (file_of(["a", "a"]), "is there twice"),
        (file_of(["a" * 201]), "at most 200 are served"),
        (file_of(["<0x41>"]), "is there twice"),
    ],
)
def test_a_file_that_is_not_served(content, sentence):
    with pytest.raises(BadCheckpoint, match=re.escape(sentence)):
        SubwordTextEncoder.from_file(content)


def test_many_reserved_tokens_are_fast():
    tokenizer = SubwordTextEncoder(f"<{i}>" for i in range(100_000))
    assert len(tokenizer.encode("<5>" * 30_000)) == 30_000
