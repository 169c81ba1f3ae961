"""What the score of a training text costs."""

import numpy as np

from service.models.cell import LayerSpec
from service.models.importing.text_score import ROWS, score_text
from service.models.spec import ModelSpec
from service.models.window import Padding, Window
from service.models.window_program import WindowProgram
from tests.models.networks import random_weights

LENGTH, MOST = 8, 320


class CountedProgram(WindowProgram):
    """A program that counts its steps."""

    n_steps = 0

    def step(self, batch, rows):
        self.n_steps += 1
        super().step(batch, rows)


def test_a_text_of_one_long_line_takes_as_many_steps_as_a_sequence():
    window = Window(LENGTH, Padding.RIGHT, None, is_sliding=True)
    spec = ModelSpec(5, None, (LayerSpec("lstm", 4),), window=window)
    program = CountedProgram(spec, random_weights(spec))
    line = np.random.default_rng(0).integers(0, 5, 20_000).tolist()
    score = score_text(program, spec, [line], (), MOST)
    assert len(score.tokens) == MOST
    assert program.n_steps <= MOST // ROWS + LENGTH
