"""Without any key: loopback alone. With one: everywhere, and for nobody without it."""

import subprocess

import httpx2
import pytest

from tests.bundles import put_model
from tests.cli.commands import carousel
from tests.keys.conftest import new_folder
from tests.keys.people import bearer
from tests.process import ended, serving
from tests.sessions.valkey import OwnValkey

EVERYWHERE = {"CAROUSEL_HOST": "0.0.0.0"}


def status(server, path="/v1/models", **headers) -> int:
    return httpx2.get(f"{server.url}{path}", headers=headers).status_code


@pytest.fixture
def folder(tmp_path):
    return new_folder(tmp_path)


def keys(*arguments, folder) -> subprocess.CompletedProcess[str]:
    done = carousel("keys", *arguments, folder=folder)
    assert done.returncode == 0, done
    return done


def refused_start(folder, **settings: str) -> str:
    done = ended(folder, **settings)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.strip().splitlines()
    return line


def test_without_a_key_another_address_is_refused_with_what_to_do(folder):
    line = refused_start(folder, **EVERYWHERE)
    assert "carousel keys add NAME --scope generate" in line
    assert "CAROUSEL_ALLOW_ANONYMOUS" in line


def test_the_terminal_says_where_a_key_is_and_which_words_were_wrong(folder):
    place = folder / "data"
    nothing = keys("list", folder=folder)
    assert nothing.stdout == f"there are no keys in the private Valkey of {place}\n"
    assert not place.exists()
    assert (
        f"stored in the private Valkey of {place}"
        in keys("add", "me", "--scope", "generate", folder=folder).stderr
    )
    for words, said in (
        (("revoke", "me"), "no key with the id 'me'; `carousel keys list` shows ids"),
        (("add", "me", "--scope", "train", "--expires-in-days", "0"), "--expires-in-days is 0; it"),
    ):
        done = carousel("keys", *words, folder=folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr


def test_the_terminal_warns_of_a_model_that_a_key_cannot_use(folder):
    """It is made all the same: its model may be imported later."""
    put_model(folder / "model_store", "owl")
    (folder / "model_store" / "registry.json").write_text(
        '{"aliases": {"default": "owl@1", "prod": "owl@1"}, "loaded": []}'
    )
    models = ("--model", "owl", "--model", "owl@1")
    made = keys("add", "a", "--scope", "generate", *models, folder=folder)
    assert "warning" not in made.stderr
    odd = ("--model", "owx", "--model", "owl@2", "--model", "prod")
    made = keys("add", "b", "--scope", "generate", *odd, folder=folder)
    assert len(made.stdout.splitlines()) == 1
    warnings = [line for line in made.stderr.splitlines() if line.startswith("warning: ")]
    assert [line.split("'")[1] for line in warnings] == ["owx", "owl@2", "prod"]
    assert "there are: " in warnings[0]
    assert "is an alias" in warnings[2]
    assert "models=owl@2,owx,prod" in keys("list", folder=folder).stdout


def test_a_short_admin_key_is_refused(folder):
    assert "it needs at least 32" in refused_start(folder, CAROUSEL_ADMIN_KEY="a" * 31)


def test_a_network_of_ones_own_may_be_open(folder):
    with serving(folder, CAROUSEL_ALLOW_ANONYMOUS="true", **EVERYWHERE) as server:
        assert status(server) == 200


def test_a_key_made_in_the_terminal_opens_every_address_to_its_holder(folder):
    secret = keys("add", "me", "--scope", "generate", folder=folder).stdout.strip()
    with serving(folder, **EVERYWHERE) as server:
        assert status(server) == 401
        assert status(server, **bearer(secret)) == 200
        assert status(server, "/docs", **bearer(secret)) == 200
        assert status(server, "/docs") == 401


def test_a_running_server_without_keys_closes_with_the_first_one(folder):
    with serving(folder, CAROUSEL_PUBLIC_DOCS="true") as server:
        assert status(server) == status(server, Authorization="Bearer none") == 200
        made = keys("add", "me", "--scope", "generate", folder=folder)
        secret, key_id = made.stdout.strip(), made.stderr.split()[0]
        while status(server) == 200:
            pass
        assert status(server, **bearer(secret)) == 200
        assert status(server, "/openapi.json") == 200
        again = keys("rotate", key_id, folder=folder).stdout.strip()
        assert key_id in keys("list", folder=folder).stdout
        while status(server, **bearer(secret)) == 200:
            pass
        assert status(server, **bearer(again)) == 200
        keys("revoke", key_id, folder=folder)
        while status(server, **bearer(again)) == 200:
            pass
        assert status(server) == 401, "the last key is revoked, and nobody is let in for it"
    assert "revoked=" in keys("list", folder=folder).stdout


def test_while_the_store_is_away_known_keys_go_on_and_others_are_not_refused(folder, tmp_path):
    (tmp_path / "valkey").mkdir()
    valkey = OwnValkey(tmp_path / "valkey")
    valkey.start()
    admin = {"Authorization": "Bearer " + "a" * 40}
    settings = {"CAROUSEL_REDIS_URL": valkey.url, "CAROUSEL_ADMIN_KEY": "a" * 40}
    with serving(folder, **settings) as server:
        made = [
            httpx2.post(
                f"{server.url}/admin/keys",
                json={"name": name, "scopes": ["generate"]},
                headers=admin,
            ).json()["secret"]
            for name in ("known", "unknown")
        ]
        assert status(server, **bearer(made[0])) == 200
        valkey.close()
        reply = httpx2.get(f"{server.url}/v1/models", headers=bearer(made[1]), timeout=30)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "store_unavailable")
        assert status(server, **bearer(made[0])) == 200
        assert status(server, "/admin/keys", **bearer("a" * 40)) == 503
        assert status(server, **bearer("b" * 40)) == 401
        assert status(server) == 401
