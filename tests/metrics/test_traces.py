"""One span for each request, sent to a real receiver of OTLP over HTTP."""

import contextlib
import http.server
import subprocess
import sys
import threading
import time

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.api.conftest import new_home
from tests.process import ROOT, environment, free_port, serving

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps the spans that it is sent."""

    spans: list

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        sent = ExportTraceServiceRequest.FromString(body)
        for resource in sent.resource_spans:
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def receiving():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.spans = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """A server whose spans are received: (client, spans so far)."""
    home = new_home(tmp_path_factory.mktemp("traced"))
    with receiving() as receiver:
        endpoint = f"http://127.0.0.1:{receiver.server_port}"
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with (
            serving(home, **variables) as server,
            httpx2.Client(base_url=server.url, timeout=60) as client,
        ):
            yield client, receiver.spans


def attributes(span) -> dict:
    def plain(value):
        kind = value.WhichOneof("value")
        found = getattr(value, kind)
        return [plain(one) for one in found.values] if kind == "array_value" else found

    return {one.key: plain(one.value) for one in span.attributes}


def spans_after(spans, n):
    """The spans, once there are `n` and none has come for a while."""
    until = time.monotonic() + 20
    while len(spans) < n and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    return spans


def test_a_stream_of_many_sends_is_one_span_below_its_caller(traced):
    client, spans = traced
    before = len(spans)
    body = {"inputs": "A ", "parameters": {"max_new_tokens": 500, "do_sample": True}}
    headers = {"traceparent": PARENT, "X-Request-Id": "mine"}
    with client.stream("POST", "/generate_stream", json=body, headers=headers) as reply:
        pieces = list(reply.iter_raw())
    assert len(pieces) > 5
    (span,) = spans_after(spans, before + 1)[before:]
    assert span.name == "POST /generate_stream"
    assert span.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert span.parent_span_id.hex() == "b7ad6b7169203331"
    assert span.end_time_unix_nano > span.start_time_unix_nano
    found = attributes(span)
    expected = {
        "http.request.method": "POST",
        "http.route": "/generate_stream",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "text_completion",
        "gen_ai.response.model": "demo@1",
        "gen_ai.usage.input_tokens": 2,
        "gen_ai.usage.output_tokens": 500,
        "gen_ai.response.finish_reasons": ["length"],
        "carousel.request_id": "mine",
    }
    assert {name: found[name] for name in expected} == expected
    (event,) = span.events
    assert event.name == "first_token"
    assert span.start_time_unix_nano < event.time_unix_nano < span.end_time_unix_nano


def test_probes_and_scrapes_have_none_and_a_refusal_has_its_code(traced):
    client, spans = traced
    before = len(spans_after(spans, 0))
    for path in ("/health", "/health/ready", "/health/live", "/ping", "/metrics"):
        client.get(path)
    client.post("/generate", json={"inputs": "a", "model": "nobody"})
    (span,) = spans_after(spans, before + 1)[before:]
    found = attributes(span)
    assert found["error.type"] == "model_not_found"
    assert span.parent_span_id == b""


def test_a_span_has_no_whole_session_id(traced):
    client, spans = traced
    before = len(spans_after(spans, 0))
    client.get("/sessions/secretsecretsecret")
    (span,) = spans_after(spans, before + 1)[before:]
    assert "secretsecret" not in str(span)


def test_an_endpoint_without_the_extra_is_one_sentence(tmp_path):
    code = (
        "import sys\nsys.modules['opentelemetry.sdk.trace'] = None\n"
        "from service.cli.main import main\nsys.argv = ['carousel', 'serve']\nmain()"
    )
    variables = environment(tmp_path, free_port(), OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "pip install 'carousel-serve[otel]'" in done.stderr
