"""Faults of the network between a server and its store: a TCP proxy in a thread."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable

import hiredis

Command = list[bytes]


class Proxy:
    """Forwards to `target` on the same host, with the faults that its fields set.

    `latency_s` delays every part of a reply; `is_slicing` sends single bytes, both ways;
    `is_black_hole` receives everything and forwards nothing; `is_cut` disconnects at once.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._calls: set[_Call] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._listener = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = int(self._listener.sockets[0].getsockname()[1])
        self.heal()

    def heal(self) -> None:
        """Forward everything from now on."""
        self.latency_s, self.is_slicing, self.is_black_hole, self.is_cut = 0.0, False, False, False
        self._loses: Callable[[Command], bool] = lambda _: False
        self._to_lose = 0
        self.lost = 0

    def reset(self) -> None:
        """Reset every connection, as a restarted machine does."""
        self._do(self._reset())

    def lose_reply(self, of: Callable[[Command], bool], number: int = 1) -> None:
        """Forward the `number`-th such command, and reset the connection instead of replying."""
        self._loses, self._to_lose = of, number

    def close(self) -> None:
        self.reset()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- in the thread

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = _Call(self, writer)
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(call)
        self._tasks.add(task)
        try:
            if not self.is_cut:
                await call.run(reader, self._target)
        except OSError:
            pass
        finally:
            self._calls.discard(call)
            self._tasks.discard(task)
            call.reset()

    def is_lost(self, command: Command) -> bool:
        if self._to_lose and self._loses(command):
            self._to_lose -= 1
            return self._to_lose == 0
        return False

    async def _reset(self) -> None:
        for call in self._calls:
            call.reset()

    async def _end(self) -> None:
        self._listener.close()
        await asyncio.gather(*self._tasks)

    def _do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


class _Call:
    """One connection of the server, and the proxy's own to the store for it."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self._proxy, self._client = proxy, client
        self._store: asyncio.StreamWriter | None = None
        self._commands, self._replies = hiredis.Reader(), hiredis.Reader()
        self._sent = self._answered = 0
        self._lost: int | None = None  # number of the reply that is dropped

    async def run(self, from_client: asyncio.StreamReader, target: int) -> None:
        from_store, self._store = await asyncio.open_connection("127.0.0.1", target)
        tasks = [
            asyncio.ensure_future(self._up(from_client, self._store)),
            asyncio.ensure_future(self._down(from_store)),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def reset(self) -> None:
        for writer in (self._client, self._store):
            if writer is not None:
                peer = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    async def _up(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            self._commands.feed(data)
            while (command := self._commands.gets()) is not False:
                if self._proxy.is_lost(command):
                    self._lost = self._sent
                self._sent += 1
            await self._pass(data, sink)

    async def _down(self, source: asyncio.StreamReader) -> None:
        while data := await source.read(1 << 16):
            self._replies.feed(data)
            while self._replies.gets() is not False:
                if self._answered == self._lost:
                    self._proxy.lost += 1
                    return
                self._answered += 1
            if self._proxy.latency_s:
                await asyncio.sleep(self._proxy.latency_s)
            await self._pass(data, self._client)

    async def _pass(self, data: bytes, sink: asyncio.StreamWriter) -> None:
        if self._proxy.is_black_hole:
            await asyncio.get_running_loop().create_future()  # until the connection ends
        step = 1 if self._proxy.is_slicing else len(data)
        for i in range(0, len(data), step):
            sink.write(data[i : i + step])
            await sink.drain()
