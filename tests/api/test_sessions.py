"""Sessions over HTTP: the contract of /sessions, and of generate routes in a session."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import datetime, timedelta
from types import SimpleNamespace

import httpx2
import pytest

from service.api.caller import ANONYMOUS
from service.api.model_leases import MODEL_LEASES, ModelLeases
from service.api.sessions import CreateSessionBody, create
from service.api.state import AppState
from service.api.tgi.schemas import GenerateBody
from service.errors import Overloaded, UnknownCharacter
from service.models.tokenizers.characters import CharacterTokenizer

SAMPLED = {"temperature": 0.8, "details": True}


def new(http: httpx2.Client, **body) -> dict:
    reply = http.post("/sessions", json=body)
    assert reply.status_code == 201, reply.text
    return reply.json()


def say(http, session, n, inputs="", headers=None, **more) -> dict:
    parameters = SAMPLED | {"max_new_tokens": n} | more.pop("parameters", {})
    body = {"inputs": inputs, "session_id": session, "parameters": parameters, **more}
    reply = http.post("/generate", json=body, headers=headers or {})
    assert reply.status_code == 200, reply.text
    return reply.json()


def events_of(text: str) -> list[tuple[str, dict]]:
    found = re.findall(r"(?:id: (.*)\n)?data: (.*)\n\n", text)
    return [(name, json.loads(data)) for name, data in found]


def stream(http, session, n, inputs="", **more) -> list[tuple[str, dict]]:
    body = {"inputs": inputs, "parameters": SAMPLED | {"max_new_tokens": n}, **more}
    reply = http.post("/generate_stream", json=body, headers={"X-Session-Id": session})
    assert reply.status_code == 200, reply.text
    return events_of(reply.text)


def problem(reply, status, code) -> str:
    assert (reply.status_code, reply.json()["error_type"]) == (status, code), reply.text
    return reply.json()["error"]


def test_a_session_is_made_looked_at_and_deleted(http):
    made = new(http, text="The ", seed=7, ttl_s=3_600)
    assert made["model"] == "demo@1"
    assert made["position"] == 4
    assert made["turn"] == 0
    assert made["seed"] == 7
    assert made["state_bytes"] == 4 * 2 * 448
    lived = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    assert abs(lived - timedelta(hours=1)) < timedelta(seconds=5)
    seen = http.get(f"/sessions/{made['id']}").json()
    assert seen | {"expires_at": 0} == made | {"expires_at": 0}
    assert http.delete(f"/sessions/{made['id']}").status_code == 204
    problem(http.get(f"/sessions/{made['id']}"), 410, "session_lost")


def test_two_turns_have_the_text_of_one(http):
    one, two = new(http, text="The ", seed=5)["id"], new(http, text="The ", seed=5)["id"]
    whole = say(http, one, 200)
    first, second = say(http, two, 77), say(http, two, 123)
    assert whole["generated_text"] == first["generated_text"] + second["generated_text"]
    tokens = first["details"]["tokens"] + second["details"]["tokens"]
    assert whole["details"]["tokens"] == tokens
    assert second["session"] == {"id": two, "position": 204, "turn": 2}
    text = http.get(f"/sessions/{two}/text").json()
    assert text == {"text": "The " + whole["generated_text"], "position": 204}
    rest = http.get(f"/sessions/{two}/text?from=4").json()
    assert rest == {"text": whole["generated_text"], "position": 204}


def test_a_session_has_the_text_of_the_same_prompt_without_one(http):
    parameters = SAMPLED | {"max_new_tokens": 50, "seed": 9}
    alone = http.post("/generate", json={"inputs": "A class ", "parameters": parameters}).json()
    session = new(http, seed=9)["id"]
    assert say(http, session, 50, "A class ")["generated_text"] == alone["generated_text"]


def test_a_streams_ids_are_epoch_turn_and_position(http):
    session = new(http, text="The ", seed=1)["id"]
    say(http, session, 10)
    events = stream(http, session, 5, "x = ")
    assert [name for name, _ in events] == [f"0.2.{p}" for p in range(19, 24)]
    assert events[-1][1]["session"] == {"id": session, "position": 23, "turn": 2}
    assert [event["index"] for _, event in events] == [1, 2, 3, 4, 5]


def test_events_are_replayed_from_any_of_them(http):
    session = new(http, text="The ", seed=2)["id"]
    events = stream(http, session, 40)
    url = f"/sessions/{session}/events"
    assert events_of(http.get(url).text) == events
    for k in (0, 1, 17, 38):
        rest = http.get(url, headers={"Last-Event-ID": events[k][0]})
        assert events_of(rest.text) == events[k + 1 :]
        assert http.get(url, params={"after": events[k][0]}).text == rest.text
    assert http.get(url, headers={"Last-Event-ID": events[-1][0]}).status_code == 204


def test_events_are_replayed_with_a_stop_string_and_top_tokens(http):
    session = new(http, text="The ", seed=3)["id"]
    text = say(http, session, 60)["generated_text"]
    http.post(f"/sessions/{session}/rewind", json={"to": 4})
    stop = text[30:33]
    body = {
        "inputs": "",
        "session_id": session,
        "stream": True,
        "parameters": SAMPLED | {"max_new_tokens": 60, "stop": [stop], "top_n_tokens": 2},
    }
    events = events_of(http.post("/generate", json=body).text)
    assert events[-1][1]["generated_text"] == text[: text.index(stop)]
    assert events[-1][1]["details"]["finish_reason"] == "stop_sequence"
    url = f"/sessions/{session}/events"
    assert events_of(http.get(url).text) == events
    middle = events[len(events) // 2]
    rest = http.get(url, headers={"Last-Event-ID": middle[0]})
    assert events_of(rest.text) == events[len(events) // 2 + 1 :]
    said = http.get(f"/sessions/{session}/text?from=4").json()["text"]
    assert said == text[: text.index(stop) + len(stop)], "the log keeps the stop string"
    follows = say(http, session, 60 - len(said))["generated_text"]
    assert said + follows == text


def test_there_are_no_events_before_the_first_turn(http):
    assert http.get(f"/sessions/{new(http, text='The ')['id']}/events").status_code == 204


def test_an_event_id_of_another_turn_or_of_no_turn_is_refused(http):
    session = new(http, text="The ")["id"]
    first = stream(http, session, 5)
    stream(http, session, 5)
    url = f"/sessions/{session}/events"
    sentence = problem(
        http.get(url, headers={"Last-Event-ID": first[-1][0]}), 412, "position_mismatch"
    )
    assert "turn 1" in sentence
    assert "2" in sentence
    ahead = http.get(url, headers={"Last-Event-ID": "0.2.999"})
    assert "999" in problem(ahead, 412, "position_mismatch")
    for wrong in ("x", "1.2", "1.2.3.4", "-1.2.3", "1" * 40 + ".1.1"):
        problem(http.get(url, headers={"Last-Event-ID": wrong}), 422, "validation")


def test_append_feeds_without_generating(http):
    one, two = new(http, text="The quick ", seed=4)["id"], new(http, text="The ", seed=4)["id"]
    appended = http.post(f"/sessions/{two}/append", json={"text": "quick "}).json()
    assert appended["position"] == 10
    assert appended["turn"] == 0
    assert say(http, one, 30)["details"] == say(http, two, 30)["details"]


def test_an_append_is_retried_safely(http):
    session = new(http, text="The ")["id"]
    for _ in range(3):
        headers = {"Idempotency-Key": "append-1"}
        reply = http.post(f"/sessions/{session}/append", json={"text": "x"}, headers=headers)
        assert reply.json()["position"] == 5
    conditional = {"text": "y", "expected_position": 4}
    problem(http.post(f"/sessions/{session}/append", json=conditional), 412, "position_mismatch")


def test_forks_share_the_past_and_part_from_there(http):
    session = new(http, text="The ", seed=6)["id"]
    before = say(http, session, 40)["generated_text"]
    forks = http.post(f"/sessions/{session}/fork", json={"n": 3}).json()["sessions"]
    assert len({fork["seed"] for fork in forks}) == 3
    texts = [say(http, fork["id"], 30)["generated_text"] for fork in forks]
    assert len(set(texts)) == 3
    same = http.post(f"/sessions/{session}/fork", json={"seeds": "same", "at": 24}).json()
    (twin,) = same["sessions"]
    assert twin["position"] == 24
    assert twin["seed"] == 6
    assert say(http, twin["id"], 20)["generated_text"] == before[20:]
    assert http.delete(f"/sessions/{session}").status_code == 204
    kept = http.get(f"/sessions/{forks[0]['id']}/text").json()["text"]
    assert kept == "The " + before + texts[0], "a fork lives without its parent"
    problem(
        http.post(f"/sessions/{forks[0]['id']}/fork", json={"at": 999}), 412, "position_mismatch"
    )


def test_a_rewound_session_is_as_it_was(http):
    session = new(http, text="The ", seed=8)["id"]
    first = say(http, session, 30)
    second = say(http, session, 40, "def ")
    rewound = http.post(f"/sessions/{session}/rewind", json={"to": 34}).json()
    assert rewound["position"] == 34
    problem(http.get(f"/sessions/{session}/events"), 412, "position_mismatch")
    assert say(http, session, 40, "def ")["details"] == second["details"]
    http.post(f"/sessions/{session}/rewind", json={"to": 4})
    assert say(http, session, 30)["generated_text"] == first["generated_text"]
    http.post(f"/sessions/{session}/rewind", json={"to": 0})
    empty = {"inputs": "", "session_id": session}
    assert "no text yet" in problem(http.post("/generate", json=empty), 422, "validation")
    error = http.post("/v1/completions", json={"session_id": session}).json()["error"]
    assert error["param"] == "prompt"
    assert error["message"] == "`prompt` cannot be empty in a session that has no text yet"
    ahead = http.post(f"/sessions/{session}/rewind", json={"to": 5})
    assert "0" in problem(ahead, 412, "position_mismatch")


def test_many_rewinds_and_forks_in_a_row_keep_the_text(http):
    session, said = new(http, text="The ", seed=8)["id"], "The "
    for turn in range(30):
        said += say(http, session, 7)["generated_text"]
        said = said[:-2]
        reply = http.post(f"/sessions/{session}/rewind", json={"to": len(said)})
        assert reply.status_code == 200
        if turn % 3 == 2:
            forks = http.post(f"/sessions/{session}/fork", json={"seeds": "same"}).json()
            session = forks["sessions"][0]["id"]
        assert http.get(f"/sessions/{session}/text").json()["text"] == said


def test_an_exported_session_continues_where_it_is_imported(http):
    session = new(http, text="The ", seed=11)["id"]
    say(http, session, 50)
    content = http.get(f"/sessions/{session}/state")
    assert content.headers["content-type"] == "application/octet-stream"
    binary = {"Content-Type": "application/octet-stream"}
    moved = http.post("/sessions/import", content=content.content, headers=binary)
    assert moved.status_code == 201
    assert moved.json()["position"] == 54
    assert moved.json()["id"] != session
    assert say(http, moved.json()["id"], 40)["details"] == say(http, session, 40)["details"]


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x+json; a=b"])
def test_an_export_is_bytes_and_never_parsed_as_anything_else(http, kind):
    content = b"[" + b"[]," * 1_000_000 + b"[]]"
    reply = http.post("/sessions/import", content=content, headers={"Content-Type": kind})
    assert kind.partition(";")[0] in problem(reply, 415, "bad_request")
    assert reply.elapsed < timedelta(seconds=0.5)


def test_an_export_may_come_without_a_media_type(http):
    session = new(http, text="The ", seed=11)["id"]
    content = http.get(f"/sessions/{session}/state").content
    assert http.post("/sessions/import", content=content).status_code == 201
    schema = http.get("/openapi.json").json()["paths"]["/sessions/import"]["post"]
    assert list(schema["requestBody"]["content"]) == ["application/octet-stream"]


@pytest.mark.parametrize("place", [0, 5, 60, 200, -40, -1])
def test_a_changed_export_is_refused(http, place):
    session = new(http, text="The ", seed=11)["id"]
    say(http, session, 50)
    content = bytearray(http.get(f"/sessions/{session}/state").content)
    content[place] ^= 1
    binary = {"Content-Type": "application/octet-stream"}
    reply = http.post("/sessions/import", content=bytes(content), headers=binary)
    problem(reply, 422, "validation")


@pytest.mark.parametrize("content", [b"", b"CRX1", b"x" * 100, b"CRX1" + b"\xff" * 64])
def test_what_is_no_export_is_refused(http, content):
    binary = {"Content-Type": "application/octet-stream"}
    problem(http.post("/sessions/import", content=content, headers=binary), 422, "validation")


def test_expected_position_makes_a_turn_conditional(http):
    session = new(http, text="The ")["id"]
    body = {"inputs": "", "session_id": session, "parameters": {"max_new_tokens": 3}}
    assert http.post("/generate", json=body | {"expected_position": 4}).status_code == 200
    sentence = problem(
        http.post("/generate", json=body | {"expected_position": 4}), 412, "position_mismatch"
    )
    assert "7" in sentence
    assert "4" in sentence
    alone = {"inputs": "a", "expected_position": 4}
    problem(http.post("/generate", json=alone), 422, "validation")


def test_an_idempotency_key_is_answered_once_for_all(http):
    session = new(http, text="The ", seed=3)["id"]
    headers = {"Idempotency-Key": "k1"}
    first = say(http, session, 30, headers=headers)
    assert say(http, session, 30, headers=headers) == first
    say(http, session, 20, "def ")  # the session continues
    assert say(http, session, 30, headers=headers) == first
    body = {"inputs": "", "session_id": session, "parameters": {"max_new_tokens": 31}}
    problem(http.post("/generate", json=body, headers=headers), 422, "key_reused")
    body = {"inputs": "", "parameters": SAMPLED | {"max_new_tokens": 30}, "session_id": session}
    again = http.post("/generate", json=body | {"stream": True}, headers=headers)
    problem(again, 422, "key_reused")
    assert http.get(f"/sessions/{session}").json()["turn"] == 2


def test_a_key_whose_turn_was_rewound_does_not_begin_another(http):
    session = new(http, text="The ", seed=3)["id"]
    headers = {"Idempotency-Key": "k1"}
    say(http, session, 30, headers=headers)
    http.post(f"/sessions/{session}/rewind", json={"to": 4})
    body = {
        "inputs": "",
        "session_id": session,
        "parameters": SAMPLED | {"max_new_tokens": 30},
    }
    problem(http.post("/generate", json=body, headers=headers), 412, "position_mismatch")
    assert http.get(f"/sessions/{session}").json()["position"] == 4


def test_a_taken_id_and_an_impossible_one_are_refused(http):
    new(http, session_id="a-game.1")
    problem(http.post("/sessions", json={"session_id": "a-game.1"}), 409, "session_exists")
    for wrong in ("", ".x", "a b", "a/b", "é", "x" * 65):
        problem(http.post("/sessions", json={"session_id": wrong}), 422, "validation")
    http.delete("/sessions/a-game.1")
    problem(http.get("/sessions/a-game.1"), 404, "session_not_found")
    assert new(http, session_id="a-game.1")["position"] == 0


class Full:
    """A model whose queue is full."""

    ref, tokenizer = "full@1", CharacterTokenizer("ab")
    manifest = SimpleNamespace(digest="ab" * 32)
    state_units = (8,)

    @property
    def runtime(self) -> SimpleNamespace:
        return SimpleNamespace(for_sessions=SimpleNamespace(ref=self.ref, engine=self))

    def check_capacity(self, _n: int, _owner: str) -> None:
        raise Overloaded("the queue is full")


async def test_a_text_that_is_refused_leaves_no_session_behind():
    """A session left behind would occupy its id, and the same request would always fail."""
    state = AppState(**dict.fromkeys(one.name for one in fields(AppState)))
    lease = SimpleNamespace(model=Full(), release=lambda: None)

    async def acquire(_: str | None) -> SimpleNamespace:
        return lease

    state.registry, state.owner_of = SimpleNamespace(acquire=acquire), lambda _: ""
    state.drain = SimpleNamespace(is_draining=False)
    request = SimpleNamespace(
        app=SimpleNamespace(state=SimpleNamespace(carousel=state)),
        scope={"state": {"caller": ANONYMOUS, MODEL_LEASES: ModelLeases()}},
    )
    with pytest.raises(Overloaded):
        await create(request, CreateSessionBody(session_id="a", text="ab"))
    with pytest.raises(UnknownCharacter):
        await create(request, CreateSessionBody(session_id="a", text="c"))


def test_a_session_belongs_to_its_model(http):
    session = new(http, text="The ")["id"]
    body = {"inputs": "a", "session_id": session, "model": "awkward"}
    sentence = problem(http.post("/generate", json=body), 409, "state_model_mismatch")
    assert "demo@1" in sentence
    assert http.post("/generate", json=body | {"model": "demo"}).status_code == 200


def test_header_and_body_must_name_the_same_session(http):
    session = new(http, text="The ")["id"]
    body = {"inputs": "a", "session_id": session}
    wrong = http.post("/generate", json=body, headers={"X-Session-Id": "other"})
    problem(wrong, 422, "validation")
    right = http.post("/generate", json=body, headers={"X-Session-Id": session})
    assert right.status_code == 200


def test_a_text_that_the_model_cannot_read_changes_nothing(http):
    session = new(http, text="The ")["id"]
    for path, field in (("append", "text"), ("", "")):
        url = f"/sessions/{session}/{path}" if path else "/generate"
        body = {field: "漢"} if field else {"inputs": "漢", "session_id": session}
        problem(http.post(url, json=body), 422, "unknown_character")
    assert http.get(f"/sessions/{session}").json()["position"] == 4


def test_penalties_see_the_turns_before(http):
    parameters = {"repetition_penalty": 1.8, "temperature": 0.9}
    one, two = new(http, text="The ", seed=5)["id"], new(http, text="The ", seed=5)["id"]
    whole = say(http, one, 90, parameters=parameters)
    parts = [say(http, two, 30, parameters=parameters) for _ in range(3)]
    assert whole["generated_text"] == "".join(part["generated_text"] for part in parts)


def test_return_full_text_and_a_whole_replay_agree(http):
    session = new(http, text="The ", seed=5)["id"]
    headers = {"Idempotency-Key": "full"}
    options = {"parameters": {"return_full_text": True, "top_n_tokens": 3}, "headers": headers}
    first = say(http, session, 20, "x ", **options)
    assert first["generated_text"].startswith("x ")
    assert say(http, session, 20, "x ", **options) == first
    options["parameters"]["truncate"] = 3
    options["headers"] = {"Idempotency-Key": "cut"}
    cut = say(http, session, 20, "The fox ", **options)
    assert cut["generated_text"].startswith("The fox ")
    assert cut["session"]["position"] == first["session"]["position"] + 23
    assert say(http, session, 20, "The fox ", **options) == cut


def test_fifty_clients_continue_one_session_and_one_of_them_does(http):
    session = new(http, text="The ", seed=5)["id"]
    body = {
        "inputs": "",
        "session_id": session,
        "expected_position": 4,
        "parameters": SAMPLED | {"max_new_tokens": 400},
    }

    def go_on(_: int) -> httpx2.Response:
        return http.post("/generate", json=body)

    with ThreadPoolExecutor(50) as pool:
        replies = list(pool.map(go_on, range(50)))
    statuses = [reply.status_code for reply in replies]
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 409, 412}
    assert all(r.headers["retry-after"] == "1" for r in replies if r.status_code == 409)
    seen = http.get(f"/sessions/{session}").json()
    assert (seen["position"], seen["turn"]) == (404, 1)
    (won,) = [reply.json() for reply in replies if reply.status_code == 200]
    text = http.get(f"/sessions/{session}/text?from=4").json()["text"]
    assert text == won["generated_text"]


def test_twenty_clients_with_one_key_get_one_turn(http):
    session = new(http, text="The ", seed=5)["id"]
    body = {"inputs": "", "session_id": session, "parameters": SAMPLED | {"max_new_tokens": 300}}

    def go_on(_: int) -> httpx2.Response:
        return http.post("/generate", json=body, headers={"Idempotency-Key": "one"})

    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(go_on, range(20)))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.text for reply in replies}) == 1
    assert http.get(f"/sessions/{session}").json()["turn"] == 1


# -- a turn is cancelled


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_turn_is_cancelled_and_the_session_continues_from_there(http, server, is_stream):
    session = new(http, text="The ")["id"]
    path = f"/sessions/{session}"
    body = {"inputs": "", "session_id": session, "stream": is_stream}
    body["parameters"] = SAMPLED | {"max_new_tokens": 1_000_000}
    with ThreadPoolExecutor(1) as pool, httpx2.Client(base_url=server.url, timeout=30) as other:
        running = pool.submit(other.post, "/generate", json=body)
        while http.get(path).json()["position"] < 300:
            pass
        reply = http.post(f"{path}/cancel")
        ended = running.result(10)
    assert reply.status_code == 200
    cancelled = reply.json()
    assert cancelled["turn"] == 1
    if is_stream:
        events = events_of(ended.text)
        assert events[-1][1]["error_type"] == "generation"
        said = "The " + "".join(event["token"]["text"] for _, event in events[:-1])
        assert http.get(f"{path}/text").json() == {"text": said, "position": cancelled["position"]}
    else:
        problem(ended, 424, "generation")
    assert http.post(f"{path}/cancel").json() | {"expires_at": 0} == cancelled | {"expires_at": 0}
    assert http.post(f"{path}/cancel?turn=7").json()["position"] == cancelled["position"]
    assert say(http, session, 5)["session"] == {
        "id": session,
        "position": cancelled["position"] + 5,
        "turn": 2,
    }


def test_the_fingerprint_of_a_request_is_its_members_that_are_not_defaults():
    body = {"inputs": "a", "stream": False, "parameters": {"top_k": 3, "max_new_tokens": 5}}
    expected = '{"inputs": "a", "parameters": {"max_new_tokens": 5, "top_k": 3}}'
    assert GenerateBody.model_validate(body).fingerprint == expected
    reordered = dict(reversed(body.items()), session_id=None)
    assert GenerateBody.model_validate(reordered).fingerprint == expected
