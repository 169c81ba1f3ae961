"""The run of a batch: many lines are in flight, and their rows are written in the lines' order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

from service.batch.call import Answer, RouteCall, RouteReply
from service.batch.line import BatchLine
from service.batch.row import error_row, reply_row

_WAIT_S = (0.05, 5.0)  # before a call is repeated: at first, and at most
_BUSY, _UNAVAILABLE = 429, {503, 507}
IN_FLIGHT = 128


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How much of a batch is in memory, and how long a call is repeated."""

    in_flight: int = IN_FLIGHT  # lines that are being answered
    max_lines: int = 4_096  # those and the ones whose row waits for an earlier line's
    max_bytes: int = 64 * 1024**2  # of all their inputs
    unavailable_s: float = 60.0  # after so long without a model or its memory the line has failed
    created_s: int = 0  # the time that replies of /v1 name; 0: not known


async def rows_of(
    lines: Iterator[BatchLine], answer: Answer, config: RunConfig
) -> AsyncGenerator[bytes, None]:
    """Yield the row of each line, in their order. Raises as `answer`.

    When it is left before its end, the lines in flight are given up.
    """
    gate, waiting = asyncio.Semaphore(config.in_flight), deque[asyncio.Task[bytes]]()
    sizes, size_bytes = deque[int](), 0

    async def row(line: BatchLine) -> bytes:
        if line.call is None:
            assert line.error is not None
            return error_row(line, line.error)
        async with gate:
            reply = await _persistent(answer, line.call, config.unavailable_s)
        return reply_row(line, reply, config.created_s)

    try:
        for line in lines:
            waiting.append(asyncio.create_task(row(line)))
            sizes.append(line.size_bytes)
            size_bytes += line.size_bytes
            while waiting and (
                waiting[0].done()
                or len(waiting) >= config.max_lines
                or size_bytes > config.max_bytes
            ):
                size_bytes -= sizes.popleft()
                yield await waiting.popleft()
            if gate.locked():  # reading on would only keep the event loop from its work
                await asyncio.sleep(0)
        while waiting:
            yield await waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _persistent(answer: Answer, call: RouteCall, unavailable_s: float) -> RouteReply:
    """Return the reply to a call, repeated as long as it is refused for want of room."""
    loop = asyncio.get_running_loop()
    wait_s, until_s = _WAIT_S[0], loop.time() + unavailable_s
    while True:
        reply = await answer(call)
        is_over = reply.status in _UNAVAILABLE and loop.time() > until_s
        if is_over or reply.status not in {_BUSY, *_UNAVAILABLE}:
            return reply
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, _WAIT_S[1])
