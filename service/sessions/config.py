"""Limits, distances and times of sessions and of their store; `app.py` hands them in."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Values that every part of the package is constructed with.

    `retain_every` is part of the names of stored snapshots: processes of one store share it.
    """

    heartbeat_s: float = 1.0
    process_ttl_ms: int = 3_000  # after so long without a heartbeat others may take over the turns
    snapshot_every: int = 4_096  # tokens between snapshots: the most that a crash computes again
    retain_every: int = 32_768  # tokens between retained ones: the most a rewind computes again
    whole_commit_tokens: int = 512  # tokens per commit of a turn that is returned as a whole
    replay_tokens: int = 1_024  # tokens that a replay computes at a time
    stop_context_tokens: int = 1_024  # before a replay's first event, to match stop strings
    poll_s: float = 0.02  # between a replay's reads of a running turn
    cache_bytes: int = 64 * 1024 * 1024
    idempotency_ttl_s: int = 86_400
    call_timeout_s: float = 2.0  # of a store call with all its retries
    retry_pause_s: float = 0.05
    start_wait_s: float = 10.0  # in which a store answers that is started beside the server
    answer_timeout_s: float = 1.0  # after so long without an answer a connection is dropped


@dataclass(frozen=True, slots=True)
class ValkeyConfig:
    """Time limits of the private Valkey."""

    reply_timeout_s: float = 1.0
    lock_timeout_s: float = 10.0
    load_timeout_s: float = 30.0
    stop_timeout_s: float = 5.0
    check_every_s: float = 0.1
