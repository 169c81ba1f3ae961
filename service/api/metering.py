"""What a request uses: reserved before it begins, counted, and settled when it has ended."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request
from starlette.types import Scope

from service.api.caller import Caller, caller_of
from service.api.exchange import RawHeaders
from service.generation.completions import CompletionStream
from service.limits.limiter import Limiter, LimitLease, headers_of
from service.limits.limits import Limits
from service.limits.usage import UsageLedger
from service.sessions.running_turn import RunningTurn

METER = "meter"  # in the request's state


@dataclass(slots=True)
class RequestMeter:
    """Counts one request. Without `begin` it has used nothing."""

    owner: str
    lease: LimitLease | None = None
    prompt_tokens: int = 0  # that were fed
    completions: CompletionStream | None = None
    turn: RunningTurn | None = None  # goes on after its reader has left, and is counted at its end
    has_begun: bool = False

    def begin(
        self,
        prompt_tokens: int,
        turn: RunningTurn | None = None,
        completions: CompletionStream | None = None,
    ) -> None:
        """Count the request and its prompt, and what a turn or `completions` tell at the end."""
        self.has_begun, self.prompt_tokens = True, prompt_tokens
        self.turn, self.completions = turn, completions

    @property
    def n_fed(self) -> int:
        """How many tokens of the prompt were fed: those in the prefix cache cost nothing."""
        cached = 0 if self.completions is None else self.completions.usage.cached_tokens
        return self.prompt_tokens - cached

    @property
    def n_generated(self) -> int:
        """How many tokens have been generated, those of completions not returned included."""
        if self.turn is not None:
            return self.turn.position - self.turn.session.turn.completion_start
        return 0 if self.completions is None else self.completions.generated_tokens


class UsageMetering:
    """What the routes need to limit and to count requests. Belongs to the event loop."""

    def __init__(self, limiter: Limiter, ledger: UsageLedger) -> None:
        self.limiter, self.ledger = limiter, ledger
        self._waiting: set[asyncio.Task[None]] = set()  # for turns without a reader

    def limits_of(self, caller: Caller) -> Limits:
        """Return the limits of a caller, completed by the server's defaults."""
        return caller.limits.over(self.limiter.defaults)

    async def reserve(self, request: Request, tokens: int) -> RequestMeter:
        """Reserve what a request may feed and generate, and meter it to its end.

        Raises as `Limiter.reserve`.
        """
        state = request.scope["state"]
        known = state.get(METER)
        if isinstance(known, RequestMeter):  # the beginning of a turn is tried again
            return known
        caller = caller_of(request.scope)
        meter, limits = RequestMeter(caller.owner), self.limits_of(caller)
        if limits.has_rates:
            meter.lease = await self.limiter.reserve(caller.key_id or "", limits, tokens)
        state[METER] = meter
        return meter

    def end(self, meter: RequestMeter) -> None:
        """Settle and count a request whose reply has ended; a turn that goes on, at its end."""
        turn = meter.turn
        if turn is None or turn.is_over:
            self._settle(meter)
            return
        task = asyncio.create_task(self._settle_after(meter, turn))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def run(self) -> None:
        """Renew leases and write counts until it is cancelled."""
        await asyncio.gather(self.limiter.run(), self.ledger.run())

    async def close(self) -> None:
        """Settle and write everything, and disconnect."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        await self.limiter.close()
        await self.ledger.close()

    async def _settle_after(self, meter: RequestMeter, turn: RunningTurn) -> None:
        try:
            await turn.ended.wait()
        finally:
            self._settle(meter)

    def _settle(self, meter: RequestMeter) -> None:
        prompt, generated = (meter.n_fed, meter.n_generated) if meter.has_begun else (0, 0)
        if meter.has_begun:
            self.ledger.add(
                meter.owner, requests=1, prompt_tokens=prompt, generated_tokens=generated
            )
        if meter.lease is not None:
            self.limiter.settle(meter.lease, prompt + generated)

    def watch(self, scope: Scope) -> Callable[[RawHeaders], None] | None:
        """Return what adds to a reply's headers what is left of its caller's limits, if any."""
        if not self.limits_of(caller_of(scope)).has_rates:
            return None
        state = scope["state"]

        def add_headers(headers: RawHeaders) -> None:
            meter = state.get(METER)
            if meter is not None and meter.lease is not None:
                found = headers_of(meter.lease.levels).items()
                headers += [(name.lower().encode(), value.encode()) for name, value in found]

        return add_headers
