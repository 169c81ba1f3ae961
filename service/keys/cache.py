"""Answers of the store that are used for seconds, and for longer while the store is away."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.errors import CarouselError
from service.keys.config import KeyConfig

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CachedAnswer(Generic[T]):
    """What the store said, and when."""

    value: T | None
    at_s: float


class AnswerCache(Generic[T]):
    """Asks the store for values by name, at most once every `refresh_s` for each.

    An answer is used for `cache_s`. While the store does not answer, one that has a value is used
    for `grace_s`. Not thread-safe: one event loop only.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[T | None]],
        config: KeyConfig,
        *,
        grace_s: float,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._config, self._grace_s, self._clock_s = ask, config, grace_s, clock_s
        self._hits: OrderedDict[str, CachedAnswer[T]] = OrderedDict()
        self._misses: OrderedDict[str, CachedAnswer[T]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[CarouselError | None]] = {}
        self._failed_at_s: float | None = None  # None: the last question was answered

    async def get(self, name: str) -> T | None:
        """Return a value, or None where the store has none. Raises as `ask` where it must wait."""
        answer = self._known(name)
        age_s = float("inf") if answer is None else self._clock_s() - answer.at_s
        if answer is not None and age_s < self._config.refresh_s:
            return answer.value
        is_usable = answer is not None and answer.value is not None and age_s < self._grace_s
        asking = self._asking.get(name)
        is_failing = self._failed_at_s is not None
        if asking is None and not (is_usable and self._failed_lately()):
            asking = self._start(name)
        if answer is not None and (age_s < self._config.cache_s or (is_usable and is_failing)):
            return answer.value  # while it is asked for
        assert asking is not None
        error = await asyncio.shield(asking)
        if error is None:
            found = self._known(name)
            return None if found is None else found.value
        if is_usable:
            assert answer is not None
            return answer.value
        raise error

    def _known(self, name: str) -> CachedAnswer[T] | None:
        return self._hits.get(name) or self._misses.get(name)

    def _failed_lately(self) -> bool:
        failed_at_s = self._failed_at_s
        return failed_at_s is not None and self._clock_s() - failed_at_s < self._config.retry_s

    def _start(self, name: str) -> asyncio.Task[CarouselError | None]:
        task = asyncio.create_task(self._fetch(name))
        self._asking[name] = task
        task.add_done_callback(lambda _: self._asking.pop(name, None))
        return task

    async def _fetch(self, name: str) -> CarouselError | None:
        """Ask, and keep the answer; return an error, which concerns those who wait for it."""
        asked_at_s = self._clock_s()
        try:
            value = await self._ask(name)
        except CarouselError as error:
            self._failed_at_s = self._clock_s()
            return error
        self._failed_at_s = None
        answers, others, limit = self._hits, self._misses, self._config.max_hits
        if value is None:
            answers, others, limit = others, answers, self._config.max_misses
        others.pop(name, None)
        answers.pop(name, None)
        answers[name] = CachedAnswer(value, asked_at_s)
        if len(answers) > limit:
            answers.popitem(last=False)
        return None
