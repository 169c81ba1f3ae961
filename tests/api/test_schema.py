"""Every route against the OpenAPI document, with requests that it allows and with others.

No reply is a mistake of the server's, and each is one that the document has. What is asked is the
same every time.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.conftest import new_home
from tests.process import ROOT, serving

EXAMPLES, SOAK_EXAMPLES = 6, 200
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
MOST_TOKENS, MOST_CHOICES, MOST_CHARACTERS = 30, 3, 200


def strict(document: dict[str, Any]) -> dict[str, Any]:
    """The document without leave to answer with members that it does not name."""
    for name, schema in document["components"]["schemas"].items():
        if "properties" in schema and not name.endswith("Body"):
            schema.setdefault("additionalProperties", False)
    return document


DOCUMENT = strict(json.loads((ROOT / "docs" / "reference" / "openapi.json").read_text()))
OPERATIONS = {
    found.ok().label: found.ok()
    for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()
}


@dataclass
class Place:
    """A server of its own, to which the routes may do what they like, and what there is on it."""

    url: str
    http: requests.Session
    corpus: str = ""
    job: str = ""

    def post(self, path: str, **more: Any) -> dict[str, Any]:
        reply = self.http.post(self.url + path, timeout=20, **more)
        reply.raise_for_status()
        return reply.json()

    def there_is(self) -> dict[str, str]:
        """The names of things that are there, whatever was done before."""
        self.post("/admin/models/demo@1/load")
        self.http.put(f"{self.url}/admin/aliases/default", json={"model": "demo@1"}, timeout=20)
        if not self.job:
            text = b"the cat sat on the mat\n" * 400
            self.corpus = self.post("/corpora?name=words", data=text)["id"]
            asked = {"name": "cat", "corpus": self.corpus}
            self.job = self.post("/train-jobs", json=asked)["id"]
            self.post(f"/train-jobs/{self.job}/cancel")  # its events have an end
        return {
            "model": "demo@1",
            "ref": "awkward@1",
            "name": "demo",
            "alias": "other",
            "session_id": self.post("/sessions", json={"text": "The ", "seed": 1})["id"],
            "corpus": self.corpus,
            "job_id": self.job,
        }


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Place]:
    home = new_home(tmp_path_factory.mktemp("home"))
    with serving(home) as running, requests.Session() as http:
        yield Place(running.url, http)


def likely(value: Any, there_is: dict[str, str], name: str = "") -> Any:
    """A value in whose place the server finds more to do: texts it can read, names it knows."""
    if isinstance(value, dict):
        return {key: likely(one, there_is, key) for key, one in value.items()}
    if isinstance(value, list):
        return [likely(one, there_is, name) for one in value]
    if isinstance(value, str) and name in {"inputs", "text", "prompt"}:
        return "".join(chr(32 + ord(c) % 95) for c in value[:MOST_CHARACTERS])
    if isinstance(value, str) and name in there_is:
        return there_is[name]
    return None if name == "expected_position" else value


def bounded(value: Any, name: str = "") -> Any:
    """The same with fewer tokens to make: that a million take long is not what is tested."""
    if isinstance(value, dict):
        return {key: bounded(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [bounded(one, name) for one in value]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and name in {"max_new_tokens", "max_tokens", "min_new_tokens", "min_tokens"}:
        return min(value, MOST_TOKENS)
    if is_number and name in {"n", "best_of", "num_beams"}:
        return min(value, MOST_CHOICES)
    return value


def check(place: Place, label: str, examples: int) -> None:
    operation, there_is = OPERATIONS[label], place.there_is()
    strategy = operation.as_strategy

    def ask(case: Case) -> None:
        if isinstance(case.body, dict | list):
            case.body = bounded(case.body)
        reply = case.call(base_url=place.url, session=place.http, timeout=20)
        case.validate_response(reply, checks=CHECKS)

    def ask_for_what_is_there(case: Case) -> None:
        if isinstance(case.body, dict | list):
            case.body = likely(case.body, there_is)
        case.path_parameters = likely(case.path_parameters, there_is)
        ask(case)

    tell = settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=HealthCheck
    )
    for asking, mode in (
        (ask, GenerationMode.POSITIVE),
        (ask_for_what_is_there, GenerationMode.POSITIVE),
        (ask, GenerationMode.NEGATIVE),
    ):
        with contextlib.suppress(Unsatisfiable):  # it takes nothing that could be wrong
            seed(1)(tell(given(strategy(mode))(asking)))()


@pytest.mark.parametrize("label", OPERATIONS)
def test_every_reply_is_one_that_the_document_has(place, label):
    check(place, label, EXAMPLES)


# What generated requests rarely put together: what all that a reply may have is made of.
RICH: dict[str, list[dict[str, Any]]] = {
    "POST /generate": [
        {"details": True, "top_n_tokens": 3, "seed": 1, "decoder_input_details": True},
        {"details": True, "do_sample": True, "stop": ["e"], "return_full_text": True},
        {"details": True, "grammar": {"type": "regex", "value": "[ab]{3}"}},
        {"details": True, "grammar": {"type": "regex", "value": "(ab){0}"}},
        {"details": True, "do_sample": True, "best_of": 3, "top_n_tokens": 2},
        {"details": True, "num_beams": 3},
        {"bad_words": ["th"], "min_new_tokens": 4, "max_time": 5.0, "allowed_token_ids": [40, 41]},
    ],
    "POST /v1/completions": [
        {"logprobs": 2, "echo": True, "n": 2, "seed": 1},
        {"logprobs": 0, "echo": True, "max_tokens": 0},
        {"prompt_logprobs": 2, "return_token_ids": True},
        {"stop": ["e"], "include_stop_str_in_output": True, "best_of": 3},
        {"structured_outputs": {"json": {"type": "object"}}, "max_tokens": 30},
        {"structured_outputs": {"regex": "(ab){0}"}, "logprobs": 1},
        {"use_beam_search": True, "n": 2, "best_of": 3},
        {"prompt": ["The ", "A "], "stream_options": {"include_usage": True}},
        {"allowed_token_ids": [40, 41], "return_tokens_as_token_ids": True, "logprobs": 2},
    ],
}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("label", RICH)
def test_every_reply_with_all_that_it_may_have_is_one_that_the_document_has(
    place, label, is_stream
):
    session = place.there_is()["session_id"]
    statuses = set()
    for asked in RICH[label]:
        for here in ({}, {"session_id": session}):
            if label == "POST /generate":
                of_length = {"max_new_tokens": MOST_TOKENS} | asked
                body = {"inputs": "The ", "parameters": of_length, "stream": is_stream, **here}
            else:
                options = {"stream": True} if is_stream else {}
                body = {"prompt": "The ", **asked, **options, **here}
                if not is_stream:
                    body.pop("stream_options", None)
            case = OPERATIONS[label].Case(body=body, media_type="application/json")
            reply = case.call(base_url=place.url, session=place.http, timeout=20)
            case.validate_response(reply, checks=CHECKS)
            statuses.add(reply.status_code)
    assert statuses <= {200, 422}


@pytest.mark.soak
@pytest.mark.parametrize("label", OPERATIONS)
def test_every_reply_is_one_that_the_document_has_for_long(place, label):
    check(place, label, SOAK_EXAMPLES)
