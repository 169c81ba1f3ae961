"""The device and float16 of a server: what is refused without a GPU, and what goes on with."""

import subprocess
import sys

import httpx2
import pytest

from tests.api.conftest import new_home
from tests.bundles import put_model
from tests.models.networks import SPECS
from tests.process import ROOT, environment, free_port, serving


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return new_home(tmp_path_factory.mktemp("home"))


def load(http: httpx2.Client, model: str, **body: str) -> httpx2.Response:
    return http.post(f"/admin/models/{model}/load", json=body)


def test_a_server_that_is_to_have_a_gpu_does_not_start_without_one(home):
    started = subprocess.run(
        [sys.executable, "-m", "service", "serve"],
        env=environment(home, free_port(), CAROUSEL_DEVICE="gpu"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode != 0
    said = [line for line in started.stderr.splitlines() if "CAROUSEL_DEVICE is gpu, but" in line]
    assert len(said) == 1
    assert "docs/how-to/gpu.md" in said[0]
    assert "Traceback" not in started.stderr


def test_float16_without_a_gpu_is_refused_and_what_was_loaded_goes_on(home):
    with serving(home) as server, httpx2.Client(base_url=server.url, timeout=60) as http:
        before = http.get("/info").json()["models"]
        assert {model["device"] for model in before} == {"cpu"}
        refused = load(http, "demo", precision="float16")
        assert refused.status_code == 422, refused.text
        assert "docs/how-to/gpu.md" in refused.json()["error"]
        assert http.get("/info").json()["models"] == before
        assert http.post("/generate", json={"inputs": "Once"}).status_code == 200


def test_a_session_goes_on_in_float16_where_the_processor_computes_it(home):
    """As it does on any other precision: its committed tokens stay, the numbers change."""
    put_model(home / "model_store", "relu", SPECS["relu"], 0.01, "abcdefghijklmnopq")
    settings = {"CAROUSEL_DEVICE": "cpu"}
    body = {"prompt": "Once", "max_tokens": 40, "seed": 1}
    with serving(home, **settings) as server, httpx2.Client(base_url=server.url) as http:
        http.timeout = 60
        body["session_id"] = session = http.post("/sessions", json={"model": "demo"}).json()["id"]
        one = http.post("/v1/completions", json=body).json()
        assert load(http, "demo", precision="float16").status_code == 200
        (row,) = [m for m in http.get("/info").json()["models"] if m["id"] == "demo@1"]
        assert (row["precision"], row["device"]) == ("float16", "cpu")
        two = http.post("/v1/completions", json=body | {"prompt": ""}).json()
        assert one["system_fingerprint"].endswith("_int8")
        assert two["system_fingerprint"].endswith("_float16")
        text = http.get(f"/sessions/{session}/text").json()["text"]
        assert text == "Once" + one["choices"][0]["text"] + two["choices"][0]["text"]
        refused = load(http, "relu", precision="float16")
        assert refused.status_code == 422
        assert "float16 needs h within" in refused.json()["error"]
