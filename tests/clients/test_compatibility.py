"""The requests of every row of the compatibility page, sent to a server."""

import inspect
from copy import deepcopy
from typing import Any

import httpx2
import huggingface_hub
import openai
import pytest
import text_generation

from service.api.openai.chat_schemas import ChatBody
from service.api.openai.embeddings import EmbeddingsBody
from service.api.openai.schemas import CompletionBody
from service.api.tgi.schemas import GenerateBody, Parameters
from tests.clients.surface import (
    CHAT,
    EMBEDDINGS,
    NATIVE,
    OPENAI,
    PAGE,
    SURFACES,
    TGI,
    E,
    Q,
    Row,
    Surface,
    Verdict,
)
from tests.clients.surface import page as rendered

ROWS = [(surface, row) for surface in SURFACES for row in surface.rows]


def send(http: httpx2.Client, surface: Surface, *bodies: dict[str, Any]) -> httpx2.Response:
    """Return the reply to the bodies, each merged into the one before."""
    merged = deepcopy(surface.base)
    for body in bodies:
        inner = merged.get("parameters", {}) | body.get("parameters", {})
        merged |= body | ({"parameters": inner} if inner else {})
    if merged.get("session_id") == "$session":
        session = http.post("/sessions", json={"text": "The ", "seed": 3}).json()
        merged["session_id"] = session["id"]
    return http.post(surface.path, json=merged)


@pytest.mark.parametrize(
    ("surface", "row"), ROWS, ids=[f"{surface.path}-{row.name}" for surface, row in ROWS]
)
def test_a_parameter_behaves_as_its_row(http, surface: Surface, row: Row):
    plain, given = send(http, surface, row.base), send(http, surface, row.base, row.body)
    assert plain.status_code == 200
    match row.verdict:
        case Verdict.HONOURED:
            assert row.check is not None
            assert row.check(plain, given), given.text[:500]
        case Verdict.REFUSED:
            assert given.status_code == 422
            assert f"`{row.name}`" in given.text
            name, value = row.name, row.nothing
            nothing = {"parameters": {name: value}} if "parameters" in row.body else {name: value}
            assert send(http, surface, row.base, nothing).status_code == 200
        case Verdict.IGNORED:
            assert given.status_code == 200
            contents = [reply.json() for reply in (plain, given)]
            for content in contents:
                content.pop("id", None)
                content.pop("created", None)
            assert contents[0] == contents[1]


def test_the_rows_name_tokens_that_there_are(http):
    tokens = http.post("/tokenize", json={"inputs": "qe"}).json()
    assert [token["id"] for token in tokens] == [int(Q), E]


def test_the_page_is_made_of_the_rows():
    """`python -m tests.clients.surface` writes it."""
    assert PAGE.read_text(encoding="utf-8") == rendered()


def test_every_field_of_a_body_has_a_row_and_no_other():
    assert sorted(row.name for row in OPENAI) == sorted(CompletionBody.model_fields)
    assert sorted(row.name for row in CHAT) == sorted(ChatBody.model_fields)
    assert sorted(row.name for row in EMBEDDINGS) == sorted(EmbeddingsBody.model_fields)
    native = {*GenerateBody.model_fields, *Parameters.model_fields} - {"parameters"}
    assert sorted(row.name for row in (*TGI, *NATIVE)) == sorted(native)


def test_every_argument_of_a_client_has_a_row():
    create = inspect.signature(openai.resources.Completions.create).parameters
    of_package = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    assert set(create) - of_package <= {row.name for row in OPENAI}
    create = inspect.signature(openai.resources.chat.Completions.create).parameters
    assert set(create) - of_package <= {row.name for row in CHAT}
    create = inspect.signature(openai.resources.Embeddings.create).parameters
    assert set(create) - of_package <= {row.name for row in EMBEDDINGS}
    hub = inspect.signature(huggingface_hub.InferenceClient.chat_completion).parameters
    assert set(hub) - {"self", "extra_body"} <= {row.name for row in CHAT}
    rows = {row.name for row in (*TGI, *NATIVE)}
    hub = inspect.signature(huggingface_hub.InferenceClient.text_generation).parameters
    assert set(hub) - {"self", "prompt"} <= rows
    for method in ("generate", "generate_stream"):
        generate = inspect.signature(getattr(text_generation.Client, method)).parameters
        assert set(generate) - {"self", "prompt"} <= rows | {"stop_sequences"}
