"""Beam search on both families of routes, with client libraries."""

import json
import time

import openai
import pytest

from service.models.bundle import Precision
from service.models.compile import compile_program
from service.models.spec import ModelRef
from service.models.store import ModelStore
from tests.generation.beam_oracle import Rules, oracle, reread
from tests.process import ROOT

PROMPT = "The "
PLAIN = {"model": "demo", "prompt": PROMPT, "max_tokens": 24}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def demo():
    return ModelStore(ROOT / "model_store").read(ModelRef("demo", 1))


def search(client, **more):
    body = {"use_beam_search": True} | more.pop("extra_body", {})
    return client.completions.create(**PLAIN | more, extra_body=body)


def generate(http, path: str = "/generate", **parameters):
    body = {"inputs": PROMPT, "model": "demo", "parameters": {"max_new_tokens": 24} | parameters}
    return http.post(path, json=body)


def events(reply) -> list[dict]:
    return [json.loads(line[6:]) for line in reply.text.split("\n") if line.startswith("data: ")]


def total(choice) -> float:
    return sum(choice.logprobs.token_logprobs)


def test_both_routes_find_the_texts_of_the_definition(http, client, demo):
    info = next(one for one in http.get("/info").json()["models"] if one["id"] == "demo@1")
    program = compile_program(demo.spec, demo.weights, Precision(info["precision"]))
    prompt = demo.tokenizer.encode(PROMPT)
    texts = "".join(demo.tokenizer.text_of(i) for i in range(len(demo.tokenizer)))
    assert len(texts) == len(demo.tokenizer)
    for penalty, stops in [(1.0, ()), (-2.0, (" ", "e,")), (0.5, (" t",))]:
        rules = Rules(texts, 12, 4, 3, penalty, stops)
        found = [demo.tokenizer.decode(one.shown) for one in oracle(reread(program), prompt, rules)]
        reply = search(
            client,
            n=3,
            best_of=4,
            max_tokens=12,
            stop=list(stops) or None,
            extra_body={"length_penalty": penalty},
        )
        assert [choice.text for choice in reply.choices] == found
        native = generate(
            http, max_new_tokens=12, num_beams=4, length_penalty=penalty, stop=list(stops)
        )
        assert native.json() == {"generated_text": found[0]}


def test_more_beams_find_more_likely_texts_than_one(client):
    greedy = client.completions.create(**PLAIN, temperature=0, logprobs=0).choices[0]
    one = search(client, logprobs=0).choices[0]
    assert (one.text, one.logprobs) == (greedy.text, greedy.logprobs)
    ten = search(client, n=10, logprobs=2).choices
    totals = [total(choice) for choice in ten]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > total(greedy)
    assert len({choice.text for choice in ten}) == 10
    for choice in ten:
        assert "".join(choice.logprobs.tokens) == choice.text
        assert all(2 <= len(top) <= 3 for top in choice.logprobs.top_logprobs)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stop", [None, [" a", "."]])
def test_a_streamed_completion_is_the_whole_one(client, n, stop):
    asked = {"n": n, "best_of": 5, "max_tokens": 60, "stop": stop, "logprobs": 1}
    whole = search(client, **asked)
    parts = [""] * n
    reasons: dict[int, str] = {}
    logprobs: list[list[float]] = [[] for _ in range(n)]
    for chunk in search(client, **asked, stream=True):
        (choice,) = chunk.choices
        assert choice.index not in reasons
        parts[choice.index] += choice.text
        logprobs[choice.index] += choice.logprobs.token_logprobs
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert parts == [choice.text for choice in whole.choices]
    assert logprobs == [choice.logprobs.token_logprobs for choice in whole.choices]
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    plain = search(client, **asked | {"logprobs": None}, stream=True)
    assert "".join(chunk.choices[0].text for chunk in plain) == "".join(parts)


def test_a_long_stream_begins_before_it_ends(client):
    began_s = time.monotonic()
    stream = search(client, best_of=4, max_tokens=3_000, stream=True)
    spans_s = [time.monotonic() - began_s for _ in stream]
    assert len(spans_s) == 3_000
    assert spans_s[0] < spans_s[-1] / 3


def test_the_usage_counts_the_returned_texts(client):
    reply = search(client, n=2, best_of=5)
    assert reply.usage.completion_tokens == 2 * 24
    assert reply.usage.prompt_tokens == 4
    *_, last = search(client, n=2, stream=True, stream_options={"include_usage": True})
    assert last.usage.completion_tokens == 2 * 24


def test_an_echoed_prompt_and_its_logprobs_are_as_without_beams(client):
    plain = client.completions.create(**PLAIN, temperature=0, echo=True, logprobs=2).choices[0]
    one = search(client, echo=True, logprobs=2).choices[0]
    assert (one.text, one.logprobs) == (plain.text, plain.logprobs)
    extra = {"prompt_logprobs": 1, "return_token_ids": True}
    told = search(client, n=2, extra_body=extra).choices
    assert told[0].prompt_logprobs == told[1].prompt_logprobs
    assert told[0].prompt_logprobs[0] is None
    assert len(told[0].prompt_logprobs) == len(told[0].prompt_token_ids) == 4
    assert len(told[0].token_ids) == 24


def test_several_prompts_have_searches_of_their_own(client):
    prompts = [PROMPT, "class "]
    alone = [c.text for one in prompts for c in search(client, prompt=one, n=2).choices]
    reply = search(client, prompt=prompts, n=2)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in reply.choices] == alone


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_constraint_is_kept_and_may_leave_fewer_texts(client, is_stream):
    extra = {"structured_outputs": {"choice": ["yes", "no"]}}
    reply = search(client, n=4, stream=is_stream, extra_body=extra)
    texts, ended = ["", "", "", ""], []
    for choice in [c for chunk in reply for c in chunk.choices] if is_stream else reply.choices:
        texts[choice.index] += choice.text
        ended += [choice.index] if choice.finish_reason == "stop" else []
    assert sorted(texts) == ["", "", "no", "yes"]
    assert ended == [0, 1]
    assert is_stream or len(reply.choices) == 2


def test_a_stop_string_may_be_shown(client):
    extra = {"length_penalty": 0.0}
    hidden = search(client, best_of=3, stop=["e "], extra_body=extra).choices[0]
    assert (hidden.finish_reason, hidden.stop_reason) == ("stop", "e ")
    extra["include_stop_str_in_output"] = True
    shown = search(client, best_of=3, stop=["e "], extra_body=extra).choices[0]
    assert shown.text == hidden.text + "e "


@pytest.mark.parametrize("stop", [[], [" a"]])
def test_a_native_stream_is_the_whole_reply(http, stop):
    options = {"num_beams": 5, "max_new_tokens": 60, "stop": stop, "top_n_tokens": 2}
    whole = generate(http, details=True, **options).json()
    streamed = events(generate(http, "/generate_stream", **options))
    last = streamed[-1]
    assert last["generated_text"] == whole["generated_text"]
    assert "".join(event["token"]["text"] for event in streamed) == whole["generated_text"]
    details = whole["details"]
    assert [event["token"] for event in streamed] == details["tokens"]
    assert [event["index"] for event in streamed] == list(range(1, len(streamed) + 1))
    shown = [event for event in streamed if not event["token"]["special"]]
    assert [event["top_tokens"] for event in shown] == details["top_tokens"]
    assert last["details"]["finish_reason"] == details["finish_reason"]
    assert details["finish_reason"] == ("stop_sequence" if stop else "length")
    n_tokens = len(shown) + sum(map(len, stop))
    assert last["details"]["generated_tokens"] == details["generated_tokens"] == n_tokens


def test_a_grammar_and_the_prompts_details_go_with_beams(http):
    grammar = {"type": "regex", "value": "[0-9]{2,6}"}
    reply = generate(http, num_beams=4, grammar=grammar, decoder_input_details=True).json()
    assert reply["generated_text"].isdecimal()
    assert reply["details"]["finish_reason"] == "eos_token"
    assert len(reply["details"]["prefill"]) == 4


def test_the_route_of_older_clients_searches_too(http):
    (one,) = generate(http, "/", num_beams=3).json()
    assert one == generate(http, num_beams=3).json()
    assert one != generate(http).json()


PLAIN_VALUES = {
    "min_p": 0.0,
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}


@pytest.mark.parametrize("temperature", [None, 0, 1.0])
@pytest.mark.parametrize("bias", [{}, {"3": 0}])
def test_a_value_without_effect_goes_with_beams(http, client, temperature, bias):
    nothing = PLAIN_VALUES | {"temperature": temperature, "logit_bias": bias}
    extra = {"use_beam_search": True, "n": 2, "top_p": 1.0, "top_k": -1}
    reply = http.post("/v1/completions", json=PLAIN | extra | nothing)
    texts = [choice["text"] for choice in reply.json()["choices"]]
    assert texts == [choice.text for choice in search(client, n=2).choices]
    assert generate(http, num_beams=3, **nothing).json() == generate(http, num_beams=3).json()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"num_beams": 11}, "`num_beams` must be > 0 and <= 10. Given: 11"),
        (
            {"num_beams": 2, "temperature": 0.5},
            "`num_beams` samples nothing and does not go with `temperature`",
        ),
        ({"num_beams": 2, "do_sample": True}, "`do_sample` does not go with `num_beams`"),
        ({"num_beams": 2, "top_k": 2, "min_p": 0.1}, "does not go with `top_k` and `min_p`"),
        ({"num_beams": 2, "best_of": 2, "do_sample": True}, "give one of them"),
        ({"length_penalty": 2.0}, "`length_penalty` has an effect only with `num_beams` > 1"),
    ],
)
def test_parameters_that_conflict_with_beams_are_refused(http, parameters, sentence):
    reply = generate(http, **parameters)
    assert reply.status_code == 422
    assert sentence in reply.json()["error"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"n": 11}, "n"),
        ({"top_p": 0.5}, "top_p"),
        ({"temperature": 0.7}, "temperature"),
        ({"top_k": 1}, "top_k"),
        ({"logit_bias": {"3": 1}}, "logit_bias"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"session_id": "$session"}, "use_beam_search"),
    ],
)
def test_fields_that_conflict_with_a_beam_search_are_refused(http, body, field):
    if "session_id" in body:
        body = {"session_id": http.post("/sessions", json={}).json()["id"]}
    reply = http.post("/v1/completions", json=PLAIN | {"use_beam_search": True} | body)
    assert reply.status_code == 422
    assert reply.json()["error"]["param"] == field


def test_a_disconnect_ends_the_search(http, client):
    stream = search(client, best_of=10, max_tokens=1_000_000, stream=True)
    next(iter(stream))
    running = [one["running"] for one in http.get("/info").json()["models"]]
    assert sum(running) == 1
    stream.close()
    until = time.monotonic() + 10
    while any(one["running"] for one in http.get("/info").json()["models"]):
        assert time.monotonic() < until
        time.sleep(0.02)
