import asyncio

import pytest

from service.generation.deferred_call import DeferredCall


async def passes_until(asks: list[int]) -> int:
    """Return after which pass it calls back, where so many ask before each one."""
    call, called = DeferredCall(), []
    for n in range(len(asks)):
        for _ in range(asks[n]):
            call.soon(lambda: called.append(None))
        await asyncio.sleep(0)
        if called:
            assert len(called) == 1
            return n + 1
    raise AssertionError("it has never called back")


@pytest.mark.parametrize(
    ("asks", "expected"),
    [
        ([1], 1),  # a lone request waits for nobody
        ([1] * 9, 1),
        ([2, 0], 2),  # more may be on their way
        ([2, 1, 0], 3),
        ([2] + [1] * 20, 4),  # however many ask, it is not put off for long
    ],
)
async def test_it_calls_back_once_after_a_pass_that_brings_no_more(asks, expected):
    assert await passes_until(asks) == expected
