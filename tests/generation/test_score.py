import asyncio
import contextlib
import math

import numpy as np
import pytest

from service.errors import Draining, UnknownCharacter, Validation
from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.generation.score import Score, Scorer
from service.models.compile import compile_program
from service.models.reference import ReferenceModel
from service.models.spec import ModelRef
from service.models.store import ModelStore
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.tokenizers.special_tokens import UnknownPolicy
from service.offline import score_file
from tests.fakes.digest_program import DigestProgram
from tests.generation.words import WordTokenizer
from tests.process import ROOT

TEXT = "ROMEO:\nBut soft, what light through yonder window breaks?\n" * 2


@contextlib.asynccontextmanager
async def running(program, tokenizer):
    engine = Engine(program, tokenizer, EngineConfig(), name="test")
    engine.start()
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.close)


async def read(scorer, *texts):
    tokens, logprobs = [], []
    for text in texts:
        async for chunk in scorer.read(text):
            tokens += chunk.tokens
            logprobs += chunk.logprobs
    return tokens, logprobs


async def test_a_score_is_the_reference_models():
    bundle = ModelStore(ROOT / "model_store").read(ModelRef("demo", 1))
    tokens = bundle.tokenizer.encode(TEXT)
    logits = ReferenceModel(bundle.spec, bundle.weights).run(tokens[:-1])
    expected = logits[np.arange(len(tokens) - 1), tokens[1:]] - np.log(np.exp(logits).sum(1))
    program = compile_program(bundle.spec, bundle.weights, "float32", 1)
    async with running(program, bundle.tokenizer) as engine:
        scorer = Scorer(engine, bundle.tokenizer)
        read_tokens, logprobs = await read(scorer, TEXT)
    assert read_tokens == tokens
    assert math.isnan(logprobs[0])
    np.testing.assert_allclose(logprobs[1:], expected, atol=2e-5)
    found, nats, n = scorer.score, -expected.sum(), len(expected)
    assert found.characters == found.size_bytes == n
    assert found.nats == pytest.approx(nats, rel=1e-6)
    assert found.bits_per_character == pytest.approx(nats / n / math.log(2), rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(nats / n), rel=1e-6)


async def test_pieces_of_any_length_sum_to_the_same():
    tokenizer, text = CharacterTokenizer("abcdé😀g"), "abcdé😀g" * 40
    async with running(DigestProgram(), tokenizer) as engine:
        whole = Scorer(engine, tokenizer)
        expected = await read(whole, text)
        assert whole.score.size_bytes == len(text.encode()) - 1  # the first is not counted
        for length in (1, 2, 37, 279):
            scorer = Scorer(engine, tokenizer, piece_characters=length)
            found = await read(scorer, text)
            np.testing.assert_array_equal(found, expected)
            assert scorer.score == whole.score
            scorer = Scorer(engine, tokenizer, piece_characters=length)
            found = await read(scorer, "", text[:1], text[1:length], "", text[length:])
            np.testing.assert_array_equal(found, expected)


async def test_what_the_tokenizer_skips_or_does_not_know_is_counted_as_such():
    async with running(DigestProgram(), CharacterTokenizer("abcdefg")) as engine:
        skipping = Scorer(engine, CharacterTokenizer("abcdefg", UnknownPolicy.SKIP))
        assert (await read(skipping, "a😀b😀"))[0] == [0, 1]
        assert (skipping.score.characters, skipping.score.size_bytes) == (1, 1)
        tokens = ["a", "b", "c", "d", "e", "f", "[UNK]"]
        marking = Scorer(engine, CharacterTokenizer(tokens, UnknownPolicy.UNK))
        assert (await read(marking, "a😀b"))[0] == [0, 6, 1]
        assert (marking.score.characters, marking.score.size_bytes) == (2, 5)
        strict = Scorer(engine, CharacterTokenizer("abcdefg"))
        with pytest.raises(UnknownCharacter, match=r"after 3 characters: .*'h'.* offset 1"):
            await read(strict, "abc", "ah")


async def test_a_cancelled_scorer_frees_the_engine():
    async with running(DigestProgram(), CharacterTokenizer("abcdefg")) as engine:
        scorer = Scorer(engine, CharacterTokenizer("abcdefg"))
        async for _ in scorer.read("abcdefg" * 100_000):
            if scorer.score.characters > 5_000:
                scorer.cancel()
        assert scorer.score.characters < 10_000
        assert engine.streams == 0
        await engine.drain(1.0)
        with pytest.raises(Draining):
            Scorer(engine, CharacterTokenizer("abcdefg"))


def test_a_file_is_scored_without_a_server(tmp_path):
    path = tmp_path / "text"
    path.write_text(TEXT * 60, encoding="utf-8")
    found = score_file(ROOT / "model_store", "demo@1", path)
    assert found.characters == len(TEXT) * 60 - 1
    assert 1.0 < found.bits_per_character < 5.0
    with pytest.raises(Validation, match="cannot be read"):
        score_file(ROOT / "model_store", "demo@1", tmp_path / "nothing")


def test_a_sum_that_is_no_number_is_none():
    assert Score().bits_per_character is Score().bits_per_byte is Score().perplexity is None
    assert Score(1, 1, 1e6).perplexity is None
    assert Score(2, 4, 2 * math.log(2)).bits_per_byte == pytest.approx(0.5)


async def test_the_pieces_of_a_text_of_words_do_not_change_its_tokens():
    words = WordTokenizer(["the", "end", "of", "all"])
    text = "the end, of  all the end of all  the end of the end"
    whole = words.encode(text)
    async with running(DigestProgram(len(words)), words) as engine:
        one = Scorer(engine, words)
        tokens, logprobs = await read(one, text)
        assert tokens == whole
        for size in (1, 3, 7):
            several = Scorer(engine, words, piece_characters=5)
            found = []
            for i in range(0, len(text), size):
                async for chunk in several.read(text[i : i + size], is_last=False):
                    found += zip(chunk.tokens, chunk.logprobs, strict=True)
            async for chunk in several.read(""):
                found += zip(chunk.tokens, chunk.logprobs, strict=True)
            assert [token for token, _ in found] == whole
            assert [logprob for _, logprob in found][1:] == logprobs[1:]
            assert several.score == one.score
            several.cancel()
        assert one.score.characters == len(text) - len("the")
        one.cancel()
