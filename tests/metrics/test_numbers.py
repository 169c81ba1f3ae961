"""Each family's number is that of what was done, on a running server."""

import time

import pytest

PROMPT = "The king "
STREAM = {"inputs": PROMPT, "parameters": {"max_new_tokens": 100, "do_sample": True, "seed": 1}}


def settled(scrape, name, n, **labels):
    """A scrape in which a counter has reached n: a request is counted after its last byte."""
    until = time.monotonic() + 10
    while (found := scrape()).value(name, **labels) < n and time.monotonic() < until:
        time.sleep(0.02)
    return found


def done(scrape, before, n):
    return settled(scrape, "carousel_finished_total", before.value("carousel_finished_total") + n)


def test_a_stream_is_counted_with_its_tokens_and_its_times(http, scrape):
    before = scrape()
    for _ in range(3):
        reply = http.post("/generate_stream", json=STREAM)
        assert reply.text.count("data: ") == 100
    after = done(scrape, before, 3)
    model = {"model": "demo@1"}

    def grown(name, **labels):
        return after.since(before, name, **labels)

    route = {"route": "/generate_stream", "status": "200", "error_type": ""} | model
    assert grown("carousel_requests_total", **route) == 3
    assert grown("carousel_request_duration_seconds_count", streamed="yes") == 3
    assert grown("carousel_generated_tokens_total", **model) == 300
    assert grown("carousel_prompt_tokens_total", source="fed", **model) == 3 * len(PROMPT)
    assert grown("carousel_finished_total", reason="length", **model) == 3
    assert grown("carousel_queue_seconds_count", **model) == 3
    assert grown("carousel_time_to_first_token_seconds_count", session="no", **model) == 3
    assert grown("carousel_time_per_output_token_seconds_count", **model) == 3
    n_deliveries = grown("carousel_inter_delivery_seconds_count", **model)
    n_bursts = grown("carousel_step_rows_count", **model)
    assert 3 <= n_deliveries <= n_bursts
    assert grown("carousel_step_rows_sum", **model) == n_bursts  # one row at a time
    first_s = grown("carousel_time_to_first_token_seconds_sum")
    per_token_s = grown("carousel_time_per_output_token_seconds_sum")
    total_s = grown("carousel_request_duration_seconds_sum", streamed="yes")
    assert 0 < grown("carousel_queue_seconds_sum") < first_s
    assert first_s + per_token_s * 99 < total_s


def test_several_texts_of_one_request_are_one_request_with_all_their_tokens(http, scrape):
    before = scrape()
    body = {"prompt": [PROMPT, "A "], "n": 2, "max_tokens": 10}
    assert len(http.post("/v1/completions", json=body).json()["choices"]) == 4
    after = done(scrape, before, 1)
    assert after.since(before, "carousel_generated_tokens_total") == 40
    assert after.since(before, "carousel_queue_seconds_count") == 1
    assert after.since(before, "carousel_inter_delivery_seconds_count") == 0


def test_tokens_that_are_scored_are_read_and_not_generated(http, scrape):
    before = scrape()
    assert http.post("/score", json={"inputs": "a" * 50}).status_code == 200
    after = scrape()
    assert after.since(before, "carousel_generated_tokens_total") == 0


def test_beams_count_the_tokens_of_their_texts(http, scrape):
    before = scrape()
    body = {"prompt": "A ", "max_tokens": 12, "n": 2, "use_beam_search": True}
    reply = http.post("/v1/completions", json=body).json()
    after = done(scrape, before, 1)
    tokens = reply["usage"]["completion_tokens"]
    assert after.since(before, "carousel_generated_tokens_total") == tokens


def test_a_known_prefix_is_a_hit_and_its_tokens_are_not_fed_again(http, scrape):
    body = {"prompt": "To be or not to be, that is the question. " * 8, "max_tokens": 1}
    begin = scrape()
    http.post("/v1/completions", json=body)
    before = done(scrape, begin, 1)
    http.post("/v1/completions", json=body)
    after = done(scrape, before, 1)
    assert before.since(begin, "carousel_prefix_lookups_total", result="miss") == 1
    assert after.since(before, "carousel_prefix_lookups_total", result="hit") == 1
    known = after.since(before, "carousel_prompt_tokens_total", source="known")
    assert known > 200
    fed = after.since(before, "carousel_prompt_tokens_total", source="fed")
    assert known + fed == len(body["prompt"])


def test_a_turn_of_a_session_is_counted_with_its_commits(http, scrape):
    before = scrape()
    session = http.post("/sessions", json={}).json()["id"]
    http.post("/generate_stream", json=STREAM | {"session_id": session})
    after = done(scrape, before, 1)
    assert after.since(before, "carousel_time_to_first_token_seconds_count", session="yes") == 1
    n_commits = after.since(before, "carousel_commit_seconds_count")
    assert n_commits >= 1
    assert after.since(before, "carousel_commit_turns_sum") >= n_commits
    assert after.since(before, "carousel_generated_tokens_total") == 100
    assert after.value("carousel_sessions_running") == 0
    assert after.value("carousel_store_up") == 1
    assert 0 < after.value("carousel_store_used_bytes") < after.value("carousel_store_limit_bytes")


def test_a_busy_session_is_a_conflict_and_runs(http, scrape):
    session = http.post("/sessions", json={}).json()["id"]
    long = STREAM | {"session_id": session, "parameters": {"max_new_tokens": 100_000}}
    before = scrape()
    with http.stream("POST", "/generate_stream", json=long) as running:
        lines = running.iter_lines()  # kept: its end would close the response
        next(lines)
        during = scrape()
        refused = http.post("/generate", json=STREAM | {"session_id": session})
    assert refused.json()["error_type"] == "session_busy"
    assert during.value("carousel_sessions_running") == 1
    assert during.value("carousel_running", model="demo@1") == 1
    after = done(scrape, before, 1)
    name = "carousel_session_conflicts_total"
    assert after.since(before, name, error_type="session_busy") == 1
    assert after.since(before, "carousel_finished_total", reason="cancelled") == 1


def test_a_turn_that_is_cancelled_under_its_reader_is_counted_so(http, scrape):
    session = http.post("/sessions", json={}).json()["id"]
    long = STREAM | {"session_id": session, "parameters": {"max_new_tokens": 1_000_000}}
    before = scrape()
    with http.stream("POST", "/generate_stream", json=long) as running:
        lines = running.iter_lines()
        next(lines)
        assert http.post(f"/sessions/{session}/cancel").status_code == 200
        assert any("the turn was cancelled" in line for line in lines)
    after = done(scrape, before, 1)
    assert after.since(before, "carousel_finished_total", reason="cancelled") == 1
    assert after.since(before, "carousel_finished_total", reason="error") == 0


def test_a_client_that_leaves_has_cancelled(http, scrape):
    before = scrape()
    body = {"inputs": "a", "parameters": {"max_new_tokens": 100_000, "do_sample": True}}
    with http.stream("POST", "/generate_stream", json=body) as running:
        next(running.iter_lines())
    after = done(scrape, before, 1)
    assert after.since(before, "carousel_finished_total", reason="cancelled") == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "error_type"),
    [
        ("/generate", {"inputs": "a", "model": "nobody"}, "404", "model_not_found"),
        ("/v1/completions", {"prompt": "a", "n": 0}, "422", "validation"),
        ("/generate", {"inputs": "☃"}, "422", "unknown_character"),
    ],
)
def test_a_refusal_is_counted_by_its_code_without_a_model(
    http, scrape, path, body, status, error_type
):
    labels = {"route": path, "model": "", "status": status, "error_type": error_type}
    before = scrape()
    http.post(path, json=body)
    n = before.value("carousel_requests_total", **labels) + 1
    after = settled(scrape, "carousel_requests_total", n, **labels)
    assert after.since(before, "carousel_requests_total", **labels) == 1


def test_models_are_those_in_memory(http, scrape):
    assert http.post("/admin/models/awkward@1/load").status_code == 200
    before = scrape()
    assert before.value("carousel_model_loaded") == 2
    assert before.value("carousel_model_load_seconds_count", model="awkward@1") >= 1
    listed = {one["name"]: one["bytes"] for one in http.get("/admin/models").json()["models"]}
    assert before.value("carousel_model_bytes", model="awkward@1") == listed["awkward"]
    assert before.value("carousel_model_budget_bytes") > listed["demo"]
    name = "carousel_memory_bytes"
    parts = {dict(labels)["part"] for family, labels in before.series if family == name}
    assert parts == {"weights", "programs", "states", "texts", "prefix_cache", "constraint_tables"}
    http.post("/admin/models/awkward@1/unload")
    after = scrape()
    less = after.since(before, "carousel_memory_bytes", part="weights")
    assert less < 0
    http.post("/admin/models/awkward@1/load")
    left = {name for name, labels in after.series if ("model", "awkward@1") in labels}
    assert not left & {"carousel_model_loaded", "carousel_model_bytes", "carousel_rows"}


def test_the_counters_of_a_model_go_on_when_it_is_loaded_again(http, scrape):
    before, names = scrape(), ("carousel_generated_tokens_total", "carousel_step_rows_count")
    body = {"inputs": "é", "model": "awkward", "parameters": {"max_new_tokens": 4}}
    for n in (1, 2, 3):
        assert http.post("/admin/models/awkward@1/load").status_code == 200
        assert http.post("/generate", json=body).status_code == 200
        http.post("/admin/models/awkward@1/unload")
        after = scrape()
        assert after.since(before, "carousel_generated_tokens_total", model="awkward@1") == 4 * n
        assert after.since(before, "carousel_model_load_seconds_count", model="awkward@1") == n
        labels = {"model": "awkward@1", "status": "200"}
        assert after.since(before, "carousel_requests_total", **labels) == n
    assert all(after.value(name, model="awkward@1") > 0 for name in names)


def test_the_main_port_has_the_same_metrics(http, scrape):
    reply = http.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "carousel_build_info" in reply.text
    version = http.get("/info").json()["version"]
    assert scrape().value("carousel_build_info", version=version) == 1
