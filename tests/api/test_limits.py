"""Bad words, allowed tokens, a least length and a deadline, on both families of routes."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

MAX = 1_000_000  # characters, which take minutes
SPAN_S = 0.3
SLACK_S = 20.0  # for a busy machine
NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
FAMILIES = ["native", "openai"]
WAYS = [(family, is_stream) for family in FAMILIES for is_stream in (False, True)]


class Generate:
    """Requests a text and its finish reason from one family of routes, whole or streamed."""

    def __init__(self, http: httpx2.Client, family: str, *, is_stream: bool) -> None:
        self.http, self.family, self.is_stream = http, family, is_stream

    def post(self, prompt="The ", session=None, headers=None, **given) -> httpx2.Response:
        given = {"max_new_tokens": 60, "seed": 5} | given
        if self.family == "openai":
            body = {NAMES.get(name, name): value for name, value in given.items()}
            body |= {"prompt": prompt, "model": "demo", "stream": self.is_stream}
            path = "/v1/completions"
        else:
            parameters = {"do_sample": True, "details": True} | given
            grammar = parameters.pop("structured_outputs", None)
            if grammar:
                ((kind, value),) = grammar.items()
                parameters["grammar"] = {"type": kind, "value": value}
            body = {"inputs": prompt, "parameters": parameters, "stream": self.is_stream}
            path = "/generate"
        body |= {"session_id": session} if session else {}
        return self.http.post(path, json=body, headers=headers or {})

    def __call__(self, *args, **given) -> tuple[str, str]:
        reply = self.post(*args, **given)
        assert reply.status_code == 200, reply.text
        return self.read(reply)

    def read(self, reply: httpx2.Response) -> tuple[str, str]:
        if not self.is_stream:
            if self.family == "native":
                content = reply.json()
                shown = [one for one in content["details"]["tokens"] if not one["special"]]
                assert len(shown) == len(content["generated_text"])
                return content["generated_text"], content["details"]["finish_reason"]
            (choice,) = reply.json()["choices"]
            return choice["text"], choice["finish_reason"]
        lines = [line for line in reply.text.split("\n") if line.startswith("data: {")]
        events = [json.loads(line.removeprefix("data: ")) for line in lines]
        assert "error" not in events[-1], events[-1]
        if self.family == "openai":
            texts = [event["choices"][0]["text"] for event in events]
            return "".join(texts), events[-1]["choices"][0]["finish_reason"]
        text = "".join(event["token"]["text"] for event in events)
        assert events[-1]["generated_text"] == text
        assert sum(not event["token"]["special"] for event in events) == len(text)
        return text, events[-1]["details"]["finish_reason"]


@pytest.fixture(params=WAYS, ids=[f"{f}{', streamed' if s else ''}" for f, s in WAYS])
def generate(http, request) -> Generate:
    family, is_stream = request.param
    return Generate(http, family, is_stream=is_stream)


@pytest.fixture(params=FAMILIES)
def whole(http, request) -> Generate:
    return Generate(http, request.param, is_stream=False)


@pytest.fixture(scope="module")
def ids(http) -> dict[str, int]:
    text = "abcdefghijklmnopqrstuvwxyz \n"
    return {t["text"]: t["id"] for t in http.post("/tokenize", json={"inputs": text}).json()}


def test_bad_words_are_never_generated_and_the_text_is_as_long(generate):
    plain, _ = generate()
    banned = [plain[3:5], plain[20:22], "e", "日本"]
    text, reason = generate(bad_words=banned)
    assert len(text) == 60
    assert reason == "length"
    assert not any(word in text for word in banned)
    prompt = "x" + banned[0]
    assert generate(prompt, bad_words=[banned[0]])[1] == "length"  # the prompt does not count


def test_only_allowed_tokens_are_generated(generate, ids):
    text, reason = generate(allowed_token_ids=[ids[c] for c in "abcde "])
    assert len(text) == 60
    assert reason == "length"
    assert set(text) <= set("abcde ")
    assert len(set(text)) > 1


def test_a_grammar_combines_with_all_of_them(generate, ids):
    allowed = [ids[c] for c in "abcdefgh "]
    text, _ = generate(
        structured_outputs={"regex": "([a-z]{1,6} )+x?"},
        bad_words=["ab", "h "],
        allowed_token_ids=allowed,
        min_new_tokens=40,
    )
    assert re.fullmatch("([a-h]{1,6} )+", text)
    assert 40 <= len(text) <= 60
    assert "ab" not in text
    assert "h " not in text


def test_no_stop_string_begins_within_a_least_length(generate):
    plain, _ = generate()
    stop = plain[20]
    assert generate(stop=[stop]) == (plain[: plain.index(stop)], "stop" + finish_suffix(generate))
    for least in (20, 21, 35):
        end = plain.find(stop, least)
        expected = plain if end < 0 else plain[:end]
        assert generate(stop=[stop], min_new_tokens=least)[0] == expected


def finish_suffix(generate: Generate) -> str:
    return "" if generate.family == "openai" else "_sequence"


def test_a_least_length_is_one_of_a_grammar_too(generate):
    for least in (0, 5, 9):
        text, _ = generate(structured_outputs={"regex": "q{1,3}|r{9}"}, min_new_tokens=least)
        assert len(text) >= least


def test_a_deadline_ends_a_text_in_time_with_its_beginning(generate):
    plain, _ = generate()
    start = time.monotonic()
    text, reason = generate(max_new_tokens=MAX, max_time=SPAN_S)
    assert time.monotonic() - start < SPAN_S + SLACK_S
    assert reason == "length"
    assert 60 < len(text) < MAX
    assert text.startswith(plain)


def test_a_deadline_before_the_first_character_leaves_an_empty_text(generate):
    prompt = "The " * 100_000
    start = time.monotonic()
    assert generate(prompt, max_new_tokens=5, max_time=0.01) == ("", "length")
    assert time.monotonic() - start < SLACK_S


def test_a_turn_without_a_token_is_one_event(http):
    session = http.post("/sessions", json={"text": "The "}).json()["id"]
    parameters = {"max_new_tokens": 5, "max_time": 1e-9}
    body = {"inputs": "", "session_id": session, "parameters": parameters}
    (event,) = http.post("/generate_stream", json=body).text.strip().split("\n\n")
    name, data = event.split("\n")
    assert name == "id: 0.1.4"
    assert json.loads(data.removeprefix("data: "))["index"] == 1


def test_a_deadline_shows_what_a_stop_string_held_back(generate):
    said = generate(max_new_tokens=MAX, max_time=SPAN_S, stop=[generate()[0][2:60] + "?!"])
    assert said[1] == "length"
    assert len(said[0]) > 60


def test_one_deadline_is_that_of_every_choice_and_prompt(http):
    body = {"model": "demo", "prompt": ["The ", "A "], "max_tokens": MAX, "seed": 5, "n": 3}
    start = time.monotonic()
    choices = http.post("/v1/completions", json=body | {"max_time": SPAN_S}).json()["choices"]
    assert time.monotonic() - start < SPAN_S + SLACK_S
    assert [choice["index"] for choice in choices] == list(range(6))
    assert {choice["finish_reason"] for choice in choices} == {"length"}
    assert all(0 < len(choice["text"]) < MAX for choice in choices)
    more = {"prompt": "The ", "n": 2, "best_of": 4, "logprobs": 1, "echo": True}
    more |= {"prompt": "The " * 100_000, "max_time": 0.01}
    choices = http.post("/v1/completions", json=body | more).json()["choices"]
    assert [choice["text"] for choice in choices] == [more["prompt"]] * 2
    parameters = {"do_sample": True, "best_of": 2, "details": True, "decoder_input_details": True}
    parameters |= {"max_new_tokens": MAX, "max_time": SPAN_S}
    reply = http.post("/generate", json={"inputs": "The ", "parameters": parameters}).json()
    assert reply["details"]["finish_reason"] == "length"
    assert len(reply["details"]["best_of_sequences"]) == 1


# -- in a session


def new(http) -> str:
    return http.post("/sessions", json={"text": "The ", "seed": 9}).json()["id"]


@pytest.mark.parametrize(
    "limits",
    [
        {"bad_words": ["e", "th"]},
        {"allowed_token_ids": [60, 70, 80, 82]},
        {"min_new_tokens": 30, "stop": ["e"]},
        {"max_new_tokens": MAX, "max_time": SPAN_S},
    ],
    ids=lambda limits: next(iter(limits)),
)
def test_a_turn_is_replayed_unchanged(http, generate, limits):
    session, key = new(http), {"Idempotency-Key": "one"}
    first = generate.post("", session, key, **limits)
    assert first.status_code == 200, first.text
    text, reason = generate.read(first)
    assert text
    for _ in range(2):  # a deadline is long past now
        assert generate.read(generate.post("", session, key, **limits)) == (text, reason)
    events = http.get(f"/sessions/{session}/events").text
    told = json.loads(events.strip().split("\n")[-1].removeprefix("data: "))
    assert told["generated_text"] == text
    if generate.family == "native" and generate.is_stream:
        assert events == first.text
    position = http.get(f"/sessions/{session}").json()["position"]
    said = http.get(f"/sessions/{session}/text?from=4").json()["text"]
    assert said.startswith(text)
    assert position == 4 + len(said)
    assert generate("", session, seed=9)[1] == "length"


def test_a_turn_that_ended_at_its_deadline_continues_in_the_next_one(http, whole):
    text, _ = whole("", new(http), max_new_tokens=MAX, max_time=SPAN_S, seed=9)
    session = new(http)
    first, reason = whole("", session, max_new_tokens=MAX, max_time=SPAN_S / 3, seed=9)
    assert reason == "length"
    second, _ = whole("", session, max_new_tokens=30, seed=9)
    common = min(len(text), len(first + second))
    assert (first + second)[:common] == text[:common]


# -- what is refused


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"bad_words": list("abc"), "structured_outputs": {"regex": "[abc]+"}}, "bad words in it"),
        ({"bad_words": ["q"] * 257}, "`bad_words` are 256 at most"),
        ({"bad_words": [""]}, "1 to 256 characters"),
        ({"allowed_token_ids": [10**6]}, "`allowed_token_ids` has the token 1000000"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"min_new_tokens": 61}, "must be at most"),
        ({"min_new_tokens": 9, "structured_outputs": {"regex": "q{3}"}}, "has 9 tokens or more"),
        (
            {
                "min_new_tokens": 40_000,
                "max_new_tokens": MAX,
                "structured_outputs": {"regex": "q*"},
            },
            "more than 32768 states",
        ),
        ({"max_time": 0}, "max_time"),
        ({"max_time": 86_401}, "max_time"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_byte(generate, given, sentence):
    reply = generate.post(**given)
    assert reply.status_code == 422
    error = reply.json()["error"]
    assert sentence in (error["message"] if generate.family == "openai" else error)


def test_a_list_that_bans_every_text_is_refused_by_its_field(http):
    tokens = http.get("/v1/models/demo").json()["vocabulary"]
    body = {"model": "demo", "prompt": "The ", "bad_words": [t for t in tokens if len(t) == 1]}
    reply = http.post("/v1/completions", json=body)
    assert reply.status_code == 422
    assert reply.json()["error"]["param"] == "bad_words"
    assert "no text can go on" in reply.json()["error"]["message"]


def test_deadlines_side_by_side_leave_the_server_as_it_was(whole):
    plain = whole()
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(whole, max_new_tokens=MAX, max_time=SPAN_S, seed=seed) for seed in range(8)
        ]
        assert {one.result()[1] for one in asked} == {"length"}
    assert whole() == plain
