"""What a key may use: requests and tokens in a time, and things kept at once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Self

from service.errors import Validation

MOST = 10**15
MINUTE_MS, MONTH_MS = 60_000, 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A limit over time: `capacity` may be used at once, and comes back evenly in `period_ms`."""

    name: str
    capacity: int
    period_ms: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one key. None is no limit.

    Tokens are those of prompts that are fed and those that are generated, together.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_month: int | None = None  # of 30 days
    concurrent_requests: int | None = None
    stored_bytes: int | None = None  # of the owner's corpora
    stored_sessions: int | None = None  # of the owner, until they are deleted or expire
    open_jobs: int | None = None  # train jobs of the owner that are not over

    def __post_init__(self) -> None:
        """Raises Validation."""
        for one in fields(self):
            value = getattr(self, one.name)
            is_number = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (is_number and 1 <= value <= MOST):
                raise Validation(
                    f"the limit {one.name} is {str(value)[:80]}; it is an integer of 1 to {MOST}",
                    "limits",
                )

    @classmethod
    def of(cls, members: Mapping[str, int | None]) -> Self:
        """Return the limits with these names. Raises Validation."""
        names = [one.name for one in fields(cls)]
        for name in members:
            if name not in names:
                raise Validation(
                    f"{name[:80]!r} is no limit: there are {', '.join(names)}", "limits"
                )
        return cls(**members)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the limits of a text like "requests_per_minute=60,open_jobs=2".

        Raises Validation.
        """
        members: dict[str, int | None] = {}
        for part in filter(None, (one.strip() for one in text.split(","))):
            name, separator, value = part.partition("=")
            if not separator or not value.strip().isdecimal():
                raise Validation(f"{part[:80]!r} is no limit: write NAME=NUMBER", "limits")
            members[name.strip()] = int(value)
        return cls.of(members)

    def members(self) -> dict[str, int]:
        """The limits that are set, by name."""
        found = ((one.name, getattr(self, one.name)) for one in fields(self))
        return {name: value for name, value in found if value is not None}

    def over(self, defaults: "Limits") -> "Limits":
        """Return these limits, completed by `defaults`."""
        if defaults is NO_LIMITS or defaults == NO_LIMITS:
            return self
        if self is NO_LIMITS or self == NO_LIMITS:
            return defaults
        return Limits.of(defaults.members() | self.members())

    @property
    def buckets(self) -> tuple[TokenBucket, ...]:
        """The limits over time."""
        return tuple(self._buckets())

    def _buckets(self) -> Iterator[TokenBucket]:
        for name, period_ms in PERIODS_MS.items():
            capacity = getattr(self, name)
            if capacity is not None:
                yield TokenBucket(name, capacity, period_ms)

    @property
    def has_rates(self) -> bool:
        """Whether a request has to be counted before it begins."""
        return self is not NO_LIMITS and (
            self.concurrent_requests is not None
            or any(getattr(self, name) is not None for name in PERIODS_MS)
        )


PERIODS_MS: Mapping[str, int] = {
    "requests_per_minute": MINUTE_MS,
    "tokens_per_minute": MINUTE_MS,
    "tokens_per_month": MONTH_MS,
}
NO_LIMITS = Limits()
