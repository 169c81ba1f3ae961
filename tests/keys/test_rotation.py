"""Rotation, and what a second process knows of it."""

import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.keys.conftest import new_folder
from tests.keys.people import Admin, bearer
from tests.process import Server, serving


@pytest.fixture(scope="module")
def other(tmp_path_factory, valkey):
    """A second server of the same store, which knows of no key in its environment."""
    folder = new_folder(tmp_path_factory.mktemp("other"))
    with serving(folder, CAROUSEL_REDIS_URL=valkey.url) as running:
        yield running


def status(server: Server, secret: str) -> int:
    return httpx2.get(f"{server.url}/v1/models", headers=bearer(secret)).status_code


def wait_for(server: Server, secret: str, wanted: int) -> float:
    began_s = time.monotonic()
    while status(server, secret) != wanted:
        assert time.monotonic() - began_s < 30
        time.sleep(0.05)
    return time.monotonic() - began_s


@pytest.fixture
def admin(keyed) -> Iterator[Admin]:
    with Admin(keyed.url) as holder:
        yield holder


def test_after_a_rotation_both_secrets_work_and_then_one(keyed, other, admin):
    key = admin.add("rotating", "generate")
    session = httpx2.post(f"{keyed.url}/sessions", json={}, headers=bearer(key["secret"])).json()
    made = admin.rotate(key, 8.0)
    assert made.status_code == 200
    rotated = made.json()
    assert rotated["id"] == key["id"]
    assert rotated["secret"] != key["secret"]
    for server in (keyed, other):
        assert wait_for(server, rotated["secret"], 200) < 5.0
        assert status(server, key["secret"]) == 200
    for server in (keyed, other):
        wait_for(server, key["secret"], 401)
        assert status(server, rotated["secret"]) == 200
    path = f"{keyed.url}/sessions/{session['id']}"
    assert httpx2.get(path, headers=bearer(rotated["secret"])).status_code == 200


def test_a_rotation_whose_reply_was_lost_is_repeated(admin):
    key = admin.add("repeated", "generate")
    once, again = (admin.rotate(key, 60.0, **{"Idempotency-Key": "r1"}) for _ in range(2))
    assert once.json() == again.json()
    other = admin.rotate(key, 30.0, **{"Idempotency-Key": "r1"})
    assert (other.status_code, other.json()["error_type"]) == (422, "key_reused")
    later = admin.rotate(key, 60.0, **{"Idempotency-Key": "r2"}).json()
    assert later["secret"] != once.json()["secret"]
    late = admin.rotate(key, 60.0, **{"Idempotency-Key": "r1"})
    assert (late.status_code, late.json()["error_type"]) == (422, "key_reused")


def test_a_revocation_reaches_a_second_process_within_five_seconds(keyed, other, admin):
    key = admin.add("leaving", "generate")
    assert status(keyed, key["secret"]) == status(other, key["secret"]) == 200
    admin.revoke(key)
    began_s = time.monotonic()
    for server in (keyed, other):
        wait_for(server, key["secret"], 401)
    assert time.monotonic() - began_s < 5.0
    refused = admin.rotate(key, 1.0)
    assert refused.status_code == 422
    assert "revoked" in refused.json()["error"]


def test_what_is_no_key_cannot_be_rotated_or_revoked(admin):
    nobody = {"id": "a" * 12}
    assert admin.rotate(nobody, 1.0).json()["error_type"] == "key_not_found"
    assert admin.http.delete("/admin/keys/" + nobody["id"]).status_code == 404
    for grace_s in (-1, 1e12):
        assert admin.rotate(nobody, grace_s).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x"},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["root"]},
        {"name": "a/b", "scopes": ["train"]},
        {"name": "x", "scopes": ["train"], "owner": "a:b"},
        {"name": "x", "scopes": ["admin"], "models": ["demo"]},
        {"name": "x", "scopes": ["train"], "expires_in_s": 0},
        {"name": "x", "scopes": ["train"], "expires_in_s": 1e300},
        {"name": "x", "scopes": ["train"], "secret": "mine"},
    ],
)
def test_a_key_that_cannot_be_is_refused(admin, body):
    assert admin.http.post("/admin/keys", json=body).status_code == 422


def test_the_list_has_no_secrets(admin):
    key = admin.add("listed", "generate", expires_in_s=3_600)
    listed = admin.http.get("/admin/keys")
    (row,) = (one for one in listed.json()["keys"] if one["id"] == key["id"])
    assert row == {name: value for name, value in key.items() if name != "secret"}
    assert key["secret"] not in listed.text
