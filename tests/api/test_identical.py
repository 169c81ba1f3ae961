"""A seeded request has the same text on every route, in any batch, with any cached prompt."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from huggingface_hub import InferenceClient

from tests.api.test_generate import events_of

SENTENCE = "The with statement is used to wrap the execution of a block with methods. "
SHORT, LONG = "The ", SENTENCE * 5
SAMPLING = {"temperature": 0.9, "top_k": 40, "top_p": 0.95}
PENALTIES = {"repetition_penalty": 1.1, "frequency_penalty": 0.2}
N, SEED = 120, 11
OTHERS = 50  # together with every way and prompt at once they fill the batch


def tgi(http, path, prompt, **more):
    parameters = SAMPLING | PENALTIES | {"max_new_tokens": N, "seed": SEED, "details": True}
    body = {"inputs": prompt, "model": "demo", "parameters": parameters} | more
    reply = http.post(path, json=body, headers=more.pop("headers", {}))
    assert reply.status_code == 200, reply.text
    return reply


def native(http, prompt):
    details = tgi(http, "/generate", prompt).json()["details"]
    return [(token["id"], token["logprob"]) for token in details["tokens"]]


def native_stream(http, prompt):
    events = events_of(tgi(http, "/generate_stream", prompt))
    return [(event["token"]["id"], event["token"]["logprob"]) for event in events]


def compatible(http, prompt):
    (reply,) = tgi(http, "/", prompt).json()
    return [(token["id"], token["logprob"]) for token in reply["details"]["tokens"]]


def completion(http, prompt, *, stream=False):
    body = {"model": "demo", "prompt": prompt, "max_tokens": N, "seed": SEED, "logprobs": 0}
    body |= SAMPLING | PENALTIES | {"return_token_ids": True}
    with openai.OpenAI(base_url=http.base_url.join("/v1"), api_key="none", max_retries=0) as client:
        fields = {k: body.pop(k) for k in ("top_k", "repetition_penalty", "return_token_ids")}
        reply = client.completions.create(**body, stream=stream, extra_body=fields)
        choices = [one.choices[0] for one in reply] if stream else [reply.choices[0]]
        choices = [choice for choice in choices if choice.logprobs]  # else it has the prompt's ids
        tokens = [token for choice in choices for token in choice.token_ids]
        logprobs = [value for choice in choices for value in choice.logprobs.token_logprobs]
        return list(zip(tokens, logprobs, strict=True))


def completion_stream(http, prompt):
    return completion(http, prompt, stream=True)


def turn(http, prompt):
    """Generate in the only turn of a new session."""
    session = http.post("/sessions", json={"model": "demo"}).json()["id"]
    reply = tgi(http, "/generate", prompt, session_id=session).json()
    return [(token["id"], token["logprob"]) for token in reply["details"]["tokens"]]


def turn_of_two_parts(http, prompt):
    """Generate in a session that has most of the prompt already."""
    session = http.post("/sessions", json={"model": "demo", "text": prompt[:-3]}).json()["id"]
    reply = tgi(http, "/generate", prompt[-3:], session_id=session).json()
    return [(token["id"], token["logprob"]) for token in reply["details"]["tokens"]]


WAYS = [
    native,
    native_stream,
    compatible,
    completion,
    completion_stream,
    turn,
    turn_of_two_parts,
]


@pytest.fixture(scope="module")
def alone(http):
    """The tokens of each prompt with a cold cache, before any other request."""
    return {prompt: native(http, prompt) for prompt in (SHORT, LONG)}


def test_the_cache_was_cold_and_is_warm(http, alone):
    reply = http.post("/v1/completions", json={"model": "demo", "prompt": LONG, "max_tokens": 1})
    assert reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == len(LONG) - 1
    salted = {"model": "demo", "prompt": LONG, "max_tokens": 1, "cache_salt": "another"}
    for cached in (0, len(LONG) - 1):
        usage = http.post("/v1/completions", json=salted).json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == cached
    assert len(alone[LONG]) == N


@pytest.mark.parametrize("prompt", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_text(http, alone, way, prompt):
    assert way(http, prompt) == alone[prompt]


def test_huggingface_hub_gives_the_same_text(http, alone):
    client = InferenceClient(str(http.base_url))
    options = SAMPLING | PENALTIES | {"max_new_tokens": N, "seed": SEED, "details": True}
    reply = client.text_generation(LONG, **options)
    streamed = list(client.text_generation(LONG, stream=True, **options))
    assert [(token.id, token.logprob) for token in reply.details.tokens] == alone[LONG]
    assert [(one.token.id, one.token.logprob) for one in streamed] == alone[LONG]


def test_in_a_full_batch_every_way_gives_the_same_text(http, alone):
    is_over = threading.Event()

    def company(seed: int) -> None:
        prompts = (SHORT, LONG[: 64 + seed], LONG + SENTENCE[:seed])
        while not is_over.is_set():
            body = {"inputs": prompts[seed % 3], "model": "demo"}
            parameters = {"max_new_tokens": 200, "seed": seed, "temperature": 1.2}
            reply = http.post("/generate", json=body | {"parameters": parameters})
            assert reply.status_code == 200

    with ThreadPoolExecutor(OTHERS) as pool:
        others = [pool.submit(company, seed) for seed in range(OTHERS)]
        try:
            pairs = [(way, prompt) for way in WAYS for prompt in alone]
            with ThreadPoolExecutor(len(pairs)) as measured:
                found = list(measured.map(lambda pair: pair[0](http, pair[1]), pairs))
            for (way, prompt), tokens in zip(pairs, found, strict=True):
                assert tokens == alone[prompt], way.__name__
        finally:
            is_over.set()
        for other in others:
            other.result()


def test_an_extended_prompt_gives_the_same_text_as_with_a_cold_cache(http, alone):
    """Compare with the same prompt under a salt of its own, whose cache is cold."""
    del alone
    longer = LONG + "A class "
    body = {"model": "demo", "prompt": longer, "max_tokens": N, "seed": SEED}
    cold = http.post("/v1/completions", json=body | {"cache_salt": "cold"}).json()
    warm = http.post("/v1/completions", json=body).json()
    assert cold["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert warm["usage"]["prompt_tokens_details"]["cached_tokens"] >= len(LONG) - 1
    assert json.dumps(cold["choices"]) == json.dumps(warm["choices"])
