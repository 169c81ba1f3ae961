"""What clients may send: every number, string and list with its limit."""

from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from service.generation.request import LEAST_REPETITION, MAX_TOP_TOKENS, MOST_REPETITION
from service.sessions.session import DEFAULT_TTL_S, LEAST_TTL_S, MAX_FORKS, MOST_TTL_S

MAX_NEW_TOKENS = 1_000_000
DEFAULT_NEW_TOKENS = 100
MAX_PROMPT_CHARACTERS = 1_000_000
MAX_STOPS, MAX_STOP_CHARACTERS = 4, 256
MAX_BAD_WORDS, MAX_BAD_WORD_CHARACTERS = 256, 256
MAX_CHOICES, MAX_BEAMS = 128, 10
MAX_TOKEN_IDS = 1_024
MAX_TIME_S = 24 * 3_600.0
MAX_POSITION = 10**12
MAX_BODY_BYTES = 8 * 1024 * 1024  # a million characters as JSON escapes them, and room
MOST_FIELDS = 64

Number = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)]
Name = Annotated[str, Field(max_length=80)]
Id = Annotated[str, Field(max_length=80)]
Position = Annotated[int, Field(ge=0, le=MAX_POSITION)]
Repetition = Annotated[Number, Field(ge=LEAST_REPETITION, le=MOST_REPETITION)]
Bias = Annotated[Number, Field(ge=-100.0, le=100.0)]
TokenIds = Annotated[list[int], Field(min_length=1, max_length=MAX_TOKEN_IDS)]


def check_stops(stop: list[str]) -> list[str]:
    """Stop strings within their limits. Raises ValueError."""
    if len(stop) > MAX_STOPS:
        raise ValueError(f"`stop` supports up to {MAX_STOPS} stop sequences. Given: {len(stop)}")
    for one in stop:
        if not 1 <= len(one) <= MAX_STOP_CHARACTERS:
            raise ValueError(
                f"`stop` sequences have 1 to {MAX_STOP_CHARACTERS} characters. Given: {len(one)}"
            )
    return stop


def check_bad_words(words: list[str]) -> list[str]:
    """Bad words within their limits. Raises ValueError."""
    if len(words) > MAX_BAD_WORDS:
        raise ValueError(f"`bad_words` are {MAX_BAD_WORDS} at most. Given: {len(words)}")
    for one in words:
        if not 1 <= len(one) <= MAX_BAD_WORD_CHARACTERS:
            raise ValueError(
                f"`bad_words` have 1 to {MAX_BAD_WORD_CHARACTERS} characters. Given: {len(one)}"
            )
    return words


class Body(BaseModel):
    """A JSON object without fields that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _few(cls, values: Any) -> Any:
        """An error for each of a million unknown fields would take seconds to make."""
        if isinstance(values, dict) and len(values) > MOST_FIELDS:
            raise ValueError(f"an object has at most {MOST_FIELDS} fields. Given: {len(values)}")
        return values


class Parameters(Body):
    """TGI's `parameters`, and what else decoding here can do.

    What TGI does and this server does not may be given as the value that means nothing, and is
    refused by name otherwise.
    """

    max_new_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS)
    do_sample: bool | None = None
    temperature: Number | None = Field(None, ge=0.0)
    top_k: int | None = Field(None, gt=0, le=2**31 - 1)
    top_p: Number | None = Field(None, gt=0.0, lt=1.0)
    min_p: Number | None = Field(None, ge=0.0, lt=1.0)
    typical_p: Number | None = Field(None, gt=0.0, lt=1.0)
    repetition_penalty: Repetition | None = None
    frequency_penalty: Number | None = Field(None, ge=-2.0, le=2.0)
    presence_penalty: Number | None = Field(None, ge=-2.0, le=2.0)
    logit_bias: dict[str, Bias] | None = Field(None, max_length=MAX_TOKEN_IDS)
    allowed_token_ids: TokenIds | None = None
    bad_words: list[str] | None = None
    min_new_tokens: int | None = Field(None, ge=0, le=MAX_NEW_TOKENS)
    max_time: Number | None = Field(None, gt=0.0, le=MAX_TIME_S)
    seed: int | None = Field(None, ge=0, lt=2**64)
    stop: list[str] | None = Field(None, validation_alias=AliasChoices("stop", "stop_sequences"))
    details: bool | None = None
    decoder_input_details: bool | None = None
    top_n_tokens: int | None = Field(None, ge=0, le=MAX_TOP_TOKENS)
    return_full_text: bool | None = None
    truncate: int | None = Field(None, ge=1)
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)
    num_beams: int | None = Field(None, ge=1, le=MAX_BEAMS)
    length_penalty: Number | None = Field(None, ge=-10.0, le=10.0)
    grammar: dict[str, Any] | None = None
    watermark: bool | None = None
    adapter_id: str | None = None

    @field_validator("stop")
    @classmethod
    def _stop(cls, stop: list[str] | None) -> list[str]:
        return check_stops(stop or [])

    @field_validator("bad_words")
    @classmethod
    def _bad_words(cls, words: list[str] | None) -> list[str]:
        return check_bad_words(words or [])

    @field_validator("adapter_id", "watermark")
    @classmethod
    def _absent(cls, value: object, info: ValidationInfo) -> object:
        if value:
            raise ValueError(f"`{info.field_name}` is not supported")
        return value

    @property
    def is_sampling(self) -> bool:
        """TGI's rule: `do_sample`, or any parameter that only sampling has."""
        chosen = (self.temperature, self.top_k, self.top_p, self.min_p, self.typical_p)
        return bool(self.do_sample) or any(value is not None for value in chosen)


class GenerateBody(Body):
    """The body of every generate route."""

    inputs: Text
    parameters: Parameters | None = None
    stream: bool = False
    model: Name | None = None
    session_id: Id | None = None
    expected_position: Position | None = None
    on_disconnect: Literal["cancel", "continue"] = "cancel"


class CreateSessionBody(Body):
    """The body of POST /sessions."""

    model: Name | None = None
    session_id: Id | None = None
    text: Text = ""
    ttl_s: int = Field(DEFAULT_TTL_S, ge=LEAST_TTL_S, le=MOST_TTL_S)
    seed: int | None = Field(None, ge=0, lt=2**64)


class AppendBody(Body):
    """The body of POST /sessions/{id}/append."""

    text: Annotated[Text, Field(min_length=1)]
    expected_position: Position | None = None


class ForkBody(Body):
    """The body of POST /sessions/{id}/fork."""

    n: int = Field(1, ge=1, le=MAX_FORKS)
    at: int | None = Field(None, ge=1, le=MAX_POSITION)
    seeds: Literal["derive", "same"] = "derive"


class RewindBody(Body):
    """The body of POST /sessions/{id}/rewind."""

    to: Position


class TokenizeBody(Body):
    """The body of /tokenize."""

    inputs: Text
    model: Name | None = None


class DetokenizeBody(Body):
    """The body of /detokenize."""

    ids: list[int] = Field(max_length=MAX_PROMPT_CHARACTERS)
    model: Name | None = None


PrecisionChoice = Literal["auto", "float32", "int8"]


class ImportBody(Body):
    """The body of POST /admin/models. Paths are relative to the import folder."""

    source: Annotated[str, Field(min_length=1, max_length=1_024)]
    name: Name
    version: int | None = Field(None, ge=1, lt=10**9)
    vocabulary: Annotated[str, Field(max_length=1_024)] | None = None
    vocabulary_text: Annotated[str, Field(max_length=1_024)] | None = None
    precision: PrecisionChoice = "auto"
    assume: dict[str, str] = Field(default_factory=dict, max_length=16)
    alias: Name | None = None


class LoadBody(Body):
    """The body of POST /admin/models/{ref}/load."""

    precision: Literal["float32", "int8"] | None = None


class AliasBody(Body):
    """The body of PUT /admin/aliases/{alias}."""

    model: Name
