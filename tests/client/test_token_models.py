"""Streams of models whose tokens are words or bytes, over broken connections and killed servers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from carousel_client import Client
from tests.api.token_models import new_home, tokenizers
from tests.client.proxy import BreakingProxy, Cut
from tests.faults.store import OwnStore
from tests.process import Server, serving

TOKENIZERS = tokenizers()
PROMPTS = {"words": "The cat", "window": "The cat", "bytes": "the café"}
MODELS = pytest.mark.parametrize("model", PROMPTS)
SEED, N, LONG = 5, 60, 40_000


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return new_home(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def word_server(home) -> Iterator[Server]:
    with serving(home) as running:
        yield running


def how(model: str, n: int = N) -> dict:
    bias = dict.fromkeys(TOKENIZERS[model].end_ids, -100.0)
    return {"max_new_tokens": n, "temperature": 1.0, "logit_bias": bias}


@MODELS
@pytest.mark.parametrize("number", [1, 2, N // 2, N // 2 + 1, N // 2 + 2, N - 1])
def test_a_stream_resumes_at_any_token(kind, word_server, model, number):
    """Some of the places are within a character of the byte model."""
    with Client(word_server.url) as client:
        calm, broken = (client.sessions.create(model=model, seed=SEED).id for _ in range(2))
        with client.stream(PROMPTS[model], session_id=calm, **how(model)) as stream:
            truth = [token.text for token in stream]
        proxy = BreakingProxy(word_server.port)
        proxy.plan.append(Cut(b"\n\n", number, 2))
        received = kind.stream(proxy.url, PROMPTS[model], session_id=broken, **how(model))
        proxy.close()
        assert len(proxy.heads) == 2
        assert [token.text for token in received.tokens] == truth
        assert received.text == received.result.text == "".join(truth)
        text = client.sessions.text(broken)
        assert text == client.sessions.text(calm)
        assert text.endswith("".join(truth)) or model == "bytes"  # U+FFFD may join two texts


def read_a_part(url: str, model: str, n_bytes: int) -> tuple[str, list[tuple[str, str]]]:
    """Begin a long turn that goes on without its reader; return its session and first events."""
    made = httpx2.post(f"{url}/sessions", json={"model": model, "seed": SEED}).json()["id"]
    bias = {str(i): -100.0 for i in TOKENIZERS[model].end_ids}
    body = {"inputs": PROMPTS[model], "session_id": made, "on_disconnect": "continue"}
    body["parameters"] = {"max_new_tokens": LONG, "temperature": 1.0, "logit_bias": bias}
    received = b""
    with httpx2.stream("POST", f"{url}/generate_stream", json=body, timeout=30) as reply:
        for piece in reply.iter_bytes():
            received += piece
            if len(received) > n_bytes:
                break
    return made, events_in(received.rpartition(b"\n\n")[0].decode() + "\n\n")


def events_in(text: str) -> list[tuple[str, str]]:
    return re.findall(r"id: (.*)\ndata: (.*)\n\n", text)


@pytest.mark.slow
def test_another_process_takes_over_after_a_kill(home, tmp_path):
    store = OwnStore(tmp_path, "valkey")
    store.start()
    settings = {"CAROUSEL_REDIS_URL": f"redis://127.0.0.1:{store.port}"}
    begun = {}
    with serving(home, **settings) as first:
        for model in PROMPTS:
            begun[model] = read_a_part(first.url, model, 20_000)
        first.process.kill()
        first.process.wait()
    with serving(home, **settings) as second, Client(second.url, timeout_s=60) as client:
        for model, (session, seen) in begun.items():
            position = client.sessions.get(session).position
            assert position < LONG
            headers = {"Last-Event-ID": seen[-1][0]}
            url = f"{second.url}/sessions/{session}/events"
            rest = httpx2.get(url, headers=headers, timeout=120).text
            calm = client.sessions.create(model=model, seed=SEED).id
            stream = client.stream(PROMPTS[model], session_id=calm, **how(model, LONG))
            with stream:
                wanted = [(token.event_id, token.text) for token in stream]
            found = [
                (name, json.loads(data)["token"]["text"]) for name, data in seen + events_in(rest)
            ]
            assert found == wanted
            assert client.sessions.text(session) == client.sessions.text(calm)
    store.close()
