"""SubwordTextEncoder: ids that TensorFlow Datasets 4.9.10 gives, and the round trip."""

import json
from pathlib import Path

import pytest

from service.errors import BadCheckpoint
from service.models.tokenizers import read_tokenizer
from service.models.tokenizers.decode_stream import DecodeStream
from service.models.tokenizers.round_trip import measure_round_trip
from service.models.tokenizers.special_tokens import UnknownPolicy
from service.models.tokenizers.subword_text_encoder import SubwordTextEncoder

SUBWORDS = ["the_", "cat_", "the", "ca", "t", ", ", "<EOS>", "s_", "_", "a", "._", "é", "\\&undsc"]
CASES = json.loads((Path(__file__).parent / "subword_text_encoder.json").read_text("utf-8"))


@pytest.mark.parametrize("case", CASES, ids=[case["text"] for case in CASES])
def test_a_text_has_the_ids_and_the_text_of_the_original(case) -> None:
    tokenizer = SubwordTextEncoder(SUBWORDS)
    assert tokenizer.encode(case["text"]) == case["ids"]
    assert tokenizer.decode(case["ids"]) == case["decoded"]


def test_offsets_cover_the_text() -> None:
    tokenizer = SubwordTextEncoder(SUBWORDS)
    text = "the cats, 中 snake_case"
    found = tokenizer.encode_with_offsets(text)
    assert found[0] == (1, 0, 4)
    assert found[0][2] >= found[1][1]
    assert {i for _, start, stop in found for i in range(start, stop)} == set(range(len(text)))


def test_a_file_is_read_without_its_header_and_quotes() -> None:
    lines = ["### SubwordTextEncoder", "### Metadata: {}", *(f"'{s}'" for s in SUBWORDS)]
    tokenizer = SubwordTextEncoder.from_file("\n".join([*lines, ""]).encode())
    assert tokenizer.subwords == tuple(SUBWORDS)
    assert len(tokenizer) == 1 + len(SUBWORDS) + 256
    assert tokenizer.suppressed_ids == (0,)
    for content, sentence in ((b"'a'\n'b'\n", "does not begin"), (b"\xff", "not UTF-8")):
        with pytest.raises(BadCheckpoint, match=sentence):
            SubwordTextEncoder.from_file(content)


def test_a_bundle_keeps_it_and_a_stream_waits_for_whole_characters() -> None:
    tokenizer = SubwordTextEncoder(SUBWORDS)
    read = read_tokenizer(tokenizer.tokens, UnknownPolicy.ERROR, tokenizer.options)
    text = "the 中文 cat"
    ids = read.encode(text)
    assert ids == tokenizer.encode(text)
    stream = DecodeStream(read)
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) == text
    assert "" in pieces
    with pytest.raises(BadCheckpoint, match="SubwordTextEncoder"):
        read_tokenizer([str(i) for i in range(400)], UnknownPolicy.ERROR, tokenizer.options)


def test_a_round_trip_of_whole_subwords_keeps_the_text() -> None:
    trip = measure_round_trip(SubwordTextEncoder(SUBWORDS))
    assert trip.compared == "text"
    assert trip.identical == trip.sequences


def file_of(subwords):
    lines = [
        "### SubwordTextEncoder",
        "### Metadata: {}",
        *(f"'{subword}'" for subword in subwords),
    ]
    return ("\n".join(lines) + "\n").encode()


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
