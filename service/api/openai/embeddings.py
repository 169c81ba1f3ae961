"""The route /v1/embeddings: the recurrent state after a text, as a vector."""

import asyncio
import base64
import json
import threading
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, WithJsonSchema, field_validator

from service.api.fields import MAX_PROMPT_CHARACTERS, Body, Name
from service.api.http_request import cancelled_on_disconnect
from service.api.openai.schemas import PROMPT_SCHEMA, Prompt, read_prompts
from service.api.sampling_fields import check_token_ids
from service.api.sse import Responses
from service.api.state import ServedModel, get_state
from service.errors import Overloaded, Validation, about
from service.generation.state_reader import Pooling, Vector

MAX_INPUTS = 2_048
MAX_EMBEDDED_TOKENS = 100_000  # of all inputs of a request

router = APIRouter(prefix="/v1", tags=["openai"])


class EmbeddingsBody(Body):
    """The body of POST /v1/embeddings."""

    # OpenAI's
    model: Name | None = None
    input: Annotated[Any, WithJsonSchema({"anyOf": PROMPT_SCHEMA["anyOf"][:-1]})]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, le=2**31 - 1)
    user: str | None = None

    # ours
    state: Literal["h", "hc"] = "h"
    pooling: Literal["last", "mean"] = "last"

    @field_validator("input")
    @classmethod
    def _read_inputs(cls, value: Any) -> list[Prompt]:
        if value is None:
            raise ValueError("`input` is required")
        inputs = read_prompts(value, "input")
        if len(inputs) > MAX_INPUTS:
            raise ValueError(f"`input` has at most {MAX_INPUTS} texts. Given: {len(inputs)}")
        size = sum(map(len, inputs))
        if size > MAX_PROMPT_CHARACTERS:
            raise ValueError(
                f"`input` has at most {MAX_PROMPT_CHARACTERS} characters in all. Given: {size}"
            )
        return inputs


class Embedding(BaseModel):
    """The vector of an input: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """The number of tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsReply(BaseModel):
    """The vectors in the order of the inputs."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


_EMBEDDED: Responses = {200: {"model": EmbeddingsReply}}


@router.post("/embeddings", response_class=Response, responses=_EMBEDDED)
async def embed(http: Request, body: EmbeddingsBody) -> Response:
    """Return the state of the model's last layer after each text."""
    with about("model"):
        model = await get_state(http).get(http, body.model)
    reader, has_cell_state = model.runtime.state_reader, body.state == "hc"
    with about("state" if model.spec.window is None else "model"):
        width = reader.width(has_cell_state=has_cell_state)
    if body.dimensions not in {None, width}:
        raise Validation(
            f"`dimensions` is not supported: the vector is the model's state, which has {width} "
            f"numbers. Given: {body.dimensions}",
            "dimensions",
        )
    with about("input"):
        texts = [_tokens(model, one) for one in body.input]
        n_tokens = sum(map(len, texts))
        if n_tokens > MAX_EMBEDDED_TOKENS:
            raise Validation(
                f"`input` has at most {MAX_EMBEDDED_TOKENS} tokens in all. Given: {n_tokens}"
            )
    meter = await get_state(http).metering.reserve(http, n_tokens)
    meter.begin(n_tokens)
    cancelled, owner = threading.Event(), get_state(http).owner_of(http)
    with (
        model.runtime.engine.reserve(0),  # so that an unload waits for it
        cancelled_on_disconnect(http, cancelled.set),
    ):
        try:
            vectors = await reader.read(
                texts,
                Pooling(body.pooling),
                has_cell_state=has_cell_state,
                cancelled=cancelled,
                owner=owner,
            )
        except Overloaded:
            meter.has_begun = False  # nothing was read
            raise
    data = await asyncio.to_thread(_data, vectors, body)
    head = {
        "object": "list",
        "model": str(model.ref),
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }
    content = f'{json.dumps(head)[:-1]}, "data": [{data}]}}'
    return Response(content, media_type="application/json")


def _data(vectors: list[Vector], body: EmbeddingsBody) -> str:
    """Encode vector by vector, between which the event loop gets the interpreter."""
    return ", ".join(
        json.dumps({"object": "embedding", "index": i, "embedding": _encoded(vector, body)})
        for i, vector in enumerate(vectors)
    )


def _tokens(model: ServedModel, text: Prompt) -> list[int]:
    """Return the ids of an input. Raises Validation, UnknownCharacter."""
    if isinstance(text, str):
        ids = model.tokenizer.encode_prompt(text)
    else:
        ids = list(check_token_ids(text, len(model.tokenizer), "input"))
    if not ids:
        raise Validation("`input` has a text without a token that the model knows")
    return ids


def _encoded(vector: Vector, body: EmbeddingsBody) -> list[float] | str:
    if body.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    values: list[float] = vector.tolist()
    return values
