"""Health and metadata of the Open Inference Protocol."""

import pytest


def test_the_server_says_that_it_lives_and_is_ready(http):
    assert http.get("/v2/health/live").json() == {"live": True}
    assert http.get("/v2/health/ready").json() == {"ready": True}
    about = http.get("/v2").json()
    assert about["name"] == "carousel"
    assert about["version"] == http.get("/info").json()["version"]
    assert about["extensions"] == []


@pytest.mark.parametrize("path", ["demo", "default", "demo/versions/1"])
def test_a_model_has_metadata_and_is_ready(http, path):
    found = http.get(f"/v2/models/{path}").json()
    assert found == {
        "name": "demo",
        "versions": ["1"],
        "platform": "carousel",
        "inputs": [],
        "outputs": [],
    }
    assert http.get(f"/v2/models/{path}/ready").json() == {"name": "demo", "ready": True}


@pytest.mark.parametrize("path", ["nobody", "demo/versions/9", "demo/versions/x"])
@pytest.mark.parametrize("end", ["", "/ready"])
def test_what_is_not_stored_is_not_found(http, path, end):
    reply = http.get(f"/v2/models/{path}{end}")
    assert reply.status_code in {404, 422}
    assert reply.json()["error_type"] in {"model_not_found", "validation"}


def test_there_is_no_infer(http):
    assert http.post("/v2/models/demo/infer", json={"inputs": []}).status_code == 404
