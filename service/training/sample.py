"""A short sample of a model in training, always from the same random numbers."""

from collections.abc import Sequence

import numpy as np

from service.models.reference import ReferenceModel
from service.models.tokenizers.tokenizer import Tokenizer

CHARACTERS, TEMPERATURE = 200, 0.8


def sample_text(
    reference: ReferenceModel,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    characters: int = CHARACTERS,
) -> str:
    """Generate from a prompt at TEMPERATURE; the same weights give the same text."""
    rng, state, tokens = np.random.default_rng(0), reference.initial_state(), []
    for token in prompt:
        logits, state = reference.step(token, state)
    for _ in range(characters):
        weights = np.exp((logits - logits.max()) / TEMPERATURE)
        tokens.append(int(rng.choice(len(weights), p=weights / weights.sum())))
        logits, state = reference.step(tokens[-1], state)
    return tokenizer.decode(tokens)
