"""A server that sends a test's responses in order, and records the requests."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. With status 0 the connection is closed instead."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class ScriptedServer:
    """The responses to send, and the requests received: line, headers and body."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        return [line for line, _, _ in self.requests]

    @property
    def keys(self) -> list[str | None]:
        return [headers.get("idempotency-key") for _, headers, _ in self.requests]


def stream(*events: str) -> Answer:
    """A response that streams events."""
    body = "".join(f"{event}\n\n" for event in events).encode()
    return Answer(200, body, {"Content-Type": "text/event-stream"})


def error_response(status: int, error_type: str, retry_after: str | None = None) -> Answer:
    """An error response of Carousel."""
    headers = {"Content-Type": "application/json", "X-Request-Id": "r-1"}
    if retry_after is not None:
        headers["Retry-After"] = retry_after
    body = f'{{"error": "what is wrong", "error_type": "{error_type}"}}'
    return Answer(status, body.encode(), headers)


@contextmanager
def scripted() -> Iterator[ScriptedServer]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            script.requests.append((f"{self.command} {self.path}", headers, body))
            answer = script.answers.pop(0)
            if not answer.status:
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 (the library's names)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        script = ScriptedServer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield script
        finally:
            server.shutdown()
            thread.join()
