"""What /v1/completions answers with, as the OpenAPI document says it."""

from typing import Literal

from pydantic import BaseModel

from service.api.tgi.schemas import Responses, SessionPosition, events_of


class CompletionLogprobs(BaseModel):
    """The tokens of a choice; `text_offset` counts characters, those of an echoed prompt too."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class PromptLogprob(BaseModel):
    """A token where one of the prompt stands; `rank` counts from 1, the likeliest."""

    logprob: float
    rank: int | None
    decoded_token: str


class CompletionChoice(BaseModel):
    """One text, or in a stream what is new of it, whose reason is null until its end."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    stop_reason: str | None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = None


class PromptTokensDetails(BaseModel):
    """How many of the prompt's tokens were not computed again."""

    cached_tokens: int


class CompletionUsage(BaseModel):
    """What the request took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class CompletionHead(BaseModel):
    """What a reply and every event of one begin with."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    session: SessionPosition | None = None


class CompletionReply(CompletionHead):
    """The choices, and what they took."""

    usage: CompletionUsage


class CompletionEvent(CompletionHead):
    """An event of a stream; the last one before `[DONE]` has no choices, if it has the usage."""

    usage: CompletionUsage | None = None


_EVENTS = ("CompletionEvent", "OpenAIProblem")

COMPLETED: Responses = {
    200: {
        "model": CompletionReply,
        "content": events_of("a token, or the end.", *_EVENTS, last="[DONE]"),
        "description": "The choices; with `stream`, events.",
    }
}
