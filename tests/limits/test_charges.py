"""What is charged: all that is computed, whoever reads it; and nothing goes round a limit."""

import contextlib
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.keys.conftest import ADMIN_KEY, new_folder
from tests.keys.people import Admin, bearer
from tests.metrics.exposition import Scrape
from tests.process import free_port, serving

TEXT_PLAIN = {"Content-Type": "text/plain"}


@pytest.fixture(scope="module")
def server(tmp_path_factory, valkey):
    settings = {
        "CAROUSEL_REDIS_URL": valkey.url,
        "CAROUSEL_ADMIN_KEY": ADMIN_KEY,
        "CAROUSEL_METRICS_PORT": str(free_port()),
    }
    with serving(new_folder(tmp_path_factory.mktemp("charges")), **settings) as running:
        yield running


@pytest.fixture(scope="module")
def admin(server):
    with Admin(server.url) as one:
        yield one


def client(server, key) -> httpx2.Client:
    return httpx2.Client(base_url=server.url, headers=bearer(key["secret"]), timeout=60)


def charged(admin: Admin, owner: str, name: str = "generated_tokens") -> int:
    rows = admin.http.get("/admin/usage", params={"owner": owner}).json()["usage"]
    return sum(row[name] for row in rows)


def generated(server, scraper: dict) -> int:
    with httpx2.Client(base_url=server.url, headers=bearer(scraper["secret"])) as http:
        return int(Scrape.of(http.get("/metrics").text).value("carousel_generated_tokens_total"))


@pytest.mark.parametrize("more", [{"n": 8, "stream": True}, {"best_of": 8}], ids=["n", "best_of"])
def test_tokens_that_nobody_reads_are_charged(server, admin, more):
    owner = f"unread-{next(iter(more))}"
    key, scraper = admin.add(owner, "generate"), admin.add("scraper", "metrics")
    before = generated(server, scraper)
    body = {"model": "default", "prompt": "The ", "max_tokens": 4_000, "temperature": 0.7} | more
    with (
        client(server, key) as http,
        contextlib.suppress(httpx2.ReadTimeout),
        http.stream("POST", "/v1/completions", json=body, timeout=0.5),
    ):
        time.sleep(0.5)  # nothing is read; without `stream` no head comes before the end
    until = time.monotonic() + 30
    while charged(admin, owner) != generated(server, scraper) - before:
        assert time.monotonic() < until, (charged(admin, owner), generated(server, scraper))
        time.sleep(0.2)
    assert charged(admin, owner) > 0


def test_a_full_store_still_limits(server, admin, valkey):
    key = admin.add("full", "generate", limits={"requests_per_minute": 1})
    body = {"inputs": "The ", "parameters": {"max_new_tokens": 1}}
    with client(server, key) as http:
        assert http.post("/generate", json=body).status_code == 200
        valkey.client.config_set("maxmemory", 1)
        try:
            statuses = {http.post("/generate", json=body).status_code for _ in range(4)}
        finally:
            valkey.client.config_set("maxmemory", 0)
    assert statuses == {429}


def test_making_and_forking_sessions_are_requests(server, admin):
    key = admin.add("sessions", "generate", limits={"requests_per_minute": 2})
    with client(server, key) as http:
        made = http.post("/sessions", json={})
        assert made.status_code == 201
        assert http.post(f"/sessions/{made.json()['id']}/fork", json={}).status_code == 201
        assert http.post("/sessions", json={}).status_code == 429
        assert http.post(f"/sessions/{made.json()['id']}/fork", json={}).status_code == 429


def test_a_text_to_score_without_a_length_is_refused_where_there_is_a_limit(server, admin):
    key = admin.add("chunked", "generate", limits={"tokens_per_minute": 1_000})
    with client(server, key) as http:
        chunked = http.post("/score/text", content=iter([b"abc"]), headers=TEXT_PLAIN)
        assert chunked.status_code == 422
        assert "Content-Length" in chunked.json()["error"]
        assert http.post("/score/text", content=b"abc", headers=TEXT_PLAIN).status_code == 200


def test_a_refused_request_for_embeddings_costs_no_tokens_and_owners_take_turns(server, admin):
    greedy, polite = admin.add("embeds", "generate"), admin.add("embeds-little", "generate")
    body = {"model": "default", "input": ["The " * 5_000]}
    statuses: list[int] = []

    def ask() -> None:
        with client(server, greedy) as http:
            statuses.append(http.post("/v1/embeddings", json=body).status_code)

    threads = [threading.Thread(target=ask) for _ in range(24)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    with client(server, polite) as http:
        little = http.post("/v1/embeddings", json={"model": "default", "input": "The"})
    for thread in threads:
        thread.join()
    assert little.status_code == 200
    n = statuses.count(200)
    assert set(statuses) <= {200, 429}
    until = time.monotonic() + 30
    while charged(admin, "embeds", "prompt_tokens") != 20_000 * n:
        assert time.monotonic() < until
        time.sleep(0.2)


def test_an_owner_has_as_many_sessions_as_its_key_may(server, admin):
    key = admin.add("keeper", "generate", limits={"stored_sessions": 5})
    with client(server, key) as http, ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: http.post("/sessions", json={}), range(30)))
        assert Counter(reply.status_code for reply in replies) == {201: 5, 413: 25}
        ids = [reply.json()["id"] for reply in replies if reply.status_code == 201]
        at = f"/sessions/{ids[0]}"
        binary = {"Content-Type": "application/octet-stream"}
        exported = http.get(f"{at}/state").content
        for n in (1, 3):
            refused = http.post(f"{at}/fork", json={"n": n})
            assert refused.status_code == 413
            assert "the limit stored_sessions of this key, 5" in refused.json()["error"]
        full = http.post("/sessions/import", content=exported, headers=binary)
        assert full.status_code == 413
        for one in ids[1:3]:
            assert http.delete(f"/sessions/{one}").status_code == 204
        assert http.post(f"{at}/fork", json={"n": 1}).status_code == 201
        again = http.post("/sessions/import", content=exported, headers=binary)
        assert again.status_code == 201
        assert http.post("/sessions", json={}).status_code == 413
