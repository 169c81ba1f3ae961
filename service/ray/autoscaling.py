"""How many replicas there are to be: by the streams that generate, not by open connections."""

from typing import Any

STREAMS = "streams"
"""The name of what each replica reports: how many streams its engines generate."""


def replicas_for_streams(context: Any) -> tuple[float, dict[str, Any]]:
    """Return how many replicas the streams of all of them need, for Ray's controller.

    Ray's delays and bounds are applied to it. Its own policy counts requests: a client that follows
    a session's events is one, for as long as it likes, and costs next to nothing.
    """
    reported = (context.aggregated_metrics or {}).get(STREAMS, {})
    if not reported:
        return context.target_num_replicas, {}  # nothing is known yet
    wanted = sum(reported.values()) / context.config.target_ongoing_requests
    return max(wanted, float(context.capacity_adjusted_min_replicas)), {}
