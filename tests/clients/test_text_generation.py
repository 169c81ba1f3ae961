"""PyPI's `text-generation`, unchanged, against the running server."""

import asyncio
import json

import pytest
from text_generation import AsyncClient, Client
from text_generation.errors import ValidationError
from text_generation.types import Grammar, GrammarType

pytestmark = pytest.mark.filterwarnings("ignore:The `dict` method is deprecated")

DRAWN = {"max_new_tokens": 40, "seed": 5, "do_sample": True}


@pytest.fixture(scope="module")
def client(server):
    return Client(server.url, timeout=30)


def test_it_generates_and_reads_every_detail(client):
    """Trap 2: it reads the first of a list."""
    reply = client.generate("The ", top_n_tokens=2, **DRAWN)
    assert len(reply.generated_text) == 40
    assert reply.details.finish_reason == "length"
    assert (reply.details.generated_tokens, reply.details.seed) == (40, 5)
    assert "".join(token.text for token in reply.details.tokens) == reply.generated_text
    assert len(reply.details.top_tokens) == 40


def test_it_streams_the_same(client):
    text = client.generate("The ", **DRAWN).generated_text
    events = list(client.generate_stream("The ", **DRAWN))
    assert "".join(event.token.text for event in events) == text
    assert events[-1].generated_text == text
    assert events[-1].details.seed == 5


def test_async_gives_the_same_text(server, client):
    async def say() -> tuple[str, str]:
        other = AsyncClient(server.url, timeout=30)
        whole = await other.generate("The ", **DRAWN)
        pieces = [event.token.text async for event in other.generate_stream("The ", **DRAWN)]
        return whole.generated_text, "".join(pieces)

    assert asyncio.run(say()) == (client.generate("The ", **DRAWN).generated_text,) * 2


def test_it_stops_and_cuts(client):
    text = client.generate("The ", **DRAWN).generated_text
    reply = client.generate("The ", stop_sequences=[text[20:22]], **DRAWN)  # trap 3
    assert reply.details.finish_reason == "stop_sequence"
    full = client.generate("xThe ", truncate=4, return_full_text=True, **DRAWN)
    assert full.generated_text == f"xThe {text}"


@pytest.mark.parametrize("stream", [False, True])
def test_its_grammars_are_kept(client, stream):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    grammars = [
        (Grammar(type=GrammarType.Json, value=schema), json.loads),
        (Grammar(type=GrammarType.Json, value=json.dumps(schema)), json.loads),
        (Grammar(type=GrammarType.Regex, value="[0-9]{3}"), int),
    ]
    for grammar, read in grammars:
        if stream:
            text = list(client.generate_stream("The ", grammar=grammar, **DRAWN))[-1].generated_text
        else:
            text = client.generate("The ", grammar=grammar, **DRAWN).generated_text
        assert read(text) is not None


def test_the_best_of_several_and_the_prompts_own_tokens(client):
    reply = client.generate(
        "The ", do_sample=True, max_new_tokens=9, best_of=3, decoder_input_details=True
    )
    assert len(reply.details.best_of_sequences) == 2
    assert [token.text for token in reply.details.prefill] == list("The ")
    assert reply.details.prefill[0].logprob is None
    assert reply.details.prefill == reply.details.best_of_sequences[0].prefill


def test_every_knob_of_sampling_is_taken(client):
    options = {
        "temperature": 0.5,
        "top_k": 20,
        "top_p": 0.9,
        "typical_p": 0.9,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.1,
        "watermark": False,
    }
    assert (
        client.generate("The ", max_new_tokens=9, seed=1, **options).details.generated_tokens == 9
    )


def test_a_refusal_is_its_validation_error(client):
    with pytest.raises(ValidationError, match="`max_new_tokens` must be strictly positive"):
        client.generate("The ", max_new_tokens=0)
