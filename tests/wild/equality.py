"""Equality with an author's loop: the same probabilities, the same choices, the same text.

Fed the author's ids, each probability is within 1e-4 of the author's, or both are within 1e-4 of
the float64 reference, on two sides of it: the rounding of float32 depends on the processor. Each
greedy choice is the author's, unless the author's two best are closer than 1e-4. The text is the
author's up to the first such tie.
"""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.generation.request import (
    MAX_TOP_TOKENS,
    GenerationRequest,
    SamplingParams,
    scoring_request,
)
from service.models.bundle import Bundle
from service.models.compile import compile_program
from service.models.reference import ReferenceModel

TOLERANCE, STEPS = 1e-4, 200


@dataclass(frozen=True)
class Written:
    """What an author's loop has written."""

    prompt: str
    text: str
    ids: np.ndarray  # (steps,)
    probabilities: np.ndarray  # (steps, vocabulary)

    @classmethod
    def read(cls, folder: Path, number: int) -> Self:
        values = json.loads((folder / f"author-{number}.json").read_text())
        with np.load(folder / f"author-{number}.npz") as arrays:
            return cls(values["prompt"], values["text"], arrays["ids"], arrays["probabilities"])

    @property
    def has_tie(self) -> bool:
        best = np.sort(self.probabilities, axis=1)
        return bool((best[:, -1] - best[:, -2] < TOLERANCE).any())


def check_equal(bundle: Bundle, author: Written) -> None:
    """Assert that a model is equal to its author's loop."""
    ours, tokens, text = asyncio.run(_generate(bundle, author))
    ids = author.ids.tolist()
    assert len(ours) == len(ids) == STEPS
    for step, (top, theirs) in enumerate(zip(ours, author.probabilities, strict=True)):
        found = [token.id for token in top]
        mine = np.exp([token.logprob for token in top])
        difference = np.abs(mine - theirs[found]).max()
        if difference >= TOLERANCE:
            exact = _reference(bundle, author, step)[found]
            furthest = max(np.abs(mine - exact).max(), np.abs(theirs[found] - exact).max())
            assert furthest < TOLERANCE, f"step {step} of {len(ids)}: {difference:.2g}"
        assert np.delete(theirs, found).max(initial=0) < theirs[found].min() + TOLERANCE
    if not author.has_tie:
        assert tokens == ids
        assert text == author.text


def _reference(bundle: Bundle, author: Written, step: int) -> np.ndarray:
    """Return the probabilities of a step, (vocabulary,), in float64."""
    read = [*bundle.tokenizer.encode_prompt(author.prompt), *author.ids.tolist()[:step]]
    logits = ReferenceModel(bundle.spec, bundle.weights).run(read)[-1]
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


async def _generate(bundle: Bundle, author: Written) -> tuple[list, list[int], str]:
    """Return the 20 most likely tokens of each step, fed the author's; our tokens; our text."""
    program = compile_program(bundle.spec, bundle.weights, bundle.manifest.precision)
    engine = Engine(program, bundle.tokenizer, EngineConfig(), name="wild")
    engine.start()
    try:
        prompt = bundle.tokenizer.encode_prompt(author.prompt)
        forced = scoring_request(prompt, author.ids.tolist(), None, top_tokens=MAX_TOP_TOKENS)
        ours = [top async for chunk in engine.submit(forced) for top in chunk.top_tokens]
        greedy = GenerationRequest(prompt, len(author.ids), SamplingParams(0, temperature=0.0))
        tokens = [token async for chunk in engine.submit(greedy) for token in chunk.tokens]
    finally:
        engine.close()
    return ours, tokens, bundle.tokenizer.decode(tokens)
