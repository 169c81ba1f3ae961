"""Generation and scoring in a terminal, without a server."""

import asyncio
import secrets
from pathlib import Path

from service.errors import Validation
from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.generation.request import GenerationRequest, SamplingParams
from service.generation.score import PIECE_CHARACTERS, Score, Scorer
from service.models.compile import compile_program
from service.models.spec import ModelRef
from service.models.store import ModelStore


def write_text(
    model_store: Path,
    model: str,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    seed: int | None,
) -> None:
    """Print the prompt and, as it is generated, its completion.

    Raises:
        ModelNotFound, BadCheckpoint: the model is not in the store, or is damaged.
        UnknownCharacter, Validation: the prompt or a parameter is not valid.

    """
    bundle = ModelStore(model_store).read(ModelRef.parse(model))
    program = compile_program(bundle.spec, bundle.weights, bundle.manifest.precision)
    engine = Engine(program, bundle.tokenizer, EngineConfig(), name=model)
    sampling = SamplingParams(secrets.randbits(64) if seed is None else seed, temperature)
    request = GenerationRequest(bundle.tokenizer.encode(prompt), max_new_tokens, sampling)

    async def write() -> None:
        engine.start()
        async for chunk in engine.submit(request):
            print(bundle.tokenizer.decode(chunk.tokens), end="", flush=True)

    print(prompt, end="", flush=True)
    asyncio.run(write())
    print()
    engine.close()


def score_file(model_store: Path, model: str, path: Path) -> Score:
    """Return the score of a text file by a model.

    Raises:
        ModelNotFound, BadCheckpoint: the model is not in the store, or is damaged.
        UnknownCharacter, Validation: the text has a character without a token, or is not UTF-8.

    """
    bundle = ModelStore(model_store).read(ModelRef.parse(model))
    program = compile_program(bundle.spec, bundle.weights, bundle.manifest.precision)
    engine = Engine(program, bundle.tokenizer, EngineConfig(), name=model)

    async def read() -> Score:
        engine.start()
        scorer = Scorer(engine, bundle.tokenizer)
        try:
            with path.open(encoding="utf-8", newline="") as file:
                while piece := file.read(PIECE_CHARACTERS):
                    async for _ in scorer.read(piece):
                        pass
        except (OSError, UnicodeDecodeError) as error:
            raise Validation(f"{path} cannot be read as a text in UTF-8: {error}") from error
        return scorer.score

    try:
        return asyncio.run(read())
    finally:
        engine.close()
