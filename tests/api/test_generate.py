import json

import httpx2
import pytest
from huggingface_hub import InferenceClient

from tests.api.conftest import AWKWARD


def generate(http, inputs="The ", path="/generate", model=None, **parameters):
    body = {"inputs": inputs, "parameters": parameters}
    return http.post(path, json=body | ({"model": model} if model else {}))


def events_of(response) -> list[dict]:
    lines = response.text.split("\n")
    assert lines[1::2] == [""] * len(lines[1::2])
    return [json.loads(line.removeprefix("data: ")) for line in lines[0::2] if line]


# -- the clients of other projects


@pytest.mark.parametrize("path", ["", "/generate"])
def test_huggingface_hub_generates(server, path):
    client = InferenceClient(server.url + path)
    text = client.text_generation("The ", max_new_tokens=40, seed=5, temperature=0.7)
    assert len(text) == 40


def test_huggingface_hub_streams_the_same_text(server):
    client = InferenceClient(server.url)
    options = {"max_new_tokens": 60, "seed": 5, "temperature": 0.7}
    pieces = list(client.text_generation("The ", stream=True, **options))
    assert len(pieces) == 60
    assert "".join(pieces) == client.text_generation("The ", **options)


def test_huggingface_hub_reads_the_details(server):
    client = InferenceClient(server.url)
    options = {"max_new_tokens": 20, "seed": 5, "do_sample": True, "details": True}
    reply = client.text_generation("The ", **options)
    assert reply.details.finish_reason == "length"
    assert reply.details.generated_tokens == 20
    assert reply.details.seed == 5
    assert "".join(token.text for token in reply.details.tokens) == reply.generated_text
    events = list(client.text_generation("The ", stream=True, **options))
    assert [event.token.logprob for event in events] == [t.logprob for t in reply.details.tokens]
    assert events[-1].generated_text == reply.generated_text
    assert events[-1].details.seed == 5
    assert all(event.details is None for event in events[:-1])


def test_huggingface_hub_stops_before_a_stop_string(server):
    client = InferenceClient(server.url)
    options = {"max_new_tokens": 200, "seed": 5, "temperature": 0.7}
    text = client.text_generation("The ", **options)
    stop = text[50:53]
    reply = client.text_generation("The ", stop=[stop], details=True, **options)
    assert reply.generated_text == text[: text.index(stop)]
    assert reply.details.finish_reason == "stop_sequence"
    events = list(client.text_generation("The ", stop=[stop], details=True, stream=True, **options))
    assert "".join(event.token.text for event in events) == reply.generated_text
    assert events[-1].token.special
    assert events[-1].details.finish_reason == "stop_sequence"


def test_huggingface_hub_names_our_refusals(server):
    with pytest.raises(Exception, match="`temperature` must be strictly positive"):
        InferenceClient(server.url).text_generation("The ", temperature=-1.0)


def test_characters_that_end_lines_elsewhere_arrive_whole(server):
    client = InferenceClient(server.url + "/generate")
    # InferenceClient has no field for a model of ours, so the alias is moved to it and back.
    put = f"{server.url}/admin/aliases/default"
    httpx2.put(put, json={"model": "awkward@1"}).raise_for_status()
    try:
        pieces = list(
            client.text_generation(AWKWARD, stream=True, max_new_tokens=400, do_sample=True, seed=1)
        )
    finally:
        httpx2.put(put, json={"model": "demo@1"}).raise_for_status()
    assert len(pieces) == 400
    assert set(pieces) == set(AWKWARD)


def test_health_and_info_are_what_clients_look_for(http):
    assert http.get("/health").status_code == 200
    assert http.get("/").status_code == 200
    info = http.get("/info").json()
    assert info["model_id"] == "demo@1"
    assert {"model_sha", "max_input_tokens", "version", "max_concurrent_requests"} <= info.keys()


# -- the wire


def test_events_have_tgis_shape(http):
    response = generate(http, path="/generate_stream", max_new_tokens=3, seed=1, do_sample=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    events = events_of(response)
    assert [event["index"] for event in events] == [1, 2, 3]
    for event in events:
        assert list(event) == ["index", "token", "generated_text", "details"]
        assert list(event["token"]) == ["id", "text", "logprob", "special"]
    assert events[0]["generated_text"] is events[0]["details"] is None
    assert events[2]["details"] == {
        "finish_reason": "length",
        "generated_tokens": 3,
        "seed": 1,
        "input_length": 4,
    }
    assert b"[DONE]" not in response.content
    assert response.content.isascii()


def test_top_tokens_come_beside_each_token(http):
    options = {"max_new_tokens": 3, "top_n_tokens": 2, "details": True}
    whole = generate(http, **options).json()["details"]
    events = events_of(generate(http, path="/generate_stream", **options))
    assert [event["top_tokens"] for event in events] == whole["top_tokens"]
    for token, top in zip(whole["tokens"], whole["top_tokens"], strict=True):
        assert top[0]["id"] == token["id"]  # greedy decoding takes the most likely
        assert top[0]["logprob"] >= top[1]["logprob"]


def test_the_root_wraps_its_reply_in_a_list(http):
    body = {"inputs": "The ", "parameters": {"max_new_tokens": 4}}
    (reply,) = http.post("/", json=body).json()
    assert reply == http.post("/generate", json=body).json()
    assert events_of(http.post("/", json=body | {"stream": True}))[-1]["generated_text"]
    assert events_of(http.post("/generate", json=body | {"stream": True}))[-1]["generated_text"]


def test_without_sampling_parameters_it_is_greedy_and_with_any_it_samples(http):
    greedy = {generate(http, max_new_tokens=30).json()["generated_text"] for _ in range(3)}
    zero = generate(http, max_new_tokens=30, temperature=0.0).json()["generated_text"]
    assert greedy == {zero}
    drawn = {generate(http, max_new_tokens=30, top_p=0.99).json()["generated_text"] for _ in "123"}
    assert len(drawn) > 1


def test_without_parameters_the_models_own_defaults_apply(http):
    texts = {http.post("/generate", json={"inputs": "The "}).text for _ in range(3)}
    assert len(texts) > 1  # the bundled model's defaults are to sample


def test_a_random_seed_is_returned(http):
    options = {"max_new_tokens": 30, "do_sample": True, "details": True}
    first = generate(http, **options).json()
    again = generate(http, seed=first["details"]["seed"], **options).json()
    assert again == first


def test_the_full_text_and_a_cut_prompt(http):
    whole = generate(http, "abc def", max_new_tokens=5, return_full_text=True).json()
    assert whole["generated_text"].startswith("abc def")
    cut = generate(http, "abc def", max_new_tokens=5, truncate=3).json()["generated_text"]
    assert cut == generate(http, "def", max_new_tokens=5).json()["generated_text"]


def test_the_reply_has_its_times_and_its_request_id(http):
    body = {"inputs": "The ", "parameters": {"max_new_tokens": 4}}
    reply = http.post("/generate", json=body, headers={"X-Request-Id": "mine-1"})
    assert reply.headers["x-request-id"] == "mine-1"
    assert reply.headers["x-generated-tokens"] == "4"
    assert reply.headers["x-prompt-tokens"] == "4"
    assert int(reply.headers["x-total-time"]) >= int(reply.headers["x-inference-time"]) >= 0
    forged = http.get("/health", headers={"X-Request-Id": "a b\tc"})
    assert forged.headers["x-request-id"] not in {"", "a b\tc"}


def test_tokenize_and_detokenize_are_each_others_inverse(http):
    text = "The end.\n"
    tokens = http.post("/tokenize", json={"inputs": text}).json()
    assert [text[t["start"] : t["stop"]] for t in tokens] == [t["text"] for t in tokens]
    ids = [token["id"] for token in tokens]
    assert http.post("/detokenize", json={"ids": ids}).json() == {"text": text}
    bad = http.post("/detokenize", json={"ids": [10**6]})
    assert (bad.status_code, bad.json()["error_type"]) == (422, "validation")


# -- refusals


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"temperature": -0.1}, "`temperature` must be strictly positive"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 1.5}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
        ({"repetition_penalty": 1e308}, "from 0.01 to 100. Given: 1e+308"),
        ({"repetition_penalty": 1e-308}, "from 0.01 to 100"),
        ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"stop": [""]}, "1 to 256 characters. Given: 0"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 1_000_001}, "1000000"),
        ({"max_new_tokens": "5"}, "max_new_tokens"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"top_n_tokens": 21}, "20"),
        ({"logit_bias": {"99999": 1.0}}, "the model's ids go from 0 to"),
        ({"logit_bias": {"x": 1.0}}, "the model's ids go from 0 to"),
        ({"logit_bias": {"1": 101.0}}, "100"),
        ({"best_of": 2}, "`best_of`"),
        ({"num_beams": 11}, "`num_beams` must be > 0 and <= 10. Given: 11"),
        ({"grammar": {"type": "regex", "value": "\x00"}}, "no text matches"),
        ({"watermark": True}, "`watermark`"),
        ({"colour": "red"}, "`parameters.colour` is not a known field"),
    ],
)
def test_a_value_outside_its_limits_is_refused_by_name(http, parameters, sentence):
    for path in ("/generate", "/generate_stream"):
        reply = generate(http, path=path, **parameters)
        assert reply.status_code == 422
        assert reply.json()["error_type"] == "validation"
        assert sentence in reply.json()["error"]
        assert len(reply.content) < 1024


def test_values_without_effect_are_accepted(http):
    nothing = {"best_of": 1, "num_beams": 1, "watermark": False, "grammar": None}
    nothing |= {"stop": [], "bad_words": [], "min_new_tokens": 0, "length_penalty": 1.0}
    assert generate(http, max_new_tokens=1, **nothing).status_code == 200


def test_an_unknown_character_is_named_with_its_offset(http):
    reply = generate(http, "ab中")
    assert (reply.status_code, reply.json()["error_type"]) == (422, "unknown_character")
    assert "U+4E2D" in reply.json()["error"]
    assert "offset 2" in reply.json()["error"]


@pytest.mark.parametrize("name", ["nobody", "demo@77", "nobody@1"])
def test_an_unknown_model_is_not_found(http, name):
    reply = generate(http, model=name)
    assert (reply.status_code, reply.json()["error_type"]) == (404, "model_not_found")


def test_unknown_routes_and_methods_have_the_same_shape(http):
    assert http.get("/nowhere").json().keys() == {"error", "error_type"}
    reply = http.get("/generate")
    assert reply.status_code == 405
    assert reply.json().keys() == {"error", "error_type"}
