"""Two owners on one server: neither can read, continue or detect a session of the other."""

import threading
from collections.abc import Iterator

import httpx2
import pytest
import uvicorn

from service.app import create_app
from service.settings import Settings
from tests.api.conftest import new_home
from tests.process import free_port
from tests.sessions.valkey import OwnValkey

BINARY = {"Content-Type": "application/octet-stream"}
SAY = {"inputs": "", "parameters": {"max_new_tokens": 5}}


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    """A server that reads the owner from a header."""
    home = new_home(tmp_path_factory.mktemp("home"))
    (home / "valkey").mkdir()
    valkey = OwnValkey(home / "valkey")
    valkey.start()
    settings = Settings(
        model_store=home / "model_store", import_dir=home / "imports", data_dir=home / "data"
    )
    app = create_app(settings, valkey.url, owner_of=lambda http: http.headers.get("x-owner", ""))
    port = free_port()
    config = uvicorn.Config(app, port=port, log_level="warning", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    address = f"http://127.0.0.1:{port}"
    with httpx2.Client(base_url=address) as http:
        while not server.started or http.get("/health").status_code != 200:
            threading.Event().wait(0.02)
    yield address
    server.should_exit = True
    thread.join()
    valkey.close()


@pytest.fixture
def alice(url) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, headers={"X-Owner": "alice"}, timeout=30) as http:
        yield http


@pytest.fixture
def bob(url) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, headers={"X-Owner": "bob"}, timeout=30) as http:
        yield http


def attempts(http: httpx2.Client, session: str) -> dict[str, httpx2.Response]:
    """Requests to every route with a session id."""
    path = f"/sessions/{session}"
    return {
        "look": http.get(path),
        "text": http.get(f"{path}/text"),
        "append": http.post(f"{path}/append", json={"text": "a"}),
        "fork": http.post(f"{path}/fork", json={}),
        "rewind": http.post(f"{path}/rewind", json={"to": 0}),
        "cancel": http.post(f"{path}/cancel"),
        "state": http.get(f"{path}/state"),
        "events": http.get(f"{path}/events"),
        "generate": http.post("/generate", json=SAY | {"session_id": session}),
        "stream": http.post("/generate_stream", json=SAY, headers={"X-Session-Id": session}),
        "root": http.post("/", json=SAY | {"session_id": session}),
        "retry": http.post(
            "/generate", json=SAY | {"session_id": session}, headers={"Idempotency-Key": "k"}
        ),
        "delete": http.delete(path),
    }


def faces(replies: dict[str, httpx2.Response], session: str) -> dict[str, tuple]:
    """Replies as another owner sees them, without the id in the request."""
    hidden = {"x-request-id", "date"}
    return {
        name: (
            reply.status_code,
            reply.text.replace(session, "ID"),
            {k: v for k, v in reply.headers.items() if k not in hidden},
        )
        for name, reply in replies.items()
    }


@pytest.mark.parametrize("named", [None, "my-game"])
def test_another_owners_session_looks_like_one_that_never_was(alice, bob, named):
    body = {"text": "The ", "session_id": named}
    session = alice.post("/sessions", json=body).json()["id"]
    key = {"Idempotency-Key": "k"}
    generated = alice.post("/generate", json=SAY | {"session_id": session}, headers=key).json()
    never = session[:-1] + ("b" if session[-1] == "a" else "a")
    seen = faces(attempts(bob, session), session)
    assert {face[0] for face in seen.values()} == {404}
    assert seen == faces(attempts(bob, never), never)
    mine = alice.get(f"/sessions/{session}").json()
    assert (mine["position"], mine["turn"]) == (9, 1), "and nothing has happened to it"
    again = alice.post("/generate", json=SAY | {"session_id": session}, headers=key)
    assert again.json() == generated


def test_two_owners_may_use_the_same_id(alice, bob):
    body = {"session_id": "chapter-1", "text": "The "}
    assert alice.post("/sessions", json=body).status_code == 201
    assert bob.post("/sessions", json=body | {"text": "def "}).status_code == 201
    assert alice.get("/sessions/chapter-1/text").json()["text"] == "The "
    assert bob.get("/sessions/chapter-1/text").json()["text"] == "def "
    assert bob.delete("/sessions/chapter-1").status_code == 204
    assert alice.get("/sessions/chapter-1").status_code == 200


def test_a_lost_session_is_reported_to_its_owner_only(alice, bob):
    session = alice.post("/sessions", json={"text": "The "}).json()["id"]
    alice.delete(f"/sessions/{session}")
    assert alice.get(f"/sessions/{session}").status_code == 410
    assert bob.get(f"/sessions/{session}").status_code == 404


def test_two_owners_may_use_the_same_idempotency_key(alice, bob):
    texts = []
    for http in (alice, bob):
        session = http.post("/sessions", json={"text": "The ", "seed": 1}).json()["id"]
        body = SAY | {"session_id": session}
        reply = http.post("/generate", json=body, headers={"Idempotency-Key": "same"})
        assert reply.status_code == 200
        texts.append(reply.json()["session"]["id"])
    assert texts[0] != texts[1]


def test_forks_and_imports_belong_to_the_owner_who_makes_them(alice, bob):
    session = alice.post("/sessions", json={"text": "The "}).json()["id"]
    fork = alice.post(f"/sessions/{session}/fork", json={}).json()["sessions"][0]["id"]
    assert bob.get(f"/sessions/{fork}").status_code == 404
    content = alice.get(f"/sessions/{session}/state").content
    moved = bob.post("/sessions/import", content=content, headers=BINARY).json()["id"]
    assert bob.get(f"/sessions/{moved}/text").json()["text"] == "The "
    assert alice.get(f"/sessions/{moved}").status_code == 404
