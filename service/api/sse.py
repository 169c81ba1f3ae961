"""Server-sent events: the response that sends them, their ids, and the encoder of TGI's events.

Every token is one event, but the events of a burst are one piece of bytes and one send. The cost
is Python for each event, so the text of each token is escaped once, when the model is loaded.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service.api.choice_decoder import ChoiceDecoder
from service.api.http_request import WATCH_AFTER_S, wait_for_disconnect
from service.api.request_stats import RequestStats
from service.generation.request import Chunk, Token
from service.models.tokenizers.tokenizer import Tokenizer

_HALF_CLOSED_PING_S = 1.0
_MIDDLE = ',"special":false}'
_REST = ',"generated_text":null,"details":null}\n\n'

Responses = dict[int | str, dict[str, Any]]
"""What FastAPI documents of a route's replies, by status."""

NO_MORE_EVENTS: Responses = {204: {"description": "No event will follow."}}


@dataclass(frozen=True, slots=True)
class EventIds:
    """Ids of the events of a session's turn: `<epoch>.<turn>.<position after the event>`."""

    prefix: str  # "<epoch>.<turn>."
    first: int  # the position before the event with index 1

    def line(self, index: int) -> str:
        """Return the line before an event's data."""
        return f"id: {self.prefix}{self.first + index}\n"


class EventEncoder:
    """Encodes the events of one model as JSON in ASCII: only a line feed ends a line in it.

    `texts` has every token's text as JSON.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._plain_texts = [tokenizer.text_of(i) for i in range(len(tokenizer))]
        self.texts = list(map(json.dumps, self._plain_texts))
        self._end_ids = frozenset(tokenizer.end_ids)
        self._heads = [
            f',"token":{{"id":{i},"text":{text},"logprob":' for i, text in enumerate(self.texts)
        ]

    def events(
        self,
        first: int,
        chunk: Chunk,
        ids: EventIds | None = None,
        decoder: ChoiceDecoder | None = None,
    ) -> bytes:
        """Encode one event for each token; `first` is the index of the chunk's first, from 1.

        With a `decoder` the texts are those that it returns.
        """
        heads, rest = self._heads, _MIDDLE + _REST
        if chunk.top_tokens or decoder is not None:
            texts = [self._plain_texts[token] for token in chunk.tokens]
            if decoder is not None:
                texts = decoder.texts(chunk.tokens)
            tops = chunk.top_tokens or [()] * len(chunk.tokens)
            rows = zip(chunk.tokens, chunk.logprobs, tops, texts, strict=True)
            return b"".join(
                self._event(
                    first + i,
                    Token(token, logprob),
                    top,
                    _REST,
                    ids,
                    text=text,
                    is_special=token in self._end_ids,
                )
                for i, (token, logprob, top, text) in enumerate(rows)
            )
        numbered = enumerate(zip(chunk.tokens, chunk.logprobs, strict=True), first)
        if ids is None:
            events = [
                f'data: {{"index":{index}{heads[token]}{logprob:.7f}{rest}'
                for index, (token, logprob) in numbered
            ]
        else:
            start, before = f"id: {ids.prefix}", ids.first
            events = [
                f'{start}{before + index}\ndata: {{"index":{index}{heads[token]}{logprob:.7f}{rest}'
                for index, (token, logprob) in numbered
            ]
        return "".join(events).encode("ascii")

    def last_event(
        self,
        index: int,
        token: Token,
        top: Sequence[Token],
        more: dict[str, Any],
        *,
        is_hidden: bool,
        ids: EventIds | None = None,
        text: str | None = None,
    ) -> bytes:
        """Encode the event that ends a stream: the last token, and `more` members.

        A hidden token is the end of a stop string; `text` is then what precedes the stop string
        in a token. A turn without tokens (`index` 0) has an event 1 as well; its id is the position
        where the turn began.
        """
        members = [f',"{name}":{json.dumps(value)}' for name, value in more.items()]
        rest = f"{''.join(members)}}}\n\n"
        if not is_hidden:
            is_special = token.id in self._end_ids
            shown_text = self._plain_texts[token.id] if text is None else text
            return self._event(index, token, top, rest, ids, text=shown_text, is_special=is_special)
        shown = {
            "id": token.id,
            "text": text or "",
            "logprob": rounded(token.logprob),
            "special": not text,
        }
        head = f"{ids.line(index) if ids else ''}data: "
        return f'{head}{{"index":{max(1, index)},"token":{json.dumps(shown)}{rest}'.encode("ascii")

    def _event(
        self,
        index: int,
        token: Token,
        top: Sequence[Token],
        rest: str,
        ids: EventIds | None,
        *,
        text: str,
        is_special: bool,
    ) -> bytes:
        tops = ",".join(
            f'{{"id":{t.id},"text":{self.texts[t.id]},"logprob":{t.logprob:.7f},"special":false}}'
            for t in top
        )
        inserted = f',"top_tokens":[{tops}]' if top else ""
        middle = ',"special":true}' if is_special else _MIDDLE
        written = f',"token":{{"id":{token.id},"text":{json.dumps(text)},"logprob":'
        head = f'data: {{"index":{index}{written}{token.logprob:.7f}{middle}'
        line = ids.line(index) if ids else ""
        return f"{line}{head}{inserted}{rest}".encode("ascii")


def rounded(logprob: float) -> float:
    """Round a logprob to the digits that the events have."""
    return round(logprob, 7)


class SSEResponse(Response):
    """Sends the pieces of an event stream until they end or the client disconnects.

    A disconnect is looked for from `WATCH_AFTER_S` on: a short stream has ended by then. A silent
    stream is pinged every `ping_interval_s`; a send that takes as long ends the stream. `on_end` is
    called in every case. Starlette's streaming response costs more for each piece.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        headers: dict[str, str],
        on_end: Callable[[], None],
        ping_interval_s: float,
        stats: RequestStats | None = None,
    ) -> None:
        self._stats = stats or RequestStats()
        no_buffers = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
        super().__init__(headers=no_buffers | headers)
        self.raw_headers = [item for item in self.raw_headers if item[0] != b"content-length"]
        self._pieces, self._on_end, self._ping_interval_s = pieces, on_end, ping_interval_s
        self._sent, self._is_sending, self._is_cut = 0, False, False
        self._task: asyncio.Task[object] | None = None  # that sends

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream. Returns when it has ended or the client has disconnected."""
        start: Message = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        half_closed = scope.get("state", {}).get("half_closed") or asyncio.Event()
        task = self._task = asyncio.current_task()
        assert task is not None
        guards: list[asyncio.Task[None]] = []

        def guard() -> None:  # a short stream ends before
            loop = asyncio.get_running_loop()
            guards.append(loop.create_task(self._watch(receive)))
            guards.append(loop.create_task(self._ping(send, half_closed)))

        timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, guard)
        try:
            await self._send_all(start, send)
        except asyncio.CancelledError:
            if not self._is_cut or task.uncancel():
                raise
        except OSError:  # TimeoutError is one
            pass
        finally:
            timer.cancel()
            for one in guards:
                one.cancel()
            self._on_end()
            await self._pieces.aclose()

    def _cut(self, reason: str) -> None:
        """End the stream, whatever it waits for."""
        self._stats.interrupted(reason)
        if not self._is_cut and self._task is not None:
            self._is_cut = True
            self._task.cancel()

    async def _send_all(self, start: Message, send: Send) -> None:
        await send(start)
        async for piece in self._pieces:
            self._is_sending = True
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            self._is_sending = False
            self._sent += 1
            self._stats.delivered()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, receive: Receive) -> None:
        """Stop sending when the client has disconnected."""
        await wait_for_disconnect(receive)
        self._cut("cancelled")

    async def _ping(self, send: Send, half_closed: asyncio.Event) -> None:
        """Send pings while the stream is silent; stop it when the client reads nothing.

        A client that has closed its side is pinged often: only a write tells whether it has gone.
        """
        ping: Message = {"type": "http.response.body", "body": b": ping\n\n", "more_body": True}
        try:
            while True:
                before = self._sent
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._ping_interval_s):
                        await half_closed.wait()
                        await asyncio.sleep(_HALF_CLOSED_PING_S)
                if self._sent != before or (self._is_sending and half_closed.is_set()):
                    continue
                if self._is_sending:
                    break
                async with asyncio.timeout(self._ping_interval_s):
                    await send(ping)
        except OSError:  # TimeoutError is one
            pass
        self._cut("slow_reader")


def events_of(what: str, *names: str, last: str | None = None) -> dict[str, Any]:
    """Return the OpenAPI content of a stream whose events have data of these schemas.

    `last` is the data of an event that is not JSON. OpenAPI 3.1 cannot describe the items of a
    stream; tools take the schema for that of each event.
    """
    kinds = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    json = {"contentMediaType": "application/json", "contentSchema": {"anyOf": kinds}}
    data = json if last is None else {"anyOf": [{"const": last}, json]}
    schema = {
        "type": "object",
        "description": f"Each event: {what}",
        "properties": {
            "id": {"type": "string"},
            "event": {"type": "string"},
            "data": {"type": "string"} | data,
        },
        "required": ["data"],
    }
    return {"text/event-stream": {"schema": schema}}
