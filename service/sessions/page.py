"""A page of an owner's sessions, and the cursor of the next one."""

import re
from dataclasses import dataclass
from typing import Self

from service.errors import Validation
from service.sessions.session import Session

MAX_PAGE = 100


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the order of an owner's sessions, which stays when sessions come and go."""

    created_ms: int
    session_id: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a cursor. Raises Validation."""
        found = re.fullmatch(r"(\d{1,15})-([A-Za-z0-9][A-Za-z0-9._-]{0,63})", text, re.ASCII)
        if found is None:
            raise Validation(
                f"`after` is {text[:80]!r}, which is no cursor; give the `next` of another page",
                "after",
            )
        return cls(int(found[1]), found[2])

    def __str__(self) -> str:
        return f"{self.created_ms}-{self.session_id}"


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Sessions, the newest first. A page may be short, or empty, and still have a next one."""

    sessions: list[Session]
    next: Cursor | None  # None: the last page
