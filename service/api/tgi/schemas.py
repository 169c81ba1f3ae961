"""What generate routes answer with, as the OpenAPI document says it.

The replies are written by hand, token by token; tests hold them to this.
"""

from typing import Any, Literal

from pydantic import BaseModel

Responses = dict[int | str, dict[str, Any]]


class GeneratedToken(BaseModel):
    """A generated token. One that is special is the end of a stop string and has no text."""

    id: int
    text: str
    logprob: float
    special: bool


class PrefillToken(BaseModel):
    """A token of the prompt; `logprob` is null where nothing came before it."""

    id: int
    text: str
    logprob: float | None


class SessionPosition(BaseModel):
    """Where a turn has brought its session."""

    id: str
    position: int
    turn: int


class StreamDetails(BaseModel):
    """How a generation went."""

    finish_reason: Literal["length", "eos_token", "stop_sequence"]
    generated_tokens: int
    seed: int | None
    input_length: int | None = None


class GenerateDetails(StreamDetails):
    """How it went, token by token."""

    prefill: list[PrefillToken]
    tokens: list[GeneratedToken]
    top_tokens: list[list[GeneratedToken]] | None = None


class BestOfSequence(GenerateDetails):
    """One of the texts that were not the best."""

    generated_text: str


class BestOfDetails(GenerateDetails):
    """As of a text alone, and those that `best_of` has left."""

    best_of_sequences: list[BestOfSequence] | None = None


class GenerateReply(BaseModel):
    """A text; `details` where they were asked for, `session` where it is a turn of one."""

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


def events_of(what: str, *names: str, last: str | None = None) -> dict[str, Any]:
    """The content of a reply that is a stream of server-sent events, whose data is one of these.

    Each is a schema of the document; `last` is the data of one that is no JSON. OpenAPI 3.1 has no
    place for what one event of a stream is: as tools read it, the schema is that of each.
    """
    kinds = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    json = {"contentMediaType": "application/json", "contentSchema": {"anyOf": kinds}}
    data = json if last is None else {"anyOf": [{"const": last}, json]}
    schema = {
        "type": "object",
        "description": f"Each event: {what}",
        "properties": {
            "id": {"type": "string"},
            "event": {"type": "string"},
            "data": {"type": "string"} | data,
        },
        "required": ["data"],
    }
    return {"text/event-stream": {"schema": schema}}


_EVENTS = events_of("a token, or the end.", "StreamReply", "Problem")

GENERATED: Responses = {
    200: {
        "model": GenerateReply,
        "content": _EVENTS,
        "description": "The text; with `stream`, events.",
    }
}
STREAMED: Responses = {200: {"content": _EVENTS, "description": "The events."}}
NOTHING_COMES: Responses = {204: {"description": "Nothing is to come."}}
