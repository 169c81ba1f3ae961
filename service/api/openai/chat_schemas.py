"""Request and reply bodies of /v1/chat/completions."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from service.api.admitted_request import SessionPosition
from service.api.fields import (
    MAX_NEW_TOKENS,
    MAX_PROMPT_CHARACTERS,
    Body,
)
from service.api.openai.schemas import (
    CompletionBody,
    CompletionUsage,
    Object,
    OpenAIFields,
    refuse,
)
from service.api.sse import Responses, events_of
from service.api.steer_fields import SteeredReply
from service.generation.request import MAX_TOP_TOKENS
from service.models.chat_template import Message

DEFAULT_MAX_REPLY_TOKENS = 256
MAX_MESSAGES = 4_096
_NO_MODEL = {"dummy", "tgi"}  # what huggingface_hub sends where its model is an address

_NO_TOOLS = "a recurrent language model writes text and calls nothing"
_TEXT_ONLY = "a recurrent language model reads and writes text alone"

# Fields that are not supported: accepted if the value has no effect, else refused with the reason.
_REFUSED = {
    "tools": _NO_TOOLS,
    "functions": _NO_TOOLS,
    "audio": _TEXT_ONLY,
    "prediction": "a recurrent model computes each token from the state before it",
    "moderation": "nothing classifies the text",
    "web_search_options": "nothing is fetched for a request",
    "chat_template": "nothing that a client sends is executed; "
    "PUT /admin/models/{ref}/chat-template sets a model's",
    "chat_template_kwargs": "a chat template has no variables",
    "documents": "write them as messages",
    "logits_processors": "nothing that a client sends is executed",
}


class ContentPart(Body):
    """A part of a message's content."""

    type: Annotated[str, Field(max_length=40)]
    text: Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)] | None = None

    @field_validator("type")
    @classmethod
    def _is_text(cls, kind: str) -> str:
        if kind not in {"text", "refusal"}:
            raise ValueError(f"a content part of type {kind!r} is not supported: {_TEXT_ONLY}")
        return kind


class ChatMessage(Body):
    """A message: who says it, and what."""

    role: Annotated[str, Field(min_length=1, max_length=40)]
    content: str | list[ContentPart] | None = None
    name: Annotated[str, Field(max_length=256)] | None = None  # ignored
    refusal: str | None = None  # ignored: what clients send back of a reply
    tool_calls: Any = None
    function_call: Any = None
    tool_call_id: Any = None
    audio: Any = None
    annotations: Any = None  # ignored

    @field_validator("tool_calls", "function_call", "tool_call_id", "audio")
    @classmethod
    def _refuse(cls, value: object, info: ValidationInfo) -> object:
        if value:
            why = _TEXT_ONLY if info.field_name == "audio" else _NO_TOOLS
            raise ValueError(f"`{info.field_name}` of a message is not supported: {why}")
        return value

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content)
        return self.content or ""


class ChatBody(OpenAIFields):
    """The body of POST /v1/chat/completions."""

    # OpenAI's
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS)
    max_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_TOKENS)
    metadata: Object | None = None
    modalities: list[str] | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Object | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    tool_choice: str | Object | None = None
    tool_prompt: str | None = None
    function_call: str | Object | None = None
    verbosity: str | None = None
    tools: Any = None
    functions: Any = None
    audio: Any = None
    prediction: Any = None
    moderation: Any = None
    web_search_options: Any = None

    # vLLM's
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: Any = None
    chat_template_kwargs: Any = None
    documents: Any = None

    @field_validator("messages")
    @classmethod
    def _check_size(cls, messages: list[ChatMessage]) -> list[ChatMessage]:
        size = sum(len(message.text) for message in messages)
        if size > MAX_PROMPT_CHARACTERS:
            raise ValueError(
                f"`messages` have at most {MAX_PROMPT_CHARACTERS} characters in all. Given: {size}"
            )
        return messages

    @field_validator("tool_choice", "function_call")
    @classmethod
    def _needs_no_tool(cls, value: object, info: ValidationInfo) -> object:
        if value not in {None, "none", "auto"} if isinstance(value, str) else value:
            raise ValueError(f"`{info.field_name}` is not supported: {_NO_TOOLS}")
        return value

    @field_validator("modalities")
    @classmethod
    def _is_text(cls, value: list[str] | None) -> list[str] | None:
        if value and value != ["text"]:
            raise ValueError(f"`modalities` is not supported but as ['text']: {_TEXT_ONLY}")
        return value

    @field_validator(*_REFUSED)
    @classmethod
    def _refuse(cls, value: object, info: ValidationInfo) -> object:
        return refuse(value, info, _REFUSED)

    @property
    def model_name(self) -> str | None:
        """The name of the model; None is the default one."""
        return None if self.model in _NO_MODEL else self.model

    @property
    def said(self) -> list[Message]:
        """The messages as a chat template reads them."""
        return [Message(message.role, message.text) for message in self.messages]

    @property
    def n_new_tokens(self) -> int:
        """The limit of a reply's tokens."""
        return self.max_completion_tokens or self.max_tokens or DEFAULT_MAX_REPLY_TOKENS

    def completion(self, prompt: str, stops: list[str]) -> CompletionBody:
        """Return the completion of `prompt` that these fields ask for; `stops` end it, too."""
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        # Every value has been checked by the field of the same name.
        return CompletionBody.model_construct(
            **{name: getattr(self, name) for name in OpenAIFields.model_fields}
            | {"model": self.model_name, "stop": [*(self.stop or ()), *stops]},
            prompt=[prompt],
            max_tokens=self.n_new_tokens,
            logprobs=logprobs,
        )


class ChatTopLogprob(BaseModel):
    """A token and its logprob; `bytes` is its text in UTF-8."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(ChatTopLogprob):
    """A token of the reply, and the most likely tokens in its place."""

    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(BaseModel):
    """The logprobs of a reply's tokens."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class ReplyMessage(BaseModel):
    """The model's message."""

    role: Literal["assistant"]
    content: str


class ReplyDelta(BaseModel):
    """What an event adds to a message."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatHead(BaseModel):
    """The members of a reply and of every event."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    session: SessionPosition | None = None
    steer: SteeredReply | None = None


class ChatChoice(BaseModel):
    """A reply of the model; `stop_reason` is the stop string."""

    index: int
    message: ReplyMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    stop_reason: str | None


class ChatEventChoice(BaseModel):
    """What an event adds to a reply; `finish_reason` is null before the end."""

    index: int
    delta: ReplyDelta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    stop_reason: str | None


class ChatReply(ChatHead):
    """The replies and the usage."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: CompletionUsage


class ChatEvent(ChatHead):
    """An event of a stream; the one with the usage, before `[DONE]`, has no choices."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatEventChoice]
    usage: CompletionUsage | None = None


CHATTED: Responses = {
    200: {
        "model": ChatReply,
        "content": events_of("a token, or the end.", "ChatEvent", "OpenAIProblem", last="[DONE]"),
        "description": "The replies; with `stream`, events.",
    }
}
