"""Generation and scoring in a terminal, without a server."""

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from service.errors import Validation
from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.generation.request import GenerationRequest, SamplingParams
from service.generation.score import PIECE_CHARACTERS, Score, Scorer
from service.generation.token_texts import begins_text
from service.models.kernel_choice import KernelChoices
from service.models.spec import ModelRef
from service.models.store import ModelStore
from service.models.tokenizers.decode_stream import DecodeStream
from service.models.tokenizers.tokenizer import Tokenizer
from service.settings import Settings


def write_text(
    model_store: Path,
    model: str,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    seed: int | None,
) -> None:
    """Print the prompt and, as it is generated, its completion. Raises as ModelStore.read."""
    with _engine(model_store, model) as (engine, tokenizer):
        sampling = SamplingParams(secrets.randbits(64) if seed is None else seed, temperature)
        tokens = tokenizer.encode_prompt(prompt)
        if not tokens:
            raise Validation(
                "the prompt has no token of the model, and the model has no begin token; give the "
                "beginning of a text"
            )
        engine.prompts.check(len(tokens))
        is_start = begins_text(tokenizer, tokens)
        request = GenerationRequest(tokens, max_new_tokens, sampling, is_start=is_start)
        decoder = DecodeStream(tokenizer, is_start=is_start)

        async def write() -> None:
            engine.start()
            async for chunk in engine.submit(request):
                print("".join(map(decoder.push, chunk.tokens)), end="", flush=True)
            print(decoder.finish(), end="")

        print(prompt, end="", flush=True)
        asyncio.run(write())
        print()


def score_file(model_store: Path, model: str, path: Path) -> Score:
    """Score a text file. Raises Validation if it is not UTF-8, and as ModelStore.read."""
    with _engine(model_store, model) as (engine, tokenizer):

        async def read() -> Score:
            engine.start()
            scorer = Scorer(engine, tokenizer)
            try:
                with path.open(encoding="utf-8", newline="") as file:
                    while piece := file.read(PIECE_CHARACTERS):
                        async for _ in scorer.read(piece, is_last=False):
                            pass
                    async for _ in scorer.read(""):
                        pass
            except (OSError, UnicodeDecodeError) as error:
                raise Validation(f"{path} cannot be read as a text in UTF-8: {error}") from error
            return scorer.score

        return asyncio.run(read())


@contextlib.contextmanager
def _engine(model_store: Path, model: str) -> Iterator[tuple[Engine, Tokenizer]]:
    bundle = ModelStore(model_store).read(ModelRef.parse(model))
    settings = Settings.read()
    kernels = KernelChoices(model_store, settings.int8_kernel, settings.int4_weights)
    program = kernels.compile(bundle, bundle.manifest.precision)
    engine = Engine(program, bundle.tokenizer, EngineConfig(), name=model)
    try:
        yield engine, bundle.tokenizer
    finally:
        engine.close()
