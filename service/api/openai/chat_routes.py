"""The route /v1/chat/completions: messages, written as one text by the model's chat template."""

import contextlib
from collections.abc import Iterator

from fastapi import APIRouter, Request, Response

from service.api.http_request import session_id_of
from service.api.openai.chat_responses import chat_events, whole_chat
from service.api.openai.chat_schemas import CHATTED, ChatBody
from service.api.openai.routes import admit
from service.api.openai.schemas import CompletionBody
from service.api.state import get_state, session_model
from service.errors import CarouselError, Validation, about
from service.models.chat_template import ASSISTANT
from service.sessions.session import SessionKey

router = APIRouter(prefix="/v1", tags=["openai"])

_TAIL_TOKENS = 4_096  # enough for any suffix of a reply, which is at most 1,024 characters


@router.post("/chat/completions", response_class=Response, responses=CHATTED)
async def chat(http: Request, body: ChatBody) -> Response:
    """Reply to a conversation; with `stream` as server-sent events."""
    _check_combination(body)
    with _about_messages():
        completion = await _completion(http, body)
        admitted = await admit(http, completion, "chat", lambda: body.fingerprint)
    if body.stream:
        return admitted.stream(http, chat_events(admitted, completion), {})
    return await whole_chat(http, admitted, completion)


def _check_combination(body: ChatBody) -> None:
    """Check whether a body's fields go together. Raises Validation with the field."""
    if body.top_logprobs and not body.logprobs:
        raise Validation("`top_logprobs` has an effect only with `logprobs`", "top_logprobs")
    if body.continue_final_message and body.add_generation_prompt:
        raise Validation(
            "`continue_final_message` does not go with `add_generation_prompt`",
            "continue_final_message",
        )


async def _completion(http: Request, body: ChatBody) -> CompletionBody:
    """Return the completion that the messages ask for, by the template of the model."""
    state = get_state(http)
    session_id = session_id_of(http, body.session_id)
    if session_id is not None:
        return await _turn(http, state.key(http, session_id), body)
    with about("model"):
        model = await state.get(http, body.model_name)
    template = state.chat_templates.get(model.ref)
    with about("messages"):
        if body.continue_final_message:
            text = template.open_reply(body.said)
        else:
            has_cue = body.add_generation_prompt is not False
            text = template.conversation(body.said, has_cue=has_cue)
    return body.completion(text, template.stops)


async def _turn(http: Request, key: SessionKey, body: ChatBody) -> CompletionBody:
    """Return the turn that adds the messages to a session's conversation."""
    if body.continue_final_message:
        raise Validation(
            "`continue_final_message` does not go with a session, whose text goes on with "
            "`/v1/completions`",
            "continue_final_message",
        )
    state, has_cue = get_state(http), body.add_generation_prompt is not False
    records = state.sessions.records
    session = await records.read(key)
    model = await state.get_for(http, session, body.model_name)
    template = state.chat_templates.get(model.ref)
    with about("messages"):
        if session.position == 0:
            text = template.conversation(body.said, has_cue=has_cue)
        else:
            n = min(session.position, _tail_tokens(template.roles[ASSISTANT].suffix))
            first = session.position - n
            tail, _ = await records.text(key, session_model(model), first, n) if n else ("", 0)
            text = template.turn(body.said, tail, has_cue=has_cue)
    return body.completion(text, template.stops)


def _tail_tokens(suffix: str) -> int:
    """Return how many of a text's last tokens are sure to show whether it ends with a suffix.

    Tokens without a text may be among them.
    """
    return min(_TAIL_TOKENS, 4 * len(suffix.encode()) + 8) if suffix else 0


@contextlib.contextmanager
def _about_messages() -> Iterator[None]:
    """Let errors about the prompt name the field that it is made of."""
    try:
        yield
    except CarouselError as error:
        if error.field == "prompt":
            error.field = "messages"
            error.args = (str(error).replace("`prompt`", "`messages`"),)
        raise
