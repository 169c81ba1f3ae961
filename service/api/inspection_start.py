"""Where the text of an inspection begins: at the zero state, or at a session's end."""

from fastapi import Request

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
