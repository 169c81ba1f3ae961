"""Windowed models in the engine, against the author's loop written out."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest

from service.errors import Validation
from service.generation import completions
from service.generation.beams import BeamParams
from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.generation.request import GenerationRequest, SamplingParams
from service.models.compile import compile_program
from service.models.layers import SelectStep
from service.models.reference import ReferenceModel
from service.models.spec import ModelSpec
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.window import Padding
from tests.models.networks import LENGTH, VOCABULARY_SIZE, WINDOWED, random_weights

TOKENIZER = CharacterTokenizer([chr(97 + i) for i in range(VOCABULARY_SIZE)])
GREEDY = SamplingParams(seed=1, temperature=0.0)
SHORT, LONG = (3, 1, 4, 1), tuple(1 + i % 16 for i in range(2 * LENGTH + 5))
NAMES = ["left, token", "left, masked", "right, token", "sliding", "bidirectional"]
MODELS = pytest.mark.parametrize("name", NAMES)
PROMPTS = pytest.mark.parametrize("prompt", [SHORT, LONG], ids=["short", "long"])


def weights_of(spec: ModelSpec):
    return random_weights(spec, scale=0.8)


def author(spec: ModelSpec, prompt, n: int) -> list[int]:
    """The text of the author's loop; the window of their one-hot example keeps its length."""
    reference, window = ReferenceModel(spec, weights_of(spec)), spec.window
    ids = list(prompt)
    size = min(window.length, len(prompt)) if window.is_sliding else window.length
    for _ in range(n):
        held = [token + 1 for token in ids[-size:]]
        row = np.array([0] * (window.length - len(held)) + held, float)
        ids.append(int(reference.read(row[None])[0].argmax()))
    return ids[len(prompt) :]


@contextlib.contextmanager
def engine_of(spec: ModelSpec):
    program = compile_program(spec, weights_of(spec), "float32")
    engine = Engine(program, TOKENIZER, EngineConfig(), name="windowed")
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


async def read(engine, request):
    tokens, state = [], None
    async for chunk in engine.submit(request):
        tokens += chunk.tokens
        state = chunk.state or state
    return tokens, state


@MODELS
@PROMPTS
async def test_the_engine_gives_the_text_of_the_authors_loop(name, prompt):
    spec = WINDOWED[name]
    with engine_of(spec) as engine:
        tokens, _ = await read(engine, GenerationRequest(prompt, 40, GREEDY))
    assert tokens == author(spec, prompt, 40)


@MODELS
@PROMPTS
async def test_a_prompt_takes_no_steps(name, prompt):
    """The program is fed one token of the prompt."""
    spec = WINDOWED[name]
    with engine_of(spec) as engine:
        request = engine.prompts.read(GenerationRequest(prompt, 5, GREEDY))
    assert request.prompt == prompt[-1:]
    assert request.initial_state.position == len(prompt) - 1
    assert request.penalty_context == prompt[:-1]


@MODELS
@PROMPTS
async def test_a_generation_continues_from_its_state(name, prompt):
    spec, whole = WINDOWED[name], GenerationRequest(prompt, 40, GREEDY, return_state=True)
    with engine_of(spec) as engine:
        wanted, _ = await read(engine, whole)
        first, state = await read(engine, replace(whole, max_new_tokens=17))
        assert state.position == len(prompt) + 16
        rest = replace(whole, prompt=tuple(first[-1:]), initial_state=state, max_new_tokens=40 - 17)
        second, _ = await read(engine, rest)
    assert first + second == wanted


@MODELS
async def test_a_prompt_that_is_consumed_first_gives_the_same_text(name):
    spec = WINDOWED[name]
    with engine_of(spec) as engine:
        consume = GenerationRequest(SHORT, 0, GREEDY, return_state=True)
        tokens, state = await read(engine, consume)
        assert tokens == []
        assert state.position == len(SHORT) - 1
        request = GenerationRequest(SHORT[-1:], 20, GREEDY, initial_state=state)
        tokens, _ = await read(engine, request)
    assert tokens == author(spec, SHORT, 20)


@MODELS
async def test_beams_of_one_and_several_samples_are_the_authors_text_too(name):
    spec = WINDOWED[name]
    for n, beams in ((1, BeamParams(width=1, n=1)), (3, None)):
        with engine_of(spec) as engine:
            request = GenerationRequest(SHORT, 20, GREEDY)
            stream = completions.start(engine, [request], n=n, beams=beams)
            texts = [[] for _ in range(n)]
            async for index, chunk in stream:
                texts[index] += chunk.tokens
        assert texts == [author(spec, SHORT, 20)] * n


@MODELS
async def test_prompt_logprobs_are_those_of_the_prefixes(name):
    spec = WINDOWED[name]
    reference = ReferenceModel(spec, weights_of(spec))
    with engine_of(spec) as engine:
        request = GenerationRequest(LONG, 1, GREEDY)
        stream = completions.start(engine, [request], prompt_logprobs=0)
        tokens = [token async for _, chunk in stream for token in chunk.tokens]
    logits = reference.run(LONG)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wanted = logs[np.arange(len(LONG) - 1), LONG[1:]]
    assert stream.prompt_logprobs(0).logprobs[0] is None
    assert np.abs(np.array(stream.prompt_logprobs(0).logprobs[1:]) - wanted).max() < 1e-5
    assert tokens == author(spec, LONG, 1)


async def test_a_short_prompt_of_a_window_that_is_never_padded_is_refused():
    spec = WINDOWED["never padded"]
    assert spec.window.padding is Padding.NONE
    assert isinstance(spec.layers[-1], SelectStep)
    with engine_of(spec) as engine:
        request = GenerationRequest(LONG[: LENGTH - 1], 5, GREEDY)
        with pytest.raises(Validation, match=f"reads {LENGTH} tokens .* the prompt has 10"):
            completions.start(engine, [request])
        whole = replace(request, prompt=LONG[:LENGTH])
        stream = completions.start(engine, [whole])
        tokens = [token async for _, chunk in stream for token in chunk.tokens]
        assert tokens == author(spec, LONG[:LENGTH], 5)


@MODELS
@pytest.mark.parametrize("n_lost", [1, 9, 16])
async def test_a_turn_whose_state_is_lost_continues_from_its_log(name, n_lost):
    spec, wanted = WINDOWED[name], author(WINDOWED[name], SHORT, 30)
    prompt = (*SHORT, *wanted[:n_lost])
    with engine_of(spec) as engine:
        request = GenerationRequest(prompt, 30 - n_lost, GREEDY, sampled_in_prompt=n_lost)
        tokens, _ = await read(engine, request)
    assert tokens == wanted[n_lost:]
