"""Which changes a job may go through, and what it refuses before it begins."""

import itertools

import pytest

from service.errors import Validation
from service.training.corpus import BPTTBatches, Corpus
from service.training.job import TRANSITIONS, JobStatus, TrainJobSpec, Transition, after, check_fits
from service.training.recipe import Architecture, Hyperparameters, Recipe, usual_epochs


def order(architecture=None, schedule=None, **rest):
    recipe = Recipe(Architecture(**(architecture or {})), Hyperparameters(**(schedule or {})))
    return TrainJobSpec("name", "corpus", recipe, **rest)


def test_what_is_over_never_changes():
    for status, change in itertools.product(JobStatus, Transition):
        if status.is_over:
            assert after(status, change) is None


def test_every_job_can_come_to_each_end():
    reached, edge = set(), {JobStatus.QUEUED}
    while edge:
        reached |= edge
        edge = {to for (at, _), to in TRANSITIONS.items() if at in edge} - reached
    assert reached == set(JobStatus)


def test_an_order_comes_back_from_json():
    one = order({"cell": "gru", "units": 7}, {"epochs": 3}, alias="a", initial_model="m@1")
    assert TrainJobSpec.from_json(one.to_json()) == one


@pytest.mark.parametrize(
    ("architecture", "schedule", "sentence"),
    [
        ({"cell": "rnn"}, {}, "`cell` is 'rnn'"),
        ({"units": 0}, {}, "`units` is 0; it must be from 1 to 8192"),
        ({"layers": 9}, {}, "`layers` is 9"),
        ({"dropout": 1.0}, {}, "`dropout` is 1.0"),
        ({}, {"epochs": 10**9}, "`epochs` is 1000000000; it must be from 1 to 10000"),
        ({}, {"learning_rate": 0.0}, "`learning_rate` is 0.0"),
        ({}, {"validation_fraction": 0.9}, "`validation_fraction` is 0.9"),
        ({}, {"max_seconds": 10**9}, "`max_seconds` is 1000000000"),
        ({}, {"max_seconds": 0}, "`max_seconds` is 0; it must be from 1"),
        ({"layers": 5}, {}, "`layers` is 5; it must be from 1 to 4"),
        ({}, {"batch_size": 4_096, "sequence_length": 4_096}, "262144 characters a step"),
    ],
)
def test_a_limit_is_named_with_the_value(architecture, schedule, sentence):
    with pytest.raises(Validation) as refusal:
        order(architecture, schedule)
    assert sentence in str(refusal.value)


def test_a_text_that_is_too_short_is_refused_with_the_number_it_needs():
    with pytest.raises(Validation, match=r"9 characters to learn.*needs 3,201"):
        check_fits(order(), 5, 10)
    with pytest.raises(Validation, match="leaves 1 characters for validation"):
        check_fits(order(schedule={"validation_fraction": 0.001, "batch_size": 1}), 5, 700)


def test_what_fits_is_what_the_lanes_take():
    """To the character, however a half is rounded."""
    text = "ab" * 4_000
    for n in range(3_201 * 2 - 4, 3_201 * 2 + 4):
        split = Corpus.of(text[:n]).split("ab", 0.5)
        asked = order(schedule={"validation_fraction": 0.5})
        try:
            BPTTBatches(split.training, 64, 50)
        except Validation:
            with pytest.raises(Validation):
                check_fits(asked, 2, n)
        else:
            check_fits(asked, 2, n)


def test_a_model_that_is_too_large_is_refused():
    with pytest.raises(Validation, match="weights; 50,000,000 is most"):
        check_fits(order({"units": 4_096, "layers": 2}), 100, 10**6)


def test_an_alias_needs_a_loaded_model():
    with pytest.raises(Validation, match="load_when_done"):
        order(alias="a", load_when_done=False)


@pytest.mark.parametrize(
    ("n_characters", "epochs"),
    [(1, 200), (60_000, 200), (100_000, 134), (1_115_394, 12), (64_000_000, 1)],
)
def test_a_long_text_is_read_less_often(n_characters, epochs):
    assert usual_epochs(n_characters) == epochs
