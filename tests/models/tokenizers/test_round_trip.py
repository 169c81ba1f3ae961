"""Decode → encode of random tokens, and why it does not give back some."""

import random
import string

import pytest
from tokenizers import Tokenizer, decoders, models

from service.models.tokenizers.characters import CharacterTokenizer
from service.models.tokenizers.round_trip import check_round_trip
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.subword_text_encoder import SubwordTextEncoder
from service.models.tokenizers.subwords import SubwordTokenizer
from service.models.tokenizers.word_rules import (
    TEXTGENRNN_RULES,
    WordRules,
    keras_rules,
    text_vectorization_rules,
)
from service.models.tokenizers.words import WordTokenizer
from tests.models.tokenizers.tokenizer_files import LIBRARIES, TEXT

RULES = [WordRules(), keras_rules(), text_vectorization_rules(), TEXTGENRNN_RULES]


@pytest.mark.parametrize("rules", RULES)
def test_words_by_their_own_rules_are_all_given_back(rules):
    words = list(dict.fromkeys(word for word, _, _ in rules.words(TEXT)))
    result = check_round_trip(WordTokenizer(["", "[UNK]", *words], rules=rules))
    assert (result.n_sequences, result.n_identical, result.reason) == (1000, 1000, "")
    assert result.sentence == "decode → encode gives back all of 1000 random token sequences"


def test_characters_are_all_given_back():
    tokens = ["[UNK]", *string.printable, "é", "<eos>"]
    assert check_round_trip(CharacterTokenizer(tokens), n=70).n_identical == 70
    # A token of two characters has no text and is not sampled.
    assert check_round_trip(CharacterTokenizer(["a", "b", "ab"])).n_identical == 1000


def test_what_the_rules_change_is_named():
    words = WordTokenizer(["king", "The", "the"], UnknownPolicy.ERROR, keras_rules())
    result = check_round_trip(words)
    assert 0 < result.n_identical < 100
    assert result.reason == ("the token 'The' has a text that is encoded otherwise (as 'the')")
    assert result.sentence.startswith(f"decode → encode gives back {result.n_identical} of 1000 ")
    words = WordTokenizer(["king", "a.b", "c!d"], UnknownPolicy.SKIP, keras_rules())
    assert "2 of their tokens, such as " in check_round_trip(words).reason
    assert "have a text that has no token when it is encoded" in check_round_trip(words).reason
    lower = CharacterTokenizer("aAb", is_lower=True)
    assert check_round_trip(lower).reason == (
        "the token 'A' has a text that is encoded otherwise (as 'a')"
    )
    nothing = WordTokenizer(["<pad>", "<unk>"], special=SpecialTokens(pad=0, unknown=1))
    assert check_round_trip(nothing).reason.startswith("every token is special")


@pytest.mark.parametrize("name", LIBRARIES)
def test_subwords_have_a_reason(name):
    content = LIBRARIES[name]().to_str().encode()
    result = check_round_trip(SubwordTokenizer(content, UnknownPolicy.SKIP))
    assert result.n_identical < 1000
    is_partial = "byte" in name
    assert ("a part of a character" in result.reason) == is_partial
    assert ("WordPiece" in name) == ("encoded otherwise" in result.reason and "#" in result.reason)


def test_several_tokenizations_of_a_text():
    several = "several sequences of tokens have the same text, which is encoded as one"
    library = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    library.decoder = decoders.Fuse()
    tokenizer = SubwordTokenizer(library.to_str().encode(), UnknownPolicy.SKIP)
    result = check_round_trip(tokenizer, 500)
    assert result.n_sequences == 500
    assert result.n_identical == sum(
        tokenizer.encode(tokenizer.decode(ids)) == ids for ids in sequences(3, 500)
    )
    assert result.reason == several
    assert "part of a character" in check_round_trip(SubwordTextEncoder(["ab", "a", "b"])).reason


def sequences(n_tokens, n):
    rng = random.Random(0)
    return [rng.choices(range(n_tokens), k=12) for _ in range(n)]
