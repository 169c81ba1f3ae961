"""The exposition is what Prometheus's parser and promtool take, and its page describes it."""

import re
import shutil
import subprocess

import pytest

from service.metrics.exposition import Exposition
from service.metrics.families import (
    FAMILIES,
    FIRST_TOKEN,
    GENERATED_TOKENS,
    QUEUE,
    REQUESTS,
    STEP_ROWS_USED,
)
from service.metrics.family import MetricKind
from service.metrics.histogram import Histogram
from service.metrics.metrics import KEEP_MODEL_S, Metrics
from service.metrics.model_totals import ModelTotals
from tests.metrics.exposition import Scrape
from tests.process import ROOT

PAGE = ROOT / "docs/reference/metrics.md"


def filled() -> Metrics:
    """Metrics with a child of every family."""
    metrics = Metrics()
    for family in FAMILIES:
        labels = tuple("demo@1" if name == "model" else 'a"\\\nb' for name in family.labels)
        if family.kind is MetricKind.HISTOGRAM:
            metrics.histogram(family, labels).observe(family.bounds[0])
        elif family.kind is MetricKind.COUNTER:
            metrics.inc(family, labels, 2)
        else:
            metrics.read(family, lambda labels=labels: {labels: 3.0})
    return metrics


def test_a_parser_reads_every_family_with_its_values():
    scrape = Scrape.of(Exposition().text(filled().snapshot(["demo@1"])).decode())
    for family in FAMILIES:
        match family.kind:
            case MetricKind.HISTOGRAM:
                assert scrape.value(f"{family.name}_count") == 1, family.name
                assert scrape.value(f"{family.name}_sum") == family.bounds[0], family.name
            case MetricKind.COUNTER:
                assert scrape.value(family.name) == 2, family.name
            case MetricKind.GAUGE:
                assert scrape.value(family.name) == 3, family.name


def test_the_process_and_python_are_there_too():
    text = Exposition().text(Metrics().snapshot([])).decode()
    for name in ("process_resident_memory_bytes", "process_open_fds", "python_info"):
        assert f"\n{name}" in text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_mend():
    text = Exposition().text(filled().snapshot(["demo@1"]))
    ours = b"".join(line for line in text.splitlines(keepends=True) if b"carousel_" in line)
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=ours, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_a_bucket_takes_the_values_up_to_its_bound():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.count == 5
    assert histogram.sum == 7.5
    metrics = Metrics()
    metrics.histogram(QUEUE, ("a@1",)).observe(0.0015)
    scrape = Scrape.of(Exposition().text(metrics.snapshot(["a@1"])).decode())
    assert scrape.value(f"{QUEUE.name}_bucket", le="0.001") == 0
    assert scrape.value(f"{QUEUE.name}_bucket", le="0.002") == 1
    assert scrape.value(f"{QUEUE.name}_bucket", le="+Inf") == 1


def test_a_snapshot_does_not_change_while_it_is_formatted():
    metrics = Metrics()
    child = metrics.histogram(QUEUE, ("a@1",))
    snapshot = dict(metrics.snapshot(["a@1"]))
    child.observe(1.0)
    assert snapshot[QUEUE]["a@1",].count == 0


def test_the_children_of_a_model_stay_for_an_hour_after_it_was_unloaded():
    now_s = 0.0
    metrics = Metrics(lambda: now_s)
    for model in ("a@1", "b@1", "other", ""):
        metrics.inc(REQUESTS, ("/generate", model, "200", ""))
        metrics.histogram(FIRST_TOKEN, (model, "no")).observe(1.0)
    metrics.totals.add("a@1", lambda: {GENERATED_TOKENS: {("a@1",): 7}})

    def models() -> list[set[str]]:
        snapshot = dict(metrics.snapshot(["b@1"]))
        return [
            {labels[1] for labels in snapshot[REQUESTS]},
            {labels[0] for labels in snapshot[FIRST_TOKEN]},
            {labels[0] for labels in snapshot[GENERATED_TOKENS]},
        ]

    all_ = {"a@1", "b@1", "other", ""}
    assert models() == [all_, all_, {"a@1"}]
    now_s = KEEP_MODEL_S - 1
    assert models() == [all_, all_, {"a@1"}]
    metrics.snapshot(["a@1"])  # it was loaded again: another hour
    now_s += 2
    assert models() == [all_, all_, {"a@1"}]
    now_s += KEEP_MODEL_S
    models()
    assert models() == [all_ - {"a@1"}, all_ - {"a@1"}, set()]
    assert {labels[1] for labels in metrics._counters[REQUESTS]} == all_ - {"a@1"}


def test_the_loads_of_a_model_add_up_however_many_there_are():
    totals = ModelTotals()
    counts = []
    for n in range(30):
        rows = Histogram((1.0, 2.0))
        counts.append(rows)
        totals.add(
            "a@1",
            lambda rows=rows: {GENERATED_TOKENS: {("a@1",): 2}, STEP_ROWS_USED: {("a@1",): rows}},
        )
        rows.observe(n)
        totals.values()
    for rows in counts[-2:]:
        rows.observe(9)  # one drains while its successor runs
    found = totals.values()
    assert found[GENERATED_TOKENS]["a@1",] == 60
    assert found[STEP_ROWS_USED]["a@1",].counts == [2, 1, 29]
    assert found[STEP_ROWS_USED]["a@1",].sum == sum(range(30)) + 18
    assert counts[0].count == 1  # what is read stays as it is


def test_the_page_has_every_family_with_its_kind_and_labels_and_no_other():
    row = re.compile(r"^\| `(carousel_\w+)` \| (\w+) \| ([^|]*) \|", re.MULTILINE)
    rows = row.findall(PAGE.read_text())
    described = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert len(described) == len(rows)
    assert described == {one.name: (str(one.kind), one.labels) for one in FAMILIES}


def test_every_name_has_its_unit_as_prometheus_wants_it():
    for family in FAMILIES:
        assert family.name.endswith("_total") == (family.kind is MetricKind.COUNTER), family.name
        assert not family.name.endswith(("_ms", "_count", "_sum", "_bucket")), family.name
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert GENERATED_TOKENS in FAMILIES
