"""One trace of a text of any length, read while it is sent.

`python -m bench.tracing PORT MODEL CHARACTERS` traces every cell, and prints the number of tokens
that have come when it is ended by SIGTERM, or by the end of the text.
"""

import http.client
import json
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from bench.machine import server_processes

TEXT = b"The model reads a text, and the text is long. "
PIECE_BYTES = 1 << 18


def trace(
    port: int, query: str, characters: int, on_tokens: Callable[[int], object] = lambda _: None
) -> int:
    """Trace a text of so many characters; return the number of tokens that have come.

    `on_tokens` is called with the number so far after each piece. Raises ConnectionError where the
    reply is none of success, and http.client.IncompleteRead where it ends early.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest("POST", f"/inspect/text?{query}")
    connection.putheader("Content-Type", "text/plain")
    connection.putheader("Content-Length", str(characters))
    connection.endheaders()
    threading.Thread(target=_send, args=(connection.sock, characters), daemon=True).start()
    with connection.getresponse() as response:
        if response.status != 200:
            raise ConnectionError(f"status {response.status}: {response.read(300)!r}")
        record_bytes, n_bytes = json.loads(response.readline())["record_bytes"], 0
        while piece := response.read(PIECE_BYTES):
            n_bytes += len(piece)
            on_tokens(n_bytes // record_bytes)
    connection.close()
    return int(n_bytes // record_bytes)


def peak_bytes(port: int, query: str, characters: int) -> tuple[int, int]:
    """Trace a text; return the server's resident memory before, and the most of it meanwhile."""
    processes = server_processes(port)

    def resident_bytes() -> int:
        return sum(int(one.memory_info().rss) for one in processes)

    before = most = resident_bytes()

    def look(_: int) -> None:
        nonlocal most
        most = max(most, resident_bytes())

    n_tokens = trace(port, query, characters, look)
    if n_tokens != characters:
        raise ValueError(f"{n_tokens} tokens have come of {characters}")
    return before, most


def _send(connection: socket.socket, characters: int) -> None:
    block = TEXT * (PIECE_BYTES // len(TEXT))
    try:
        for first in range(0, characters, len(block)):
            connection.sendall(block[: characters - first])
    except OSError:
        return  # the reader says why


def main() -> None:
    """Trace, and print how far it came."""
    port, model, characters = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    found = [0]

    def end(*_: object) -> NoReturn:
        print(found[0], flush=True)
        sys.exit()

    def keep(n_tokens: int) -> None:
        if not found[0]:
            print("begun", flush=True)
        found[0] = n_tokens

    signal.signal(signal.SIGTERM, end)
    trace(port, f"model={model}", characters, keep)
    end()


if __name__ == "__main__":
    main()
