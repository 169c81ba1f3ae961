"""The first inspection compiles nothing: Numba compiles with the GIL held, and all streams wait."""

import gc

import pytest
from numba.core.dispatcher import Dispatcher

from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.inspection.selection import select
from service.inspection.tracer import TextTracer
from service.models.bundle import Precision
from service.models.compile import Int8Kernel, compile_program
from service.models.tokenizers.characters import CharacterTokenizer
from tests.models.networks import SPECS, VOCABULARY_SIZE, random_weights

ALPHABET = "abcdefghijklmnopq"


def compiled() -> set[tuple[int, str]]:
    """The kernels of this process, each for types of its arguments, compiled or loaded."""
    return {
        (id(each), str(signature))
        for each in gc.get_objects()
        if issubclass(type(each), Dispatcher)  # a dead weak proxy has a type, too
        for signature in each.signatures
    }


@pytest.mark.parametrize("name", ["lstm", "gru", "lstm on gru"])
@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FLOAT32])
def test_the_first_inspection_runs_the_kernel_that_a_loaded_model_has(name, precision):
    spec = SPECS[name]
    program = compile_program(spec, random_weights(spec), precision, kernel=Int8Kernel.OWN)
    assert len(ALPHABET) == VOCABULARY_SIZE
    Engine(program, CharacterTokenizer(ALPHABET), EngineConfig(), name="first").close()
    program.step(program.new_batch(1), 1)  # loads what the engine has compiled
    before = compiled()
    TextTracer(program, select(spec), n_top_tokens=3).read([1, 2, 3])
    assert compiled() - before == set()
