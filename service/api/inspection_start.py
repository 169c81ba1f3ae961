"""What an inspection begins with: a model, the state before its text, the charge for its tokens."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Request
from pydantic import Field

from service.api.caller import caller_of
from service.api.fields import MAX_PROMPT_CHARACTERS, Body, Id, Text
from service.api.http_request import cancelled_on_disconnect
from service.api.serving_engine import acquire_steered, before_last
from service.api.state import ServedModel, get_state, session_model
from service.api.steer_fields import SteerEntry, steer_reply, steering_in_session, steering_of
from service.api.text_body import no_token
from service.errors import Forbidden, Validation
from service.inspection.inspector import TextStart
from service.inspection.text_cutter import PlacedToken
from service.models.steering import Steering
from service.sessions.session import Session
from service.training.corpus_store import CorpusCard


class InspectedTextBody(Body):
    """Base of the bodies with a text: exactly one of `inputs` and `corpus_id`."""

    inputs: Annotated[Text, Field(min_length=1)] | None = None
    corpus_id: Id | None = None


async def text_of(request: Request, body: InspectedTextBody) -> str:
    """Return the text of a request. Raises Validation, Forbidden, CorpusNotFound."""
    if (body.inputs is None) == (body.corpus_id is None):
        raise Validation("give exactly one of `inputs` and `corpus_id`", "inputs")
    if body.corpus_id is None:
        return body.inputs or ""
    state, card = get_state(request), await corpus_card(request, body.corpus_id)
    if card.characters > MAX_PROMPT_CHARACTERS:
        raise Validation(
            f"the corpus has {card.characters} characters; a text has at most "
            f"{MAX_PROMPT_CHARACTERS}: stream its trace by POST /inspect/text?corpus_id=",
            "corpus_id",
        )
    corpora, owner = state.training.corpora, state.owner_of(request)
    return (await asyncio.to_thread(corpora.read, owner, card.id)).text


async def corpus_card(request: Request, corpus_id: str) -> CorpusCard:
    """Return the facts of a corpus of the caller's. Raises Forbidden, CorpusNotFound."""
    if "train" not in caller_of(request.scope).scopes:
        raise Forbidden("to read a corpus needs a key with the scope train", "corpus_id")
    state = get_state(request)
    owner = state.owner_of(request)
    return await asyncio.to_thread(state.training.corpora.card, owner, corpus_id)


def placed_tokens(model: ServedModel, text: str) -> list[PlacedToken]:
    """Return the tokens of a text, each with where it starts and stops. Raises Validation."""
    found = model.tokenizer.encode_with_offsets(text)
    if not found:
        raise no_token("`inputs`")
    return [*found]


async def text_start(
    request: Request, name: str | None, session_id: str | None
) -> tuple[ServedModel, TextStart]:
    """Return the model, and where the text begins: at a session's end, or at the zero state."""
    model, start, _ = await steered_start(request, name, session_id, None)
    return model, start


async def steered_start(
    request: Request,
    name: str | None,
    session_id: str | None,
    steer: Sequence[SteerEntry] | None,
) -> tuple[ServedModel, TextStart, dict[str, Any]]:
    """Return as `text_start` for a text that is read as /score reads it, and the reply's `steer`.

    Raises as `acquire_steered`, and Validation.
    """
    state = get_state(request)
    if session_id is None:
        model = await state.get(request, name)
        start = TextStart(None, model.tokenizer.special.before_text)
        if not steer:
            return model, start, {}
        steering = steering_of(steer, model.spec, 0, 0)
        return model, *await _steered(request, model, start, steering, steer)
    key = state.key(request, session_id)

    async def begin(session: Session) -> tuple[ServedModel, TextStart, dict[str, Any]]:
        model = await state.get_for(request, session, name)
        origin, pending = await state.sessions.records.latest_state(key, session_model(model))
        position = (0 if origin is None else origin.position) + len(pending)
        if position == 0:
            pending = model.tokenizer.special.before_text
        if not steer:
            return model, TextStart(origin, pending), {}
        steering = steering_in_session(steer, model.spec, position, 0)
        if position > 0:
            origin, pending = await before_last(model, key.owner, origin, pending)
        start = TextStart(origin, pending)
        return model, *await _steered(request, model, start, steering, steer)

    return await state.sessions.records.with_session(key, begin)


async def _steered(
    request: Request,
    model: ServedModel,
    start: TextStart,
    steering: Steering,
    entries: Sequence[SteerEntry],
) -> tuple[TextStart, dict[str, Any]]:
    steered = await acquire_steered(request, model, len(steering))
    reply = steer_reply(entries, has_same_kernel=steered.has_same_bytes)
    return replace(start, program=steered.program, steer=steering), {"steer": reply}


@contextlib.asynccontextmanager
async def charged_reading(request: Request, n_tokens: int) -> AsyncIterator[asyncio.Event]:
    """Charge the owner for a text's tokens; yield what is set when the client has gone.

    Raises as `UsageMetering.reserve`.
    """
    meter = await get_state(request).metering.reserve(request, n_tokens)
    meter.begin(n_tokens)
    cancelled = asyncio.Event()
    with cancelled_on_disconnect(request, cancelled.set):
        yield cancelled
