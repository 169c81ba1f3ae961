"""What programs send a key with: our client, OpenAI's, huggingface_hub's, and the command."""

import subprocess
import sys

import openai
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from carousel_client import AsyncClient, Client
from carousel_client.errors import NotAllowed
from service.keys.secret import make_secret, new_id
from tests.keys.people import Admin
from tests.process import ROOT, environment

WRONG = make_secret(new_id()).text


@pytest.fixture(scope="module")
def secret(keyed) -> str:
    with Admin(keyed.url) as admin:
        return admin.add("program", "generate")["secret"]


def test_our_client(keyed, secret):
    with Client(keyed.url, api_key=secret) as client:
        assert client.generate("The ", max_new_tokens=3, seed=1).text
        session = client.sessions.create(text="The ")
        assert client.generate("", session_id=session.id, max_new_tokens=1).text
        with pytest.raises(NotAllowed, match="the scope admin"):
            client.models.load("demo@1")
    for api_key in (None, WRONG):
        with (
            Client(keyed.url, api_key=api_key) as client,
            pytest.raises(NotAllowed) as refused,
        ):
            client.generate("The ", max_new_tokens=1)
        assert (refused.value.status, refused.value.error_type) == (401, "unauthorized")


async def test_our_client_for_an_event_loop(keyed, secret):
    async with AsyncClient(keyed.url, api_key=secret) as client:
        assert (await client.generate("The ", max_new_tokens=3, seed=1)).text


def test_openai_reads_its_own_errors(keyed, secret):
    with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=secret) as client:
        reply = client.completions.create(model="demo", prompt="The ", max_tokens=3)
        assert reply.choices[0].text
    with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=WRONG) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            client.models.list()
        assert refused.value.code == "invalid_api_key"
    with Admin(keyed.url) as admin:
        training = admin.add("trainer", "train")["secret"]
    with (
        openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=training) as client,
        pytest.raises(openai.PermissionDeniedError, match="the scope generate"),
    ):
        client.models.list()


def test_huggingface_hub(keyed, secret):
    client = InferenceClient(keyed.url, token=secret)
    assert client.text_generation("The ", max_new_tokens=3)
    with pytest.raises(Exception, match="the API key is not valid") as refused:
        InferenceClient(keyed.url, token=WRONG).text_generation("The ", max_new_tokens=3)
    assert isinstance(refused.value.__cause__, HfHubHTTPError)
    assert refused.value.__cause__.response.status_code == 401


def test_the_command_sends_the_key_of_its_environment(keyed, tmp_path):
    with Admin(keyed.url) as admin:
        operator = admin.add("operator", "admin")["secret"]
    variables = environment(tmp_path, keyed.port) | {"CAROUSEL_URL": keyed.url}
    del variables["CAROUSEL_PORT"]
    for api_key, code, said in (
        (operator, 0, "is loaded"),
        (WRONG, 2, "API key is not valid"),
        ("", 2, "sends the key that CAROUSEL_API_KEY holds"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "service", "load", "demo@1"],
            env=variables | {"CAROUSEL_API_KEY": api_key},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done
        assert said in done.stdout + done.stderr
