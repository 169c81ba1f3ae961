"""A process that answers the lines of a batch for another one, over a socket pair."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

from service.batch.call import Answer, RouteCall, RouteReply
from service.batch_app import open_line_app
from service.errors import CarouselError, StoreUnavailable

_GONE = "a process of the batch has ended; start the command again: it goes on from its output"


class AnsweringProcess:
    """A child process that answers calls. For one event loop.

    It ends with this process, however it ends: its socket is closed then.
    """

    def __init__(self) -> None:
        self.n_open = 0
        self._waiting: dict[int, asyncio.Future[RouteReply]] = {}
        self._numbers = count()

    async def start(self, model_store: Path, model: str, threads: int) -> None:
        """Start it, and wait until its model is loaded. Raises StoreUnavailable if it is not."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "service.batch_process", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 (our own module; it returns at once)
                [*command, str(model_store), model, str(threads)],
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C reaches the parent alone
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        if await self._reader.readline() != b"ready\n":
            raise StoreUnavailable(f"a process of the batch did not start with {model}: see above")
        self._reading = asyncio.create_task(self._read())

    async def answer(self, call: RouteCall) -> RouteReply:
        """Have it answer a call. Raises StoreUnavailable where it has ended."""
        if self._reading.done():
            raise StoreUnavailable(_GONE)
        number, self.n_open = next(self._numbers), self.n_open + 1
        self._waiting[number] = future = asyncio.get_running_loop().create_future()
        try:
            header = [number, call.path, call.seed, len(call.body)]
            self._writer.write(json.dumps(header).encode("ascii") + b"\n" + call.body)
            await self._writer.drain()
            reply: RouteReply = await future
            return reply
        finally:
            self.n_open -= 1
            self._waiting.pop(number, None)

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(AttributeError):  # it was not started
            self._writer.close()
            self._reading.cancel()
        with contextlib.suppress(AttributeError):
            self._process.kill()
            self._process.wait()

    async def _read(self) -> None:
        try:
            while header := await self._reader.readline():
                number, status, size_bytes = json.loads(header)
                reply = RouteReply(status, await self._reader.readexactly(size_bytes))
                future = self._waiting.get(number)
                if future is not None and not future.done():
                    future.set_result(reply)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(StoreUnavailable(_GONE))


@contextlib.asynccontextmanager
async def open_answer(
    model_store: Path, model: str, processes: int, threads: int
) -> AsyncIterator[Answer]:
    """Yield what answers calls: this process, or several ones, each with `threads`.

    Raises as `open_line_app`.
    """
    if processes == 1:
        async with open_line_app(model_store, model, threads) as answer:
            yield answer
        return
    children = [AnsweringProcess() for _ in range(processes)]
    try:
        await asyncio.gather(*(child.start(model_store, model, threads) for child in children))

        async def answer_by_least_busy(call: RouteCall) -> RouteReply:
            return await min(children, key=lambda child: child.n_open).answer(call)

        yield answer_by_least_busy
    finally:
        for child in children:
            child.close()


async def _serve(fd: int, model_store: Path, model: str, threads: int) -> None:
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
    running = set[asyncio.Task[None]]()
    async with open_line_app(model_store, model, threads) as answer:
        writer.write(b"ready\n")

        async def one(number: int, call: RouteCall) -> None:
            reply = await answer(call)
            header = [number, reply.status, len(reply.body)]
            writer.write(json.dumps(header).encode("ascii") + b"\n" + reply.body)

        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while header := await reader.readline():
                number, path, seed, size_bytes = json.loads(header)
                call = RouteCall(path, await reader.readexactly(size_bytes), seed)
                task = asyncio.create_task(one(number, call))
                running.add(task)
                task.add_done_callback(running.discard)
        os._exit(0)  # nobody reads the replies


def main() -> None:
    """Answer calls: `python -m service.batch_process SOCKET STORE MODEL THREADS`."""
    fd, model_store, model, threads = sys.argv[1:]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        asyncio.run(_serve(int(fd), Path(model_store), model, int(threads)))
    except CarouselError as error:
        sys.exit(f"carousel: {error}")


if __name__ == "__main__":
    main()
