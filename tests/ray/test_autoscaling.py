"""How many replicas there are to be."""

from types import SimpleNamespace
from typing import Any

from service.ray.autoscaling import STREAMS, replicas_for_streams


def wanted(streams: list[float], *, current: int = 2, requests: float = 0.0) -> float:
    metrics: dict[str, Any] = {STREAMS: dict(enumerate(streams))} if streams else {}
    context = SimpleNamespace(
        aggregated_metrics=metrics,
        total_num_requests=requests,
        target_num_replicas=current,
        capacity_adjusted_min_replicas=1,
        config=SimpleNamespace(target_ongoing_requests=32.0),
    )
    return replicas_for_streams(context)[0]


def test_as_many_as_the_streams_of_all_replicas_need():
    assert wanted([64.0, 32.0]) == 3
    assert wanted([16.0, 16.0]) == 1


def test_followers_of_events_hold_no_replica():
    """Ray counts them as requests, for as long as they follow."""
    assert wanted([0.0, 0.0], requests=5_000) == 1


def test_what_is_there_stays_until_a_replica_has_reported():
    assert wanted([], current=3) == 3
