"""A TCP proxy that breaks connections where a test specifies; it runs in its own thread."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cut:
    """A break of a response `offset` bytes after the start of its `number`-th `mark`."""

    mark: bytes
    number: int = 1
    offset: int = 0
    is_reset: bool = True  # or an orderly close

    def place(self, reply: bytes) -> int | None:
        """The number of bytes to forward; None where `response` is too short to tell."""
        found = -1
        for _ in range(self.number):
            found = reply.find(self.mark, found + 1)
            if found < 0:
                return None
        return found + self.offset


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request."""

    line: str  # method and path
    headers: dict[str, str]


class BreakingProxy:
    """Forward to `target` on this host; break the n-th response by the n-th cut of `plan`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.plan: deque[Cut | None] = deque()
        self.heads: list[Head] = []
        self._calls: set[_Call] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._listener = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = int(self._listener.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def lines(self) -> list[str]:
        return [head.line for head in self.heads]

    def cut(self, *cuts: Cut | None) -> None:
        """Forget all requests; break the next responses by these cuts."""
        self.heads.clear()
        self.plan = deque(cuts)

    def close(self) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- run by the thread

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        call = _Call(self, writer)
        self._calls.add(call)
        self._tasks.add(task)
        try:
            await call.run(reader)
        except OSError:
            pass
        finally:
            self._calls.discard(call)
            self._tasks.discard(task)
            call.end(is_reset=True)

    async def _end(self) -> None:
        self._listener.close()
        for call in self._calls:
            call.end(is_reset=True)
        await asyncio.gather(*self._tasks)

    def _do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


class _Call:
    """One connection of a client, and the proxy's own to the server for it."""

    def __init__(self, proxy: BreakingProxy, client: asyncio.StreamWriter) -> None:
        self._cutter, self._client = proxy, client
        self._server: asyncio.StreamWriter | None = None
        self._asked, self._reply = b"", b""
        self._cut: Cut | None = None

    async def run(self, from_client: asyncio.StreamReader) -> None:
        from_server, self._server = await asyncio.open_connection("127.0.0.1", self._cutter.target)
        tasks = [
            asyncio.ensure_future(self._up(from_client, self._server)),
            asyncio.ensure_future(self._down(from_server)),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def end(self, *, is_reset: bool) -> None:
        for writer in (self._client, self._server):
            if writer is None or writer.is_closing():
                continue
            if is_reset:
                peer = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()

    async def _up(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            self._asked += data
            while self._take_request():
                pass
            sink.write(data)
            await sink.drain()

    def _take_request(self) -> bool:
        head, end, rest = self._asked.partition(b"\r\n\r\n")
        if not end:
            return False
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in fields)}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return False
        self._asked, self._reply = rest[length:], b""
        self._cutter.heads.append(Head(line.rpartition(" ")[0], headers))
        self._cut = self._cutter.plan.popleft() if self._cutter.plan else None
        return True

    async def _down(self, source: asyncio.StreamReader) -> None:
        while data := await source.read(1 << 16):
            if self._cut is not None:
                before, self._reply = len(self._reply), self._reply + data
                place = self._cut.place(self._reply)
                if place is not None and place <= len(self._reply):
                    self._client.write(data[: max(0, place - before)])
                    await self._client.drain()
                    self.end(is_reset=self._cut.is_reset)
                    return
            self._client.write(data)
            await self._client.drain()
