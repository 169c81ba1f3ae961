"""The `openai` package, unchanged, against the running server."""

import asyncio
import json
import socket
import threading
import time

import openai
import pytest

from tests.api.conftest import AWKWARD

PLAIN = {"model": "demo", "prompt": "The ", "max_tokens": 40, "seed": 5}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def complete(client, **more):
    return client.completions.create(**PLAIN | more)


def text_of(client, **more) -> str:
    return complete(client, **more).choices[0].text


def logits(client, token: str) -> dict[str, int]:
    vocabulary = client.models.retrieve("demo").vocabulary
    return {str(vocabulary.index(token)): 100}


# -- requests


def test_a_completion_has_every_field_that_the_package_knows(client):
    reply = complete(client)
    assert reply.object == "text_completion"
    assert reply.id.startswith("cmpl-")
    assert reply.model == "demo@1"
    assert abs(reply.created - time.time()) < 60
    assert reply.system_fingerprint.startswith("fp_")
    (choice,) = reply.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert len(choice.text) == 40
    usage = reply.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (4, 40, 44)
    assert usage.prompt_tokens_details.cached_tokens >= 0
    assert reply._request_id


def test_async_gives_the_same_text(server, client):
    async def say() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as other:
            reply = await other.completions.create(**PLAIN)
            stream = await other.completions.create(**PLAIN, stream=True)
            pieces = [chunk.choices[0].text async for chunk in stream]
            models = [model.id async for model in other.models.list()]
            assert "demo@1" in models
            return reply.choices[0].text, "".join(pieces)

    assert asyncio.run(say()) == (text_of(client),) * 2


def test_a_stream_has_the_same_text_and_ends_with_its_usage(client):
    stream = complete(client, stream=True, stream_options={"include_usage": True})
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == text_of(client)
    assert len(chunks) == 40
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * 39 + ["length"]
    assert {chunk.id for chunk in chunks} == {last.id}
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage == complete(client).usage


def test_there_is_no_usage_unless_requested(client):
    assert all("usage" not in chunk.model_fields_set for chunk in complete(client, stream=True))


def test_it_samples_unless_the_temperature_is_zero(client):
    drawn = {text_of(client, seed=None) for _ in range(3)}
    assert len(drawn) > 1
    greedy = {text_of(client, seed=None, temperature=0) for _ in range(3)}
    assert len(greedy) == 1


def test_the_same_seed_gives_the_same_text_on_every_api(http, client):
    tgi = {"max_new_tokens": 40, "seed": 5, "do_sample": True}
    body = {"inputs": "The ", "model": "demo", "parameters": tgi}
    native = http.post("/generate", json=body).json()["generated_text"]
    assert native == text_of(client)
    streamed = http.post("/generate_stream", json=body).text
    assert f'"generated_text":{json.dumps(native)}' in streamed


def test_token_ids_are_a_prompt_too(http, client):
    tokens = http.post("/tokenize", json={"inputs": "The "}).json()
    assert text_of(client, prompt=[token["id"] for token in tokens]) == text_of(client)


@pytest.mark.parametrize("as_ids", [False, True])
def test_several_prompts_are_answered_in_their_order(http, client, as_ids):
    texts = ["The ", "class A", "x = "]
    alone = [text_of(client, prompt=text) for text in texts]
    prompts = texts
    if as_ids:
        tokens = [http.post("/tokenize", json={"inputs": text}).json() for text in texts]
        prompts = [[token["id"] for token in one] for one in tokens]
    reply = complete(client, prompt=prompts)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert [choice.text for choice in reply.choices] == alone
    assert reply.usage.prompt_tokens == sum(map(len, texts))
    assert reply.usage.completion_tokens == 120
    growing = ["", "", ""]
    for chunk in complete(client, prompt=prompts, stream=True):
        growing[chunk.choices[0].index] += chunk.choices[0].text
    assert growing == alone


def test_stop_strings_are_not_shown(client):
    text = text_of(client)
    reply = complete(client, stop=text[20:23])
    assert reply.choices[0].text == text[: text.index(text[20:23])]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].stop_reason == text[20:23]
    assert text_of(client, stop=["\x00", text[20:23]]) == reply.choices[0].text
    chunks = list(complete(client, stop=[text[20:23]], stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == reply.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_stop_string_may_be_shown(client):
    text = text_of(client)
    stop = text[20:23]
    extra = {"include_stop_str_in_output": True}
    shown = text[: text.index(stop) + 3]
    assert text_of(client, stop=[stop], extra_body=extra) == shown
    chunks = complete(client, stop=[stop], stream=True, extra_body=extra)
    assert "".join(chunk.choices[0].text for chunk in chunks) == shown


@pytest.mark.parametrize("echo", [False, True])
def test_logprobs_are_the_same_streamed_and_their_offsets_go_on(client, echo):
    whole = complete(client, logprobs=3, echo=echo).choices[0]
    assert whole.text == ("The " if echo else "") + text_of(client)
    told = whole.logprobs
    assert "".join(told.tokens) == whole.text
    assert told.text_offset == list(range(len(whole.text)))
    assert (told.token_logprobs[0] is None) == echo  # the first token has none
    for token, logprob, top in zip(
        told.tokens, told.token_logprobs, told.top_logprobs, strict=True
    ):
        assert (top is None) == (logprob is None)
        if top is not None:
            assert top[token] == logprob <= 0
            assert 3 <= len(top) <= 4
    parts: dict[str, list] = {}
    for chunk in complete(client, logprobs=3, echo=echo, stream=True):
        for name, values in chunk.choices[0].logprobs.model_dump().items():
            parts.setdefault(name, []).extend(values)
    assert parts == told.model_dump()


def test_several_choices_grow_together_and_the_first_is_the_only_one(client):
    alone = text_of(client, max_tokens=400)
    reply = complete(client, n=3, max_tokens=400)
    texts = [choice.text for choice in reply.choices]
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert texts[0] == alone
    assert len(set(texts)) == 3
    assert reply.usage.completion_tokens == 1_200
    assert reply.usage.prompt_tokens == 4
    growing, order = ["", "", ""], []
    for chunk in complete(client, n=3, max_tokens=400, stream=True):
        growing[chunk.choices[0].index] += chunk.choices[0].text
        order.append(chunk.choices[0].index)
    assert growing == texts
    assert sorted(order) != order  # interleaved


def test_choices_of_several_prompts_are_in_order(client):
    prompts = ["The ", "class A"]
    alone = [choice.text for one in prompts for choice in complete(client, prompt=one, n=2).choices]
    reply = complete(client, prompt=prompts, n=2)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in reply.choices] == alone


def test_the_best_of_many_are_those_with_the_highest_mean_logprob(client):
    every = complete(client, n=8, logprobs=0).choices
    means = {
        choice.text: sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)
        for choice in every
    }
    best = complete(client, n=2, best_of=8)
    ranked = sorted(means, key=means.__getitem__, reverse=True)
    assert [choice.text for choice in best.choices] == ranked[:2]
    assert best.usage.completion_tokens == 8 * 40
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        complete(client, best_of=2, stream=True)
    assert refused.value.param == "best_of"


def test_a_prompt_is_scored_without_a_text(client):
    options = {"echo": True, "logprobs": 1, "max_tokens": 0}
    choice = complete(client, **options).choices[0]
    assert (choice.text, choice.finish_reason) == ("The ", "length")
    assert choice.logprobs.tokens == list("The ")
    assert choice.logprobs.text_offset == [0, 1, 2, 3]
    said = complete(client, prompt="T", logprobs=1, temperature=0, max_tokens=5).choices[0]
    again = complete(client, prompt=f"T{said.text}", **options).choices[0]
    assert again.logprobs.token_logprobs[1:] == said.logprobs.token_logprobs
    many = complete(client, prompt=["The ", "T"], **options)
    assert many.choices[0].logprobs == choice.logprobs
    assert many.choices[1].logprobs.token_logprobs == [None]
    assert many.usage.completion_tokens == 0
    vllm = complete(client, max_tokens=1, extra_body={"prompt_logprobs": 0}).choices[0]
    told = [None if one is None else next(iter(one.values())) for one in vllm.prompt_logprobs]
    assert [one and one["logprob"] for one in told] == choice.logprobs.token_logprobs


def test_logprobs_zero_is_the_sampled_token_alone(client):
    told = complete(client, logprobs=0).choices[0].logprobs
    assert all(
        list(top) == [token] for top, token in zip(told.top_logprobs, told.tokens, strict=True)
    )


def test_a_bias_by_token_id(client):
    assert text_of(client, logit_bias=logits(client, "q"), max_tokens=3) == "qqq"


@pytest.mark.parametrize(
    "shape",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {
            "type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}}}},
        {"structured_outputs": {"json": {
            "type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}}},
    ],
)  # fmt: skip
def test_a_schema_is_kept_whole_and_streamed(client, shape):
    text = text_of(client, extra_body=shape)
    assert isinstance(json.loads(text)["a"], bool)
    chunks = list(complete(client, extra_body=shape, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == text
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_request_for_too_many_texts_is_refused(client):
    with pytest.raises(openai.UnprocessableEntityError, match="1152 texts") as refusal:
        complete(client, prompt=["The "] * 9, n=128)
    assert refusal.value.param == "n"


def test_raw_and_streaming_responses(client):
    raw = client.completions.with_raw_response.create(**PLAIN)
    assert raw.headers["x-request-id"] == raw.parse()._request_id
    with client.completions.with_streaming_response.create(**PLAIN, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) == 41


def test_options_of_a_client_and_of_a_request(client):
    mine = {"X-Request-Id": "mine-1"}
    assert complete(client, extra_headers=mine)._request_id == "mine-1"
    other = client.with_options(timeout=20, max_retries=1, default_headers=mine)
    assert complete(other)._request_id == "mine-1"


# -- models


def test_models_are_listed_with_their_aliases(client):
    models = {model.id: model for model in client.models.list()}
    assert list(models) == ["demo@1", "awkward@1", "default"]
    assert models["default"].root == "demo@1"
    assert {model.owned_by for model in models.values()} == {"carousel"}
    assert all(model.object == "model" and model.created > 0 for model in models.values())


@pytest.mark.parametrize("name", ["demo", "demo@1", "default"])
def test_a_model_has_its_vocabulary(http, client, name):
    model = client.models.retrieve(name)
    assert model.id == name
    assert model.root == "demo@1"
    (token,) = http.post("/tokenize", json={"inputs": "q"}).json()
    assert model.vocabulary[token["id"]] == "q"
    assert len(model.vocabulary) == model.vocabulary_size


def test_models_are_not_deleted_here(client):
    with pytest.raises(openai.APIStatusError) as refused:
        client.models.delete("demo")
    assert refused.value.status_code == 405


# -- errors


@pytest.mark.parametrize(
    ("more", "kind", "param", "code"),
    [
        ({"temperature": -1}, openai.UnprocessableEntityError, "temperature", "validation"),
        ({"max_tokens": -1}, openai.UnprocessableEntityError, "max_tokens", "validation"),
        ({"top_p": 1.1}, openai.UnprocessableEntityError, "top_p", "validation"),
        ({"logprobs": 21}, openai.UnprocessableEntityError, "logprobs", "validation"),
        (
            {"extra_body": {"repetition_penalty": 1e308}},
            openai.UnprocessableEntityError,
            "repetition_penalty",
            "validation",
        ),
        (
            {"extra_body": {"truncate_prompt_tokens": 0}},
            openai.UnprocessableEntityError,
            "truncate_prompt_tokens",
            "validation",
        ),
        ({"n": 0}, openai.UnprocessableEntityError, "n", "validation"),
        ({"n": 2, "best_of": 1}, openai.UnprocessableEntityError, "best_of", "validation"),
        ({"stop": ["a"] * 5}, openai.UnprocessableEntityError, "stop", "validation"),
        ({"stop": ""}, openai.UnprocessableEntityError, "stop", "validation"),
        ({"suffix": "x"}, openai.UnprocessableEntityError, "suffix", "validation"),
        ({"prompt": ""}, openai.UnprocessableEntityError, "prompt", "validation"),
        ({"prompt": []}, openai.UnprocessableEntityError, "prompt", "validation"),
        ({"prompt": ["a", 1]}, openai.UnprocessableEntityError, "prompt", "validation"),
        ({"prompt": [96]}, openai.UnprocessableEntityError, "prompt", "validation"),
        ({"prompt": ["a"] * 257}, openai.UnprocessableEntityError, "prompt", "validation"),
        ({"prompt": "中"}, openai.UnprocessableEntityError, "prompt", "unknown_character"),
        ({"logit_bias": {"x": 1}}, openai.UnprocessableEntityError, "logit_bias", "validation"),
        ({"model": "nobody"}, openai.NotFoundError, "model", "model_not_found"),
        ({"extra_body": {"colour": 1}}, openai.UnprocessableEntityError, "colour", "validation"),
        (
            {"stream_options": {"include_usage": True}},
            openai.UnprocessableEntityError,
            "stream_options",
            "validation",
        ),
        (
            {"extra_body": {"response_format": {"type": "xml"}}},
            openai.UnprocessableEntityError,
            "response_format",
            "validation",
        ),
        (
            {"extra_body": {"structured_outputs": {"regex": "中+"}}},
            openai.UnprocessableEntityError,
            "structured_outputs",
            "validation",
        ),
        (
            {"extra_body": {"structured_outputs": {"regex": "a{41}"}}},
            openai.UnprocessableEntityError,
            "max_tokens",
            "validation",
        ),
        (
            {"extra_body": {"structured_outputs": {"json": {}, "regex": "a"}}},
            openai.UnprocessableEntityError,
            "structured_outputs",
            "validation",
        ),
        (
            {"extra_body": {"guided_regex": "a", "guided_choice": ["b"]}},
            openai.UnprocessableEntityError,
            "guided_choice",
            "validation",
        ),
        (
            {"extra_body": {"session_id": "nobody"}},
            openai.NotFoundError,
            None,
            "session_not_found",
        ),
        (
            {"extra_body": {"expected_position": 1}},
            openai.UnprocessableEntityError,
            "expected_position",
            "validation",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_is_the_packages_class_and_names_the_field(
    client, more, kind, param, code, stream
):
    if stream and "stream_options" in more:
        more = {"stream_options": {"colour": True}}
        param = "stream_options.colour"
    with pytest.raises(kind) as refused:
        complete(client, **more, stream=stream)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert refused.value.type == "invalid_request_error"
    assert refused.value.body["message"]
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert refused.value.request_id


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1", 404),
        ("POST", "/v1/audio/speech", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/v1/models", 405),
    ],
)
def test_unknown_routes_have_openais_shape(http, method, path, status):
    reply = http.request(method, path)
    assert reply.status_code == status
    assert reply.json()["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"{", 400), (b'"a"', 422), (b"x" * (8 * 1024 * 1024 + 1), 413)],
)
def test_bodies_that_cannot_be_read_have_openais_shape(http, content, status):
    reply = http.post(
        "/v1/completions", content=content, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code == status
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_a_head_that_is_too_large_has_openais_shape(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(
            b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000 + b"\r\n\r\n"
        )
        reply = connection.recv(4096)
    assert reply.startswith(b"HTTP/1.1 431")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_large"


# -- sessions


@pytest.fixture
def session(http) -> str:
    return http.post("/sessions", json={"text": "The ", "seed": 9}).json()["id"]


def test_a_session_continues_over_completions(http, client, session):
    body = {"session_id": session, "expected_position": 4}
    reply = complete(client, prompt="", extra_body=body)
    assert reply.session == {"id": session, "position": 44, "turn": 1}
    chunks = list(
        complete(client, prompt="x", stream=True, extra_headers={"X-Session-Id": session})
    )
    assert chunks[-1].session == {"id": session, "position": 85, "turn": 2}
    said = "".join(chunk.choices[0].text for chunk in chunks)
    text = http.get(f"/sessions/{session}/text").json()["text"]
    assert text == f"The {reply.choices[0].text}x{said}"


def test_a_sessions_own_seed_is_its_default(http, client, session):
    other = http.post("/sessions", json={"text": "The ", "seed": 9}).json()["id"]
    native = {
        "inputs": "",
        "session_id": other,
        "parameters": {"do_sample": True, "max_new_tokens": 40},
    }
    said = http.post("/generate", json=native).json()["generated_text"]
    assert text_of(client, prompt="", seed=None, extra_body={"session_id": session}) == said


def test_events_of_a_session_have_ids(http, session):
    body = {"max_tokens": 3, "session_id": session, "stream": True, "seed": 1}
    reply = http.post("/v1/completions", json=body).text
    ids = [line for line in reply.split("\n") if line.startswith("id: ")]
    assert ids == ["id: 0.1.5", "id: 0.1.6", "id: 0.1.7"]
    rest = http.get(f"/sessions/{session}/events", headers={"Last-Event-ID": "0.1.6"}).text
    assert rest.count("data: ") == 1


@pytest.mark.parametrize("first", [1, 2, 9, 20])
def test_a_turn_names_the_stop_string_that_ended_it(http, client, first):
    text = text_of(client)
    stop = text[first : first + 4]
    stops = ["\x00\x00", stop[1:], stop]  # the last one begins first
    for is_stream in (False, True):
        session = http.post("/sessions", json={}).json()["id"]
        body = PLAIN | {"stop": stops, "session_id": session, "stream": is_stream}
        for _ in ("live", "again"):
            reply = http.post("/v1/completions", json=body, headers={"Idempotency-Key": "k"})
            lines = [line[6:] for line in reply.text.split("\n") if line.startswith("data: {")]
            (choice,) = json.loads(lines[-1] if is_stream else reply.text)["choices"]
            assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)


def test_a_repeated_turn_is_one_turn(client, session):
    options = {
        "prompt": "",
        "extra_body": {"session_id": session},
        "extra_headers": {"Idempotency-Key": f"k-{session}"},
    }
    first = complete(client, **options)
    again = complete(client, **options)
    assert again.choices == first.choices
    assert again.session == first.session
    streamed = list(complete(client, stream=True, **options | {"extra_headers": {}}))
    assert streamed[-1].session["turn"] == 2
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        complete(client, max_tokens=3, **options)
    assert refused.value.code == "key_reused"


@pytest.mark.parametrize(
    "more", [{"prompt": ["a", "b"]}, {"n": 2}, {"echo": True, "logprobs": 1}, {"max_tokens": 0}]
)
def test_what_a_turn_cannot_do_is_refused(client, session, more):
    with pytest.raises(openai.UnprocessableEntityError, match="session"):
        complete(client, **more, extra_body={"session_id": session})


# -- retries: the package sends again by itself what was answered with 409, 429 or 5xx


@pytest.fixture
def counted(server):
    """A client as it is by default, and the statuses that it was answered with."""
    statuses: list[int] = []
    hooks = {"response": [lambda response: statuses.append(response.status_code)]}
    http = openai.DefaultHttpxClient(event_hooks=hooks)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", http_client=http) as client:
        yield client, statuses


def test_a_busy_session_is_retried_until_it_is_free(counted, http, session):
    client, statuses = counted
    endless = {"inputs": "", "session_id": session, "parameters": {"max_new_tokens": 1_000_000}}
    began = threading.Event()

    def hold() -> None:
        with http.stream("POST", "/generate_stream", json=endless) as stream:
            for _ in stream.iter_bytes():
                began.set()
                time.sleep(0.1)
                break

    holder = threading.Thread(target=hold)
    holder.start()
    began.wait(10)
    reply = complete(client, prompt="", max_tokens=2, extra_body={"session_id": session})
    holder.join()
    assert statuses[-1] == 200
    assert set(statuses[:-1]) <= {409}
    assert reply.session["turn"] == 2


def test_an_unexpected_position_is_not_retried(counted, session):
    client, statuses = counted
    with pytest.raises(openai.APIStatusError) as refused:
        complete(client, extra_body={"session_id": session, "expected_position": 1})
    assert statuses == [412]
    assert refused.value.code == "position_mismatch"


def test_a_lasting_conflict_is_not_retried(counted, session):
    client, statuses = counted
    with pytest.raises(openai.ConflictError) as refused:
        complete(client, model="awkward", extra_body={"session_id": session})
    assert statuses == [409]
    assert refused.value.code == "state_model_mismatch"


# -- the wire


def test_characters_that_end_lines_elsewhere_arrive_whole(client):
    options = {"model": "awkward", "prompt": AWKWARD, "max_tokens": 400}
    pieces = [chunk.choices[0].text for chunk in complete(client, **options, stream=True)]
    assert len(pieces) == 400
    assert set(pieces) == set(AWKWARD)


def test_a_stream_is_ascii_and_ends_with_done(http):
    reply = http.post("/v1/completions", json={"prompt": "The ", "max_tokens": 2, "stream": True})
    assert reply.content.isascii()
    first, _, done, *rest = reply.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", [""])
    content = json.loads(first.removeprefix("data: "))
    assert content["choices"][0]["finish_reason"] is None
    assert "error" not in content
