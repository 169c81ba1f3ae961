"""The token routes: from text to tokens of a model, and back."""

import asyncio

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.api.fields import MAX_PROMPT_CHARACTERS, Body, Name, Text
from service.api.state import ServedModel, get_state
from service.errors import Validation

router = APIRouter(tags=["tokens"])


class TokenizeBody(Body):
    """The body of /tokenize."""

    inputs: Text
    model: Name | None = None


class DetokenizeBody(Body):
    """The body of /detokenize."""

    ids: list[int] = Field(max_length=MAX_PROMPT_CHARACTERS)
    model: Name | None = None


class TokenReply(BaseModel):
    """A token of a text; `start` and `stop` count characters."""

    id: int
    text: str
    start: int
    stop: int


class TextReply(BaseModel):
    """The text of the token ids."""

    text: str


@router.post("/tokenize", response_class=Response, responses={200: {"model": list[TokenReply]}})
async def tokenize(request: Request, body: TokenizeBody) -> Response:
    """Return the tokens of a text."""
    model = await get_state(request).get(request, body.model)
    content = await asyncio.to_thread(_tokens, model, body.inputs)
    return Response(content, media_type="application/json")


@router.post("/detokenize")
async def detokenize(request: Request, body: DetokenizeBody) -> TextReply:
    """Return the text of token ids."""
    tokenizer = (await get_state(request).get(request, body.model)).tokenizer
    for token in body.ids:
        if not 0 <= token < len(tokenizer):
            raise Validation(
                f"{token} is no token id; the model's go from 0 to {len(tokenizer) - 1}"
            )
    return TextReply(text=tokenizer.decode(body.ids, is_start=True))


def _tokens(model: ServedModel, text: str) -> bytes:
    """Encode the reply. A text may have a million tokens, so their texts are JSON already."""
    texts = model.runtime.encoder.texts
    pieces = [
        f'{{"id":{token},"text":{texts[token]},"start":{start},"stop":{stop}}}'
        for token, start, stop in model.tokenizer.encode_with_offsets(text)
    ]
    return f"[{','.join(pieces)}]".encode("ascii")
