"""What an inspection begins with: a model, the state before its text, the charge for its tokens."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Request
from pydantic import Field

from service.api.caller import caller_of
from service.api.fields import MAX_PROMPT_CHARACTERS, Body, Id, Text
from service.api.http_request import cancelled_on_disconnect
from service.api.state import ServedModel, get_state, session_model
from service.api.text_body import no_token
from service.errors import Forbidden, Validation
from service.inspection.inspector import TextStart
from service.inspection.text_cutter import PlacedToken
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
    state = get_state(request)
    if session_id is None:
        model = await state.get(request, name)
        return model, TextStart(None, model.tokenizer.special.before_text)
    key = state.key(request, session_id)

    async def begin(session: Session) -> tuple[ServedModel, TextStart]:
        model = await state.get_for(request, session, name)
        origin, pending = await state.sessions.records.latest_state(key, session_model(model))
        if origin is None and not pending:
            pending = model.tokenizer.special.before_text
        return model, TextStart(origin, pending)

    return await state.sessions.records.with_session(key, begin)


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
