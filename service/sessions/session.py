"""Sessions, turns and event ids: frozen values, and the rules that need no store."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from service.errors import Validation

DEFAULT_TTL_S, LEAST_TTL_S, MOST_TTL_S = 7 * 86_400, 60, 366 * 86_400
MAX_FORKS = 1_024
NARROW_VOCABULARY, MIDDLE_VOCABULARY = 256, 65_536

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class TurnStatus(StrEnum):
    """The state of a session's last turn."""

    NONE = "none"
    RUNNING = "running"
    EOS_TOKEN = "eos_token"  # noqa: S105 (an end token, or its constraint allows no further token)
    LENGTH = "length"
    STOP_SEQUENCE = "stop_sequence"
    CANCELLED = "cancelled"  # by request, by a disconnect, or ended by the next turn after a crash
    FAILED = "failed"
    LOST = "lost"  # the store has lost its end
    REWOUND = "rewound"  # the log was cut back to before its end


class OnDisconnect(StrEnum):
    """What happens to a turn whose client disconnects."""

    CANCEL = "cancel"
    CONTINUE = "continue"


@dataclass(frozen=True, slots=True)
class SessionKey:
    """An owner and a session id; the same id of another owner is another session."""

    owner: str
    id: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.id):
            raise Validation(
                f"{self.id[:80]!r} is no session id: it has 1 to 64 letters, digits, dots, dashes "
                "and underscores, and begins with a letter or a digit"
            )

    def __str__(self) -> str:
        return f"{self.owner}/{self.id}"


@dataclass(frozen=True, slots=True)
class Turn:
    """A session's last turn."""

    epoch: int
    number: int
    prompt_start: int  # positions in the log
    completion_start: int
    completion_end: int | None  # None while it runs
    status: TurnStatus

    @property
    def is_over(self) -> bool:
        """Whether no more tokens will follow."""
        return self.status is not TurnStatus.RUNNING


@dataclass(frozen=True, slots=True)
class EventId:
    """The position of an event in a session; unique within the session."""

    epoch: int
    turn: int
    position: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `epoch.turn.position`. Raises Validation."""
        if not re.fullmatch(r"\d{1,15}\.\d{1,15}\.\d{1,15}", text, re.ASCII):
            raise Validation(f"{text[:80]!r} is no event id; one looks like 0.3.517")
        return cls(*map(int, text.split(".")))

    def __str__(self) -> str:
        return f"{self.epoch}.{self.turn}.{self.position}"


@dataclass(frozen=True, slots=True)
class Session:
    """A session's record, without its tokens and its state."""

    key: SessionKey
    model: str  # name@version
    digest: str
    width: int  # bytes per token in the log
    seed: int
    epoch: int
    position: int  # length of the log, in tokens
    incarnation: str  # unique to each creation: an id may be deleted and created again
    record_version: str  # changes with every change of the record
    active: str  # "", "turn" or "append"
    turn: Turn
    created_s: int
    expires_in_s: float  # unless it is used
    steer: str = ""  # the lines of its steered spans, as in steer_spans.py


def token_width(vocabulary_size: int) -> int:
    """Return the bytes that a token takes in the log."""
    if vocabulary_size <= NARROW_VOCABULARY:
        return 1
    return 2 if vocabulary_size <= MIDDLE_VOCABULARY else 4
