"""The board and the alerts: every expression parses, names metrics that there are, and is right."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from service.metrics.families import FAMILIES
from service.metrics.family import MetricKind
from tests.process import ROOT
from tools.board import BOARD, ROWS, text

FOLDER = ROOT / "docker" / "observability"
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
BY_NAME = {family.name: family for family in FAMILIES}
QUERIES = {
    f"{panel.title} {i}": query.expr
    for panels in ROWS.values()
    for panel in panels
    for i, query in enumerate(panel.queries)
}
ALERTS = {rule["alert"]: rule["expr"] for rule in RULES}


def plain(expr: str) -> str:
    """Return an expression as Grafana sends it."""
    return re.sub(r"\$(instance|model)", ".*", expr.replace("$__rate_interval", "1m"))


def selectors(node: Any) -> Iterator[promql_parser.VectorSelector]:
    """Yield every selector of an expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        if (child := getattr(node, name, None)) is not None:
            yield from selectors(child)
    for child in getattr(node, "args", None) or ():
        yield from selectors(child)


def check(selector: promql_parser.VectorSelector) -> None:
    """Check that a family has these series, with these labels."""
    if selector.name == "up":
        return
    name = selector.name
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    family = BY_NAME.get(name) or BY_NAME.get(base)
    assert family is not None, f"there is no metric {name}"
    if name != family.name:
        assert family.kind is MetricKind.HISTOGRAM, name
    elif family.kind is MetricKind.HISTOGRAM:
        pytest.fail(f"{name} is a histogram: name its _bucket, _sum or _count")
    labels = {*family.labels, "instance", "job"}
    assert {matcher.name for matcher in selector.matchers.matchers} <= labels, name


@pytest.mark.parametrize("name", QUERIES | ALERTS)
def test_an_expression_parses_and_names_what_there_is(name):
    expr = (QUERIES | ALERTS)[name]
    found = list(selectors(promql_parser.parse(plain(expr))))
    assert found
    for selector in found:
        check(selector)


def test_a_name_or_a_label_that_is_none_is_found():
    for wrong in (
        "rate(carousel_nothing_total[1m])",
        'carousel_rows{key="a"}',
        "carousel_queue_seconds",
    ):
        (selector,) = selectors(promql_parser.parse(wrong))
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            check(selector)


def test_counters_are_rates():
    for expr in QUERIES.values():
        for match in re.finditer(r"carousel_\w+_total", expr):
            if match.group() != "carousel_train_attempts_total":
                before = expr[: match.start()]
                assert before.endswith(("rate(", "increase(")), expr


def test_the_board_is_made_of_its_table():
    assert BOARD.read_text() == text(), "`python -m tools.board` writes it again"


def test_the_board_has_five_rows_and_no_fixed_datasource():
    board = json.loads(BOARD.read_text())
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert rows == ["Users", "Engine", "Sessions", "Models", "Training"]
    assert {v["name"] for v in board["templating"]["list"]} == {"datasource", "instance", "model"}
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)


def test_there_are_six_alerts_and_each_says_what_to_do():
    assert len(ALERTS) == 6
    for rule in RULES:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert re.fullmatch(r"\d+m", rule["for"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_promtool_takes_the_rules_and_the_scrape_config():
    subprocess.run(["promtool", "check", "config", "prometheus.yml"], cwd=FOLDER, check=True)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_an_alert_fires_on_what_it_is_for_and_on_nothing_else():
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yml"],
        cwd=ROOT / "tests" / "deployment",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
