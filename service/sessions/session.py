"""A session as its record says: frozen values, and the rules that need no store."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from service.errors import Validation

DEFAULT_TTL_S, LEAST_TTL_S, MOST_TTL_S = 7 * 86_400, 60, 366 * 86_400
MAX_FORKS = 1_024
NARROW_VOCABULARY = 256

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class TurnStatus(StrEnum):
    """How the last turn stands."""

    NONE = "none"
    RUNNING = "running"
    EOS_TOKEN = "eos_token"  # noqa: S105 (its constraint has closed the text)
    LENGTH = "length"
    STOP_SEQUENCE = "stop_sequence"
    CANCELLED = "cancelled"  # or its client left, or its process and nobody took it over
    FAILED = "failed"
    LOST = "lost"  # the store has lost its end
    REWOUND = "rewound"  # the log has been cut back before its end


class OnDisconnect(StrEnum):
    """What becomes of a turn whose client leaves."""

    CANCEL = "cancel"
    CONTINUE = "continue"


@dataclass(frozen=True, slots=True)
class SessionKey:
    """Whose session: another owner's same id is another session, or none."""

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
    """The last turn: its prompt's tokens lie from `start`, its own from `first` to `finish`."""

    epoch: int
    number: int
    start: int
    first: int
    finish: int | None  # None while it runs
    status: TurnStatus

    @property
    def is_over(self) -> bool:
        """Whether nothing will come after what is there."""
        return self.status is not TurnStatus.RUNNING

    def event_id(self, position: int) -> "EventId":
        """The id of the event that brings the session to `position`."""
        return EventId(self.epoch, self.number, position)


@dataclass(frozen=True, slots=True)
class EventId:
    """Where an event of a session stands; no two events of a session share one."""

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
    """What the store knows of a session, but for its tokens and its state."""

    key: SessionKey
    model: str  # name@version
    digest: str
    width: int  # bytes a token in the log
    seed: int
    epoch: int
    position: int
    birth: str  # no other session that was ever called so has the same
    stamp: str  # changes with every change of the record
    active: str  # "", "turn" or "append"
    turn: Turn
    created_s: int
    left_s: float  # until it expires, if nobody uses it

    @property
    def is_active(self) -> bool:
        """Whether a turn or an append has begun and not ended."""
        return bool(self.active)


def token_width(vocabulary_size: int) -> int:
    """Bytes that a token takes in the log."""
    return 1 if vocabulary_size <= NARROW_VOCABULARY else 2
