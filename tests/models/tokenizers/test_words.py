"""Words as the libraries of their authors split them."""

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.errors import UnknownCharacter
from service.models.tokenizers import read_tokenizer
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.word_rules import (
    TEXTGENRNN_RULES,
    keras_rules,
    text_vectorization_rules,
)
from service.models.tokenizers.words import WordTokenizer

ODD = "aBbÉéİΣσς ΑΣ'\u2019-_.,!\t\n\r\x0b\x1c\x85\xa0\u2028\u3000“—中"
texts = st.text(st.sampled_from(ODD), max_size=30) | st.text(max_size=20)


def words(rules, text):
    return [word for word, _, _ in rules.words(text)]


@given(texts)
def test_plain_words_are_those_of_split(text):
    assert words(WordTokenizer(["a", "b"]).rules, text) == text.split()


@pytest.mark.tf
@settings(deadline=None)
@given(texts, st.sampled_from([None, "", "abÉ", string.punctuation]), st.booleans())
@example("a, , b, ", None, False)
def test_words_of_a_keras_tokenizer(text, filters, lower):
    from tf_keras.preprocessing.text import text_to_word_sequence  # noqa: PLC0415

    options = {} if filters is None else {"filters": filters}
    expected = text_to_word_sequence(text, lower=lower, **options)
    assert words(keras_rules(*options.values(), lower=lower), text) == expected
    if "," in text:
        expected = text_to_word_sequence(text, lower=lower, split=", ", filters="b")
        assert words(keras_rules("b", ", ", lower=lower), text) == expected


@pytest.mark.tf
@pytest.mark.parametrize(
    "standardize", [None, "lower", "strip_punctuation", "lower_and_strip_punctuation"]
)
@settings(deadline=None)
@given(texts)
def test_words_of_text_vectorization(standardize, text):
    import tensorflow as tf  # noqa: PLC0415
    from tf_keras.layers import TextVectorization  # noqa: PLC0415

    layer = TextVectorization(standardize=standardize)
    split = layer._preprocess(tf.constant([text])).to_list()[0]
    expected = [word.decode() for word in split]
    assert words(text_vectorization_rules(standardize), text) == expected


def test_words_of_textgenrnn():
    text = "Don't—stop, “Now”  (please)\\n\n"
    expected = ["don", "'", "t", "—", "stop", ",", "“", "now", "”", "(", "please", ")", "\\n"]
    assert words(TEXTGENRNN_RULES, text) == expected


@given(texts, st.sampled_from([keras_rules(), text_vectorization_rules(), TEXTGENRNN_RULES]))
def test_offsets_are_those_of_the_text_as_given(text, rules):
    for word, start, stop in rules.words(text):
        assert words(rules, text[start:stop]) == [word] or "Σ" in text
        assert 0 <= start < stop <= len(text)


def test_a_word_tokenizer():
    tokens = ["", "<OOV>", "the", "king's", "<EOS>", "pad"]
    tokenizer = WordTokenizer(tokens, UnknownPolicy.UNK, keras_rules())
    assert tokenizer.special == SpecialTokens(pad=0, unknown=1, end=(4,))
    assert tokenizer.encode("The KING'S, sword!") == [2, 3, 1]
    assert tokenizer.encode("<EOS>") == [1]  # the rules make another word of it
    assert WordTokenizer(tokens).encode("the <EOS>") == [2, 4]
    assert tokenizer.decode([2, 3, 0, 5]) == " the king's pad"
    assert tokenizer.decode([2, 3], is_start=True) == "the king's"
    assert tokenizer.suppressed_ids == (0, 1)
    again = read_tokenizer(tokens, UnknownPolicy.UNK, tokenizer.options)
    assert again.options == tokenizer.options
    assert again.encode("pad the king's") == [5, 2, 3]
    strict = WordTokenizer(tokens, UnknownPolicy.ERROR, keras_rules())
    with pytest.raises(UnknownCharacter, match="no token for the word 'sword' at offset 4"):
        strict.encode("the Sword")


def test_padding_that_ends_a_text():
    special = SpecialTokens(pad=0, end=(0,))
    tokenizer = WordTokenizer(["", "a"], UnknownPolicy.SKIP, special=special)
    assert (tokenizer.end_ids, tokenizer.suppressed_ids) == ((0,), ())
    assert read_tokenizer(["", "a"], UnknownPolicy.SKIP, tokenizer.options).end_ids == (0,)


def test_characters_in_lower_case_with_a_character_that_ends():
    special = SpecialTokens(end=(2,))
    tokenizer = CharacterTokenizer("ab]i\u0307", UnknownPolicy.SKIP, special, is_lower=True)
    assert tokenizer.encode("AB]İ") == [0, 1, 2, 3, 4]
    assert tokenizer.encode_with_offsets("bİ") == [(1, 0, 1), (3, 1, 2), (4, 1, 2)]
    assert (tokenizer.text_of(2), tokenizer.end_ids) == ("", (2,))
    again = read_tokenizer(tokenizer.tokens, UnknownPolicy.SKIP, tokenizer.options)
    assert again.encode("AB]") == [0, 1, 2]
    assert CharacterTokenizer("ab").options == {}
