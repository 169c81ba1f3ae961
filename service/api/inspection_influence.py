"""POST /inspect/influence: how much a prediction owes to each earlier character."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.api.fields import Id, Name, Position
from service.api.inspection_start import (
    InspectedTextBody,
    charged_reading,
    placed_tokens,
    text_of,
    text_start,
)
from service.api.score import ScoredToken
from service.api.state import get_state
from service.errors import Validation
from service.inspection.influence import InfluenceReader
from service.inspection.text_cutter import PlacedToken

router = APIRouter(tags=["inspection"])

MAX_BACK, N_TOP = 512, 5


class InfluenceBody(InspectedTextBody):
    """The body of POST /inspect/influence."""

    model: Name | None = None
    session_id: Id | None = None
    of: Position | None = None
    back: Annotated[int, Field(ge=1, le=MAX_BACK)] = 64


class InfluentialToken(BaseModel):
    """An earlier token, and what the prediction would be without it."""

    id: int
    text: str
    start: int
    stop: int
    bits: float  # divergence of the prediction with it from the one without it
    logprob_change: float | None = None  # of the token that follows


class InfluenceReply(BaseModel):
    """The prediction of one token, and how much each of the latest tokens before it changes it."""

    model: str
    digest: str
    precision: str
    of: int
    token: ScoredToken | None = None  # that follows; none at the text's end
    top_tokens: list[ScoredToken]
    tokens: list[InfluentialToken]


@router.post("/inspect/influence", response_model=InfluenceReply, response_model_exclude_none=True)
async def influence(request: Request, body: InfluenceBody) -> InfluenceReply | Response:
    """Read a text again without each of its latest characters, and compare one prediction."""
    state = get_state(request)
    model, start = await text_start(request, body.model, body.session_id)
    inspector, owner = model.runtime.inspector, state.owner_of(request)
    program = inspector.traced_program()
    with inspector.thread.admit(owner):
        inputs = await text_of(request, body)
        placed = await asyncio.to_thread(placed_tokens, model, inputs)
        n = _token_at(placed, body.of, len(inputs))
        before = [*start.pending, *(token for token, _, _ in placed[:n])]
        back = min(body.back, n, len(before) - 1)  # something has to be read
        if back < 1:
            raise Validation(
                "nothing before the prediction can be left out: give a longer text, or a later "
                "`of`",
                "of",
            )
        target = placed[n][0] if n < len(placed) else None
        run = partial(inspector.thread.run, owner)
        found = []
        async with charged_reading(request, len(before)) as cancelled:
            reader = await run(partial(InfluenceReader, program, before, back, start.state))
            for block in reader.blocks():
                if cancelled.is_set():
                    return Response(status_code=204)  # to nobody: the client has gone
                found += await run(partial(reader.read, block, target))
    text_of_token, expected = model.tokenizer.text_of, reader.expected

    def scored(token: int) -> ScoredToken:
        return ScoredToken(id=token, text=text_of_token(token), logprob=float(expected[token]))

    return InfluenceReply(
        model=str(model.ref),
        digest=model.manifest.digest,
        precision=str(model.precision),
        of=placed[n][1] if n < len(placed) else len(inputs),
        token=None if target is None else scored(target),
        top_tokens=[scored(int(token)) for token in (-expected).argsort(kind="stable")[:N_TOP]],
        tokens=[
            InfluentialToken(
                id=token,
                text=text_of_token(token),
                start=first,
                stop=last,
                bits=one.bits,
                logprob_change=None if target is None else one.logprob_change,
            )
            for (token, first, last), one in zip(placed[n - back : n], found, strict=True)
        ],
    )


def _token_at(placed: Sequence[PlacedToken], of: int | None, n_characters: int) -> int:
    """Return the index of the token at a character, or one after the last. Raises Validation."""
    if of is None or of == n_characters:
        return len(placed)
    for index, (_, _, stop) in enumerate(placed):
        if of < stop:
            return index
    raise Validation(f"`of` is {of}; the text has {n_characters} characters", "of")
