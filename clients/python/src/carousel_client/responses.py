"""Responses of the server: frozen values, each built from JSON.

Unknown members are ignored, for newer servers; a missing one is a KeyError, which `Request.parsed`
turns into an UnexpectedResponse. Source: docs/reference/http.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Self

Json = Mapping[str, Any]


class Response:
    """A value that is built from JSON."""

    __slots__ = ()

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it from the members of `body`. Raises KeyError where one is missing."""
        return cls._with(body)

    @classmethod
    def several(cls, bodies: Iterable[Json]) -> tuple[Self, ...]:
        """Build one from each of a list."""
        return tuple(map(cls.from_json, bodies))

    @classmethod
    def _with(cls, body: Json, **replaced: Any) -> Self:
        """Build it; `replaced` has the fields whose members in `body` have another name or type.

        Members whose names end in `_at` are times.
        """
        values: dict[str, Any] = dict(replaced)
        for field in fields(cls):  # type: ignore[arg-type]  # a subclass is a dataclass
            if field.name not in values and (field.name in body or field.default is MISSING):
                values[field.name] = body[field.name]
                if field.name.endswith("_at") and values[field.name] is not None:
                    values[field.name] = datetime.fromisoformat(values[field.name])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Token:
    """A generated token."""

    id: int
    text: str  # "" for the last token of a stop string
    logprob: float  # natural logarithm, of the model's own distribution
    is_special: bool = False
    top: tuple["Token", ...] = ()  # the most likely tokens at this place, if requested
    event_id: str | None = None  # in a session's stream: where to resume after this token

    @classmethod
    def from_json(cls, body: Json, top: object = None, event_id: str | None = None) -> Self:
        """Build one, with the tokens of `top` if that is a list."""
        most_likely = tuple(map(cls.from_json, top)) if isinstance(top, list) else ()
        return cls(
            body["id"], body["text"], body["logprob"], body["special"], most_likely, event_id
        )


@dataclass(frozen=True, slots=True)
class Details(Response):
    """The finish reason, the seed and the tokens of a completion."""

    finish_reason: str  # length, stop_sequence or eos_token
    generated_tokens: int
    seed: int
    tokens: tuple[Token, ...]  # empty at the end of a stream, which has returned them
    steer: Json | None = None  # what was steered, and the kernel that computed it

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build them, each token with its most likely ones."""
        bodies = body.get("tokens", [])
        tops = body.get("top_tokens") or [None] * len(bodies)
        tokens = tuple(map(Token.from_json, bodies, tops))
        return cls._with(body, tokens=tokens, steer=body.get("steer"))


@dataclass(frozen=True, slots=True)
class SessionPosition(Response):
    """The position of a session after a turn."""

    id: str
    position: int
    turn: int


@dataclass(frozen=True, slots=True)
class GenerationResult(Response):
    """A whole completion."""

    text: str
    details: Details | None  # None where they were not requested
    session: SessionPosition | None  # None without a session

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it from a response, or from the last event of a stream."""
        details, session = body.get("details"), body.get("session")
        return cls(
            body["generated_text"],
            Details.from_json(details) if details is not None else None,
            SessionPosition.from_json(session) if session is not None else None,
        )


@dataclass(frozen=True, slots=True)
class SessionState(Response):
    """The current state of a session."""

    id: str
    model: str  # name@version
    digest: str
    position: int  # number of tokens, of inputs and completions together
    turn: int
    seed: int
    state_bytes: int | None
    created_at: datetime
    expires_at: datetime
    steered: bool = False  # whether a part of its text was steered


@dataclass(frozen=True, slots=True)
class SessionPage(Response):
    """Sessions, the newest first. A page may be short, or empty, and still have a next one."""

    sessions: tuple[SessionState, ...]
    next: str | None  # `after` of the next page; None: this is the last one

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it, with its sessions."""
        return cls._with(body, sessions=SessionState.several(body["sessions"]))


@dataclass(frozen=True, slots=True)
class TextToken(Response):
    """A token of a text; `start` and `stop` are character offsets."""

    id: int
    text: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class ScoredToken(Response):
    """A token of a scored text."""

    id: int
    text: str
    logprob: float | None  # None for the first token of a text without a session


@dataclass(frozen=True, slots=True)
class Score(Response):
    """The likelihood of a text under a model. A figure that is not finite is None."""

    characters: int  # those with a logprob, over which the other figures are taken
    nats: float
    bits_per_character: float | None
    bits_per_byte: float | None
    perplexity: float | None  # of a character
    token_count: int | None  # tokens with a logprob; None from a server before 1.1
    nats_per_token: float | None
    tokens: tuple[ScoredToken, ...]  # empty where they were not requested
    steer: Json | None = None  # what was steered, and the kernel that computed it

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        return cls._with(
            body,
            token_count=body.get("token_count"),
            nats_per_token=body.get("nats_per_token"),
            tokens=ScoredToken.several(body.get("tokens") or ()),
            steer=body.get("steer"),
        )


@dataclass(frozen=True, slots=True)
class Model(Response):
    """A stored version of a model."""

    name: str
    version: int
    status: str  # stored, loading, ready, draining or failed
    digest: str | None
    precision: str | None  # of the loaded program
    size_bytes: int | None
    architecture: str | None
    vocabulary_size: int | None
    tokenizer: str | None  # its kind: characters, words, …
    special_tokens: Json | None  # role → [{id, token}]; None unless the model is loaded
    state: str | Json | None  # "carried", or the window that each prediction reads
    turns: int  # running turns of sessions on this model
    parity: Json | None  # deviation from the float64 reference
    error: str | None
    pin: bool | None  # never evicted
    keep_alive_s: float | None  # after its last request; -1: until its memory is needed
    requests: int | None  # that use it, or wait for it

    @property
    def ref(self) -> str:
        """The name and the version, as every `model` argument accepts them."""
        return f"{self.name}@{self.version}"

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        return cls._with(
            body,
            size_bytes=body["bytes"],
            turns=body["sessions"],
            tokenizer=body.get("tokenizer"),
            special_tokens=body.get("special_tokens"),
            state=body.get("state"),
            parity=body.get("parity"),
            error=body.get("error"),
            pin=body.get("pin"),
            keep_alive_s=body.get("keep_alive_s"),
            requests=body.get("requests"),
        )


@dataclass(frozen=True, slots=True)
class ModelList(Response):
    """Every stored version, and the model of each alias."""

    models: tuple[Model, ...]
    aliases: Mapping[str, str]

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        return cls(Model.several(body["models"]), dict(body["aliases"]))


@dataclass(frozen=True, slots=True)
class ServerInfo(Response):
    """The version, the models and the limits of a server."""

    version: str
    model: str | None  # the default model
    models: tuple[str, ...]  # every loaded one
    max_input_tokens: int
    max_stop_sequences: int
    max_concurrent_requests: int

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        return cls._with(
            body, model=body["model_id"], models=tuple(one["id"] for one in body["models"])
        )


@dataclass(frozen=True, slots=True)
class Corpus(Response):
    """A stored text to train on."""

    id: str
    name: str
    size_bytes: int
    characters: int
    vocabulary_size: int
    sha256: str
    created_at: datetime

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        return cls._with(body, size_bytes=body["bytes"])


@dataclass(frozen=True, slots=True)
class TrainJob(Response):
    """The current record of a train job, with every default filled in."""

    id: str
    status: str  # queued, running, succeeded, failed or cancelled
    name: str
    corpus: str
    architecture: Json
    training: Json
    seed: int
    attempt: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    progress: Json | None
    validation: Json | None  # the last one
    best: Json | None
    model: str | None  # name@version, once it is stored
    error: Json | None

    @property
    def is_finished(self) -> bool:
        """Whether the training has ended, with whichever outcome."""
        return self.status not in {"queued", "running"}


@dataclass(frozen=True, slots=True)
class TrainJobEvent:
    """An event of a train job."""

    id: str  # where to resume after this event
    name: str  # progress, validation, sample, checkpoint, published or done
    body: Json


@dataclass(frozen=True, slots=True)
class StoredFile(Response):
    """A stored file: the input of a batch, or its output."""

    id: str
    name: str
    size_bytes: int
    purpose: str  # batch, or batch_output
    created_at: datetime
    expires_at: datetime | None

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        times = {name: _time(body[name]) for name in ("created_at", "expires_at")}
        return cls._with(body, name=body["filename"], size_bytes=body["bytes"], **times)


@dataclass(frozen=True, slots=True)
class FilePage(Response):
    """Files, the newest first."""

    files: tuple[StoredFile, ...]
    next: str | None  # `after` of the next page; None: this is the last one

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it, with its files."""
        return cls(StoredFile.several(body["data"]), _next(body))


@dataclass(frozen=True, slots=True)
class Batch(Response):
    """The current record of a batch."""

    id: str
    status: str  # validating, in_progress, finalizing, completed, failed, expired, cancelling, …
    endpoint: str
    input_file_id: str
    completion_window: str
    output_file_id: str | None  # the rows of the lines that were answered
    error_file_id: str | None  # the rows of the others
    total: int  # lines
    completed: int
    failed: int
    errors: tuple[Json, ...]  # why the batch has failed as a whole
    metadata: Mapping[str, str] | None
    created_at: datetime
    expires_at: datetime  # the end of its window
    completed_at: datetime | None

    @property
    def is_finished(self) -> bool:
        """Whether no more lines are answered, with whichever outcome; its files are there then."""
        return self.status in {"completed", "failed", "expired", "cancelled"}

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        counts, errors = body["request_counts"], body["errors"] or {"data": []}
        times = {name: _time(body[name]) for name in ("created_at", "expires_at", "completed_at")}
        counted = {name: counts[name] for name in ("total", "completed", "failed")}
        return cls._with(body, errors=tuple(errors["data"]), **counted, **times)


@dataclass(frozen=True, slots=True)
class BatchPage(Response):
    """Batches, the newest first."""

    batches: tuple[Batch, ...]
    next: str | None  # `after` of the next page; None: this is the last one

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it, with its batches."""
        return cls(Batch.several(body["data"]), _next(body))


def _time(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _next(body: Json) -> str | None:
    return str(body["last_id"]) if body["has_more"] else None
