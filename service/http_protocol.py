"""One connection of HTTP/1.1, of which every state has a limit; requests sent ahead wait."""

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.connection_limits import ConnectionLimits, ReadFlow, Timer, WriteWatch
from service.connections import Connections
from service.http_head import Refusal, last_reply, too_large
from service.http_parsing import StrictParsing
from service.whole_reply import WholeReply

_HEAD_PIECE_BYTES = 512  # parsed at once: no more requests than fit in it are queued
_BODY_PIECE_BYTES = 4096


class HttpProtocol(StrictParsing):
    """uvicorn's protocol for one connection, of which every state has a limit.

    Raises nothing. Belongs to the event loop.
    """

    flow: ReadFlow
    _running: RequestResponseCycle | None = None
    _held = b""  # received, and parsed when the requests before it are answered
    _raw_bytes = 0  # received of an incomplete head
    _last_words: bytes | None = None  # sent when the requests before it are answered
    _is_ending = False  # nothing more is parsed
    _n_ahead = 0  # requests that were there before the reply to the one before them

    def __init__(self, limits: ConnectionLimits, connections: Connections, **given: Any) -> None:
        super().__init__(limits.max_head_bytes, limits.max_fields, **given)
        self._limits, self._connections = limits, connections
        self._timer = Timer(self.loop)  # of the connection's state
        self._probe_timer = Timer(self.loop)
        self._writes = WriteWatch(self.loop, limits)
        self._half_closed = asyncio.Event()

    # -- the transport's callbacks

    def connection_made(self, transport: Any) -> None:
        """Count the connection, and start the time limit of the first head."""
        super().connection_made(transport)
        self.flow = ReadFlow(transport)
        full = self._connections.admit(self, self.client[0] if self.client else "")
        if full is None:
            self._timer.start(self._limits.head_timeout_s, self._out_of_time)
        elif self._connections.can_refuse:
            refusal = b"503 Service Unavailable", f"{full}; try again later", "overloaded"
            self._end(last_reply(refusal))
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse bytes, or keep them while the requests before them are answered."""
        if self._is_ending:
            return
        if self._held:
            self._held += data
        else:
            self._parse(data)
            if self._is_in_body and not (self._is_answering or self._is_ending):  # a leftover
                self.flow.rest(self.loop, self._limits.leftover_pause_s)

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio asks for a bool
        """Answer the requests of a client that sends no more; it may still read."""
        is_whole = self._is_message_complete and not self._is_in_head
        if not (self._is_answering and is_whole) or self._is_ending or self.scheme == "https":
            return None  # the transport closes
        self._half_closed.set()
        if not self._held:
            self.cycle.keep_alive = False
        self._probe_timer.start(self._limits.probe_after_s, self._probe)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Disconnect every request of the connection; uvicorn does so with the last one only."""
        self._connections.leave(self)
        self._timer.stop()
        self._probe_timer.stop()
        self._writes.stop()
        super().connection_lost(exc)
        for cycle in (self._running, self.cycle):
            if cycle is not None:
                _disconnect(cycle)
                cycle.on_response = _nothing  # else it refers to the connection, and that to it
        self.pipeline.clear()
        self._held = b""

    def pause_writing(self) -> None:
        """Pause the app, and give the client the time to read."""
        super().pause_writing()
        self._writes.start(self.transport)

    def resume_writing(self) -> None:
        """Continue: the client has read."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._writes.stop()

    def give_way(self) -> None:
        """Close the connection, which waits, to make room for another one."""
        self._is_ending = True
        self._close()

    # -- the parser's callbacks

    def on_message_begin(self) -> None:
        """Start the limit of the bytes of a new head; `_parse` starts that of its time."""
        super().on_message_begin()
        self.scope["state"]["half_closed"] = self._half_closed
        self._raw_bytes = 0

    def on_headers_complete(self) -> None:
        """Start the request: the connection no longer waits."""
        super().on_headers_complete()
        if not self._is_upgrade:
            self._connections.work(self)
        self._limit_state()

    def on_message_complete(self) -> None:
        """Start the limit of what comes next."""
        super().on_message_complete()
        self._limit_state()

    # -- the app's callbacks

    def on_response_complete(self) -> None:
        """Start the next request that has been parsed, or parse what has been held back."""
        self._n_ahead = self._n_ahead + 1 if self.pipeline or self._held else 0
        # As uvicorn's, but for its time limit of an idle connection: that is `_timer`'s.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._writes.start(self.transport)
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        if self._held and not self.pipeline:
            data, self._held = self._held, b""
            self.flow.release()
            self._parse(data)
        if not self._is_answering:
            if self._last_words is not None:
                self._end(self._last_words)
            elif self._half_closed.is_set():
                self._close()
            else:
                self._connections.wait(self)
        self._limit_state()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        self._writes.begin_reply()

        def replying(scope: Any, receive: Any, send: Any) -> Any:
            return app(scope, receive, WholeReply(cycle, send).send)

        if self._n_ahead <= self._limits.free_ahead:
            super()._start_asgi_task(cycle, replying)
        else:  # else one client's queue would take all of the event loop
            pause_s = self._limits.pause_ahead_s(self._n_ahead)
            self.loop.call_later(pause_s, self._start_late, cycle, replying)

    def _start_late(self, cycle: RequestResponseCycle, app: Any) -> None:
        if not cycle.disconnected:
            super()._start_asgi_task(cycle, app)

    @property
    def _is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    # -- parsing

    def _parse(self, data: bytes) -> None:
        at = 0
        while at < len(data) and not self._is_ending:
            if self.pipeline:  # one request is answered and another one waits
                self._held = data[at:]
                self.flow.hold()  # so that an end of the connection cannot be read either
                self._probe_timer.start(self._limits.probe_interval_s, self._probe)
                return
            size = _BODY_PIECE_BYTES if self._is_in_body else _HEAD_PIECE_BYTES
            piece, was_in_head = data[at : at + size], self._is_in_head
            try:
                at += self._feed(piece)
            except httptools.HttpParserError as error:
                self._refuse(self._fault(error))
                return
            if self._is_in_head and not was_in_head:
                self._limit_state()  # a head in one piece needs no limit of its time
            elif self._is_in_head:
                self._raw_bytes += len(piece)
                if self._raw_bytes > self._limits.max_head_bytes:
                    self._refuse(too_large(self._too_many_bytes))

    # -- the end

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what is refused, after the requests before it, and end the connection."""
        self._is_ending = True
        last_words = last_reply(refusal, self.url.decode("latin-1"))
        running = self._running
        if running is None or running.response_complete:
            self._end(last_words)
        elif self._is_in_body and running is self.cycle:
            _disconnect(running)
            self._end(b"" if running.response_started else last_words)
        else:
            if self._is_in_body and self.pipeline:
                self.pipeline.popleft()  # the request whose body is refused is the newest
            self._last_words = last_words

    def _end(self, last_words: bytes) -> None:
        """Send the last words, and drop what the client still sends, so that it can read them."""
        self._is_ending = True
        if last_words:
            self.transport.write(last_words)
        if self.scheme == "https" or not self.transport.can_write_eof():
            self._close()
            return
        self.transport.write_eof()
        self.flow.release()
        self._timer.start(self._limits.linger_s, self._out_of_time)

    def _close(self) -> None:
        self.transport.close()
        if self.scheme == "https" or self.transport.get_write_buffer_size():  # else it is closed
            self._writes.start(self.transport)

    # -- times

    def _limit_state(self) -> None:
        """Start the time limit of the state that the connection has just entered."""
        if self._is_ending:
            return
        if self._is_answering:
            self._timer.stop()  # the body has limits of its own, and the app its own
        elif self._is_in_head:
            self._timer.start(self._limits.head_timeout_s, self._out_of_time)
        elif not self._is_message_complete:
            self._timer.start(self._limits.leftover_timeout_s, self._out_of_time)
        else:
            self._timer.start(self._limits.idle_timeout_s, self._out_of_time)

    def _out_of_time(self) -> None:
        if self._is_ending:
            self.transport.abort()
        else:
            self._is_ending = True
            self._close()

    def _probe(self) -> None:
        """Write to a client that cannot be read: the system finds out whether it is there."""
        running, is_half_closed = self._running, self._half_closed.is_set()
        if running is None or running.response_complete or self.transport.is_closing():
            return
        if running.scope["http_version"] == "1.0":
            if is_half_closed and not running.response_started:
                self._timer.start(self._limits.half_closed_timeout_s, self._out_of_time)
        elif is_half_closed or self._held:
            if not running.response_started:  # else the reply itself is the probe
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._probe_timer.start(self._limits.probe_interval_s, self._probe)


def _disconnect(cycle: RequestResponseCycle) -> None:
    if not cycle.response_complete:
        cycle.disconnected = True
        cycle.message_event.set()


def _nothing() -> None:
    pass
