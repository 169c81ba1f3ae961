import numpy as np

from service.models.step import State
from service.sessions.session import SessionKey
from service.sessions.state_cache import CachedState, StateCache


def cached(name: str) -> CachedState:
    return CachedState(name, State(1, (np.zeros(250, np.float32),)), ())


def test_the_least_recently_used_are_evicted():
    states = StateCache(budget_bytes=3_500)
    for name in "abc":
        states.put(SessionKey("", name), cached(name))
    assert states.get(SessionKey("", "a")).session == "a"
    states.put(SessionKey("", "d"), cached("d"))
    assert states.get(SessionKey("", "b")) is None
    assert [states.get(SessionKey("", name)).session for name in "acd"] == ["a", "c", "d"]


def test_a_newer_state_replaces_the_older_one():
    states = StateCache(budget_bytes=3_500)
    for turn in range(100):
        states.put(SessionKey("", "a"), cached(str(turn)))
    assert len(states) == 1
    assert states.get(SessionKey("", "a")).session == "99"
    states.drop(SessionKey("", "a"))
    states.drop(SessionKey("", "a"))
    assert states.get(SessionKey("", "a")) is None
    assert states._used_bytes == 0
