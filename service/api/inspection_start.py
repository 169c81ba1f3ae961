"""What an inspection begins with: a model, the state before its text, the charge for its tokens."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import Request

from service.api.http_request import cancelled_on_disconnect
from service.api.state import ServedModel, get_state, session_model
from service.inspection.inspector import TextStart
from service.sessions.session import Session


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
