"""The route of usage: what each owner has used, by day."""

from datetime import UTC, date, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from service.api.state import get_state
from service.errors import Validation
from service.limits.usage import OwnerUsage

MOST_DAYS = 366

router = APIRouter(prefix="/admin/usage", tags=["keys"])


class UsageRow(BaseModel):
    """What an owner has used on a day, of UTC; the owner of requests without a key is ""."""

    day: date
    owner: str
    requests: int
    prompt_tokens: int
    generated_tokens: int
    train_jobs: int


class UsageReply(BaseModel):
    """The usage of each day and owner, the oldest day first."""

    usage: list[UsageRow]


@router.get("")
async def usage(
    request: Request,
    first: Annotated[date | None, Query(alias="from")] = None,
    last: Annotated[date | None, Query(alias="to")] = None,
    owner: Annotated[str | None, Query(max_length=64)] = None,
) -> UsageReply:
    """Return what owners have used on each day of UTC, from the last 30 days if not said."""
    end = last or datetime.now(UTC).date()
    begin = first or date.fromordinal(max(1, end.toordinal() - 29))
    n = (end - begin).days + 1
    if not 1 <= n <= MOST_DAYS:
        raise Validation(f"`from` {begin} to `to` {end} are {n} days; it is 1 to {MOST_DAYS}")
    found = await get_state(request).metering.ledger.read(begin, end, owner)
    return UsageReply(usage=[_row(one) for one in found])


def _row(one: OwnerUsage) -> UsageRow:
    counts = one.counts
    return UsageRow(
        day=one.day,
        owner=one.owner,
        requests=counts["requests"],
        prompt_tokens=counts["prompt_tokens"],
        generated_tokens=counts["generated_tokens"],
        train_jobs=counts["train_jobs"],
    )
