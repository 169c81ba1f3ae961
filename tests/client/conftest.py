import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from carousel_client import AsyncClient, Client, GenerationResult, Token
from tests.api.conftest import new_home
from tests.client.proxy import BreakingProxy
from tests.client.scripted_server import ScriptedServer, scripted
from tests.process import Server, serving

INPUTS, SEED = "The ", 7


@dataclass(frozen=True, slots=True)
class Received:
    """The tokens, the text and the result of a stream."""

    tokens: list[Token]
    text: str
    result: GenerationResult


class Blocking:
    """The blocking client, as the tests use it."""

    name = "blocking"

    def stream(
        self, url: str, inputs: str = INPUTS, timeout_s: float = 30.0, **more: Any
    ) -> Received:
        with Client(url, timeout_s=timeout_s) as client:
            stream = client.stream(inputs, **more)
            tokens = list(stream)
            return Received(tokens, stream.text, stream.result)

    def call(self, url: str, of: Any, timeout_s: float = 30.0) -> Any:
        """Call `of` with a client."""
        with Client(url, timeout_s=timeout_s) as client:
            return of(client)


class Async:
    """The `async` client, as the tests use it."""

    name = "async"

    def stream(
        self, url: str, inputs: str = INPUTS, timeout_s: float = 30.0, **more: Any
    ) -> Received:
        async def read() -> Received:
            async with AsyncClient(url, timeout_s=timeout_s) as client:
                stream = client.stream(inputs, **more)
                tokens = [token async for token in stream]
                return Received(tokens, stream.text, stream.result)

        return asyncio.run(read())

    def call(self, url: str, of: Any, timeout_s: float = 30.0) -> Any:
        async def called() -> Any:
            async with AsyncClient(url, timeout_s=timeout_s) as client:
                return await of(client)

        return asyncio.run(called())


@pytest.fixture(params=[Blocking(), Async()], ids=lambda kind: kind.name)
def kind(request) -> Blocking | Async:
    return request.param


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(new_home(tmp_path_factory.mktemp("client"))) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[Client]:
    """A client without a proxy in between."""
    with Client(server.url, timeout_s=30) as client:
        yield client


@pytest.fixture
def proxy(server: Server) -> Iterator[BreakingProxy]:
    proxy = BreakingProxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def script() -> Iterator[ScriptedServer]:
    with scripted() as script:
        yield script
