"""Text to tokens and back, as a model sees them."""

import asyncio
import json
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from service.api.bodies import DetokenizeBody, TokenizeBody
from service.api.state import get_state
from service.errors import Validation
from service.models.tokenizer import Tokenizer

router = APIRouter(tags=["tokens"])


class TokenReply(BaseModel):
    """A token of a text; `start` and `stop` count characters."""

    id: int
    text: str
    start: int
    stop: int


class TextReply(BaseModel):
    """The text of some tokens."""

    text: str


_TOKENS: dict[int | str, dict[str, Any]] = {200: {"model": list[TokenReply]}}


@router.post("/tokenize", response_class=Response, responses=_TOKENS)
async def tokenize(request: Request, body: TokenizeBody) -> Response:
    """The tokens of a text."""
    tokenizer = get_state(request).get(body.model).tokenizer
    content = await asyncio.to_thread(_tokens, tokenizer, body.inputs)
    return Response(content, media_type="application/json")


@router.post("/detokenize")
async def detokenize(request: Request, body: DetokenizeBody) -> TextReply:
    """The text of token ids."""
    tokenizer = get_state(request).get(body.model).tokenizer
    for token in body.ids:
        if not 0 <= token < len(tokenizer):
            raise Validation(
                f"{token} is no token id; the model's go from 0 to {len(tokenizer) - 1}"
            )
    return TextReply(text=tokenizer.decode(body.ids))


def _tokens(tokenizer: Tokenizer, text: str) -> bytes:
    """The reply's JSON. A text may have a million tokens, so each kind is escaped once."""
    heads: dict[int, str] = {}
    pieces = []
    for token, start, stop in tokenizer.encode_with_offsets(text):
        if token not in heads:
            heads[token] = f'{{"id":{token},"text":{json.dumps(tokenizer.text_of(token))},"start":'
        pieces.append(f'{heads[token]}{start},"stop":{stop}}}')
    return f"[{','.join(pieces)}]".encode("ascii")
