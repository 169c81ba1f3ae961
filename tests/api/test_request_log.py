"""The log line of a refused request tells why it was refused, and quotes nothing of it."""

import json
import time
import uuid

import pytest

from service.api.exchange import refusal_of

TEXTS = {"model": "awkward", "prompt": ["<"] * 8, "n": 128, "max_tokens": 1_000_000}


def log_line(server, request_id):
    """The record of a request; it is written after the reply has been sent."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        lines = [
            json.loads(line) for line in server.log.read_text().splitlines() if line[:1] == "{"
        ]
        found = [one for one in lines if one.get("request_id") == request_id]
        if found:
            return found[-1]
        time.sleep(0.05)
    raise AssertionError(f"no log line has the id {request_id}")


def post(http, path, body):
    request_id = uuid.uuid4().hex
    headers = {"X-Request-Id": request_id}
    return http.post(path, json=body, headers=headers, timeout=120), request_id


def test_a_429_is_told_from_another_by_its_reason(server, http):
    with http.stream(
        "POST", "/v1/completions", json=TEXTS | {"stream": True}, timeout=120
    ) as running:
        assert running.status_code == 200, running.read()
        lines = running.iter_lines()  # kept: its end would close the response
        next(lines)
        reply, request_id = post(http, "/v1/completions", TEXTS)
    assert reply.status_code == 429
    line = log_line(server, request_id)
    assert line["status"] == 429
    assert line["error_type"] == reply.json()["error"]["code"] == "overloaded"
    assert line["reason"] == reply.json()["error"]["message"]
    assert "the limit" in line["reason"]


@pytest.mark.parametrize(
    ("path", "body", "error_type", "reason"),
    [
        ("/generate", {"inputs": "a", "model": "none"}, "model_not_found", None),
        ("/generate", {"inputs": "secret \u2603"}, "unknown_character", "no token for … …"),
        (
            "/generate",
            {"inputs": "a", "parameters": {"temperature": "secret"}},
            "validation",
            "Given: …",
        ),
        ("/sessions", {"session_id": "a/secret"}, "validation", "… is no session id"),
        ("/v1/completions", {"prompt": "a", "temperature": -1}, "validation", "Given: …"),
        ("/nowhere", {}, "bad_request", "Not Found"),
        ("/generate", {"inputs": "a", "my secret": 1}, "validation", "… is not a known field"),
    ],
)
def test_a_refusals_line_has_its_reason_and_quotes_nothing(
    server, http, path, body, error_type, reason
):
    reply, request_id = post(http, path, body)
    line = log_line(server, request_id)
    assert line["status"] == reply.status_code
    assert line["error_type"] == error_type
    assert reason is None or reason in line["reason"]
    assert "secret" not in json.dumps(line)


def test_a_request_that_is_served_has_neither(server, http):
    reply, request_id = post(http, "/tokenize", {"inputs": "a"})
    assert reply.status_code == 200
    assert not {"error_type", "reason"} & log_line(server, request_id).keys()


@pytest.mark.parametrize("body", [b"", b"x", b"[]", b"{}", b'{"error": 1}', b'{"error": {}}'])
def test_a_body_of_any_other_shape_is_no_mistake(body):
    assert refusal_of(body) == {}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("the session's text is the model's own", "the session's text is the model's own"),
        (repr("it's") + " and " + repr('"') + " and " + repr("'\""), "… and … and …"),
        ("`John Doe, 7` is not a known field", "… is not a known field"),
        ("`parameters.john` is not a known field", "… is not a known field"),
        ("`stop.0` must be a string", "`stop.0` must be a string"),
        ("`my text` must be a string", "… must be a string"),
        ("regex 'a secret that is cut", "regex …"),
        ("there is no POST /v1/secret; /docs lists the routes", "there is no …"),
    ],
)
def test_quoted_values_are_left_out_and_apostrophes_are_not(message, reason):
    body = json.dumps({"error": message, "error_type": "x"}).encode()
    assert refusal_of(body)["reason"] == reason
