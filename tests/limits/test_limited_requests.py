"""Limits over HTTP: two servers and one key, every kind of request, what clients are told."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime

import httpx2
import pytest

from carousel_client import Client, RateLimited
from tests.keys.conftest import ADMIN_KEY, new_folder
from tests.keys.people import Admin, bearer
from tests.process import serving

ASKED = {"inputs": "ROMEO:", "parameters": {"max_new_tokens": 10, "seed": 1}}
THREADS = 50


@pytest.fixture(scope="module")
def servers(tmp_path_factory, valkey):
    """Two servers with one store."""
    settings = {"CAROUSEL_REDIS_URL": valkey.url, "CAROUSEL_ADMIN_KEY": ADMIN_KEY}
    with ExitStack() as stack:
        folders = [new_folder(tmp_path_factory.mktemp("server")) for _ in range(2)]
        yield [stack.enter_context(serving(folder, **settings)) for folder in folders]


@pytest.fixture(scope="module")
def admin(servers):
    with Admin(servers[0].url) as one:
        yield one


def client(server, key) -> httpx2.Client:
    return httpx2.Client(base_url=server.url, headers=bearer(key["secret"]), timeout=60)


def usage_of(admin: Admin, owner: str) -> Counter:
    rows = admin.http.get("/admin/usage", params={"owner": owner}).json()["usage"]
    return sum(
        (Counter({k: v for k, v in row.items() if k not in {"day", "owner"}}) for row in rows),
        Counter(),
    )


def until(is_so, limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("limits", "most", "per_s"),
    [
        ({"requests_per_minute": 12}, 12, 12 / 60),
        ({"tokens_per_month": 16 * 12 + 15}, 12, 0.001),  # 6 of the prompt and 10 new ones
    ],
)
def test_fifty_threads_on_two_servers_never_exceed_a_limit(servers, admin, limits, most, per_s):
    key = admin.add("shared", "generate", limits=limits)
    with ExitStack() as stack:
        clients = [stack.enter_context(client(server, key)) for server in servers]
        for one in clients:
            one.get("/v1/models")  # the key is known
        barrier = threading.Barrier(THREADS)

        def ask(i: int) -> int:
            barrier.wait()
            return clients[i % 2].post("/generate", json=ASKED).status_code

        began_s = time.monotonic()
        with ThreadPoolExecutor(THREADS) as pool:
            statuses = Counter(pool.map(ask, range(THREADS)))
        took_s = time.monotonic() - began_s
    assert set(statuses) == {200, 429}
    assert most <= statuses[200] <= most + 1 + took_s * per_s


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", ASKED),
        ("/generate_stream", ASKED),
        ("/v1/completions", {"prompt": "ROMEO:", "max_tokens": 10}),
        ("/v1/completions", {"prompt": "ROMEO:", "max_tokens": 10, "stream": True}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5},
        ),
        ("/v1/embeddings", {"input": "ROMEO:"}),
        ("/score", {"inputs": "ROMEO:"}),
        ("/sessions", {"text": "ROMEO:"}),
    ],
)
def test_every_kind_of_request_is_counted_and_limited(servers, admin, path, body):
    owner = f"kind{abs(hash((path, str(body)))) % 10**9}"
    key = admin.add(owner, "generate", limits={"requests_per_minute": 1, "tokens_per_minute": 600})
    with client(servers[0], key) as http:
        first = http.post(path, json=body)
        assert first.status_code in {200, 201}
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        assert first.headers["x-ratelimit-limit-tokens"] == "600"
        second = http.post(path, json=body)
        assert second.status_code == 429
        assert 1 <= int(second.headers["retry-after"]) <= 60
        assert int(second.headers["retry-after-ms"]) <= 60_000
        assert second.headers["ratelimit-policy"].startswith('"requests-per-minute";q=1;w=60')
        if path.startswith("/v1"):
            error = second.json()["error"]
            assert (error["code"], error["type"]) == ("rate_limited", "rate_limit_error")
            assert second.headers["x-should-retry"] == "true"
        else:
            assert second.json()["error_type"] == "rate_limited"
            assert "requests_per_minute of this key is 1" in second.json()["error"]
    until(lambda: usage_of(admin, owner)["requests"] == 1)
    used = usage_of(admin, owner)
    assert used["prompt_tokens"] >= 2
    generated = {"/generate": 10, "/generate_stream": 10, "/v1/completions": 10}.get(path)
    if generated is not None:
        assert used["generated_tokens"] == generated
        assert used["prompt_tokens"] == 6


def test_what_is_not_generated_is_given_back(servers, admin):
    key = admin.add("stopper", "generate", limits={"tokens_per_month": 2_000})
    asked = ASKED | {"parameters": {"max_new_tokens": 1_500, "stop": [" "], "seed": 1}}
    with client(servers[0], key) as http:
        for _ in range(5):  # each would take three quarters of the quota
            reply = http.post("/generate", json=asked)
            until(lambda: usage_of(admin, "stopper")["requests"] > 0)
            if reply.status_code == 429:  # what the one before has left is on its way
                time.sleep(0.1)
        used = usage_of(admin, "stopper")
        assert used["generated_tokens"] < 500
        until(lambda: http.post("/generate", json=asked).status_code == 200)


def test_a_stream_that_is_left_is_settled_and_frees_its_place(servers, admin):
    limits = {"tokens_per_month": 1_100_000, "concurrent_requests": 1}
    key = admin.add("leaver", "generate", limits=limits)
    endless = ASKED | {"parameters": {"max_new_tokens": 1_000_000}}
    with client(servers[0], key) as http:
        with http.stream("POST", "/generate_stream", json=endless) as stream:
            pieces = stream.iter_bytes()  # kept: its end would close the response
            next(pieces)
            refused = http.post("/generate", json=ASKED)
            assert refused.status_code == 429
            assert "concurrent_requests" in refused.json()["error"]
            assert refused.headers["retry-after"] == "1"
        until(lambda: http.post("/generate", json=ASKED).status_code == 200)
        until(
            lambda: (
                http.post(
                    "/generate",
                    json=endless | {"parameters": {"max_new_tokens": 900_000, "stop": [" "]}},
                ).status_code
                == 200
            )
        )
    until(lambda: usage_of(admin, "leaver")["generated_tokens"] > 10)


def test_a_turn_that_goes_on_without_its_reader_is_counted_to_its_end(servers, admin):
    key = admin.add("turner", "generate", limits={"tokens_per_month": 10_000})
    with client(servers[0], key) as http:
        session = http.post("/sessions", json={}).json()["id"]
        asked = ASKED | {
            "session_id": session,
            "on_disconnect": "continue",
            "parameters": {"max_new_tokens": 3_000},
        }
        with http.stream("POST", "/generate_stream", json=asked) as stream:
            next(stream.iter_bytes())
        until(lambda: usage_of(admin, "turner")["generated_tokens"] == 3_000)


def test_a_turn_that_is_repeated_costs_once(servers, admin):
    key = admin.add("repeater", "generate", limits={"tokens_per_month": 1_000})
    with client(servers[0], key) as http:
        session = http.post("/sessions", json={}).json()["id"]
        for _ in range(3):
            reply = http.post(
                "/generate",
                json=ASKED | {"session_id": session},
                headers={"Idempotency-Key": "one"},
            )
            assert reply.status_code == 200
    until(lambda: usage_of(admin, "repeater")["requests"] == 2)  # the session, and one turn
    assert usage_of(admin, "repeater")["generated_tokens"] == 10


def test_a_request_above_its_limit_is_told_so_and_not_to_wait(servers, admin):
    key = admin.add("large", "generate", limits={"tokens_per_minute": 100})
    with client(servers[0], key) as http:
        asked = ASKED | {"parameters": {"max_new_tokens": 101}}
        reply = http.post("/generate", json=asked)
        assert reply.status_code == 422
        assert "tokens_per_minute is 100" in reply.json()["error"]
        assert "retry-after" not in reply.headers


def test_jobs_and_stored_bytes_have_limits(servers, admin):
    key = admin.add("trainer", "train", limits={"open_jobs": 1, "stored_bytes": 60_000})
    text = ("to be or not to be " * 2_000).encode()
    with client(servers[0], key) as http:
        corpus = http.post(
            "/corpora?name=one", content=text, headers={"content-type": "text/plain"}
        )
        assert corpus.status_code == 201
        more = http.post(
            "/corpora?name=two", content=text + b"!", headers={"content-type": "text/plain"}
        )
        assert more.status_code == 413
        assert "stored_bytes of this key is 60000" in more.json()["error"]
        job = {"name": "job", "corpus": corpus.json()["id"], "training": {"epochs": 1}}
        assert http.post("/train-jobs", json=job).status_code == 202
        refused = http.post("/train-jobs", json=job)
        assert refused.status_code == 429
        assert refused.json()["error_type"] == "rate_limited"
        assert int(refused.headers["retry-after"]) >= 1
    until(lambda: usage_of(admin, "trainer")["train_jobs"] == 1)


def test_the_client_waits_as_long_as_it_is_told(servers, admin):
    key = admin.add("patient", "generate", limits={"requests_per_minute": 60})
    with Client(servers[0].url, headers=bearer(key["secret"]), timeout_s=30) as patient:
        began_s = time.monotonic()
        for _ in range(62):
            patient.generate("ROMEO:", max_new_tokens=1)
        assert time.monotonic() - began_s >= 1
    with Client(servers[0].url, headers=bearer(key["secret"]), timeout_s=0.2) as hasty:
        with pytest.raises(RateLimited) as refused:  # noqa: PT012 (the first that is refused)
            for _ in range(70):
                hasty.generate("ROMEO:", max_new_tokens=1)
        assert refused.value.error_type == "rate_limited"
        assert refused.value.retry_after_s >= 1


def test_usage_outlives_a_restart_and_needs_an_admin(tmp_path, valkey):
    settings = {"CAROUSEL_REDIS_URL": valkey.url, "CAROUSEL_ADMIN_KEY": ADMIN_KEY}
    folder = new_folder(tmp_path)
    with serving(folder, **settings) as server, Admin(server.url) as admin:
        key = admin.add("counted", "generate")
        with client(server, key) as http:
            for _ in range(3):
                http.post("/generate", json=ASKED)
            assert http.get("/admin/usage").status_code == 403
    with serving(folder, **settings) as server, Admin(server.url) as admin:
        used = usage_of(admin, "counted")
        assert (used["requests"], used["prompt_tokens"], used["generated_tokens"]) == (3, 18, 30)
        day = datetime.now(UTC).date().isoformat()
        assert admin.http.get("/admin/usage", params={"from": "2020-01-01"}).status_code == 422
        assert admin.http.get("/admin/usage", params={"from": day, "to": day}).status_code == 200


def test_the_defaults_hold_for_who_has_no_key(tmp_path):
    settings = {"CAROUSEL_DEFAULT_LIMITS": "requests_per_minute=2"}
    with (
        serving(new_folder(tmp_path), **settings) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        statuses = [http.post("/generate", json=ASKED).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert http.get("/health/live").status_code == 200
