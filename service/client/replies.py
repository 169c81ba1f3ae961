"""What the server answers with: frozen values, each made of a reply's JSON.

A field that a newer server adds is not looked at; one that is missing is a KeyError, which the
link makes an UnknownReply of. Source: docs/reference/http.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Token:
    """One token that was generated."""

    id: int
    text: str  # "" for the end of a stop string
    logprob: float  # the model's own, natural
    is_special: bool = False
    top: tuple["Token", ...] = ()  # the likeliest at its place, where they were asked for
    event_id: str | None = None  # of a session's stream: where to go on after it

    @classmethod
    def of(cls, body: Json, top: object = None, event_id: str | None = None) -> Self:
        """Read one."""
        likeliest = tuple(cls.of(one) for one in top) if isinstance(top, list) else ()
        return cls(body["id"], body["text"], body["logprob"], body["special"], likeliest, event_id)


@dataclass(frozen=True, slots=True)
class Details:
    """How a generation went."""

    finish_reason: str  # length, stop_sequence or eos_token
    generated_tokens: int
    seed: int
    tokens: tuple[Token, ...]  # empty at a stream's end: they were in the stream

    @classmethod
    def of(cls, body: Json) -> Self:
        """Read them."""
        bodies = body.get("tokens", [])
        tops = body.get("top_tokens") or [None] * len(bodies)
        tokens = tuple(Token.of(*both) for both in zip(bodies, tops, strict=False))
        return cls(body["finish_reason"], body["generated_tokens"], body["seed"], tokens)


@dataclass(frozen=True, slots=True)
class SessionPosition:
    """Where a turn has brought its session."""

    id: str
    position: int
    turn: int

    @classmethod
    def of(cls, body: Json) -> Self:
        """Read it."""
        return cls(body["id"], body["position"], body["turn"])


@dataclass(frozen=True, slots=True)
class Generation:
    """A text that was generated."""

    text: str
    details: Details | None  # None where they were not asked for
    session: SessionPosition | None  # None without a session

    @classmethod
    def of(cls, body: Json) -> Self:
        """Read a whole reply, or the last event of a stream."""
        details, session = body.get("details"), body.get("session")
        return cls(
            body["generated_text"],
            Details.of(details) if details is not None else None,
            SessionPosition.of(session) if session is not None else None,
        )


@dataclass(frozen=True, slots=True)
class SessionState:
    """A session as it stands."""

    id: str
    model: str  # name@version
    digest: str
    position: int  # tokens that it has consumed or said
    turn: int
    seed: int
    state_bytes: int | None
    created_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, body: Json) -> Self:
        """Read one."""
        return cls(
            body["id"],
            body["model"],
            body["digest"],
            body["position"],
            body["turn"],
            body["seed"],
            body["state_bytes"],
            datetime.fromisoformat(body["created_at"]),
            datetime.fromisoformat(body["expires_at"]),
        )


@dataclass(frozen=True, slots=True)
class TextToken:
    """A token of a text; `start` and `stop` count characters."""

    id: int
    text: str
    start: int
    stop: int

    @classmethod
    def of(cls, body: Json) -> Self:
        """Read one."""
        return cls(body["id"], body["text"], body["start"], body["stop"])


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of a text that was scored."""

    id: int
    text: str
    logprob: float | None  # None for the first of a text that nothing has foretold

    @classmethod
    def of(cls, body: Json) -> Self:
        """Read one."""
        return cls(body["id"], body["text"], body["logprob"])


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a model finds a text. What would be no number is None."""

    characters: int  # those that have a logprob, of which all the rest is
    nats: float
    bits_per_character: float | None
    bits_per_byte: float | None
    perplexity: float | None
    tokens: tuple[ScoredToken, ...]  # empty where they were not asked for

    @classmethod
    def of(cls, body: Json) -> Self:
        """Read one."""
        return cls(
            body["characters"],
            body["nats"],
            body["bits_per_character"],
            body["bits_per_byte"],
            body["perplexity"],
            tuple(ScoredToken.of(one) for one in body.get("tokens") or ()),
        )


@dataclass(frozen=True, slots=True)
class Model:
    """A stored version of a model."""

    name: str
    version: int
    status: str  # stored, loading, ready, draining or failed
    digest: str | None
    precision: str | None  # as it is loaded
    size_bytes: int | None
    architecture: str | None
    vocabulary_size: int | None
    turns: int  # of sessions, that run on it
    parity: Json | None  # how far it strays from the reference
    error: str | None

    @property
    def ref(self) -> str:
        """Its name and version, as every `model` takes it."""
        return f"{self.name}@{self.version}"

    @classmethod
    def of(cls, body: Json) -> Self:
        """Read one."""
        return cls(
            body["name"],
            body["version"],
            body["status"],
            body["digest"],
            body["precision"],
            body["bytes"],
            body["architecture"],
            body["vocabulary_size"],
            body["sessions"],
            body.get("parity"),
            body.get("error"),
        )


@dataclass(frozen=True, slots=True)
class Models:
    """Every stored version, and what the aliases stand for."""

    models: tuple[Model, ...]
    aliases: Mapping[str, str]

    @classmethod
    def of(cls, body: Json) -> Self:
        """Read them."""
        return cls(tuple(Model.of(one) for one in body["models"]), dict(body["aliases"]))


@dataclass(frozen=True, slots=True)
class Info:
    """What the server says of itself."""

    version: str
    model: str | None  # which one answers where none is named
    models: tuple[str, ...]  # every loaded one
    max_input_tokens: int
    max_stop_sequences: int
    max_concurrent_requests: int

    @classmethod
    def of(cls, body: Json) -> Self:
        """Read it."""
        return cls(
            body["version"],
            body["model_id"],
            tuple(one["id"] for one in body["models"]),
            body["max_input_tokens"],
            body["max_stop_sequences"],
            body["max_concurrent_requests"],
        )
