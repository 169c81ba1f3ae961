"""Turns of 64 characters on many concurrent sessions, and the same requests without sessions.

A closed loop on raw sockets, as `load.py`. Rounds of both kinds alternate, so that other load on
the machine affects both.
"""

import json
import selectors
import socket
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CHARACTERS, CLIENTS = 64, 64
WARM_UP_S, ROUND_S, ROUNDS = 1.0, 3.0, 13
END = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Turns:
    """Characters per second of every round, and the ratio of their medians."""

    with_sessions: list[float]
    without: list[float]
    ratio: float


class _Client:
    """One connection that sends its request again after each response."""

    def __init__(self, port: int, body: Mapping[str, object], path: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        text = json.dumps(body)
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        self._request, self._data = (head + text).encode(), b""

    def ask(self) -> None:
        self.socket.sendall(self._request)

    def read(self) -> int:
        """Receive bytes; return 1 and send the request again if a response is complete, else 0."""
        self._data += self.socket.recv(1 << 18)
        if not self._is_complete():
            return 0
        if b" 200 OK" not in self._data[:40]:
            raise ValueError(self._data[-300:])
        self._data = b""
        self.ask()
        return 1

    def _is_complete(self) -> bool:
        head, mark, body = self._data.partition(b"\r\n\r\n")
        if not mark:
            return False
        if b"transfer-encoding: chunked" in head:
            return body.endswith(END)
        length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
        return len(body) == int(length)


def one_round(port: int, bodies: Sequence[Mapping[str, object]], path: str) -> float:
    """Return the characters per second of one round."""
    selector = selectors.DefaultSelector()
    clients = [_Client(port, body, path) for body in bodies]
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.ask()
    begin_s, answers, is_warm = time.perf_counter() + WARM_UP_S, 0, False
    while (now_s := time.perf_counter()) < begin_s + ROUND_S:
        if not is_warm and now_s >= begin_s:
            answers, is_warm = 0, True
        for key, _ in selector.select(1.0):
            answers += key.data.read()
    elapsed_s = time.perf_counter() - begin_s
    while any(client._data for client in clients):  # noqa: SLF001 (let turns end)
        for key, _ in selector.select(0.2):
            key.data.read()
        break
    for client in clients:
        client.socket.close()
    return answers * CHARACTERS / elapsed_s


def run(port: int, model: str, sessions: list[str], path: str) -> Turns:
    """Measure both kinds, alternating; each round has new sessions, one for each client."""
    parameters = {"max_new_tokens": CHARACTERS, "do_sample": True, "temperature": 0.8}
    plain = [
        {"inputs": "R", "model": model, "parameters": parameters | {"seed": seed}}
        for seed in range(CLIENTS)
    ]
    rates: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(ROUNDS):
        continued = [
            {"inputs": "", "session_id": session, "parameters": parameters}
            for session in sessions[:CLIENTS]
        ]
        sessions = sessions[CLIENTS:]  # a session whose turn was cut off stays busy for a moment
        rates[True].append(one_round(port, continued, path))
        rates[False].append(one_round(port, plain, path))
    medians = {kind: statistics.median(values) for kind, values in rates.items()}
    return Turns(rates[True], rates[False], medians[True] / medians[False])
