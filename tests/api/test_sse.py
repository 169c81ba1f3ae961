import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.sse import EventEncoder, SSEResponse, rounded
from service.generation.request import Chunk, Token
from service.models.tokenizers.characters import CharacterTokenizer
from tests.api.conftest import AWKWARD

TOKENIZER = CharacterTokenizer(["<pad>", *AWKWARD])
WRITER = EventEncoder(TOKENIZER)

tokens = st.builds(Token, st.integers(0, len(TOKENIZER) - 1), st.floats(-1e4, 0.0))


def events_of(content: bytes) -> list[dict]:
    *lines, empty = content.split(b"\n\n")
    assert empty == b""
    assert all(line.startswith(b"data: ") and line.isascii() for line in lines)
    # all line readers agree: only \n ends a line
    assert len(content.decode().splitlines()) == 2 * len(lines)
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


def shown(token: Token) -> dict:
    text, logprob = TOKENIZER.text_of(token.id), rounded(token.logprob)
    return {"id": token.id, "text": text, "logprob": logprob, "special": False}


def chunk_of(drawn: list[Token], top=()) -> Chunk:
    return Chunk([token.id for token in drawn], [token.logprob for token in drawn], top)


@given(st.integers(1, 10**6), st.lists(tokens, max_size=20))
def test_a_chunk_becomes_one_event_a_token(first, drawn):
    events = events_of(WRITER.events(first, chunk_of(drawn))) if drawn else []
    assert events == [
        {"index": first + i, "token": shown(token), "generated_text": None, "details": None}
        for i, token in enumerate(drawn)
    ]


@given(st.lists(st.tuples(tokens, st.lists(tokens, min_size=1, max_size=3)), min_size=1))
def test_each_event_has_its_top_tokens(pairs):
    drawn, top = [token for token, _ in pairs], [likeliest for _, likeliest in pairs]
    events = events_of(WRITER.events(1, chunk_of(drawn, top)))
    assert [event["token"] for event in events] == [shown(token) for token in drawn]
    assert [event["top_tokens"] for event in events] == [[shown(t) for t in one] for one in top]


@given(tokens, st.text(AWKWARD), st.booleans())
def test_the_last_event_has_the_text_and_the_details(token, text, is_hidden):
    details = {"finish_reason": "length", "seed": 2**64 - 1}
    content = WRITER.last_event(
        7, token, (), {"generated_text": text, "details": details}, is_hidden=is_hidden
    )
    (event,) = events_of(content)
    hidden = {"text": "", "special": True} if is_hidden else {}
    assert event["token"] == shown(token) | hidden
    assert (event["generated_text"], event["details"], event["index"]) == (text, details, 7)


# -- the response


class Client:
    """The client of a response: what it received, whether it reads, when it disconnects."""

    def __init__(self) -> None:
        self.got: list[dict] = []
        self.has_left, self.reads = asyncio.Event(), asyncio.Event()
        self.reads.set()

    async def receive(self) -> dict:
        await self.has_left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict) -> None:
        await self.reads.wait()
        self.got.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.got)


class Source:
    """Pieces that the test sends."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.ends = 0

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        while (piece := await self.queue.get()) is not None:
            yield piece

    def end(self) -> None:
        self.ends += 1

    def serve(self, client: Client, ping_interval_s: float = 15.0) -> "asyncio.Task[None]":
        response = SSEResponse(self.pieces(), {}, self.end, ping_interval_s)
        return asyncio.create_task(response({}, client.receive, client.send))


async def until(is_so) -> None:
    while not is_so():  # noqa: ASYNC110 (there is no event for what is waited for)
        await asyncio.sleep(0.001)


async def test_pieces_are_sent_as_they_arrive_and_then_the_end():
    source, client = Source(), Client()
    serving = source.serve(client)
    for piece in (b"a", b"b"):
        source.queue.put_nowait(piece)
        await until(lambda piece=piece: client.body.endswith(piece))
    source.queue.put_nowait(None)
    await serving
    assert [message.get("more_body") for message in client.got] == [None, True, True, False]
    assert source.ends == 1


@pytest.mark.parametrize("turns", range(6))
async def test_a_disconnect_at_any_time_ends_the_source(turns):
    source, client = Source(), Client()
    source.queue.put_nowait(b"a")
    serving = source.serve(client)
    for _ in range(turns):
        await asyncio.sleep(0)
    client.has_left.set()
    await serving
    assert source.ends == 1


async def test_a_disconnect_before_the_first_byte_ends_the_source():
    source, client = Source(), Client()
    client.reads.clear()
    client.has_left.set()
    await source.serve(client)
    assert source.ends == 1


async def test_a_stop_of_the_server_ends_the_source():
    source, client = Source(), Client()
    serving = source.serve(client)
    await asyncio.sleep(0.01)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert source.ends == 1


async def test_a_silent_stream_pings():
    source, client = Source(), Client()
    serving = source.serve(client, 0.01)
    await until(lambda: client.body.count(b": ping\n\n") > 2)
    client.has_left.set()
    await serving


async def test_a_stalled_client_is_disconnected():
    source, client = Source(), Client()
    serving = source.serve(client, 0.02)
    await until(lambda: client.got)
    client.reads.clear()
    source.queue.put_nowait(b"a")
    await serving
    assert source.ends == 1


async def test_a_client_that_stalls_at_a_ping_is_disconnected():
    source, client = Source(), Client()
    serving = source.serve(client, 0.02)
    await until(lambda: client.got)
    client.reads.clear()
    await asyncio.sleep(0.03)
    source.queue.put_nowait(b"a")
    await asyncio.wait_for(serving, 5)
    assert source.ends == 1


async def test_a_fault_while_streaming_is_not_swallowed():
    async def faulty() -> AsyncGenerator[bytes, None]:
        yield b"a"
        raise ZeroDivisionError

    source, client = Source(), Client()
    with pytest.raises(ZeroDivisionError):
        await SSEResponse(faulty(), {}, source.end, 15.0)({}, client.receive, client.send)
    assert source.ends == 1
