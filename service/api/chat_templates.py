"""The routes of a model's chat template: read it, set it, go back to the default."""

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.api.fields import Body
from service.api.state import AppState, get_state
from service.errors import ModelNotFound
from service.models.chat_template import MAX_TEMPLATE_STOPS, Affix, ChatTemplate, MessageForm
from service.models.spec import ModelRef

router = APIRouter(prefix="/admin", tags=["admin"])


class ChatTemplateBody(Body, ChatTemplate):
    """The body of PUT /admin/models/{ref}/chat-template."""


class ChatTemplateReply(BaseModel):
    """The chat template of a version; `stop` is what a reply ends at."""

    model: str
    start: Affix
    roles: dict[str, MessageForm]
    cue: Affix | None
    stop: list[Affix] = Field(max_length=MAX_TEMPLATE_STOPS)


_REPLIES: dict[int | str, dict[str, Any]] = {200: {"model": ChatTemplateReply}}


@router.get("/models/{ref}/chat-template", responses=_REPLIES)
async def read_template(request: Request, ref: str) -> dict[str, Any]:
    """Return the chat template of a stored version: its own or the default."""
    state = get_state(request)
    return _reply(state, _stored(state, ref))


@router.put("/models/{ref}/chat-template", responses=_REPLIES)
async def set_template(request: Request, ref: str, body: ChatTemplateBody) -> dict[str, Any]:
    """Set the chat template of a stored version, for the requests that follow."""
    state = get_state(request)
    chosen = _stored(state, ref)
    state.chat_templates.put(chosen, ChatTemplate(**dict(body)))
    return _reply(state, chosen)


@router.delete("/models/{ref}/chat-template", status_code=204)
async def reset_template(request: Request, ref: str) -> Response:
    """Make the default the chat template of a version: messages as lines `role: content`."""
    state = get_state(request)
    state.chat_templates.delete(_stored(state, ref))
    return Response(status_code=204)


def _stored(state: AppState, ref: str) -> ModelRef:
    """Return the version that a name refers to. Raises ModelNotFound."""
    state.registry.refresh_if_readable()
    chosen = state.registry.resolve(ref)
    if state.store.manifest(chosen) is None:
        raise ModelNotFound(f"no model {chosen} is stored")
    return chosen


def _reply(state: AppState, ref: ModelRef) -> dict[str, Any]:
    """Return the template as a ChatTemplateReply."""
    template = state.chat_templates.get(ref)
    return {"model": str(ref), **template.model_dump(), "stop": template.stops}
