"""What strangers send makes no series: neither paths, nor models, keys or methods."""

import http.client
import itertools
import json
import random

from service.api.ended_request import EndedRequest
from service.api.request_metrics import RequestMetrics
from service.metrics import families
from service.metrics.metrics import Metrics

REQUESTS = 10_000
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD")


def word(rng: random.Random) -> str:
    """A word whose form does not decide the status: a session id that may be one."""
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=20))


SHAPES = (
    lambda rng: f"/{word(rng)}",
    lambda rng: f"/{word(rng)}/{word(rng)}.php?{word(rng)}={word(rng)}",
    lambda rng: f"/{word(rng)}/..%2f{word(rng)}~",
    lambda rng: f"//sessions/{word(rng)}",
    lambda rng: f"/sessions/x{word(rng)}",
    lambda rng: f"/sessions/x{word(rng)}/text",
    lambda rng: f"/Sessions/{word(rng)}",
    lambda rng: f"/v1/models/x{word(rng)}",
    lambda rng: f"/train-jobs/x{word(rng)}",
    lambda rng: f"/admin/models/x{word(rng)}@7/unload",
    lambda _: "/generate",
    lambda _: "/v1/completions",
    lambda _: "/metrics",
)


def send(connection: http.client.HTTPConnection, rng: random.Random, method: str, path: str):
    model = f"x{word(rng)}"
    body = json.dumps({"inputs": "a", "prompt": "a", "model": model}) if method == "POST" else None
    if path == "/generate":
        body = body and json.dumps({"inputs": "a", "model": model})
    elif path == "/v1/completions":
        body = body and json.dumps({"prompt": "a", "model": model})
    headers = {
        "Content-Type": "application/json",
        "X-API-Key": word(rng),
        "X-Request-Id": word(rng),
        "User-Agent": word(rng),
    }
    connection.request(method, path, body, headers)
    connection.getresponse().read()


def test_ten_thousand_random_requests_make_no_series(server, scrape):
    rng = random.Random(13)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    kinds = list(itertools.product(METHODS, SHAPES))

    def some(n: int) -> None:
        for method, shape in itertools.islice(itertools.cycle(kinds), n):
            send(connection, rng, method, shape(rng))

    some(len(kinds))  # every route, method and status once
    scrape()
    before = scrape()
    some(REQUESTS)
    after = scrape()
    connection.close()
    assert after.series == before.series
    assert after.since(before, "carousel_requests_total") == REQUESTS


def test_a_code_of_no_known_error_is_counted_as_other():
    """It is read from the body of the reply, which a route may take from elsewhere."""
    metrics = Metrics()
    for code in ("rate_limited", "text of a client", "another one"):
        ended = EndedRequest(
            request_id="",
            method="POST",
            route="/generate",
            path="/generate",
            status=422,
            duration_s=0.1,
            is_streamed=False,
            refusal={"error_type": code},
        )
        RequestMetrics(metrics).ended(ended)
    counted = dict(metrics.snapshot([]))[families.REQUESTS]
    found = {labels[-1]: n for labels, n in counted.items()}
    assert found == {"rate_limited": 1, families.OTHER: 2}
