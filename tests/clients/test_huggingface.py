"""The `huggingface_hub` package, unchanged, against the running server."""

import asyncio
import json

import pytest
from huggingface_hub import (
    AsyncInferenceClient,
    InferenceClient,
    TextGenerationInputGrammarType,
)
from huggingface_hub.errors import (
    GenerationError,
    HfHubHTTPError,
    OverloadedError,
    UnknownError,
    ValidationError,
)

from tests.api.conftest import AWKWARD

DRAWN = {"max_new_tokens": 40, "seed": 5, "do_sample": True}


@pytest.fixture(scope="module", params=["", "/generate"])
def client(request, server):
    """Trap 1: it posts to exactly the URL that it was given."""
    return InferenceClient(f"{server.url}{request.param}")


def test_async_gives_the_same_text(server):
    async def say() -> tuple[str, str]:
        async with AsyncInferenceClient(server.url) as client:
            whole = await client.text_generation("The ", **DRAWN)
            stream = await client.text_generation("The ", stream=True, **DRAWN)
            return whole, "".join([piece async for piece in stream])

    whole, streamed = asyncio.run(say())
    assert whole == streamed == InferenceClient(server.url).text_generation("The ", **DRAWN)


def test_details_are_read_whole_and_streamed(client):
    reply = client.text_generation("The ", details=True, top_n_tokens=2, **DRAWN)
    assert reply.details.finish_reason == "length"
    assert (reply.details.generated_tokens, reply.details.seed) == (40, 5)
    assert reply.details.prefill == []
    assert len(reply.details.top_tokens) == 40
    events = list(client.text_generation("The ", details=True, stream=True, **DRAWN))
    assert [event.index for event in events] == list(range(1, 41))
    assert [event.token.id for event in events] == [token.id for token in reply.details.tokens]
    assert events[-1].generated_text == reply.generated_text
    assert events[-1].details.input_length == 4


@pytest.mark.parametrize(
    ("grammar", "is_it"),
    [
        (
            TextGenerationInputGrammarType(
                type="json",
                value={"type": "object", "properties": {"a": {"type": "boolean"}}},
            ),
            lambda text: isinstance(json.loads(text), dict),
        ),
        (
            TextGenerationInputGrammarType(type="regex", value="[0-9]{3}"),
            lambda text: text.isdigit() and len(text) == 3,
        ),
        (
            {"type": "json_schema", "value": {"name": "n", "schema": {"type": "integer"}}},
            lambda text: isinstance(json.loads(text), int),
        ),
        ({"type": "json_object", "value": '{"type": "object"}'}, lambda text: text[0] == "{"),
        ({"type": "json_object"}, lambda text: text[0] == "{"),
        ({"type": "choice", "value": ["yes", "no"]}, lambda text: text in {"yes", "no"}),
    ],
)
def test_a_grammar_is_kept_and_its_end_is_an_eos_token(client, grammar, is_it):
    options = DRAWN | {"max_new_tokens": 80, "details": True, "grammar": grammar}
    reply = client.text_generation("The ", **options)
    assert is_it(reply.generated_text)
    events = list(client.text_generation("The ", stream=True, **options))
    assert "".join(event.token.text for event in events) == reply.generated_text
    assert events[-1].details.finish_reason == reply.details.finish_reason


def test_the_best_of_several_comes_with_the_others(client):
    options = {"max_new_tokens": 30, "do_sample": True, "details": True}
    reply = client.text_generation("The ", best_of=4, top_n_tokens=1, **options)
    texts = [reply.details, *reply.details.best_of_sequences]
    means = [sum(token.logprob for token in one.tokens) / len(one.tokens) for one in texts]
    assert len(means) == 4
    assert means == sorted(means, reverse=True)
    assert len({one.seed for one in texts}) == 4
    for one in reply.details.best_of_sequences:
        assert (one.finish_reason, one.generated_tokens) == ("length", 30)
        alone = client.text_generation("The ", seed=one.seed, **options)
        assert alone.generated_text == one.generated_text


def test_the_prompts_tokens_are_returned(client):
    reply = client.text_generation(
        "The ", max_new_tokens=3, details=True, decoder_input_details=True
    )
    assert "".join(token.text for token in reply.details.prefill) == "The "
    first, *rest = [token.logprob for token in reply.details.prefill]
    assert first is None
    assert all(logprob < 0 for logprob in rest)


def test_stop_strings_end_it(client):
    text = client.text_generation("The ", **DRAWN)
    reply = client.text_generation("The ", stop=[text[20:22]], details=True, **DRAWN)
    assert reply.generated_text == text[: text.index(text[20:22])]
    assert reply.details.finish_reason == "stop_sequence"


def test_a_session_by_its_header(http, server):
    """Trap 7: its parameters are a closed list, its headers are not."""
    session = http.post("/sessions", json={"text": "The ", "seed": 5}).json()["id"]
    client = InferenceClient(server.url, headers={"X-Session-Id": session})
    said = client.text_generation("x", max_new_tokens=9)
    assert http.get(f"/sessions/{session}/text").json()["text"] == f"The x{said}"
    reply = client.text_generation("y", max_new_tokens=9, details=True)
    assert reply.session == {"id": session, "position": 24, "turn": 2}  # trap 8


def test_health_and_endpoint(server):
    """Trap 13."""
    client = InferenceClient(server.url, provider="hf-inference")
    assert client.health_check()
    info = client.get_endpoint_info()
    assert info["model_id"] == "demo@1"
    assert info["max_best_of"] >= 1
    assert {"max_stop_sequences", "max_input_tokens", "max_total_tokens", "router"} <= info.keys()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"temperature": -1.0}, "`temperature` must be strictly positive"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 0.0}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
        ({"frequency_penalty": 3.0}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"best_of": 0}, "`best_of` must be > 0 and <= 128. Given: 0"),
        ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
        ({"best_of": 2, "top_k": 3, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
        ({"top_n_tokens": 21}, "`top_n_tokens` must be >= 0 and <= 20. Given: 21"),
        ({"watermark": True}, "`watermark` is not supported"),
        ({"adapter_id": "a"}, "`adapter_id` is not supported"),
        ({"grammar": {"type": "regex", "value": "("}}, "the pattern is not a regular expression"),
        ({"grammar": {"type": "regex", "value": "中"}}, "no text matches"),
        ({"grammar": {"type": "xml", "value": ""}}, "`grammar` is"),
        ({"grammar": {"type": "json", "value": "{"}}, "`grammar.value` is a JSON schema"),
        ({"grammar": {"type": "json", "value": {}, "x": 1}}, "`grammar.x` is not a known field"),
        (
            {"grammar": {"type": "regex", "value": "a{9}"}, "max_new_tokens": 8},
            "the shortest text",
        ),
    ],
)
def test_a_refusal_is_its_validation_error_in_tgis_words(server, stream, parameters, sentence):
    """Before the first byte, which TGI's own streams do not do."""
    with pytest.raises(ValidationError) as refused:
        list(InferenceClient(server.url).text_generation("The ", stream=stream, **parameters))
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"best_of": 2, "top_k": 3}, "`best_of` != 1 is not supported when streaming tokens"),
        (
            {"decoder_input_details": True, "details": True},
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
    ],
)
def test_what_a_stream_cannot_do_is_refused_in_tgis_words(server, parameters, sentence):
    with pytest.raises(ValidationError) as refused:
        list(InferenceClient(server.url).text_generation("The ", stream=True, **parameters))
    assert sentence in str(refused.value)


def test_empty_inputs_are_refused_in_tgis_words(client):
    with pytest.raises(ValidationError, match="Input validation error: `inputs` cannot be empty"):
        client.text_generation("", max_new_tokens=3)


def test_an_unknown_character_is_named(client):
    with pytest.raises(UnknownError, match=r"U\+4E2D"):
        client.text_generation("中", max_new_tokens=3)


def test_an_error_has_the_requests_id(server):
    client = InferenceClient(server.url, headers={"X-Request-Id": "mine-2"})
    with pytest.raises(ValidationError) as refused:
        client.text_generation("The ", top_k=0)
    cause = refused.value.__cause__
    assert isinstance(cause, HfHubHTTPError)
    assert cause.request_id == "mine-2"


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"error": "a", "error_type": "overloaded"}, OverloadedError),
        ({"error": "a", "error_type": "generation"}, GenerationError),
    ],
)
def test_its_error_classes_are_called_as_ours(event, error):
    """Trap 11: what the server calls its conditions is what the package looks for."""
    from huggingface_hub.inference._common import _parse_text_generation_error  # noqa: PLC0415

    assert isinstance(_parse_text_generation_error(event["error"], event["error_type"]), error)


def test_characters_that_end_lines_elsewhere_arrive_whole(http, server):
    """Trap 4: a session of the awkward model, since the package cannot name a model of ours."""
    body = {"model": "awkward", "text": AWKWARD, "seed": 1}
    session = http.post("/sessions", json=body).json()["id"]
    client = InferenceClient(server.url, headers={"X-Session-Id": session})
    options = {"max_new_tokens": 400, "do_sample": True, "stream": True}
    pieces = list(client.text_generation("<", **options))
    assert len(pieces) == 400
    assert set(pieces) == set(AWKWARD)
