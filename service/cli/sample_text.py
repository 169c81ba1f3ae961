"""A sample of a model's text, which its import shows."""

import asyncio
from dataclasses import dataclass

import numpy as np

from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.generation.request import GenerationRequest, SamplingParams
from service.generation.token_texts import begins_text
from service.models.bundle import Bundle
from service.models.compile import compile_program
from service.models.tokenizers.tokenizer import Tokenizer
from service.models.window import Padding

SAMPLE_CHARACTERS = 200
TEMPERATURES = (0.0, 0.8)
_SEED = 1
_BEGINNINGS = ("\n", " ")  # what texts of characters have between their parts
_WARM_UP, _PROMPT_TOKENS = 24, 4


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and what the model generates after it, by temperature."""

    prompt: tuple[int, ...]
    texts: dict[float, str]


def sample_of(bundle: Bundle) -> Sample:
    """Generate a sample from a prompt that suits the model. Blocks; takes seconds."""
    program = compile_program(bundle.spec, bundle.weights, bundle.manifest.precision)
    engine = Engine(program, bundle.tokenizer, EngineConfig(), name=str(bundle.ref))

    async def run() -> Sample:
        engine.start()
        prompt = await _prompt(engine, bundle)
        texts = {t: await _text(engine, bundle.tokenizer, prompt, t) for t in TEMPERATURES}
        return Sample(tuple(prompt), texts)

    try:
        return asyncio.run(run())
    finally:
        engine.close()


async def _prompt(engine: Engine, bundle: Bundle) -> list[int]:
    """Return the begin token; else a line break or a blank; else tokens that the model samples.

    A window that is never padded is filled with random tokens.
    """
    tokenizer, window = bundle.tokenizer, bundle.spec.window
    ordinary = sorted(set(range(len(tokenizer))) - set(tokenizer.special_ids)) or [0]
    if window is not None and window.padding is Padding.NONE:
        return [int(i) for i in np.random.default_rng(_SEED).choice(ordinary, window.length)]
    if tokenizer.special.begin is not None:
        return [tokenizer.special.begin]
    for text in _BEGINNINGS:
        if text in tokenizer.tokens:
            return [tokenizer.tokens.index(text)]
    start = [ordinary[0]]
    sampling = SamplingParams(_SEED)
    async for chunk in engine.submit(GenerationRequest(start, _WARM_UP, sampling)):
        start.extend(token for token in chunk.tokens if token not in tokenizer.special_ids)
    return start[-_PROMPT_TOKENS:]


async def _text(engine: Engine, tokenizer: Tokenizer, prompt: list[int], temperature: float) -> str:
    is_start = begins_text(tokenizer, prompt)
    sampling = SamplingParams(_SEED, temperature)
    request = GenerationRequest(prompt, SAMPLE_CHARACTERS, sampling, is_start=is_start)
    stream, ids, text = engine.submit(request), list[int](), ""
    async for chunk in stream:
        ids.extend(chunk.tokens)
        text = tokenizer.decode(ids, is_start=is_start)
        if len(text) >= SAMPLE_CHARACTERS:
            stream.cancel()
            break
    return text[:SAMPLE_CHARACTERS]
