"""Request and reply bodies of /v1: OpenAI's fields, vLLM's, and those of sessions.

`responses.py` writes the replies by hand, token by token; tests compare them with these schemas.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, WithJsonSchema, field_validator

from service.api.admitted_request import SessionPosition
from service.api.fields import (
    MAX_CHOICES,
    MAX_NEW_TOKENS,
    MAX_PROMPT_CHARACTERS,
    Body,
    Id,
    Name,
    Position,
    TokenIds,
)
from service.api.model_description import SpecialTokensByRole
from service.api.sampling_fields import SamplingFields
from service.api.sse import Responses, events_of
from service.api.steer_fields import SteeredReply
from service.generation.request import MAX_TOP_TOKENS

DEFAULT_MAX_TOKENS = 16
MAX_PROMPTS = 256

Object = dict[str, Any]
Prompt = str | list[int]

_IDS: dict[str, Any] = {"type": "array", "items": {"type": "integer"}}
PROMPT_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        _IDS,
        {"type": "array", "items": _IDS},
        {"type": "null"},
    ]
}

# Fields that are not supported: accepted if the value has no effect, else refused with the reason.
_REFUSED = {
    "suffix": "a recurrent model reads from left to right and cannot look ahead",
    "logits_processors": "nothing that a client sends is executed",
    "repetition_detection": "use `repetition_penalty`, `stop` or `max_tokens`",
    "kv_transfer_params": "a recurrent model has no key-value cache; sessions move by export",
    "vllm_xargs": "there are no plugins",
    "guided_whitespace_pattern": "JSON is written with at most one space after `,` and `:`",
    "guided_grammar": "grammars are not regular; use a JSON schema or a regular expression",
}


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None  # ignored


class OpenAIFields(SamplingFields):
    """Fields that the bodies of completions and of chat share."""

    # OpenAI's
    model: Name | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    response_format: Object | None = None

    # vLLM's
    min_tokens: int | None = Field(None, ge=0, le=MAX_NEW_TOKENS)
    stop_token_ids: TokenIds | None = None
    ignore_eos: bool | None = None
    structured_outputs: Object | None = None
    priority: int | None = None
    request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    logits_processors: Any = None

    # ours
    session_id: Id | None = None
    expected_position: Position | None = None
    on_disconnect: Literal["cancel", "continue"] = "cancel"


def refuse(value: object, info: ValidationInfo, reasons: Mapping[str, str]) -> object:
    """Return a value that has no effect; refuse another of a field that is not supported."""
    name = str(info.field_name)
    if value:
        raise ValueError(f"`{name}` is not supported: {reasons[name]}")
    return value


class CompletionBody(OpenAIFields):
    """The body of POST /v1/completions."""

    # OpenAI's
    prompt: Annotated[Any, WithJsonSchema(PROMPT_SCHEMA)] = Field(None, validate_default=True)
    max_tokens: int | None = Field(None, ge=0, le=MAX_NEW_TOKENS)
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_TOKENS)
    suffix: str | None = None

    # vLLM's
    use_beam_search: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    prompt_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_TOKENS)
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    guided_json: str | bool | Object | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_decoding_backend: str | None = None
    guided_whitespace_pattern: str | None = None
    stream_interval: int | None = Field(None, ge=1)
    repetition_detection: Any = None
    kv_transfer_params: Any = None
    vllm_xargs: Any = None

    @field_validator("prompt")
    @classmethod
    def _read_prompts(cls, value: Any) -> list[Prompt]:
        prompts = read_prompts(value)
        if len(prompts) > MAX_PROMPTS:
            raise ValueError(f"`prompt` has at most {MAX_PROMPTS} prompts. Given: {len(prompts)}")
        size = sum(len(prompt) for prompt in prompts)
        if size > MAX_PROMPT_CHARACTERS:
            raise ValueError(
                f"`prompt` has at most {MAX_PROMPT_CHARACTERS} characters or tokens in all. "
                f"Given: {size}"
            )
        return prompts

    @field_validator("truncate_prompt_tokens")
    @classmethod
    def _check_truncate(cls, n: int | None) -> int | None:
        if n == 0:
            raise ValueError("`truncate_prompt_tokens` must be at least 1, or -1 for all. Given: 0")
        return n

    @field_validator(*_REFUSED)
    @classmethod
    def _refuse(cls, value: object, info: ValidationInfo) -> object:
        return refuse(value, info, _REFUSED)

    @property
    def n_new_tokens(self) -> int:
        """The limit of new tokens; OpenAI's default is short."""
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens


def read_prompts(value: object, field: str = "prompt") -> list[Prompt]:
    """Return the prompts, each as a text or as token ids. Raises ValueError.

    A pydantic union would report two errors for each of a million wrong items.
    """
    if value is None:
        return [""]
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        kinds = set(map(type, value))
        if kinds == {str}:
            return value
        if kinds == {int}:
            return [value]
        if kinds == {list} and all(set(map(type, one)) <= {int} for one in value):
            return value
    raise ValueError(
        f"`{field}` is a text, a list of texts, a list of token ids, or a list of such lists; "
        "none of the lists is empty or mixed"
    )


class CompletionLogprobs(BaseModel):
    """The tokens of a choice; `text_offset` counts characters, with those of an echoed prompt."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class PromptLogprob(BaseModel):
    """A token at a position of the prompt; `rank` counts from 1 for the most likely one."""

    logprob: float
    rank: int | None
    decoded_token: str


class CompletionChoice(BaseModel):
    """A choice, or in a stream its new text; `finish_reason` is null before the end."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    stop_reason: str | None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = None


class PromptTokensDetails(BaseModel):
    """How many of the prompt's tokens were cached."""

    cached_tokens: int


class CompletionUsage(BaseModel):
    """The number of tokens of the request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class CompletionHead(BaseModel):
    """The members of a reply and of every event."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    session: SessionPosition | None = None
    steer: SteeredReply | None = None


class CompletionReply(CompletionHead):
    """The choices and the usage."""

    usage: CompletionUsage


class CompletionEvent(CompletionHead):
    """An event of a stream; the one with the usage, before `[DONE]`, has no choices."""

    usage: CompletionUsage | None = None


_EVENTS = ("CompletionEvent", "OpenAIProblem")

COMPLETED: Responses = {
    200: {
        "model": CompletionReply,
        "content": events_of("a token, or the end.", *_EVENTS, last="[DONE]"),
        "description": "The choices; with `stream`, events.",
    }
}


class ModelReply(BaseModel):
    """A model or an alias; `root` is its version."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["carousel"] = "carousel"
    root: str
    parent: None = None
    max_model_len: None = None  # a recurrent state has no maximum length
    digest: str
    vocabulary_size: int
    tokenizer: str  # its kind
    special_tokens: SpecialTokensByRole | None  # null unless it is loaded
    state: str | dict[str, Any]  # "carried", or the window that each prediction reads


class ModelWithVocabularyReply(ModelReply):
    """A model with the text of each token id, as `logit_bias` and prompts of ids need it."""

    vocabulary: list[str]


class ModelsReply(BaseModel):
    """All loaded models, the default one first, and the aliases."""

    object: Literal["list"] = "list"
    data: list[ModelReply]
