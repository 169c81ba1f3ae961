"""Generated requests to every route, valid and invalid, compared with the OpenAPI document.

No reply is an internal error, and the document has each of them. The requests are the same in
every run.
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
_LENGTHS = {
    *("max_new_tokens", "max_tokens", "max_completion_tokens", "min_new_tokens", "min_tokens")
}
MOST_TOKENS, MOST_CHOICES, MOST_CHARACTERS = 30, 3, 200


def strict(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with all additional members of replies forbidden.

    It has no security: every request has the right key, and none a generated one.
    """
    del document["components"]["securitySchemes"]
    for operations in document["paths"].values():
        for operation in operations.values():
            operation.pop("security", None)
    for name, schema in document["components"]["schemas"].items():
        if "properties" in schema and not name.endswith("Body"):
            schema.setdefault("additionalProperties", False)
    return document


DOCUMENT = strict(json.loads((ROOT / "docs" / "reference" / "openapi.json").read_text()))
OPERATIONS = {
    found.ok().label: found.ok()
    for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()
    if found.ok().label != "POST /admin/drain"  # after it all others are refused
}


@dataclass
class Place:
    """A server for these tests alone, and the things that exist on it."""

    url: str
    http: requests.Session
    corpus: str = ""
    job: str = ""

    def post(self, path: str, **more: Any) -> dict[str, Any]:
        reply = self.http.post(self.url + path, timeout=20, **more)
        reply.raise_for_status()
        return reply.json()

    def existing(self) -> dict[str, str]:
        """Return the names of things that exist, whatever earlier requests did."""
        self.post("/admin/models/demo@1/load")
        self.http.put(f"{self.url}/admin/aliases/default", json={"model": "demo@1"}, timeout=20)
        if not self.job:
            text = b"the cat sat on the mat\n" * 400
            self.corpus = self.post("/corpora?name=words", data=text)["id"]
            asked = {"name": "cat", "corpus": self.corpus}
            self.job = self.post("/train-jobs", json=asked)["id"]
            self.post(f"/train-jobs/{self.job}/cancel")  # so that its events end
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
    admin_key = "a" * 40
    with serving(home, CAROUSEL_ADMIN_KEY=admin_key) as running, requests.Session() as http:
        place = Place(running.url, http)
        http.headers["X-API-Key"] = admin_key
        scopes = ["generate", "train", "admin", "metrics"]
        made = place.post("/admin/keys", json={"name": "all", "scopes": scopes})
        http.headers["X-API-Key"] = made["secret"]
        yield place


def likely(value: Any, existing: dict[str, str], name: str = "") -> Any:
    """Replace values by ones that lead further: readable texts, names that exist."""
    if isinstance(value, dict):
        return {key: likely(one, existing, key) for key, one in value.items()}
    if isinstance(value, list):
        return [likely(one, existing, name) for one in value]
    if isinstance(value, str) and name in {"inputs", "text", "prompt", "content", "input"}:
        return "".join(chr(32 + ord(c) % 95) for c in value[:MOST_CHARACTERS])
    if isinstance(value, str) and name in existing:
        return existing[name]
    return None if name == "expected_position" else value


def bounded(value: Any, name: str = "") -> Any:
    """Limit the tokens to generate: the time that a million take is not tested."""
    if isinstance(value, dict):
        return {key: bounded(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [bounded(one, name) for one in value]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and name in _LENGTHS:
        return min(value, MOST_TOKENS)
    if is_number and name in {"n", "best_of", "num_beams"}:
        return min(value, MOST_CHOICES)
    return value


def check(place: Place, label: str, examples: int) -> None:
    operation, existing = OPERATIONS[label], place.existing()
    strategy = operation.as_strategy

    def send(case: Case) -> None:
        if isinstance(case.body, dict | list):
            case.body = bounded(case.body)
        reply = case.call(base_url=place.url, session=place.http, timeout=20)
        case.validate_response(reply, checks=CHECKS)

    def send_to_existing(case: Case) -> None:
        if isinstance(case.body, dict | list):
            case.body = likely(case.body, existing)
        case.path_parameters = likely(case.path_parameters, existing)
        send(case)

    run = settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=HealthCheck
    )
    for test, mode in (
        (send, GenerationMode.POSITIVE),
        (send_to_existing, GenerationMode.POSITIVE),
        (send, GenerationMode.NEGATIVE),
    ):
        with contextlib.suppress(Unsatisfiable):  # the operation has no invalid input
            seed(1)(run(given(strategy(mode))(test)))()


@pytest.mark.parametrize("label", OPERATIONS)
def test_every_reply_is_one_that_the_document_has(place, label):
    check(place, label, EXAMPLES)


# Combinations that generated requests rarely have, for every member of a reply.
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
    session = place.existing()["session_id"]
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
