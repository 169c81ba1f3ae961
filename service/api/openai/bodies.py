"""What clients may send to /v1/completions: OpenAI's fields, vLLM's, and those of sessions."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, WithJsonSchema, field_validator

from service.api.bodies import (
    MAX_CHOICES,
    MAX_NEW_TOKENS,
    MAX_TIME_S,
    MAX_TOKEN_IDS,
    Bias,
    Body,
    Id,
    Name,
    Number,
    Position,
    Repetition,
    TokenIds,
    check_bad_words,
    check_stops,
)
from service.api.openai.prompts import PROMPT_SCHEMA, Prompt, read_prompts
from service.generation.request import MAX_TOP_TOKENS

DEFAULT_MAX_TOKENS = 16

Object = dict[str, Any]

# What other servers do and this one does not: taken where it says nothing, else refused with this.
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
    """What a stream tells beside its text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None  # ignored: there is none


class CompletionBody(Body):
    """The body of POST /v1/completions."""

    # OpenAI's
    model: Name | None = None
    prompt: Annotated[Any, WithJsonSchema(PROMPT_SCHEMA)] = Field(None, validate_default=True)
    max_tokens: int | None = Field(None, ge=0, le=MAX_NEW_TOKENS)
    temperature: Number | None = Field(None, ge=0.0)
    top_p: Number | None = Field(None, gt=0.0, le=1.0)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_TOKENS)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    presence_penalty: Number | None = Field(None, ge=-2.0, le=2.0)
    frequency_penalty: Number | None = Field(None, ge=-2.0, le=2.0)
    logit_bias: dict[str, Bias] | None = Field(None, max_length=MAX_TOKEN_IDS)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    user: str | None = None

    # vLLM's
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1)
    min_p: Number | None = Field(None, ge=0.0, lt=1.0)
    repetition_penalty: Repetition | None = None
    use_beam_search: bool | None = None
    length_penalty: Number | None = Field(None, ge=-10.0, le=10.0)
    min_tokens: int | None = Field(None, ge=0, le=MAX_NEW_TOKENS)
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    allowed_token_ids: TokenIds | None = None
    bad_words: list[str] | None = None
    prompt_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_TOKENS)
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    response_format: Object | None = None
    structured_outputs: Object | None = None
    guided_json: str | bool | Object | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_decoding_backend: str | None = None
    guided_whitespace_pattern: str | None = None
    priority: int | None = None
    request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    stream_interval: int | None = Field(None, ge=1)
    logits_processors: Any = None
    repetition_detection: Any = None
    kv_transfer_params: Any = None
    vllm_xargs: Any = None

    # ours
    typical_p: Number | None = Field(None, gt=0.0, lt=1.0)
    max_time: Number | None = Field(None, gt=0.0, le=MAX_TIME_S)
    session_id: Id | None = None
    expected_position: Position | None = None
    on_disconnect: Literal["cancel", "continue"] = "cancel"

    @field_validator("prompt")
    @classmethod
    def _prompt(cls, value: Any) -> list[Prompt]:
        return read_prompts(value)

    @field_validator("stop")
    @classmethod
    def _stop(cls, value: str | list[str] | None) -> list[str]:
        return check_stops([value] if isinstance(value, str) else value or [])

    @field_validator("bad_words")
    @classmethod
    def _bad_words(cls, words: list[str] | None) -> list[str]:
        return check_bad_words(words or [])

    @field_validator("truncate_prompt_tokens")
    @classmethod
    def _truncate(cls, n: int | None) -> int | None:
        if n == 0:
            raise ValueError("`truncate_prompt_tokens` must be at least 1, or -1 for all. Given: 0")
        return n

    @field_validator(*_REFUSED)
    @classmethod
    def _refused(cls, value: object, info: ValidationInfo) -> object:
        name = str(info.field_name)
        if value:
            raise ValueError(f"`{name}` is not supported: {_REFUSED[name]}")
        return value
