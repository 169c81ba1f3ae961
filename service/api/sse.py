"""Server-sent events of Text Generation Inference, and the response that sends them.

Every token is one event, but a burst's events are one piece of bytes and one send: what costs
here is Python for each event, so all that is known of a token is escaped once, at load.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service.generation.request import Chunk, Token
from service.models.tokenizer import Tokenizer

BEAT_S = 15.0
"""A stream that has had nothing to send for so long is pinged; one that has been sending one piece
for so long is closed."""

LOGPROB_DIGITS = 7

_MIDDLE = ',"special":false}'
_REST = ',"generated_text":null,"details":null}\n\n'


@dataclass(frozen=True, slots=True)
class EventIds:
    """How the events of a session's turn are called: `prefix` and the position they bring it to."""

    prefix: str
    first: int  # the position before the event with index 1

    def line(self, index: int) -> str:
        """The line before an event's data."""
        return f"id: {self.prefix}{self.first + index}\n"


class EventEncoder:
    """Makes the events of one model. JSON in ASCII, so that no client can split a line wrongly.

    `texts` is every token's text as JSON.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.texts = [json.dumps(tokenizer.text_of(i)) for i in range(len(tokenizer))]
        self._heads = [
            f',"token":{{"id":{i},"text":{text},"logprob":' for i, text in enumerate(self.texts)
        ]

    def events(self, first: int, chunk: Chunk, ids: EventIds | None = None) -> bytes:
        """One event for each token of a chunk; `first` is the index of the first, from 1."""
        heads, rest = self._heads, _MIDDLE + _REST
        if chunk.top_tokens:
            return b"".join(
                self._event(first + i, Token(token, logprob), top, _REST, ids)
                for i, (token, logprob, top) in enumerate(
                    zip(chunk.tokens, chunk.logprobs, chunk.top_tokens, strict=True)
                )
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

    def last_event(  # noqa: PLR0913 (an event is made of these)
        self,
        index: int,
        token: Token,
        top: Sequence[Token],
        text: str,
        details: dict[str, object],
        *,
        is_hidden: bool,
        ids: EventIds | None = None,
        session: dict[str, object] | None = None,
    ) -> bytes:
        """The event that ends a stream: the last token, all text and the details.

        A token that is hidden is the end of a stop string: it shows no text. Of a turn without
        tokens (`index` 0) it is event 1 all the same, with the id of where the turn began.
        """
        rest = f',"generated_text":{json.dumps(text)},"details":{json.dumps(details)}'
        rest += f',"session":{json.dumps(session)}}}\n\n' if session else "}\n\n"
        if not is_hidden:
            return self._event(index, token, top, rest, ids)
        shown = {"id": token.id, "text": "", "logprob": rounded(token.logprob), "special": True}
        head = ids.line(index) if ids else ""
        return f'{head}data: {{"index":{max(1, index)},"token":{json.dumps(shown)}{rest}'.encode(
            "ascii"
        )

    def _event(
        self,
        index: int,
        token: Token,
        top: Sequence[Token],
        rest: str,
        ids: EventIds | None,
    ) -> bytes:
        tops = ",".join(
            f'{{"id":{t.id},"text":{self.texts[t.id]},"logprob":{t.logprob:.7f},"special":false}}'
            for t in top
        )
        inserted = f',"top_tokens":[{tops}]' if top else ""
        head = f'data: {{"index":{index}{self._heads[token.id]}{token.logprob:.7f}{_MIDDLE}'
        line = ids.line(index) if ids else ""
        return f"{line}{head}{inserted}{rest}".encode("ascii")


def rounded(logprob: float) -> float:
    """A logprob as the events print it."""
    return round(logprob, LOGPROB_DIGITS)


class SSEResponse(Response):
    """Sends pieces of an event stream as they come, until they end or the client goes away.

    Instead of a library's response, because the hot path needs one send a piece and no more:
    one timer for pings and for readers that stand still, and `on_end` called however it ends.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        headers: dict[str, str],
        on_end: Callable[[], None],
    ) -> None:
        no_buffers = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
        super().__init__(headers=no_buffers | headers)
        self.raw_headers = [item for item in self.raw_headers if item[0] != b"content-length"]
        self._pieces, self._on_end = pieces, on_end
        self._sent, self._is_sending = 0, False

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Stream. Returns when the stream has ended or the client has gone."""
        start: Message = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        sender = asyncio.ensure_future(self._send_all(start, send))
        others = [
            asyncio.ensure_future(self._watch(receive, sender)),
            asyncio.ensure_future(self._beat(send, sender)),
        ]
        try:
            await asyncio.wait([sender])
        finally:
            for task in (sender, *others):
                task.cancel()
            await asyncio.gather(sender, *others, return_exceptions=True)
            self._on_end()
            await self._pieces.aclose()
        error = None if sender.cancelled() else sender.exception()
        if error is not None and not isinstance(error, OSError):  # TimeoutError is one
            raise error

    async def _send_all(self, start: Message, send: Send) -> None:
        await send(start)
        async for piece in self._pieces:
            self._is_sending = True
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            self._is_sending = False
            self._sent += 1
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    @staticmethod
    async def _watch(receive: Receive, sender: "asyncio.Future[None]") -> None:
        """Stop sending when the client has gone."""
        while (await receive())["type"] != "http.disconnect":
            pass
        sender.cancel()

    async def _beat(self, send: Send, sender: "asyncio.Future[None]") -> None:
        """Show proxies that a silent stream is alive, and give up a reader that stands still."""
        ping: Message = {"type": "http.response.body", "body": b": ping\n\n", "more_body": True}
        try:
            while True:
                before = self._sent
                await asyncio.sleep(BEAT_S)
                if self._sent != before:
                    continue
                if self._is_sending:
                    break
                async with asyncio.timeout(BEAT_S):  # the ping's own reader may stand still
                    await send(ping)
        except OSError:  # TimeoutError is one
            pass
        sender.cancel()
