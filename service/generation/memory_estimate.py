"""An estimate of the memory of a model: its weights, its program, its batch and its texts."""

from dataclasses import dataclass

from service.generation.config import EngineConfig
from service.generation.request import MAX_LOGIT_BIASES, MAX_TOP_TOKENS, PENALTY_WINDOW
from service.generation.sampling import MAX_STEPS
from service.models.cells import CELLS
from service.models.spec import FOLD_LIMIT_BYTES, ModelSpec
from service.models.window import BATCH_NUMBERS

FIXED_BYTES = 4 * 1024 * 1024
"""Stacks of the engine's threads, and what ONNX Runtime needs for the smallest model."""

TEXT_BYTES = 1_200
"""Of a token: its text as a string, as JSON and in an event, and the tokenizer's entries."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Upper bounds in bytes, if every row of the batch has been used."""

    weights: int
    program: int
    states: int
    texts: int

    @property
    def total(self) -> int:
        """The whole model."""
        return self.weights + self.program + self.states + self.texts


def estimate_memory(spec: ModelSpec, config: EngineConfig) -> MemoryEstimate:
    """Return how much memory a model takes once it is loaded."""
    vocabulary = spec.vocabulary_size
    rows = config.rows_of(vocabulary)
    first = spec.recurrent_layers[0]
    table_bytes = 4 * vocabulary * len(CELLS[first.cell].gates) * first.units  # x W + b by token
    weights = 4 * spec.parameters
    folded = table_bytes if table_bytes <= FOLD_LIMIT_BYTES else 0
    sampler = MAX_STEPS * (8 + 12 + 12 * MAX_TOP_TOKENS) + 12 * MAX_LOGIT_BIASES
    logits = vocabulary * (4 + 2)  # and the counts of penalties
    window = 0 if spec.window is None else spec.window.length * max(spec.widths) * rows
    state = 2 * 4 * sum(spec.state_units)  # and what a burst copies of it
    return MemoryEstimate(
        weights=weights,
        program=weights + 2 * folded + 4 * min(BATCH_NUMBERS, window) + FIXED_BYTES,
        states=rows * (logits + state + sampler + 4 * PENALTY_WINDOW),
        texts=TEXT_BYTES * vocabulary,
    )


def steered_bytes(spec: ModelSpec, config: EngineConfig) -> int:
    """Return how much memory a model's steered engine takes: its own weights, batch and tables."""
    cells = [(CELLS[layer.cell], layer.units) for layer in spec.recurrent_layers]
    row = sum(units * (13 + 9 * len(cell.activated)) for cell, units in cells)
    rows = config.rows_of(spec.vocabulary_size)
    return estimate_memory(spec, config).total + rows * row
