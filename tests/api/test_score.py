import json

import httpx2
import psutil
import pytest

from tests.api.conftest import AWKWARD, new_home
from tests.process import serving

TEXT = "ROMEO:\nBut soft, what light through yonder window breaks?\n" * 30


def score(http, inputs, **fields):
    reply = http.post("/score", json={"inputs": inputs, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def events_of(response) -> list[dict]:
    return [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n") if line]


def test_a_score_has_every_token_and_the_sums(http):
    found = score(http, TEXT)
    assert "".join(token["text"] for token in found["tokens"]) == TEXT
    logprobs = [token["logprob"] for token in found["tokens"]]
    assert logprobs[0] is None
    assert found["characters"] == len(TEXT) - 1
    assert found["nats"] == pytest.approx(-sum(logprobs[1:]), abs=1e-3)
    assert found["bits_per_character"] == found["bits_per_byte"]  # all of it is ASCII
    assert 1.0 < found["bits_per_character"] < 5.0
    without = score(http, TEXT, details=False)
    assert without == {name: value for name, value in found.items() if name != "tokens"}


def test_a_stream_and_a_body_of_text_have_the_same_score(http):
    found = score(http, TEXT)
    reply = http.post("/score", json={"inputs": TEXT, "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = events_of(reply)
    assert [event["done"] for event in events] == [False] * (len(events) - 1) + [True]
    assert [token for event in events for token in event["tokens"]] == found["tokens"]
    sums = {name: value for name, value in found.items() if name != "tokens"}
    assert events[-1] == sums | {"tokens": [], "done": True}
    events = events_of(http.post("/score", json={"inputs": TEXT, "stream": True, "details": False}))
    assert events[-1] == sums | {"done": True}
    pieces = (TEXT[i : i + 7].encode() for i in range(0, len(TEXT), 7))
    reply = http.post("/score/text", content=pieces, headers={"Content-Type": "text/plain"})
    assert reply.json() == sums


def test_a_session_predicts_the_scored_text_and_is_not_changed(http):
    first, rest = TEXT[:20], TEXT[20:]
    whole = score(http, TEXT)["tokens"]
    session = http.post("/sessions", json={"text": first}).json()
    before = http.get(f"/sessions/{session['id']}").json()
    found = score(http, rest, session_id=session["id"])
    assert found["tokens"] == whole[20:]
    assert found["characters"] == len(rest)
    url = f"/score/text?session_id={session['id']}"
    assert http.post(url, content=rest.encode()).json()["nats"] == found["nats"]
    after = http.get(f"/sessions/{session['id']}").json()
    assert after | {"expires_at": 0} == before | {"expires_at": 0}
    said = http.post("/generate", json={"inputs": "", "session_id": session["id"]}).json()
    again = http.post("/sessions", json={"text": first, "seed": session["seed"]}).json()
    assert (
        said["generated_text"]
        == (http.post("/generate", json={"inputs": "", "session_id": again["id"]}).json())[
            "generated_text"
        ]
    )
    # Where it is now, and one that has no text yet.
    scored = score(http, TEXT, session_id=session["id"])
    assert scored["tokens"][0]["logprob"] is not None
    empty = http.post("/sessions", json={}).json()
    assert score(http, TEXT, session_id=empty["id"])["tokens"] == whole


def test_what_generation_reports_is_what_is_scored(http):
    body = {"inputs": "The ", "parameters": {"max_new_tokens": 30, "seed": 1, "details": True}}
    reply = http.post("/generate", json=body).json()
    said = [(token["id"], token["logprob"]) for token in reply["details"]["tokens"]]
    found = score(http, "The " + reply["generated_text"])["tokens"][4:]
    assert [(token["id"], token["logprob"]) for token in found] == said


def test_one_character_alone_has_no_score(http):
    assert score(http, "T") == {
        "tokens": [{"id": 53, "text": "T", "logprob": None}],
        "characters": 0,
        "token_count": 0,
        "nats": 0.0,
        "nats_per_token": None,
        "bits_per_character": None,
        "bits_per_byte": None,
        "perplexity": None,
    }


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"inputs": ""}, 422, "at least 1"),
        ({"inputs": "a😀b"}, 422, "no token for '😀' (U+1F600) at offset 1"),
        ({"inputs": "a" * 100_001}, 422, "100001 characters"),
        ({"inputs": "a", "model": "nobody"}, 404, "nobody"),
        ({"inputs": "a", "session_id": "nobody"}, 404, "nobody"),
        ({"inputs": "a", "stream": True, "session_id": "nobody"}, 404, "nobody"),
        ({"inputs": "a", "details": None}, 422, "details"),
        ({"inputs": "a", "parameters": {}}, 422, "`parameters` is not a known field"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(http, body, status, sentence):
    reply = http.post("/score", json=body)
    assert reply.status_code == status
    assert sentence in reply.json()["error"]


@pytest.mark.parametrize(
    ("content", "status", "sentence"),
    [
        (b"", 422, "no token"),
        (b"ab\xff", 422, "not UTF-8 from byte 2 on"),
        (b"ab\xc3", 422, "not UTF-8 from byte 2 on"),
        ("a" * 5_000 + "é", 422, "at offset"),
    ],
)
def test_a_body_that_is_no_text_of_the_models_is_refused(http, content, status, sentence):
    reply = http.post("/score/text", content=content)
    assert reply.status_code == status
    assert sentence in reply.json()["error"]


def test_a_body_of_another_kind_is_refused(http):
    reply = http.post("/score/text", json={"inputs": "a"})
    assert reply.status_code == 415
    assert "text/plain" in reply.json()["error"]


@pytest.mark.slow
def test_a_long_text_takes_no_memory(server):
    process, grown = psutil.Process(server.process.pid), []
    piece = (AWKWARD * 2_048).encode()

    def pieces():
        for _ in range(5):
            yield piece
            grown.append(process.memory_info().rss)

    url = server.url + "/score/text?model=awkward"
    reply = httpx2.post(url, content=pieces(), timeout=60)
    assert reply.json()["characters"] == 5 * 2_048 * len(AWKWARD) - 1
    assert grown[-1] - grown[1] < 4 * 1024 * 1024


def test_a_refused_score_holds_no_place(tmp_path):
    home = new_home(tmp_path)
    with serving(home) as server, httpx2.Client(base_url=server.url, timeout=20) as http:
        for inputs in ("中", ""):
            assert http.post("/score", json={"inputs": inputs}).status_code == 422
        ref = http.get("/admin/models").json()["aliases"]["default"]
        assert http.post(f"/admin/models/{ref}/unload", json={}).is_success
        status = {row["name"]: row["status"] for row in http.get("/admin/models").json()["models"]}
        assert status[ref.partition("@")[0]] == "stored"
