import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from service.client import AsyncClient, Client, Generation, Token
from tests.api.conftest import new_home
from tests.client.cutter import Cutter
from tests.client.script import Script, scripted
from tests.process import Server, serving

INPUTS, SEED = "The ", 7


@dataclass(frozen=True, slots=True)
class Said:
    """What a stream came to."""

    tokens: list[Token]
    text: str
    end: Generation


class Waiting:
    """The client that waits, as the tests ask it."""

    name = "waiting"

    def stream(self, url: str, inputs: str = INPUTS, timeout_s: float = 30.0, **more: Any) -> Said:
        with Client(url, timeout_s=timeout_s) as client:
            stream = client.stream(inputs, **more)
            tokens = list(stream)
            return Said(tokens, stream.text, stream.end)

    def call(self, url: str, of: Any, timeout_s: float = 30.0) -> Any:
        """What `of` makes of a client."""
        with Client(url, timeout_s=timeout_s) as client:
            return of(client)


class Async:
    """The client for `async`, likewise."""

    name = "async"

    def stream(self, url: str, inputs: str = INPUTS, timeout_s: float = 30.0, **more: Any) -> Said:
        async def said() -> Said:
            async with AsyncClient(url, timeout_s=timeout_s) as client:
                stream = client.stream(inputs, **more)
                tokens = [token async for token in stream]
                return Said(tokens, stream.text, stream.end)

        return asyncio.run(said())

    def call(self, url: str, of: Any, timeout_s: float = 30.0) -> Any:
        async def called() -> Any:
            async with AsyncClient(url, timeout_s=timeout_s) as client:
                return await of(client)

        return asyncio.run(called())


@pytest.fixture(params=[Waiting(), Async()], ids=lambda kind: kind.name)
def kind(request) -> Waiting | Async:
    return request.param


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(new_home(tmp_path_factory.mktemp("client"))) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[Client]:
    """The straight way to the server."""
    with Client(server.url, timeout_s=30) as client:
        yield client


@pytest.fixture
def cutter(server: Server) -> Iterator[Cutter]:
    cutter = Cutter(server.port)
    yield cutter
    cutter.close()


@pytest.fixture
def script() -> Iterator[Script]:
    with scripted() as script:
        yield script
