"""The log has one record for each request: what operators ask, and nothing that opens a session."""

import json
import logging

import pytest

from service.api.caller import Caller, set_caller
from service.api.request_log import RequestLog, RequestRecords
from service.api.route_templates import RouteTemplates
from service.api.tracing import NoTracer
from tests.api.test_request_log import log_line, post

ID = "ilztgd6xjnkmton4gzzw3ns6tats5tqcvu"


@pytest.mark.parametrize("session_id", [ID, "abcdef", "abc", "a", "text", "admin", "sessions"])
@pytest.mark.parametrize(
    "path",
    [
        "/sessions/{}",
        "//sessions/{}",
        "/sessions//{}",
        "/Sessions/{}",
        "/SESSIONS/{}/text",
        "/v1/sessions/{}",
        "/sessions/{}/text",
        "/sessions/{}/nowhere",
        "/api/v2/sessions/{}/events/",
        "/admin/sessions/{}",
    ],
)
def test_no_path_shows_a_whole_session_id(path, session_id):
    templates = RouteTemplates()
    given = path.format(session_id)
    shown = templates.shown_path(given, templates.of({"path": given}))
    around = path.format("\0").casefold().split("/")
    i = around.index("\0")
    assert shown.split("/")[i] == session_id[: min(6, len(session_id) // 2)] + "…"


@pytest.mark.parametrize("word", [ID, "abcdef"])
def test_an_id_is_not_shown_in_any_other_place_either(word):
    templates = RouteTemplates()
    for path in (f"/{word}", f"/session/{word}", f"/generate/{word}", f"/{word}/text"):
        assert word not in templates.shown_path(path, templates.of({"path": path}))


def test_other_paths_are_whole():
    templates = RouteTemplates()
    for path in ("/generate", "/admin/models/demo@1/load", "/sessions", "/v1/models/demo"):
        assert templates.shown_path(path, templates.of({"path": path})) == path


def test_a_generation_has_its_model_its_tokens_and_its_times(server, http):
    body = {"inputs": "The king ", "parameters": {"max_new_tokens": 30}}
    _, request_id = post(http, "/generate_stream", body)
    line = log_line(server, request_id)
    expected = {
        "level": "info",
        "method": "POST",
        "route": "/generate_stream",
        "status": 200,
        "model": "demo@1",
        "prompt_tokens": 9,
        "generated_tokens": 30,
        "finish": "length",
    }
    assert {name: line[name] for name in expected} == expected
    assert 0 <= line["queue_ms"] <= line["first_token_ms"] <= line["duration_ms"]
    assert "king" not in json.dumps(line)


async def record_of(caplog, path: str, status: int, caller: Caller | None = None):
    async def answer(scope, _receive, send) -> None:
        if caller:
            set_caller(scope, caller)
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def send(_) -> None:
        pass

    app = RequestLog(answer, [RequestRecords(lambda owner: f"<{owner[:2]}>").ended], NoTracer())
    with caplog.at_level(logging.DEBUG):
        await app({"type": "http", "method": "GET", "path": path, "headers": []}, None, send)
    return caplog.records[-1]


@pytest.mark.parametrize(
    ("path", "status", "level"),
    [
        ("/generate", 200, "INFO"),
        ("/generate", 404, "INFO"),
        ("/generate", 500, "ERROR"),
        ("/generate", 503, "ERROR"),
        ("/health/ready", 200, "DEBUG"),
        ("/health/ready", 503, "DEBUG"),
        ("/health/live", 200, "DEBUG"),
        ("/metrics", 200, "DEBUG"),
    ],
)
async def test_the_level_is_that_of_the_status_and_probes_are_quiet(caplog, path, status, level):
    assert (await record_of(caplog, path, status)).levelname == level


async def test_a_record_has_the_keys_id_and_a_tag_of_the_owner(caplog):
    caller = Caller("alice", "k1", frozenset({"generate"}), None)
    record = await record_of(caplog, "/generate", 200, caller)
    assert (record.key, record.owner) == ("k1", "<al>")
    anonymous = vars(await record_of(caplog, "/generate", 200))
    assert not {"key", "owner", "trace_id", "error_type"} & anonymous.keys()
