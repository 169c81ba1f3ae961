"""Writes the Grafana board: five rows of panels, each panel a title, a unit and its queries.

`python -m tools.board` writes `docker/observability/grafana/boards/carousel.json`, which a test
compares. The names of the metrics are those of `service/metrics/families.py`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BOARD = Path(__file__).parents[1] / "docker/observability/grafana/boards/carousel.json"
COLUMNS, HEIGHT, MOST_A_LINE = 24, 7, 4

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_AT = 'instance=~"$instance"'
_OF = f'{_AT},model=~"$model"'
_USERS = f'{_AT},route!~"/health.*|/v2/health.*"'  # probes are no users


@dataclass(frozen=True, slots=True)
class Query:
    """One line, or several: an expression and how its lines are named."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart over time."""

    title: str
    unit: str  # of Grafana
    queries: Sequence[Query]
    description: str
    is_log: bool = False  # for lines that differ by powers of ten


def _rate(metric: str, labels: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval]))"


def _quantiles(metric: str, labels: str, *quantiles: float) -> list[Query]:
    rate = _rate(f"{metric}_bucket", labels, "le")
    return [Query(f"histogram_quantile({q}, {rate})", f"p{q * 100:g}") for q in quantiles]


def _mean(metric: str, labels: str, by: str) -> str:
    total, count = (_rate(f"{metric}_{end}", labels, by) for end in ("sum", "count"))
    return f"{total} / ({count} > 0)"  # else a line without a point for each that did nothing


def _share(metric: str, labels: str, part: str, by: str) -> str:
    return f"{_rate(metric, f'{labels},{part}', by)} / ({_rate(metric, labels, by)} > 0)"


ROWS: dict[str, Sequence[Panel]] = {
    "Users": (
        Panel(
            "Processes",
            "short",
            [
                Query(f"count(carousel_build_info{{{_AT}}})", "there are"),
                Query(f"sum(carousel_store_up{{{_AT}}})", "reach the store"),
                Query(
                    f"count(count by (instance) (carousel_model_loaded{{{_AT}}})) or vector(0)",
                    "have a model",
                ),
                Query(f"sum(carousel_draining{{{_AT}}})", "drain"),
            ],
            "The first three are one line while all is well.",
        ),
        Panel(
            "Requests",
            "reqps",
            [Query(_rate("carousel_requests_total", _USERS, "status"), "{{status}}")],
            "By HTTP status, without probes; 499: the client left.",
        ),
        Panel(
            "Refused",
            "reqps",
            [
                Query(
                    _rate("carousel_requests_total", f'{_USERS},status=~"[45].."', "error_type"),
                    "{{error_type}}",
                )
            ],
            "By error code. overloaded: the queue is full; rate_limited: a key's limit.",
        ),
        Panel(
            "Time to first token",
            "s",
            _quantiles("carousel_time_to_first_token_seconds", _OF, 0.5, 0.95, 0.99),
            "From a request's head to its first tokens.",
            is_log=True,
        ),
        Panel(
            "Time between two sends",
            "s",
            _quantiles("carousel_inter_delivery_seconds", _OF, 0.5, 0.95, 0.99),
            "Of one stream. A send has the tokens of one burst.",
            is_log=True,
        ),
        Panel(
            "Time of a whole reply",
            "s",
            _quantiles(
                "carousel_request_duration_seconds", f'{_USERS},streamed="no"', 0.5, 0.95, 0.99
            ),
            "Of all requests that are no streams.",
            is_log=True,
        ),
    ),
    "Engine": (
        Panel(
            "Generated tokens",
            "cps",
            [Query(_rate("carousel_generated_tokens_total", _OF, "model"), "{{model}}")],
            "Tokens a second: characters for models of characters.",
        ),
        Panel(
            "Prompt tokens",
            "cps",
            [Query(_rate("carousel_prompt_tokens_total", _OF, "source"), "{{source}}")],
            "A second. fed: the network has read them; known: their state was in the prefix cache.",
        ),
        Panel(
            "Batch",
            "short",
            [
                Query(f"sum(carousel_running{{{_OF}}})", "running"),
                Query(f"sum(carousel_waiting{{{_OF}}})", "waiting"),
            ],
            "What waits while all rows run is what more replicas would serve.",
        ),
        Panel(
            "Rows in use",
            "percentunit",
            [
                Query(
                    f"sum by (model) (carousel_running{{{_OF}}})"
                    f" / sum by (model) (carousel_rows{{{_OF}}})",
                    "{{model}}",
                )
            ],
            "At 100 % further generations wait.",
        ),
        Panel(
            "Rows of a burst",
            "short",
            [
                Query(_mean("carousel_step_rows", _OF, "model"), "mean {{model}}"),
                *_quantiles("carousel_step_rows", _OF, 0.95),
            ],
            "How full the batch is.",
        ),
        Panel(
            "Time in the queue",
            "s",
            _quantiles("carousel_queue_seconds", _OF, 0.5, 0.95, 0.99),
            "The wait for a row.",
            is_log=True,
        ),
        Panel(
            "Time per token",
            "s",
            _quantiles("carousel_time_per_output_token_seconds", _OF, 0.5, 0.95, 0.99),
            "After the first; a mean of each request.",
            is_log=True,
        ),
    ),
    "Sessions": (
        Panel(
            "Commits",
            "s",
            _quantiles("carousel_commit_seconds", _AT, 0.5, 0.99),
            "One flush of session tokens to the store: its health in one line.",
            is_log=True,
        ),
        Panel(
            "Turns",
            "short",
            [
                Query(f"sum(carousel_sessions_running{{{_AT}}})", "running"),
                Query(_mean("carousel_commit_turns", _AT, "job"), "turns a commit"),
            ],
            "Turns that run, and how many of them one commit has.",
        ),
        Panel(
            "Conflicts and take-overs",
            "cps",
            [
                Query(
                    _rate("carousel_session_conflicts_total", _AT, "error_type"), "{{error_type}}"
                ),
                Query(
                    f"sum(rate(carousel_takeovers_total{{{_AT}}}[$__rate_interval]))", "taken over"
                ),
            ],
            "A take-over continues a turn of a process that has died.",
        ),
        Panel(
            "Store",
            "bytes",
            [
                Query(f"max(carousel_store_used_bytes{{{_AT}}})", "used"),
                Query(f"max(carousel_store_limit_bytes{{{_AT}}})", "limit"),
            ],
            "A full store refuses sessions. The limit is 0 where there is none.",
        ),
    ),
    "Models": (
        Panel(
            "Memory of models",
            "bytes",
            [
                Query(f"max by (model) (carousel_model_bytes{{{_OF}}})", "{{model}}"),
                Query(f"max(sum by (instance) (carousel_model_bytes{{{_AT}}}))", "all together"),
                Query(f"max(carousel_model_budget_bytes{{{_AT}}})", "budget"),
            ],
            "Of the process that has most, as the budget counts it; the budget is of each process.",
        ),
        Panel(
            "Loads and evictions",
            "short",
            [
                Query(
                    f"round(sum by (model) (increase("
                    f"carousel_model_load_seconds_count{{{_AT}}}[1h]))) > 0",
                    "loaded {{model}}",
                ),
                Query(
                    f"round(sum by (model) (increase("
                    f"carousel_model_evictions_total{{{_AT}}}[1h]))) > 0",
                    "evicted {{model}}",
                ),
            ],
            "In the hour before. Models that come and go need a larger budget.",
        ),
        Panel(
            "Time to load",
            "s",
            [Query(_mean("carousel_model_load_seconds", _AT, "model"), "{{model}}")],
            "Compile, compare, warm up.",
        ),
        Panel(
            "Prefix cache",
            "percentunit",
            [
                Query(
                    _share("carousel_prefix_lookups_total", _OF, 'result="hit"', "model"),
                    "{{model}}",
                )
            ],
            "Share of the lookups that find a state.",
        ),
    ),
    "Training": (
        Panel(
            "Train jobs",
            "short",
            [Query(f"max by (status) (carousel_train_jobs{{{_AT}}})", "{{status}}")],
            "That are not over.",
        ),
        Panel(
            "Characters read",
            "cps",
            [
                Query(
                    f"max(rate(carousel_train_characters_total{{{_AT}}}[$__rate_interval]))",
                    "characters a second",
                )
            ],
            "By all jobs.",
        ),
        Panel(
            "Attempts that have ended",
            "short",
            [Query(f"max by (outcome) (carousel_train_attempts_total{{{_AT}}})", "{{outcome}}")],
            "Since the server began. retried: a worker died, and another goes on.",
        ),
    ),
}


def board() -> dict[str, Any]:
    """Return the board as Grafana reads it."""
    return {
        "uid": "carousel",
        "title": "Carousel",
        "tags": ["carousel"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "type": "datasource",
                    "query": "prometheus",
                    "label": "Source",
                },
                _variable("instance", "carousel_build_info"),
                _variable("model", "carousel_model_loaded"),
            ]
        },
        "panels": list(_panels()),
    }


def _variable(label: str, metric: str) -> dict[str, Any]:
    query = f"label_values({metric}, {label})"
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": label},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 1, 0
    for title, panels in ROWS.items():
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": title, "gridPos": place, "panels": []}
        number, y = number + 1, y + 1
        n_lines = -(-len(panels) // MOST_A_LINE)
        a_line = -(-len(panels) // n_lines)
        width = COLUMNS // a_line
        for i, panel in enumerate(panels):
            at = {"x": i % a_line * width, "y": y + i // a_line * HEIGHT}
            yield _chart(panel, number, {**at, "w": width, "h": HEIGHT})
            number += 1
        y += n_lines * HEIGHT


def _chart(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    lines: dict[str, Any] = {"fillOpacity": 10, "showPoints": "never", "lineWidth": 1}
    defaults: dict[str, Any] = {"unit": panel.unit, "noValue": "0", "custom": lines}
    if panel.is_log:  # which has no 0
        lines["scaleDistribution"] = {"type": "log", "log": 10}
    else:
        defaults["min"] = 0
    if panel.unit == "percentunit":
        defaults["max"] = 1
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": _SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
            }
            for i, query in enumerate(panel.queries)
        ],
    }


def text() -> str:
    """Return the file's content."""
    return json.dumps(board(), indent=1) + "\n"


if __name__ == "__main__":
    BOARD.write_text(text())
