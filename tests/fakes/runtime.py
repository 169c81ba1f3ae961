"""A runtime that remembers what was done to it and ends its work when a test says so."""

import asyncio
import contextlib
import threading


class FakeRuntime:
    def __init__(self) -> None:
        self.is_started = self.is_draining = self.is_closed = self.was_cut = False
        self.is_idle = asyncio.Event()
        self.is_idle.set()

    @property
    def is_busy(self) -> bool:
        return not self.is_idle.is_set()

    def start(self) -> None:
        self.is_started = True

    async def drain(self, timeout_s: float) -> None:
        self.is_draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.is_idle.wait(), timeout_s)
        self.was_cut = self.was_cut or not self.is_idle.is_set()
        self.is_idle.set()

    def close(self) -> None:
        self.is_closed = True


class FakeFactory:
    """Makes runtimes, in the order of `made`; can be told to wait or to fail."""

    def __init__(self) -> None:
        self.made: list[FakeRuntime] = []
        self.failure: BaseException | None = None
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self, _bundle: object, _precision: object) -> FakeRuntime:
        self.may_go_on.wait(10)
        if self.failure is not None:
            raise self.failure
        self.made.append(FakeRuntime())
        return self.made[-1]
