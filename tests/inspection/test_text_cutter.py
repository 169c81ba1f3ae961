"""A text in parts has the tokens and the places of the whole text."""

import pytest

from service.errors import UnknownCharacter, Validation
from service.generation.score import MAX_WORD_CHARACTERS
from service.inspection.text_cutter import TextCutter
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.tokenizers.word_rules import keras_rules
from service.models.tokenizers.words import WordTokenizer

TEXT = "the cat  saw a dog\nand the dog saw the cat " * 20
TOKENIZERS = {
    "characters": CharacterTokenizer("abcdefghijklmnopqrstuvwxyz \n"),
    "words": WordTokenizer(["", "the", "cat", "saw", "a", "dog", "and"], rules=keras_rules()),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("part", [1, 7, 100, 10_000])
@pytest.mark.parametrize("piece", [10, 4_096])
def test_parts_have_the_tokens_of_the_whole_text(name, part, piece):
    tokenizer, found = TOKENIZERS[name], []
    cutter = TextCutter(tokenizer, piece)
    for first in range(0, len(TEXT), part):
        for placed in cutter.pieces(TEXT[first : first + part], is_last=False):
            assert len(placed) <= piece
            found += placed
    for placed in cutter.pieces("", is_last=True):
        found += placed
    assert found == [*tokenizer.encode_with_offsets(TEXT)]


def test_an_unknown_character_has_the_place_of_its_piece():
    cutter = TextCutter(TOKENIZERS["characters"], 10)
    assert sum(len(placed) for placed in cutter.pieces("a" * 30, is_last=False)) == 30
    with pytest.raises(UnknownCharacter, match=r"after 30 characters: .*'9'.*at offset 2"):
        [*cutter.pieces("ab9", is_last=True)]


def test_words_without_a_blank_end():
    cutter = TextCutter(TOKENIZERS["words"])
    with pytest.raises(Validation, match="characters without a blank after 3"):
        [*cutter.pieces("the " + "a" * (MAX_WORD_CHARACTERS + 1), is_last=False)]
