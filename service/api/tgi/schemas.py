"""Request and reply bodies of the generate routes.

`responses.py` writes the replies by hand, token by token; tests compare them with these schemas.
"""

from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field, ValidationInfo, field_validator

from service.api.admitted_request import SessionPosition
from service.api.fields import (
    MAX_BEAMS,
    MAX_CHOICES,
    MAX_NEW_TOKENS,
    Body,
    Id,
    Name,
    Number,
    Position,
    Text,
)
from service.api.sampling_fields import N_SEEDS, SEED, TOP_K, TOP_P, SamplingFields
from service.api.sse import Responses, events_of
from service.api.steer_fields import SteeredReply
from service.generation.request import MAX_TOP_TOKENS

DEFAULT_NEW_TOKENS = 100


class Parameters(SamplingFields):
    """TGI's `parameters`, and those that only this server has.

    A parameter of TGI's that is not supported is accepted with the value that has no effect.
    """

    max_new_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS)
    do_sample: bool | None = None
    top_k: int | None = Field(None, gt=0, le=2**31 - 1, description=TOP_K)
    top_p: Number | None = Field(None, gt=0.0, lt=1.0, description=TOP_P)
    min_new_tokens: int | None = Field(None, ge=0, le=MAX_NEW_TOKENS)
    seed: int | None = Field(None, ge=0, lt=N_SEEDS, description=SEED)
    stop: list[str] | None = Field(None, validation_alias=AliasChoices("stop", "stop_sequences"))
    details: bool | None = None
    decoder_input_details: bool | None = None
    top_n_tokens: int | None = Field(None, ge=0, le=MAX_TOP_TOKENS)
    return_full_text: bool | None = None
    truncate: int | None = Field(None, ge=1)
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)
    num_beams: int | None = Field(None, ge=1, le=MAX_BEAMS)
    grammar: dict[str, Any] | None = None
    watermark: bool | None = None
    adapter_id: str | None = None

    @field_validator("adapter_id", "watermark")
    @classmethod
    def _refuse(cls, value: object, info: ValidationInfo) -> object:
        if value:
            raise ValueError(f"`{info.field_name}` is not supported")
        return value

    @property
    def is_sampling(self) -> bool:
        """TGI's rule: `do_sample`, or any parameter that only sampling has."""
        return bool(self.do_sample) or self.has_sampling_parameter

    @property
    def is_beam_search(self) -> bool:
        """Whether beams search for the most likely text."""
        return (self.num_beams or 1) > 1

    @property
    def n_new_tokens(self) -> int:
        """The limit of new tokens."""
        return self.max_new_tokens or DEFAULT_NEW_TOKENS


class GenerateBody(Body):
    """The body of every generate route."""

    inputs: Text
    parameters: Parameters | None = None
    stream: bool = False
    model: Name | None = None
    session_id: Id | None = None
    expected_position: Position | None = None
    on_disconnect: Literal["cancel", "continue"] = "cancel"


class GeneratedToken(BaseModel):
    """A generated token. A special one ends a stop string and has no text."""

    id: int
    text: str
    logprob: float
    special: bool


class PrefillToken(BaseModel):
    """A token of the prompt; `logprob` is null for the first one."""

    id: int
    text: str
    logprob: float | None


class StreamDetails(BaseModel):
    """Why and after how many tokens a generation ended, and its seed."""

    finish_reason: Literal["length", "eos_token", "stop_sequence"]
    generated_tokens: int
    seed: int | None
    input_length: int | None = None
    steer: SteeredReply | None = None


class GenerateDetails(StreamDetails):
    """The details with every token."""

    prefill: list[PrefillToken]
    tokens: list[GeneratedToken]
    top_tokens: list[list[GeneratedToken]] | None = None


class BestOfSequence(GenerateDetails):
    """A generated text that is not the best."""

    generated_text: str


class BestOfDetails(GenerateDetails):
    """The details of the best text, and the other texts of `best_of`."""

    best_of_sequences: list[BestOfSequence] | None = None


class GenerateReply(BaseModel):
    """The generated text; `details` if requested, `session` if it is a turn of one."""

    generated_text: str
    details: BestOfDetails | None = None
    session: SessionPosition | None = None


class StreamReply(BaseModel):
    """An event of a stream, one for each token; the last has the text and the details."""

    index: int
    token: GeneratedToken
    top_tokens: list[GeneratedToken] | None = None
    generated_text: str | None
    details: StreamDetails | None
    session: SessionPosition | None = None


_EVENTS = events_of("a token, or the end.", "StreamReply", "Problem")

GENERATED: Responses = {
    200: {
        "model": GenerateReply,
        "content": _EVENTS,
        "description": "The text; with `stream`, events.",
    }
}
STREAMED: Responses = {200: {"content": _EVENTS, "description": "The events."}}
