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
from service.models.compile import compile_program, own_instructions
from service.models.spec import ModelSpec, Weights
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.window import Padding, Window


def check_up() -> Iterator[str]:
    """Compile and run a very small model in each precision; yield lines to print."""
    spec = ModelSpec(2, 1, (LayerSpec("lstm", 4),))
    zeros = {name: np.zeros(shape, np.float32) for name, shape in spec.weight_shapes.items()}
    weights, tokenizer = Weights(spec, zeros), CharacterTokenizer("ab")
    for precision in Precision:
        program = compile_program(spec, weights, precision)
        Engine(program, tokenizer, EngineConfig(), name="checkup").close()
        yield f"{precision}: {type(program).__name__}"
    window = Window(2, Padding.LEFT, 0)
    program = compile_program(replace(spec, window=window), weights, Precision.FLOAT32)
    Engine(program, tokenizer, EngineConfig(), name="checkup").close()
    yield f"a window of tokens: {type(program).__name__}"
    # Otherwise the first request would compile these kernels.
    either = ConstraintSpec(ConstraintKind.REGEX, "a|b", bad_words=("b",))
    compile_constraint(either, "ab")
    compile_constraint(either, TokenTexts(("ab", "a")))
    instructions = own_instructions()
    yield (
        f"int8 by Carousel's own kernel, with {instructions}"
        if instructions
        else "int8 by ONNX Runtime: this processor has no AVX2"
    )
