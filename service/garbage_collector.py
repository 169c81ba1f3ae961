"""The collector of cycles, which holds every request while it looks at all objects: kept short."""

import asyncio
import gc
from collections.abc import Callable, Hashable

THRESHOLDS = (7_000, 5, 20)
"""What requests hold while they run is no garbage: 64 of them made three collections a pass, which
found nothing. A collection of everything is as rare as 700,000 objects that stay."""

POLL_S = 1.0
PAUSE_S = 10.0
"""Between two changes that are set aside: each takes as long as one collection of everything."""


def set_aside() -> None:
    """Collect everything, and examine what is left in no collection until the next call.

    Collections of all that is newer are rare from then on. Any thread may call it; the others wait
    for 0.1 s.
    """
    gc.set_threshold(*THRESHOLDS)
    gc.unfreeze()
    gc.collect()
    gc.freeze()


async def keep_aside(
    what_stays: Callable[[], Hashable], poll_s: float = POLL_S, pause_s: float = PAUSE_S
) -> None:
    """Set aside what is alive each time that `what_stays` has another value than before.

    A model and what compiled it are a hundred thousand objects: a collection of everything took
    0.1 s, every few seconds, from every request. What has left meanwhile is freed then, be it in
    cycles. Runs until it is cancelled.
    """
    before = what_stays()
    while True:
        if (now := what_stays()) != before:
            set_aside()
            before = now
            await asyncio.sleep(pause_s)
        await asyncio.sleep(poll_s)
