"""Symbols write the bytes of the file, with every tokenizer, whatever the file is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.compression.compressor import parts_of
from service.compression.symbols import SymbolTable
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.tokenizers.special_tokens import UnknownPolicy
from tests.api.token_models import tokenizers

TOKENIZERS = tokenizers() | {
    "characters": CharacterTokenizer("abc \né中"),
    "lower case": CharacterTokenizer("abc \né中", is_lower=True),
    "skips": CharacterTokenizer("abc ", UnknownPolicy.SKIP),
    "unknown token": CharacterTokenizer(["<unk>", "a", "b", " "], UnknownPolicy.UNK),
}
TEXTS = st.text(alphabet="abc thesatonm,.\n\tABCTHé中文🙂\x00\x85\u2028\ufffd", max_size=200)
FILES = st.one_of(
    TEXTS.map(str.encode),
    st.binary(max_size=60),
    st.tuples(TEXTS, st.binary(max_size=9)).map(lambda both: both[1] + both[0].encode() + both[1]),
)


def bytes_of(table: SymbolTable, symbols) -> bytes:
    def piece(token: int) -> bytes:
        return table.token_bytes[table.offsets[token] : table.offsets[token + 1]].tobytes()

    return b"".join(piece(s) if s >= 0 else bytes([-1 - s]) for s in symbols.tolist())


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_bytes_of_the_symbols_are_the_file(name):
    table = SymbolTable(TOKENIZERS[name])

    @settings(max_examples=150, deadline=None, database=None)
    @given(data=FILES)
    def check(data):
        symbols = table.symbols_of(data)
        assert bytes_of(table, symbols) == data
        assert all(table.has_text[s] for s in symbols.tolist() if s >= 0)

    check()


@pytest.mark.parametrize(
    ("name", "text", "tokens", "escaped"),
    [
        ("characters", "abc中é", 5, 0),
        ("characters", "aXb", 2, 1),
        ("lower case", "aBc", 2, 1),
        ("words", "the cat sat", 2, 3),  # the first word has no blank before it
        ("bytes", "the cat sat on été 🙂", 12, 0),
    ],
)
def test_what_has_a_token_is_not_escaped(name, text, tokens, escaped):
    symbols = SymbolTable(TOKENIZERS[name]).symbols_of(text.encode()).tolist()
    assert sum(s < 0 for s in symbols) == escaped
    assert sum(s >= 0 for s in symbols) >= min(tokens, len(symbols))


def test_a_long_text_of_subwords_is_cut_before_blanks():
    tokenizer = TOKENIZERS["bytes"]
    text = "the cat sat on the mat, and " * 500
    symbols = SymbolTable(tokenizer).symbols_of(text.encode()).tolist()
    assert symbols == tokenizer.encode(text)


@settings(max_examples=200, deadline=None, database=None)
@given(data=FILES, lane_bytes=st.integers(1, 50))
def test_the_parts_of_a_frame_are_its_text(data, lane_bytes):
    parts = parts_of(data, lane_bytes)
    assert b"".join(parts) == data
    assert 1 <= len(parts) <= 64


def test_a_text_is_cut_between_characters():
    for part in parts_of("é中🙂".encode() * 100, 7):
        part.decode()
