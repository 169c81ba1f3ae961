"""What a key may not do by a way around."""

import time

import pytest

from service.api.access import ROUTE_SCOPES
from tests.keys.people import Admin, bearer


@pytest.fixture(scope="module")
def admin(keyed):
    with Admin(keyed.url) as one:
        yield one


@pytest.fixture(scope="module")
def least(admin) -> dict[str, str]:
    return bearer(admin.add("least", "metrics")["secret"])


FIXED = [route for route, needed in ROUTE_SCOPES.items() if "{" not in route and needed != "public"]


@pytest.mark.parametrize("route", FIXED)
@pytest.mark.parametrize("end", ["%0A", "%0D", "%00", "%7F"])
def test_a_control_character_in_a_path_is_refused(admin, least, route, end):
    method, path = route.split(" ")
    reply = admin.http.request(method, path + end, json={}, headers=least)
    assert (reply.status_code, reply.json().get("error_type", "openai")) in {
        (400, "bad_request"),
        (400, "openai"),
    }


def test_a_train_key_moves_no_alias_and_makes_only_its_models(admin):
    train = bearer(admin.add("trainer", "train", models=["other"])["secret"])
    for body, sentence in (
        ({"name": "other", "corpus": "0" * 16, "alias": "default"}, "the scope admin"),
        ({"name": "demo", "corpus": "0" * 16}, "this key may use no other models than other"),
    ):
        reply = admin.http.post("/train-jobs", json=body, headers=train)
        assert (reply.status_code, reply.json()["error_type"]) == (403, "forbidden")
        assert sentence in reply.json()["error"]


def test_what_a_key_without_the_scope_tries_is_not_in_the_trail(admin):
    other = bearer(admin.add("other", "generate")["secret"])
    for _ in range(5):
        assert admin.http.delete("/admin/keys/nobody", headers=other).status_code == 403
    records = admin.http.get("/admin/audit", params={"limit": 1_000}).json()["records"]
    assert records
    assert not [one for one in records if one["outcome"] == "forbidden"]


def test_the_trail_has_the_key_that_was_made(admin):
    made = admin.add("made", "generate")
    until = time.monotonic() + 10
    while time.monotonic() < until:  # it is stored after the reply
        (newest,) = admin.http.get("/admin/audit", params={"limit": 1}).json()["records"]
        if newest["target"] == made["id"]:
            break
    assert (newest["action"], newest["target"]) == ("key.add", made["id"])


def test_the_least_day_and_the_least_record_are_in_the_past(admin):
    assert admin.http.get("/admin/usage", params={"to": "0001-01-20"}).json() == {"usage": []}
    assert admin.http.get("/admin/audit", params={"before": "0-0"}).json()["records"] == []
