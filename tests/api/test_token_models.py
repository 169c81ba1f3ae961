"""Models whose tokens are words or bytes, over HTTP: streams, stop strings, ends, sessions."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest

from tests.api.token_models import BEGIN, END, PAD, WORDS, author, new_home, tokenizers
from tests.process import Server, serving

TOKENIZERS = tokenizers()
PROMPTS = {"words": "The cat", "window": "The cat", "begun": "The cat", "bytes": "the café"}
MODELS = pytest.mark.parametrize("model", PROMPTS)
N = 40


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return new_home(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def server(home) -> Iterator[Server]:
    with serving(home) as running:
        yield running


@pytest.fixture(scope="module")
def http(server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=30) as client:
        yield client


def no_end(model: str) -> dict:
    """A bias under which no end token is sampled."""
    return {str(i): -100.0 for i in TOKENIZERS[model].end_ids}


def parameters(model: str, n: int = N, **more) -> dict:
    sampled = {"temperature": 1.0, "seed": 5, "logit_bias": no_end(model)}
    return {"max_new_tokens": n, "details": True} | sampled | more


def post(http, path: str, body: dict) -> dict:
    reply = http.post(path, json=body)
    assert reply.status_code in {200, 201}, reply.text
    return reply.json()


def generate(http, model: str, inputs: str, n: int = N, session: str | None = None, **more) -> dict:
    body = {"inputs": inputs, "model": model, "parameters": parameters(model, n, **more)}
    return post(http, "/generate", body | ({"session_id": session} if session else {}))


def ascii_ids() -> list[int]:
    """The byte model's tokens of printable ASCII, several of them longer than a character."""
    tokenizer = TOKENIZERS["bytes"]
    texts = map(tokenizer.text_of, range(len(tokenizer)))
    return [i for i, text in enumerate(texts) if text and text.isascii() and text.isprintable()]


def events_of(http, path: str, body: dict) -> list[dict]:
    reply = http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    found = re.findall(r"data: (.*)\n\n", reply.text)
    return [json.loads(one) for one in found if one != "[DONE]"]


def ids_of(reply: dict) -> list[int]:
    return [token["id"] for token in reply["details"]["tokens"]]


def text_of(model: str, ids: list[int], *, is_start: bool = False) -> str:
    return TOKENIZERS[model].decode(ids, is_start=is_start)


def new(http, model: str, **body) -> str:
    return post(http, "/sessions", {"model": model, "seed": 5, **body})["id"]


def position(http, session: str) -> int:
    return http.get(f"/sessions/{session}").json()["position"]


def session_text(http, session: str) -> str:
    return http.get(f"/sessions/{session}/text").json()["text"]


# -- the author's loop, and streams


@MODELS
def test_the_text_is_that_of_the_authors_loop(http, home, model):
    prompt = TOKENIZERS[model].encode_prompt(PROMPTS[model])
    body = {"model": model, "prompt": PROMPTS[model], "max_tokens": N, "temperature": 0}
    reply = post(http, "/v1/completions", body | {"ignore_eos": True, "return_token_ids": True})
    choice = reply["choices"][0]
    assert choice["prompt_token_ids"] == prompt
    assert choice["token_ids"] == author(home, model, prompt, N)
    assert choice["text"] == text_of(model, choice["token_ids"])


@MODELS
@pytest.mark.parametrize("inputs", [None, ""], ids=["a prompt", "no prompt"])
def test_the_events_have_the_texts_of_their_tokens(http, model, inputs):
    inputs = PROMPTS[model] if inputs is None else inputs
    if not inputs and model == "bytes":
        pytest.skip("it has no begin token")
    whole = generate(http, model, inputs)
    body = {"inputs": inputs, "model": model, "parameters": parameters(model)}
    events = events_of(http, "/generate_stream", body)
    assert [event["token"]["id"] for event in events] == ids_of(whole)
    texts = [event["token"]["text"] for event in events]
    assert "".join(texts) == whole["generated_text"] == events[-1]["generated_text"]
    assert whole["generated_text"] == text_of(model, ids_of(whole), is_start=not inputs)
    assert texts == [token["text"] for token in whole["details"]["tokens"]]
    if model != "bytes":
        blank = [text.startswith(" ") for text in texts]
        assert blank == [bool(inputs), *[True] * (N - 1)]


@MODELS
@pytest.mark.parametrize("more", [{}, {"logprobs": 2}, {"return_token_ids": True}], ids=str)
def test_a_completions_events_are_its_text(http, model, more):
    body = {"model": model, "prompt": PROMPTS[model], "max_tokens": N, "seed": 5, **more}
    body["logit_bias"] = no_end(model)
    whole = post(http, "/v1/completions", body)["choices"][0]
    events = events_of(http, "/v1/completions", body | {"stream": True})
    choices = [event["choices"][0] for event in events if event["choices"]]
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    assert whole["text"] == generate(http, model, PROMPTS[model])["generated_text"]
    if "logprobs" in more:
        streamed = [offset for one in choices for offset in one["logprobs"]["text_offset"]]
        assert streamed == whole["logprobs"]["text_offset"]


def test_the_offsets_of_an_echoed_prompt_count_the_typed_text(http):
    body = {"model": "words", "prompt": "THE cat,  sat", "max_tokens": 3, "logprobs": 0}
    body |= {"echo": True, "seed": 5, "logit_bias": no_end("words")}
    choice = post(http, "/v1/completions", body)["choices"][0]
    offsets, text = choice["logprobs"]["text_offset"], choice["text"]
    assert text.startswith("THE cat,  sat ")
    assert offsets[:4] == [0, 3, 7, 13]
    parts = [text[a:b] for a, b in pairwise([*offsets, len(text)])]
    assert [part.strip(" ,").lower() for part in parts] == [
        name.strip() for name in choice["logprobs"]["tokens"]
    ]
    events = events_of(http, "/v1/completions", body | {"stream": True})
    rows = [event["choices"][0]["logprobs"]["text_offset"] for event in events if event["choices"]]
    assert [offset for row in rows for offset in row] == offsets


def test_the_header_counts_the_typed_characters_and_the_usage_tokens(http):
    for body in ({}, {"session_id": new(http, "words")}):
        asked = {"inputs": "THE  cat,", "model": "words", "parameters": parameters("words"), **body}
        headers = http.post("/generate", json=asked).headers
        assert headers["x-compute-characters"] == "9"
        assert headers["x-prompt-tokens"] == "2"


# -- the end of a text


@MODELS
def test_a_stop_string_may_begin_and_end_within_tokens(http, model):
    more = {} if model != "bytes" else {"allowed_token_ids": ascii_ids()}
    whole = generate(http, model, PROMPTS[model], **more)["generated_text"]
    firsts = range(1, len(whole) - 5, max(1, len(whole) // 12))
    for stop in [whole[first : first + 4] for first in firsts]:
        stopped = generate(http, model, PROMPTS[model], stop=[stop], **more)
        assert stopped["generated_text"] == whole[: whole.index(stop)]
        assert stopped["details"]["finish_reason"] == "stop_sequence"
        body = {"inputs": PROMPTS[model], "model": model}
        body["parameters"] = parameters(model, stop=[stop], **more)
        events = events_of(http, "/generate_stream", body)
        assert "".join(event["token"]["text"] for event in events) == stopped["generated_text"]
        assert events[-1]["generated_text"] == stopped["generated_text"]


@pytest.mark.parametrize("model", PROMPTS)
def test_an_end_token_ends_the_text(http, model):
    end = TOKENIZERS[model].end_ids[0]
    first = ids_of(generate(http, model, PROMPTS[model], 10))
    bias = {"logit_bias": {str(end): 100.0}}
    ended = generate(http, model, PROMPTS[model], 10, **bias)
    assert ended["generated_text"] == ""
    assert ended["details"]["finish_reason"] == "eos_token"
    assert ids_of(ended) == [end]
    later = generate(http, model, PROMPTS[model], 10, min_new_tokens=4, **bias)
    assert later["details"]["generated_tokens"] == 5
    assert ids_of(later)[4:] == [end]
    assert later["generated_text"] == text_of(model, first[:4])
    body = {"model": model, "prompt": PROMPTS[model], "max_tokens": 10, "seed": 5} | bias
    choice = post(http, "/v1/completions", body)["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"], choice["text"]) == ("stop", None, "")
    on = post(http, "/v1/completions", body | {"ignore_eos": True})["choices"][0]
    assert on["finish_reason"] == "length"
    events = events_of(http, "/v1/completions", body | {"stream": True})
    assert [event["choices"][0]["finish_reason"] for event in events] == ["stop"]


def test_a_pad_token_is_never_sampled(http):
    bias = {"logit_bias": {str(PAD): 100.0, str(BEGIN): 100.0}}
    ids = ids_of(generate(http, "words", "the", **bias))
    assert not {PAD, BEGIN} & set(ids)


# -- words by their names


@pytest.mark.parametrize("word", ["cat", " cat"])
def test_a_bad_word_counts_with_and_without_its_blank(http, word):
    bias = {"logit_bias": {**no_end("words"), str(WORDS.index("cat")): 5.0}}
    for inputs in ("the", ""):
        assert "cat" in generate(http, "words", inputs, **bias)["generated_text"].split()
        found = generate(http, "words", inputs, bad_words=[word], **bias)["generated_text"]
        assert "cat" not in found.split()


def test_only_the_allowed_ids_are_sampled(http):
    allowed = [WORDS.index("sat"), WORDS.index("été")]
    ids = ids_of(generate(http, "words", "the", allowed_token_ids=allowed))
    assert set(ids) <= set(allowed)


def test_tokenize_counts_the_characters_of_the_typed_text(http):
    found = post(http, "/tokenize", {"model": "words", "inputs": "THE  café, 🙂"})
    assert [(one["start"], one["stop"]) for one in found] == [(0, 3), (5, 9), (11, 12)]
    assert [one["text"] for one in found] == [" the", " café", " 🙂"]
    ids = [one["id"] for one in found]
    assert post(http, "/detokenize", {"model": "words", "ids": ids}) == {"text": "the café 🙂"}


# -- the begin token


@pytest.mark.parametrize("model", ["words", "window", "begun"])
def test_an_empty_prompt_is_the_begin_token_everywhere(http, model):
    alone = generate(http, model, "")
    assert not alone["generated_text"].startswith(" ")
    body = {"model": model, "prompt": "", "max_tokens": N, "seed": 5, "logit_bias": no_end(model)}
    for prompt in ("", [BEGIN]):
        reply = post(http, "/v1/completions", body | {"prompt": prompt})
        assert reply["choices"][0]["text"] == alone["generated_text"]
        assert reply["usage"]["prompt_tokens"] == 1
    for path in ("/generate", "/v1/completions"):
        session = new(http, model)
        if path == "/generate":
            first = generate(http, model, "", session=session)["generated_text"]
        else:
            first = post(http, path, body | {"session_id": session})["choices"][0]["text"]
        assert first == alone["generated_text"]
        assert position(http, session) == 1 + N
        assert session_text(http, session) == first


@pytest.mark.parametrize(("model", "n"), [("words", 2), ("begun", 3)])
def test_a_begin_token_is_only_at_the_beginning_of_a_text(http, model, n):
    """`begun` has one before every prompt; an append or a later turn adds none."""
    with_text, appended, turns = (
        new(http, model, text="the cat"),
        new(http, model),
        new(http, model),
    )
    post(http, f"/sessions/{appended}/append", {"text": "the"})
    post(http, f"/sessions/{appended}/append", {"text": "cat"})
    found = []
    for session in (with_text, appended):
        assert position(http, session) == n
        found.append(generate(http, model, "sat", session=session)["generated_text"])
    found.append(generate(http, model, "the cat sat", session=turns)["generated_text"])
    found.append(generate(http, model, "the cat sat")["generated_text"])
    assert len(set(found)) == 1
    assert position(http, turns) == n + 1 + N
    assert session_text(http, turns) == "the cat sat" + found[0]


def test_a_score_has_the_begin_token_before_the_text(http):
    """What generation reports after the begin token is what is scored, with a session or not."""
    typed = no_end("begun") | {str(END): -100.0}  # a text with its name cannot be typed
    reply = generate(http, "begun", "", logit_bias=typed)
    said = [(token["id"], token["logprob"]) for token in reply["details"]["tokens"]]
    body = {"model": "begun", "inputs": reply["generated_text"]}
    for session in ({}, {"session_id": new(http, "begun")}):
        found = post(http, "/score", body | session)
        assert [(token["id"], token["logprob"]) for token in found["tokens"]] == said
        assert found["token_count"] == N


def test_a_text_begins_after_a_begin_token_alone(http):
    """A cancelled first turn, or a rewind, leaves the begin token without a text."""
    session, alone = new(http, "words"), generate(http, "words", "")["generated_text"]
    generate(http, "words", "", session=session)
    post(http, f"/sessions/{session}/rewind", {"to": 1})
    again = generate(http, "words", "", session=session)
    assert again["generated_text"] == alone == session_text(http, session)
    post(http, f"/sessions/{session}/rewind", {"to": 0})
    assert generate(http, "words", "", session=session)["generated_text"] == alone


# -- sessions


@MODELS
def test_turns_forks_and_rewinds_have_the_text_of_one_turn(http, model):
    one, two = (new(http, model, text=PROMPTS[model]) for _ in range(2))
    start = position(http, one)
    whole = generate(http, model, "", session=one)
    parts = [generate(http, model, "", n, session=two) for n in (13, N - 13)]
    assert ids_of(parts[0]) + ids_of(parts[1]) == ids_of(whole)
    assert position(http, two) == start + N
    text = session_text(http, two)
    tokens = [*TOKENIZERS[model].encode_prompt(PROMPTS[model]), *ids_of(whole)]
    assert text == text_of(model, tokens, is_start=True)
    fork = post(http, f"/sessions/{two}/fork", {"at": start + 13, "seeds": "same"})["sessions"][0]
    rest = generate(http, model, "", N - 13, session=fork["id"])
    assert ids_of(rest) == ids_of(parts[1])
    post(http, f"/sessions/{two}/rewind", {"to": start + 13})
    assert ids_of(generate(http, model, "", N - 13, session=two)) == ids_of(parts[1])


@MODELS
def test_the_events_of_a_turn_are_replayed_from_any_token_on(http, model):
    session = new(http, model, text=PROMPTS[model])
    body = {"inputs": "", "session_id": session, "parameters": parameters(model)}
    reply = http.post("/generate_stream", json=body)
    found = re.findall(r"id: (.*)\ndata: (.*)\n\n", reply.text)
    assert len(found) == N
    for last in (0, 1, N // 2, N - 2):
        headers = {"Last-Event-ID": found[last][0]}
        again = http.get(f"/sessions/{session}/events", headers=headers)
        assert re.findall(r"id: (.*)\ndata: (.*)\n\n", again.text) == found[last + 1 :]


# -- beams, scores, information


@MODELS
def test_a_beam_search_has_the_text_of_its_tokens(http, model):
    body = {"inputs": PROMPTS[model], "model": model}
    body["parameters"] = {"max_new_tokens": 12, "num_beams": 4, "details": True}
    whole = post(http, "/generate", body)
    texts = [token["text"] for token in whole["details"]["tokens"]]
    assert "".join(texts) == whole["generated_text"] == text_of(model, ids_of(whole))
    events = events_of(http, "/generate_stream", body)
    assert [event["token"]["text"] for event in events] == texts
    assert events[-1]["generated_text"] == whole["generated_text"]


@MODELS
def test_a_score_counts_tokens_characters_and_bytes(http, model):
    text = PROMPTS[model]
    found = post(http, "/score", {"inputs": text, "model": model})
    n = len(TOKENIZERS[model].encode(text))
    given = 0 if model == "begun" else 1  # tokens without a logprob: nothing is read before them
    assert len(found["tokens"]) == n
    assert found["token_count"] == n - given
    nats = -sum(token["logprob"] for token in found["tokens"][given:])
    assert found["nats"] == pytest.approx(nats, rel=1e-5)
    assert found["nats_per_token"] == pytest.approx(nats / (n - given), rel=1e-5)
    offsets = post(http, "/tokenize", {"inputs": text, "model": model})
    assert found["characters"] == len(text) - (offsets[0]["stop"] if given else 0)
    session = new(http, model, text=text)
    continued = post(http, "/score", {"inputs": text, "session_id": session})
    assert continued["token_count"] == n
    assert continued["characters"] == len(text)


def test_the_model_routes_describe_tokenizer_special_tokens_and_state(http):
    window = {"window": 6, "padding": "left", "pad": 0, "is_sliding": False, "masked": False}
    special = {
        "pad": [{"id": PAD, "token": ""}],
        "begin": [{"id": BEGIN, "token": "<s>"}],
        "end": [{"id": END, "token": "</s>"}],
    }
    wanted = {"tokenizer": "words", "vocabulary_size": len(WORDS), "special_tokens": special}
    for name, state in (("words", "carried"), ("window", window)):
        rows = [
            next(row for row in http.get("/info").json()["models"] if row["id"] == f"{name}@1"),
            next(row for row in http.get("/admin/models").json()["models"] if row["name"] == name),
            http.get(f"/v1/models/{name}@1").json(),
        ]
        for row in rows:
            assert {key: row[key] for key in wanted} == wanted
            assert row["state"] == state
    assert http.get("/v1/models/bytes@1").json()["special_tokens"] == {
        "end": [{"id": 0, "token": "<|endoftext|>"}]
    }
