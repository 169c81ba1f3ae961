"""What a key may use is never exceeded, comes back when it was not used, and outlives a crash."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from service.errors import RateLimited, Validation
from service.limits.config import LimitConfig
from service.limits.limiter import Limiter, LimitLease, headers_of
from service.limits.limits import NO_LIMITS, Limits
from service.sessions.config import SessionConfig
from service.sessions.redis_client import ScriptClient

CONFIG = LimitConfig(lease_s=30.0)
SHORT = replace(CONFIG, lease_s=1.0)
QUOTA = Limits(tokens_per_month=6_000)  # of which nothing comes back during a test
RATE = Limits(tokens_per_minute=6_000)

Make = Callable[..., Limiter]


class LocalLimits(Limiter):
    """Each process counts for itself."""

    async def reserve(self, subject: str, limits: Limits, tokens: int) -> LimitLease | None:
        return await super().reserve(f"{subject} {id(self)}", limits, tokens)


class ForgottenCrash(Limiter):
    """What a dead process had reserved is lost, for a script that gives nothing back."""

    def __init__(self, redis_url: str, defaults: Limits, config: LimitConfig) -> None:
        super().__init__(redis_url, defaults, config)
        scripts = {
            name: text.replace("redis.call('HINCRBYFLOAT', buckets, name, amount)", "")
            for name, text in self._client._scripts.items()
        }
        assert scripts != self._client._scripts
        self._client = ScriptClient(redis_url, SessionConfig(), scripts)


class ForgottenLease(Limiter):
    """Requests of a dead process count as running for ever."""

    def __init__(self, redis_url: str, defaults: Limits, config: LimitConfig) -> None:
        super().__init__(redis_url, defaults, replace(config, lease_s=3_600.0))


@contextlib.asynccontextmanager
async def limiters(
    store, n: int = 1, kind: Make = Limiter, config: LimitConfig = CONFIG
) -> AsyncIterator[list[Limiter]]:
    made = [kind(store.url, NO_LIMITS, config) for _ in range(n)]
    try:
        yield made
    finally:
        for limiter in made:
            await limiter.close()


async def admitted(limiters: list[Limiter], n: int, limits: Limits, tokens: int) -> int:
    """How many of `n` requests at once are admitted."""

    async def one(limiter: Limiter) -> bool:
        with contextlib.suppress(RateLimited):
            assert await limiter.reserve("k", limits, tokens) is not None
            return True
        return False

    asked = (one(limiters[i % len(limiters)]) for i in range(n))
    return sum(await asyncio.gather(*asked))


async def check_shared(store, kind: Make) -> None:
    """Fifty requests of 1,000 at once, over two processes, with a limit of 6,000: six."""
    async with limiters(store, 2, kind) as both:
        assert await admitted(both, 50, QUOTA, 1_000) == 6


async def check_crash(store, kind: Make) -> None:
    """A process dies with everything reserved: after its leases, all of it is there again."""
    limits = Limits(tokens_per_month=6_000, concurrent_requests=6)
    async with limiters(store, 2, kind, SHORT) as (dead, other):
        assert await admitted([dead], 50, limits, 1_000) == 6
        assert await admitted([other], 50, limits, 1_000) == 0
        await asyncio.sleep(2 * SHORT.lease_s)
        assert await admitted([other], 50, limits, 1_000) == 6


async def test_requests_at_once_never_exceed_the_limit(store):
    await check_shared(store, Limiter)


async def test_what_a_dead_process_had_reserved_comes_back(store):
    await check_crash(store, Limiter)


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        (check_shared, LocalLimits),
        (check_crash, ForgottenCrash),
        (check_crash, ForgottenLease),
    ],
)
async def test_a_planted_fault_is_found(store, check, fault):
    with pytest.raises(AssertionError):
        await check(store, fault)


async def test_what_is_not_used_is_given_back_once(store):
    async with limiters(store) as (limiter,):
        lease = await limiter.reserve("k", QUOTA, 6_000)
        limiter.settle(lease, 1_000)
        limiter.settle(lease, 1_000)
        await asyncio.gather(*limiter._settling)
        assert await admitted([limiter], 10, QUOTA, 1_000) == 5


async def test_what_is_used_beyond_the_reservation_is_owed(store):
    async with limiters(store) as (limiter,):
        lease = await limiter.reserve("k", RATE, 0)
        limiter.settle(lease, 9_000)
        await asyncio.gather(*limiter._settling)
        with pytest.raises(RateLimited) as refused:
            await limiter.reserve("k", RATE, 1)
        assert 20 <= refused.value.retry_after_s <= 30.1  # 3,001 tokens at 100 a second


async def test_the_time_to_wait_is_exact(store):
    limits = Limits(tokens_per_minute=60_000)  # one a millisecond
    async with limiters(store) as (limiter,):
        await limiter.reserve("k", limits, 60_000)
        with pytest.raises(RateLimited) as refused:
            await limiter.reserve("k", limits, 300)
        await asyncio.sleep(refused.value.retry_after_s)
        assert await limiter.reserve("k", limits, 300) is not None


async def test_a_refused_request_costs_nothing(store):
    limits = Limits(requests_per_minute=3, tokens_per_month=1_000)
    async with limiters(store) as (limiter,):
        await limiter.reserve("k", limits, 900)
        for _ in range(5):
            with pytest.raises(RateLimited, match="tokens_per_month"):
                await limiter.reserve("k", limits, 200)
        assert await admitted([limiter], 2, limits, 50) == 2
        with pytest.raises(RateLimited, match="requests_per_minute"):
            await limiter.reserve("k", limits, 0)


async def test_requests_that_run_are_counted_and_freed(store):
    limits = Limits(concurrent_requests=2)
    async with limiters(store) as (limiter,):
        first = await limiter.reserve("k", limits, 1)
        await limiter.reserve("k", limits, 1)
        with pytest.raises(RateLimited, match="concurrent_requests"):
            await limiter.reserve("k", limits, 1)
        assert await limiter.reserve("another", limits, 1) is not None
        limiter.settle(first, 1)
        await asyncio.gather(*limiter._settling)
        assert await limiter.reserve("k", limits, 1) is not None


async def test_a_long_request_keeps_its_place(store):
    limits = Limits(concurrent_requests=1)
    async with limiters(store, 2, config=SHORT) as (limiter, other):
        renewing = asyncio.create_task(limiter.run())
        await limiter.reserve("k", limits, 1)
        for _ in range(4):
            await asyncio.sleep(SHORT.lease_s / 2)
            with pytest.raises(RateLimited):
                await other.reserve("k", limits, 1)
        renewing.cancel()


async def test_a_call_whose_reply_was_lost_is_counted_once(store):
    async with limiters(store) as (limiter,):
        keys = ["b", "l", "r"]
        args = ["id", 30_000, 0, "tokens_per_minute", 6_000, 60_000, 1_000, 1]
        first = await limiter._client.call("reserve", keys, args)
        again = await limiter._client.call("reserve", keys, args)
        assert float(first[3]) == 5_000
        assert again[0] == 1
        assert 5_000 <= float(again[3]) < 6_000
        left = float(again[3])
        for _ in range(2):
            await limiter._client.call("settle", keys, ["id", "tokens_per_minute", 400])
        assert float(store.client.hget("b", "tokens_per_minute")) == pytest.approx(left + 400)


async def test_a_request_that_can_never_be_admitted_is_not_told_to_wait(store):
    async with limiters(store) as (limiter,):
        with pytest.raises(Validation, match=r"6001 tokens.*tokens_per_month is 6000"):
            await limiter.reserve("k", QUOTA, 6_001)


async def test_a_store_that_does_not_answer_limits_nobody(tmp_path):
    limiter = Limiter(f"unix://{tmp_path / 'none'}", NO_LIMITS, replace(CONFIG, call_timeout_s=0.1))
    for _ in range(3):
        assert await limiter.reserve("k", QUOTA, 1) is None
    assert limiter.unlimited == 3
    await limiter.close()


async def test_the_headers_say_what_is_left(store):
    limits = Limits(requests_per_minute=60, tokens_per_minute=6_000, tokens_per_month=90_000)
    async with limiters(store) as (limiter,):
        lease = await limiter.reserve("k", limits, 1_000)
        headers = headers_of(lease.levels)
        assert headers["x-ratelimit-limit-requests"] == "60"
        assert headers["x-ratelimit-remaining-requests"] == "59"
        assert headers["x-ratelimit-reset-requests"] == "1.000s"
        assert headers["x-ratelimit-remaining-tokens"] == "5000"
        assert headers["x-ratelimit-reset-tokens"] == "10.000s"
        assert headers["RateLimit-Policy"].split(", ")[2] == '"tokens-per-month";q=90000;w=2592000'
        assert headers["RateLimit"].split(", ")[1] == '"tokens-per-minute";r=5000;t=10'


@pytest.mark.parametrize(
    "text", ["requests_per_minute", "requests_per_minute=0", "requests=1", "open_jobs=-1", "a=b=c"]
)
def test_a_limit_that_is_none_is_refused(text):
    with pytest.raises(Validation):
        Limits.parse(text)


def test_a_keys_limits_come_before_the_defaults():
    own, defaults = Limits.parse("open_jobs=2"), Limits.parse("open_jobs=9, requests_per_minute=60")
    assert own.over(defaults) == Limits(open_jobs=2, requests_per_minute=60)
    assert own.over(NO_LIMITS) == own
    assert NO_LIMITS.over(defaults) == defaults
    assert Limits.parse("") == NO_LIMITS
