"""Streams of a million tokens that are read as fast as they come."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator

ENDLESS = 1_000_000


class Greedy:
    """Open streams of one server, each on a connection of its own."""

    def __init__(self, port: int, headers: dict[str, str] | None = None) -> None:
        self._port, self._headers = port, headers or {}
        self._tasks: list[asyncio.Task[None]] = []
        self.bytes_read: list[int] = []

    async def open(self, n: int) -> None:
        """Open `n` more streams, and wait until a quarter of them has text or all are sent."""
        for _ in range(n):
            self.bytes_read.append(0)
            self._tasks.append(asyncio.create_task(self._read(len(self.bytes_read) - 1)))
        while sum(size > 0 for size in self.bytes_read) < len(self.bytes_read) / 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def _read(self, index: int) -> None:
        body = json.dumps({"inputs": "A", "parameters": {"max_new_tokens": ENDLESS, "seed": index}})
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = [
            "POST /generate_stream HTTP/1.1",
            f"Host: 127.0.0.1:{self._port}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in self._headers.items()),
        ]
        writer.write(("\r\n".join(head) + "\r\n\r\n" + body).encode())
        try:
            while data := await reader.read(65_536):
                self.bytes_read[index] += len(data)
        finally:
            writer.close()

    async def close(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def greedy_streams(
    port: int, n: int, headers: dict[str, str] | None = None
) -> AsyncIterator[Greedy]:
    """Keep `n` streams open."""
    greedy = Greedy(port, headers)
    try:
        await greedy.open(n)
        yield greedy
    finally:
        await greedy.close()


async def _main() -> None:
    port, n, secret = sys.argv[1:]
    async with greedy_streams(int(port), int(n), {"Authorization": f"Bearer {secret}"}):
        sys.stdout.write("open\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
