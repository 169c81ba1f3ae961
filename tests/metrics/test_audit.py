"""The audit trail says who changed what, from where, with which outcome."""

import json
import time

import pytest

from service.api.access import ROUTE_SCOPES
from service.api.audit import ACTIONS


def trail(http, n):
    """The newest records, once there are `n`: one is stored after its reply."""
    until = time.monotonic() + 10
    while True:
        found = http.get("/admin/audit", params={"limit": 1000}).json()["records"]
        if len(found) >= n or time.monotonic() > until:
            return found
        time.sleep(0.02)


def test_every_change_that_needs_admin_is_audited():
    changes = {
        route
        for route, access in ROUTE_SCOPES.items()
        if access == "admin" and not route.startswith("GET ")
    }
    assert changes <= ACTIONS.keys()
    assert ACTIONS.keys() <= ROUTE_SCOPES.keys()


def test_changes_are_in_the_trail_and_in_the_log(server, http):
    before = len(trail(http, 0))
    http.post("/admin/models/awkward@1/unload")
    http.post("/admin/models/awkward@1/load", headers={"X-Request-Id": "my-load"})
    http.put("/admin/aliases/prod", json={"model": "demo@1"})
    http.delete("/admin/models/nobody@1")
    http.post("/train-jobs/nothing/cancel")
    found = trail(http, before + 5)
    assert len(found) == before + 5
    newest = [(one["action"], one["target"], one["outcome"]) for one in found[:5]]
    assert newest[::-1] == [
        ("model.unload", "awkward@1", "done"),
        ("model.load", "awkward@1", "done"),
        ("alias.move", "prod", "done"),
        ("model.delete", "nobody@1", "model_not_found"),
        ("job.cancel", "nothing", "job_not_found"),
    ]
    (load,) = [one for one in found if one["request_id"] == "my-load"]
    assert (load["address"], load["status"]) == ("127.0.0.1", 200)
    assert abs(load["time"] - time.time()) < 60
    lines = [json.loads(one) for one in server.log.read_text().splitlines() if one[:1] == "{"]
    logged = [one for one in lines if one["logger"] == "carousel.audit"]
    assert [one["action"] for one in logged][-5:] == [one[0] for one in newest[::-1]]


def test_a_refused_import_has_the_name_that_it_asked_for(http):
    before = len(trail(http, 0))
    assert http.post("/admin/models", json={"source": "nothing.h5", "name": "mine"}).is_error
    newest = trail(http, before + 1)[0]
    assert (newest["action"], newest["target"]) == ("model.import", "mine")


def test_pages_follow_each_other_without_gap_and_overlap(http):
    before = len(trail(http, 0))
    for _ in range(5):
        http.put("/admin/aliases/prod", json={"model": "demo@1"})
    every = [one["id"] for one in trail(http, before + 5)]
    paged, before_id = [], ""
    while before_id is not None:
        page = http.get("/admin/audit", params={"limit": 2, "before": before_id}).json()
        paged += [one["id"] for one in page["records"]]
        before_id = page["before"]
    assert paged == every


@pytest.mark.parametrize("before", ["x", "1", "1-1-1", "9" * 40])
def test_a_wrong_page_is_refused(http, before):
    assert http.get("/admin/audit", params={"before": before}).status_code == 422


def test_reading_is_not_audited(http):
    n = len(trail(http, 0))
    http.get("/admin/models")
    http.get("/admin/audit")
    assert len(trail(http, 0)) == n
