"""A bundle with a tokenizer's own file, and what the tokenizers share."""

import time

import numpy as np
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers

from service.errors import BadCheckpoint
from service.models.bundle import (
    Bundle,
    BundleMetadata,
    Parity,
    Precision,
    Provenance,
    build_files,
)
from service.models.cell import LayerSpec
from service.models.spec import ModelRef, ModelSpec, Weights
from service.models.store import ModelStore
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.tokenizers.round_trip import RoundTrip, measure_round_trip
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.subwords import TOKENIZER_JSON, SubwordTokenizer
from service.models.tokenizers.word_rules import keras_rules
from service.models.tokenizers.words import WordTokenizer

SPEC = ModelSpec(3, None, (LayerSpec("lstm", 2),))
REF = ModelRef("words", 1)


def subwords() -> SubwordTokenizer:
    library = Library(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return SubwordTokenizer(library.to_str().encode(), UnknownPolicy.UNK)


def files_of(tokenizer) -> dict[str, bytes]:
    arrays = {n: np.zeros(s, np.float32) for n, s in SPEC.weight_shapes.items()}
    record = BundleMetadata(
        precision=Precision.FLOAT32,
        precision_reason="made by a test",
        source=Provenance(format="test", files={}),
        parity=Parity(tokens=0, largest_logit_difference={}),
    )
    return build_files(REF, SPEC, Weights(SPEC, arrays), tokenizer, record)


def test_a_bundle_has_the_tokenizers_file_and_verifies_it(tmp_path) -> None:
    ModelStore(tmp_path).write(REF, files_of(subwords()))
    (folder,) = [path.parent for path in tmp_path.rglob(TOKENIZER_JSON)]
    assert Bundle.read(folder).tokenizer.encode("b a ?") == [2, 1, 0]
    path = folder / TOKENIZER_JSON
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BadCheckpoint, match="not the file that the manifest describes"):
        Bundle.read(folder)
    path.unlink()
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        Bundle.read(folder)


def test_a_bundle_of_characters_has_no_more_files_than_before() -> None:
    assert set(files_of(CharacterTokenizer("abc"))) == {
        "manifest.json",
        "weights.safetensors",
        "vocabulary.json",
    }


def test_a_begin_token_is_added_to_every_prompt_or_to_an_empty_one() -> None:
    for is_added, expected in ((True, [2, 0]), (False, [0])):
        special = SpecialTokens(begin=2, end=(2,), is_begin_added=is_added)
        tokenizer = CharacterTokenizer(["a", "b", "<s>"], special=special)
        assert tokenizer.encode_prompt("a") == expected
        assert tokenizer.encode_prompt("") == [2]
        assert tokenizer.encode("a") == [0]
        assert SpecialTokens.from_json(special.to_json()) == special


def test_words_in_another_case_are_left_out_of_the_round_trip() -> None:
    tokenizer = WordTokenizer(["", "the", "The", "cat", "a-b"], rules=keras_rules())
    assert measure_round_trip(tokenizer) == RoundTrip("tokens", 1000, 1000, 3)


def test_a_round_trip_counts_what_differs() -> None:
    class Forgetful(CharacterTokenizer):
        def encode(self, text: str) -> list[int]:
            return super().encode(text)[:15]

    assert measure_round_trip(CharacterTokenizer("abc")).identical == 1000
    assert measure_round_trip(Forgetful("abc")).identical == 0


def test_a_vocabulary_of_100_000_words_is_built_in_time() -> None:
    tokens = ["", *(f"word{i}" for i in range(100_000))]
    start = time.process_time()
    WordTokenizer(tokens, UnknownPolicy.SKIP, keras_rules())
    assert time.process_time() - start < 0.5
