"""A server with room for two models of four, one of them the default."""

import json
import time
from collections.abc import Iterator

import httpx2
import pytest

from service.generation.config import EngineConfig
from service.generation.memory_estimate import estimate_memory
from service.models.store import RegistryRecord
from tests.bundles import TINY, put_model
from tests.process import serving


@pytest.fixture(scope="module")
def http(tmp_path_factory) -> Iterator[httpx2.Client]:
    folder = tmp_path_factory.mktemp("autoload")
    (folder / "imports").mkdir()
    store = folder / "model_store"
    refs = [put_model(store, name) for name in ("first", "a", "b", "broken")]
    (store / "broken" / "1" / "weights.safetensors").write_bytes(b"nonsense")
    RegistryRecord((), {"default": refs[0]}).write(store)
    settings = {
        "CAROUSEL_AUTOLOAD": "true",
        "CAROUSEL_MEMORY_BUDGET": str(2 * estimate_memory(TINY, EngineConfig()).total),
        "CAROUSEL_LOAD_WAIT_S": "0.5",
    }
    with (
        serving(folder, **settings) as server,
        httpx2.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


def generate(http: httpx2.Client, model: str, **fields: object) -> httpx2.Response:
    body = {"inputs": "abc", "model": model, "parameters": {"max_new_tokens": 3}} | fields
    return http.post("/generate", json=body)


def load(http: httpx2.Client, model: str, **body: object) -> httpx2.Response:
    return http.post(f"/admin/models/{model}/load", json=body)


def rows(http: httpx2.Client) -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in http.get("/admin/models").json()["models"]}


def test_a_server_that_has_loaded_nothing_is_ready_and_lists_what_it_would_load(http):
    assert http.get("/health/ready").status_code == 200
    ids = {model["id"] for model in http.get("/v1/models").json()["data"]}
    assert ids == {"first@1", "a@1", "b@1", "broken@1", "default"}
    assert {row["status"] for row in rows(http).values()} == {"stored"}
    assert generate(http, "default").status_code == 200
    assert rows(http)["first"]["status"] == "ready"


def test_a_session_goes_on_when_its_model_was_evicted(http):
    generate(http, "default").raise_for_status()
    session = http.post("/sessions", json={"model": "a", "text": "abc"}).json()
    assert generate(http, "b").status_code == 200
    assert rows(http)["a"]["status"] == "stored"
    body = {"inputs": "a", "session_id": session["id"], "parameters": {"max_new_tokens": 2}}
    assert http.post("/generate", json=body).status_code == 200
    assert http.get(f"/sessions/{session['id']}").json()["position"] == 6
    assert rows(http)["a"]["status"] == "ready"


def test_a_pinned_model_stays_and_another_is_refused_with_the_numbers(http):
    generate(http, "default").raise_for_status()
    pinned = load(http, "a", pin=True).json()
    assert (pinned["status"], pinned["pin"]) == ("ready", True)
    refused = generate(http, "b")
    assert (refused.status_code, refused.json()["error_type"]) == (507, "memory_budget_exceeded")
    assert "models that stay (pinned, the default" in refused.json()["error"]
    of_openai = http.post("/v1/completions", json={"model": "b", "prompt": "abc"})
    assert of_openai.json()["error"]["code"] == "memory_budget_exceeded"
    load(http, "a", pin=False).raise_for_status()
    assert generate(http, "b").status_code == 200


def test_a_model_that_a_stream_holds_is_not_evicted(http):
    generate(http, "default").raise_for_status()
    body = {"inputs": "abc", "model": "a", "parameters": {"max_new_tokens": 100_000}}
    with http.stream("POST", "/generate_stream", json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        assert rows(http)["a"]["requests"] == 1
        refused = generate(http, "b")
        assert (refused.status_code, "was in use for 0.5 s" in refused.text) == (507, True)
        assert "token" in next(line for line in lines if line)
    assert generate(http, "b").status_code == 200


def test_a_model_with_no_time_leaves_with_its_request(http):
    row = load(http, "a", keep_alive_s=0).json()
    assert row["keep_alive_s"] == 0
    assert generate(http, "a").status_code == 200
    until = time.monotonic() + 30
    while rows(http)["a"]["status"] != "stored":
        assert time.monotonic() < until
        time.sleep(0.02)
    load(http, "a", keep_alive_s=-1).raise_for_status()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"keep_alive_s": -0.5}, "give seconds from 0 on, or -1"),
        ({"keep_alive_s": -2}, "keep_alive_s"),
        ({"keep_alive_s": 1e12}, "keep_alive_s"),
        ({"pin": "yes"}, "pin"),
        ({"keep": 5}, "keep"),
    ],
)
def test_a_body_that_cannot_be_meant_is_refused(http, body, said):
    refused = load(http, "a", **body)
    assert refused.status_code == 422
    assert said in refused.json()["error"]


def test_a_damaged_model_is_not_ready_and_no_fault_of_the_request(http):
    refused = generate(http, "broken")
    assert (refused.status_code, refused.json()["error_type"]) == (503, "model_not_ready")
    assert "not the file that the manifest describes" in refused.json()["error"]
    assert "broken@1" not in json.dumps(http.get("/v1/models").json())


def test_the_list_has_the_memory_by_its_parts(http):
    generate(http, "a").raise_for_status()
    memory = http.get("/admin/models").json()["memory"]
    ready = [row for row in rows(http).values() if row["status"] == "ready"]
    assert memory["reserved"] == sum(row["bytes"] for row in ready) <= memory["budget"]
    parts = ("weights", "programs", "states", "texts")
    assert sum(memory[part] for part in parts) == memory["reserved"]
    assert memory["prefix_cache"] == 0
