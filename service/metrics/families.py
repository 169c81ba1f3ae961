"""The table of all metrics. docs/reference/metrics.md has the same names, labels and kinds."""

from service.metrics.family import MetricFamily, MetricKind, doubling

OTHER = "other"
"""The label's value for everything outside its closed set: an unknown path, an unknown model."""

_COUNTER, _GAUGE, _HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM

# A character takes 0.02 to 0.7 ms here: the usual buckets, from 10 ms on, would show nothing.
DURATION_S = doubling(0.01, 14)  # 10 ms … 81.92 s
FIRST_TOKEN_S = doubling(0.0005, 16)  # 0.5 ms … 16.4 s
DELIVERY_S = doubling(0.001, 12)  # 1 ms … 2.05 s
TOKEN_S = doubling(0.000_008, 14)  # 8 µs … 65.5 ms
LOAD_S = doubling(0.125, 12)  # 0.125 s … 256 s
STEP_ROWS = doubling(1, 9)  # 1 … 256

REQUESTS = MetricFamily(
    "carousel_requests_total",
    _COUNTER,
    "Requests that have ended, whatever their status.",
    ("route", "model", "status", "error_type"),
)
REQUEST_DURATION = MetricFamily(
    "carousel_request_duration_seconds",
    _HISTOGRAM,
    "Time from a request's head to the last byte of its reply.",
    ("route", "streamed"),
    DURATION_S,
)
QUEUE = MetricFamily(
    "carousel_queue_seconds",
    _HISTOGRAM,
    "Time that a request waited for a row of the batch.",
    ("model",),
    FIRST_TOKEN_S,
)
FIRST_TOKEN = MetricFamily(
    "carousel_time_to_first_token_seconds",
    _HISTOGRAM,
    "Time from a request's head to its first tokens sent, or computed for a whole reply.",
    ("model", "session"),
    FIRST_TOKEN_S,
)
INTER_DELIVERY = MetricFamily(
    "carousel_inter_delivery_seconds",
    _HISTOGRAM,
    "Time between two sends of one stream; a send has the tokens of one burst.",
    ("model",),
    DELIVERY_S,
)
TIME_PER_TOKEN = MetricFamily(
    "carousel_time_per_output_token_seconds",
    _HISTOGRAM,
    "Mean time of a request's tokens after the first.",
    ("model",),
    TOKEN_S,
)
PROMPT_TOKENS = MetricFamily(
    "carousel_prompt_tokens_total",
    _COUNTER,
    "Prompt tokens that the network has read (fed) or whose state was cached (known).",
    ("model", "source"),
)
GENERATED_TOKENS = MetricFamily(
    "carousel_generated_tokens_total", _COUNTER, "Tokens that were generated.", ("model",)
)
FINISHED = MetricFamily(
    "carousel_finished_total",
    _COUNTER,
    "Generate requests that have ended, by the reason of their end.",
    ("model", "reason"),
)
RUNNING = MetricFamily(
    "carousel_running", _GAUGE, "Generations in the batch, and running beam searches.", ("model",)
)
WAITING = MetricFamily(
    "carousel_waiting", _GAUGE, "Generations and beam searches that wait for a row.", ("model",)
)
ROWS = MetricFamily("carousel_rows", _GAUGE, "Rows that the batch has at most.", ("model",))
STEP_ROWS_USED = MetricFamily(
    "carousel_step_rows",
    _HISTOGRAM,
    "Rows of a burst: how full the batch is.",
    ("model",),
    STEP_ROWS,
)
PREFIX_LOOKUPS = MetricFamily(
    "carousel_prefix_lookups_total",
    _COUNTER,
    "Lookups of a prompt's prefix in the cache of states: hit or miss.",
    ("model", "result"),
)
SESSIONS_RUNNING = MetricFamily(
    "carousel_sessions_running", _GAUGE, "Turns of sessions that run in this process."
)
SESSION_CONFLICTS = MetricFamily(
    "carousel_session_conflicts_total",
    _COUNTER,
    "Requests refused because a session was busy or at another position.",
    ("error_type",),
)
TAKEOVERS = MetricFamily(
    "carousel_takeovers_total", _COUNTER, "Turns taken over from a process that is gone."
)
COMMIT_SECONDS = MetricFamily(
    "carousel_commit_seconds",
    _HISTOGRAM,
    "Time of one commit of session tokens to the store.",
    (),
    FIRST_TOKEN_S,
)
COMMIT_TURNS = MetricFamily(
    "carousel_commit_turns", _HISTOGRAM, "Turns whose tokens one commit had.", (), STEP_ROWS
)
STORE_UP = MetricFamily(
    "carousel_store_up", _GAUGE, "1 if the session store answered the last heartbeat, else 0."
)
STORE_USED = MetricFamily(
    "carousel_store_used_bytes", _GAUGE, "Memory that the session store uses."
)
STORE_LIMIT = MetricFamily(
    "carousel_store_limit_bytes", _GAUGE, "Memory that the session store may use; 0: no limit."
)
MODEL_LOADED = MetricFamily(
    "carousel_model_loaded", _GAUGE, "1 for each model in memory.", ("model",)
)
MODEL_BYTES = MetricFamily(
    "carousel_model_bytes", _GAUGE, "Memory that a loaded model is counted with.", ("model",)
)
MODEL_BUDGET = MetricFamily(
    "carousel_model_budget_bytes", _GAUGE, "Memory that all loaded models may be counted with."
)
MEMORY = MetricFamily(
    "carousel_memory_bytes",
    _GAUGE,
    "Memory of all loaded models and caches by part; of all but the caches an upper bound.",
    ("part",),
)
MODEL_LOAD = MetricFamily(
    "carousel_model_load_seconds",
    _HISTOGRAM,
    "Time to compile a model, compare it with its reference and warm it up.",
    ("model",),
    LOAD_S,
)
MODEL_EVICTIONS = MetricFamily(
    "carousel_model_evictions_total",
    _COUNTER,
    "Models that were removed from memory to make room for another.",
    ("model",),
)
TRAIN_JOBS = MetricFamily(
    "carousel_train_jobs",
    _GAUGE,
    "Train jobs that are not over, of all owners, as every server sees them.",
    ("status",),
)
TRAIN_CHARACTERS = MetricFamily(
    "carousel_train_characters_total",
    _COUNTER,
    "Characters that train jobs have read, as every server sees them.",
)
TRAIN_ATTEMPTS = MetricFamily(
    "carousel_train_attempts_total",
    _COUNTER,
    "Attempts of train jobs that have ended, as every server sees them.",
    ("outcome",),
)
BATCH_LINES = MetricFamily(
    "carousel_batch_lines_total",
    _COUNTER,
    "Lines of batches that were answered or have failed.",
    ("outcome",),
)
AUTH_FAILURES = MetricFamily(
    "carousel_auth_failures_total",
    _COUNTER,
    "Requests refused with 401, 403 or 421, by their error code.",
    ("reason",),
)
RATE_LIMITED = MetricFamily(
    "carousel_rate_limited_total",
    _COUNTER,
    "Requests refused with 429, by their error code.",
    ("limit",),
)
UNLIMITED = MetricFamily(
    "carousel_unlimited_requests_total",
    _COUNTER,
    "Requests that had limits and went on without, because the store did not answer.",
)
DRAINING = MetricFamily(
    "carousel_draining", _GAUGE, "1 while the server accepts no new work, else 0."
)
BUILD_INFO = MetricFamily(
    "carousel_build_info", _GAUGE, "1, with the version as a label.", ("version",)
)
PROCESS_INFO = MetricFamily(
    "carousel_process_info", _GAUGE, "1, with the name of the process as a label.", ("process",)
)

FAMILIES = (
    REQUESTS,
    REQUEST_DURATION,
    QUEUE,
    FIRST_TOKEN,
    INTER_DELIVERY,
    TIME_PER_TOKEN,
    PROMPT_TOKENS,
    GENERATED_TOKENS,
    FINISHED,
    RUNNING,
    WAITING,
    ROWS,
    STEP_ROWS_USED,
    PREFIX_LOOKUPS,
    SESSIONS_RUNNING,
    SESSION_CONFLICTS,
    TAKEOVERS,
    COMMIT_SECONDS,
    COMMIT_TURNS,
    STORE_UP,
    STORE_USED,
    STORE_LIMIT,
    MODEL_LOADED,
    MODEL_BYTES,
    MODEL_BUDGET,
    MEMORY,
    MODEL_LOAD,
    MODEL_EVICTIONS,
    TRAIN_JOBS,
    TRAIN_CHARACTERS,
    TRAIN_ATTEMPTS,
    BATCH_LINES,
    AUTH_FAILURES,
    RATE_LIMITED,
    UNLIMITED,
    DRAINING,
    BUILD_INFO,
    PROCESS_INFO,
)
