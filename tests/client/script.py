"""A server that answers what a test has written down, in order, and notes what it was asked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply. With status 0 there is none: the connection ends."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Script:
    """What is to be answered, and what was asked: the line, the headers and the body."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        return [line for line, _, _ in self.asked]

    @property
    def keys(self) -> list[str | None]:
        return [headers.get("idempotency-key") for _, headers, _ in self.asked]


def stream(*events: str) -> Answer:
    """A whole stream of events."""
    body = "".join(f"{event}\n\n" for event in events).encode()
    return Answer(200, body, {"Content-Type": "text/event-stream"})


def refusal(status: int, error_type: str, retry_after: str | None = None) -> Answer:
    """An error of ours."""
    headers = {"Content-Type": "application/json", "X-Request-Id": "r-1"}
    if retry_after is not None:
        headers["Retry-After"] = retry_after
    body = f'{{"error": "what is wrong", "error_type": "{error_type}"}}'
    return Answer(status, body.encode(), headers)


@contextmanager
def scripted() -> Iterator[Script]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            script.asked.append((f"{self.command} {self.path}", headers, body))
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
        script = Script(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield script
        finally:
            server.shutdown()
            thread.join()
