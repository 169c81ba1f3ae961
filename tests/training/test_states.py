"""The table of a train job's states, and what is derived from it."""

import itertools
import re

import pytest

from service.training.job_store import record_state
from service.training.states import (
    TRANSITIONS,
    JobState,
    JobStatus,
    Transition,
    diagram,
    targets,
)
from tests.process import ROOT


def test_what_is_over_changes_only_where_a_cancelled_job_is_published():
    changes = {
        (state, transition)
        for state, transition in itertools.product(JobState, Transition)
        if state.is_over and (state, transition) in TRANSITIONS
    }
    assert changes == {(JobState.CANCELLED, Transition.PUBLISH)}


def test_every_state_can_be_reached():
    reached, edge = set(), {JobState.QUEUED}
    while edge:
        reached |= edge
        edge = {to for (at, _), to in TRANSITIONS.items() if at in edge} - reached
    assert reached == set(JobState)


def test_every_job_can_come_to_an_end():
    ending = {state for state in JobState if state.is_over}
    for _ in JobState:
        ending |= {at for (at, _), to in TRANSITIONS.items() if to in ending}
    assert ending == set(JobState)


def test_every_attempt_can_lose_its_lease_stop_fail_and_store():
    for transition in (
        Transition.LEASE_LOST,
        Transition.RELEASE,
        Transition.FAIL,
        Transition.MODEL_STORED,
    ):
        assert set(targets(transition)) == {state for state in JobState if state.has_attempt}
    for transition in (Transition.CLAIM, Transition.START_FAILED):
        assert set(targets(transition)) == {state for state in JobState if state.is_waiting}


def test_every_state_is_reported_as_a_status_of_the_api():
    assert {state.status for state in JobState} == set(JobStatus)
    for state in JobState:
        assert state.is_over == (state.status in {"succeeded", "failed", "cancelled"})
        assert state.is_waiting == (state.status == "queued")


def test_the_diagram_in_the_docs_is_drawn_from_the_table():
    page = (ROOT / "docs" / "explanation" / "training.md").read_text()
    (drawn,) = re.findall(r"```mermaid\n(.*?)\n```", page, re.DOTALL)
    assert drawn == diagram(), "print(service.training.states.diagram()) gives the new one"


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"status": "queued"}, JobState.QUEUED),
        ({"status": "queued", "cancel": "1"}, JobState.CANCELLING),
        ({"status": "running"}, JobState.RUNNING),
        ({"status": "running", "cancel": "1"}, JobState.CANCELLING),
        ({"status": "running", "published": "false"}, JobState.RUNNING),
        ({"status": "running", "published": "true"}, JobState.PUBLISHED),
        ({"status": "running", "published": "true", "cancel": "1"}, JobState.PUBLISHED),
        ({"status": "succeeded", "published": "true"}, JobState.SUCCEEDED),
        ({"status": "cancelled", "cancel": "1"}, JobState.CANCELLED),
        ({"status": "publishing", "cancel": "1"}, JobState.PUBLISHING),
        ({"status": "failed"}, JobState.FAILED),
    ],
)
def test_a_record_with_flags_of_an_earlier_version_has_a_state(fields, state):
    assert record_state(fields) is state
