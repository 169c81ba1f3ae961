"""A check of this machine: each kind of program is compiled and run once."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from service.constraints.compiler import compile_constraint
from service.constraints.spec import ConstraintKind, ConstraintSpec
from service.constraints.token_texts import TokenTexts
from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.models.bundle import Precision
from service.models.cell import LayerSpec
from service.models.compile import Int8Kernel, compile_program
from service.models.spec import ModelSpec, Weights
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.window import Padding, Window


def check_up() -> Iterator[str]:
    """Compile and run a very small model in each precision; yield what runs it."""
    spec = ModelSpec(2, 1, (LayerSpec("lstm", 4),))
    zeros = {name: np.zeros(shape, np.float32) for name, shape in spec.weight_shapes.items()}
    weights, tokenizer = Weights(spec, zeros), CharacterTokenizer("ab")
    int8 = [(Precision.INT8, kernel) for kernel in Int8Kernel]
    for precision, kernel in [(Precision.FLOAT32, Int8Kernel.ONNX_RUNTIME), *int8]:
        program = compile_program(spec, weights, precision, kernel=kernel)
        Engine(program, tokenizer, EngineConfig(), name="checkup").close()
        yield f"{precision} by {type(program).__name__}"
    window = Window(2, Padding.LEFT, 0)
    program = compile_program(replace(spec, window=window), weights, Precision.FLOAT32)
    Engine(program, tokenizer, EngineConfig(), name="checkup").close()
    yield f"a window of tokens by {type(program).__name__}"
    # Otherwise the first request would compile these kernels.
    either = ConstraintSpec(ConstraintKind.REGEX, "a|b", bad_words=("b",))
    compile_constraint(either, "ab")
    compile_constraint(either, TokenTexts(("ab", "a")))
