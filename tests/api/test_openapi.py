"""The OpenAPI document: the committed one is the server's, with every error."""

import json

import pytest

from service.api.openapi import completed
from service.app import openapi_json
from tests.process import ROOT

PAGE = ROOT / "docs" / "reference" / "openapi.json"
DOCUMENT = json.loads(PAGE.read_text())
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}


def test_the_committed_document_is_the_servers(http):
    found = json.loads(openapi_json())
    assert found == DOCUMENT, "the routes have changed: `make openapi` writes the document again"
    assert http.get("/openapi.json").json() == DOCUMENT


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_describes_its_replies(name):
    operation = OPERATIONS[name]
    well = [status for status in operation["responses"] if status.startswith("2")]
    assert well, "no success"
    family = "OpenAIProblem" if " /v1/" in name else "Problem"
    for status, reply in operation["responses"].items():
        if status not in well:
            assert reply == {"$ref": f"#/components/responses/{family}{status}"}
            assert reply["$ref"].split("/")[-1] in DOCUMENT["components"]["responses"]
    assert operation["tags"], "its refusals are its tag's"
    assert operation["description"]


def test_no_reply_is_called_what_it_is_not():
    text = json.dumps(DOCUMENT)
    assert "HTTPValidationError" not in text
    for kind in ("Problem", "OpenAIProblem"):
        assert kind in DOCUMENT["components"]["schemas"]


def test_an_operation_with_an_unknown_tag_has_every_error():
    strange = {"tags": ["new"], "responses": {"200": {"description": "well"}}}
    document = {"components": {"schemas": {}}, "paths": {"/v1/new": {"get": strange}}}
    found = completed(document)["paths"]["/v1/new"]["get"]["responses"]
    assert found["410"] == {"$ref": "#/components/responses/OpenAIProblem410"}
    assert {"400", "404", "422", "429", "503", "507"} <= found.keys()
