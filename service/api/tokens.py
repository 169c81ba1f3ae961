"""Text to tokens and back, as a model sees them."""

from fastapi import APIRouter, Request
from pydantic import BaseModel

from service.api.bodies import DetokenizeBody, TokenizeBody
from service.api.serving import serving_of
from service.errors import Validation

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


@router.post("/tokenize")
async def tokenize(request: Request, body: TokenizeBody) -> list[TokenReply]:
    """The tokens of a text."""
    tokenizer = serving_of(request).get(body.model).tokenizer
    return [
        TokenReply(id=token, text=tokenizer.text_of(token), start=start, stop=stop)
        for token, start, stop in tokenizer.encode_with_offsets(body.inputs)
    ]


@router.post("/detokenize")
async def detokenize(request: Request, body: DetokenizeBody) -> TextReply:
    """The text of token ids."""
    tokenizer = serving_of(request).get(body.model).tokenizer
    for token in body.ids:
        if not 0 <= token < len(tokenizer):
            raise Validation(
                f"{token} is no token id; the model's go from 0 to {len(tokenizer) - 1}"
            )
    return TextReply(text=tokenizer.decode(body.ids))
