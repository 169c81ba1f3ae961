"""Embeddings by the `openai` package: the recurrent state after a text, as the reference has it."""

import base64

import httpx2
import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings

from service.models.cell import LayerSpec
from service.models.reference import ReferenceModel
from service.models.spec import ModelRef, ModelSpec
from service.models.store import ModelStore
from service.models.window import Padding, Window
from tests.bundles import put_model
from tests.process import serving

TEXTS = ["abca", "c", "bb"]
ALPHABET = "abc"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    (folder / "imports").mkdir()
    store = folder / "model_store"
    layers = (LayerSpec("lstm", 8), LayerSpec("lstm", 6))
    put_model(store, "two", ModelSpec(3, 4, layers), tokens=ALPHABET, random_seed=1)
    put_model(
        store, "gru", ModelSpec(3, None, (LayerSpec("gru", 5),)), tokens=ALPHABET, random_seed=1
    )
    window = Window(4, Padding.NONE)
    windowed = ModelSpec(3, None, (LayerSpec("lstm", 5),), window=window)
    put_model(store, "windowed", windowed, tokens=ALPHABET, random_seed=1)
    return folder


@pytest.fixture(scope="module")
def url(home):
    with serving(home) as running:
        yield running.url


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def embedded(client, model="two", texts=TEXTS, **extra):
    reply = client.embeddings.create(model=model, input=texts, extra_body=extra or None)
    assert [one.index for one in reply.data] == list(range(len(reply.data)))
    return np.array([one.embedding for one in reply.data])


def states(home, name: str, text: str):
    """Return the reference's states of the last layer after each token: (tokens, h and c)."""
    bundle = ModelStore(home / "model_store").read(ModelRef(name, 1))
    reference = ReferenceModel(bundle.spec, bundle.weights)
    state, found = reference.initial_state(), []
    for character in text:
        _, state = reference.step(ALPHABET.index(character), state)
        found.append(state)
    n = 1 if name == "gru" else 2
    return np.array([np.concatenate(one[-n:]) for one in found])


@pytest.mark.parametrize(("name", "width"), [("two", 6), ("gru", 5)])
def test_a_vector_is_h_of_the_last_layer_after_the_text(home, client, name, width):
    found = embedded(client, name)
    assert found.shape == (3, width)
    expected = [states(home, name, text)[-1, :width] for text in TEXTS]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_c_and_the_mean_over_all_tokens(home, client):
    both = embedded(client, state="hc")
    np.testing.assert_allclose(both, [states(home, "two", t)[-1] for t in TEXTS], atol=1e-5)
    mean = embedded(client, state="hc", pooling="mean")
    expected = [states(home, "two", text).mean(0) for text in TEXTS]
    np.testing.assert_allclose(mean, expected, atol=1e-5)


def test_a_text_has_the_same_vector_alone_and_in_any_batch(client):
    texts = [("abc" * n)[: 3 * n - n % 3] for n in range(1, 40)]
    together = embedded(client, texts=texts)
    alone = [embedded(client, texts=text)[0] for text in texts[::9]]
    assert (together[::9] == alone).all()


def test_numbers_and_base64_are_the_same(url, client):
    asked = {"model": "two", "input": TEXTS[0]}
    reply = httpx2.post(f"{url}/v1/embeddings", json=asked).json()
    coded = httpx2.post(f"{url}/v1/embeddings", json=asked | {"encoding_format": "base64"}).json()
    numbers = np.array(reply["data"][0]["embedding"], np.float32)
    content = base64.b64decode(coded["data"][0]["embedding"])
    assert (np.frombuffer(content, "<f4") == numbers).all()
    assert reply["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert reply["model"] == "two@1"
    assert (embedded(client, texts=[[0, 1, 2, 0]])[0] == numbers).all()


@pytest.mark.parametrize(
    ("asked", "field", "sentence"),
    [
        ({"input": "abc", "dimensions": 3}, "dimensions", "has 6 numbers. Given: 3"),
        ({"input": "abc", "model": "windowed"}, "model", "a window of 4 tokens"),
        ({"input": "abc", "model": "gru", "state": "hc"}, "state", "the cell gru has no c"),
        ({"input": ""}, "input", "without a token"),
        ({"input": []}, "input", "none of the lists is empty"),
        ({"input": ["a", ""]}, "input", "without a token"),
        ({"input": [[3]]}, "input", "from 0 to 2"),
        ({"input": "abz"}, "input", "'z'"),
        ({"input": "ab" * 50_001}, "input", "at most 100000 tokens in all. Given: 100002"),
        ({"input": ["a"] * 2_049}, "input", "at most 2048 texts. Given: 2049"),
        ({"input": None}, "input", "required"),
        ({}, "input", "required"),
    ],
)
def test_what_there_is_no_vector_of_is_refused(url, asked, field, sentence):
    reply = httpx2.post(f"{url}/v1/embeddings", json={"model": "two"} | asked)
    assert reply.status_code == 422, reply.text
    error = reply.json()["error"]
    assert sentence in error["message"]
    assert error["param"] == field


def test_the_right_size_is_accepted(url):
    asked = {"model": "two", "input": "abc", "dimensions": 6}
    assert httpx2.post(f"{url}/v1/embeddings", json=asked).status_code == 200


def test_langchain_embeds(client, url):
    embeddings = OpenAIEmbeddings(
        base_url=f"{url}/v1", api_key="none", model="two", check_embedding_ctx_length=False
    )
    np.testing.assert_array_equal(embeddings.embed_documents(TEXTS), embedded(client))
