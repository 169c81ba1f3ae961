"""What a job's specification holds, and what it refuses before anything begins."""

import pytest

from service.errors import Validation
from service.models.spec import LayerSpec, ModelSpec
from service.models.store import ModelStore
from service.training.corpus import BPTTBatches, Corpus
from service.training.job_spec import TrainingText, TrainJobSpec, check_fits, make_job_spec
from service.training.recipe import Architecture, Hyperparameters, Recipe, usual_epochs
from tests.bundles import put_model


def spec_of(architecture=None, schedule=None, **rest):
    recipe = Recipe(Architecture(**(architecture or {})), Hyperparameters(**(schedule or {})))
    return TrainJobSpec("name", "corpus", recipe, **rest)


def test_a_specification_comes_back_from_json():
    one = spec_of(
        {"cell": "gru", "units": 7},
        {"epochs": 3},
        alias="a",
        initial_model="m@1",
        queue="train-gpu",
    )
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
        spec_of(architecture, schedule)
    assert sentence in str(refusal.value)


def test_a_text_that_is_too_short_is_refused_with_the_number_it_needs():
    with pytest.raises(Validation, match=r"9 characters to train on.*needs 3,201"):
        check_fits(spec_of(), 5, 10)
    with pytest.raises(Validation, match="leaves 1 characters for validation"):
        check_fits(spec_of(schedule={"validation_fraction": 0.001, "batch_size": 1}), 5, 700)


def test_what_fits_is_what_the_batches_take():
    """To the character, however a half is rounded."""
    text = "ab" * 4_000
    for n in range(3_201 * 2 - 4, 3_201 * 2 + 4):
        split = Corpus.of(text[:n]).split("ab", 0.5)
        asked = spec_of(schedule={"validation_fraction": 0.5})
        try:
            BPTTBatches(split.training, 64, 50)
        except Validation:
            with pytest.raises(Validation):
                check_fits(asked, 2, n)
        else:
            check_fits(asked, 2, n)


def test_a_model_that_is_too_large_is_refused():
    with pytest.raises(Validation, match="weights; 50,000,000 is most"):
        check_fits(spec_of({"units": 4_096, "layers": 2}), 100, 10**6)


def test_a_queue_is_one_that_there_is():
    with pytest.raises(Validation, match="`queue` is 'gpu'; there are train-cpu and train-gpu"):
        spec_of(queue="gpu")


def test_an_alias_needs_a_loaded_model():
    with pytest.raises(Validation, match="load_when_done"):
        spec_of(alias="a", load_when_done=False)


@pytest.mark.parametrize(
    ("n_characters", "epochs"),
    [(1, 200), (60_000, 200), (100_000, 134), (1_115_394, 12), (64_000_000, 1)],
)
def test_a_long_text_is_read_less_often(n_characters, epochs):
    assert usual_epochs(n_characters) == epochs


TEXT = TrainingText("c" * 32, 60_000, "abcd")
NOTHING = {"cell": None, "units": None, "layers": None, "embedding_dim": None, "dropout": None}


def test_what_a_request_leaves_out_gets_its_default():
    spec = make_job_spec("name", TEXT, architecture=NOTHING, training={"precision": None}, seed=7)
    recipe = Recipe(Architecture(), Hyperparameters(epochs=usual_epochs(60_000)), 7)
    assert spec == TrainJobSpec("name", TEXT.id, recipe)
    one, other = (make_job_spec("n", TEXT, architecture={}, training={}) for _ in range(2))
    assert one.recipe.seed != other.recipe.seed


def test_what_a_request_holds_is_in_the_specification():
    training = {"epochs": 3, "precision": "float32", "max_seconds": 60}
    spec = make_job_spec(
        "name", TEXT, architecture={"units": 9}, training=training, load_when_done=True, alias="a"
    )
    assert spec.recipe.architecture.units == 9
    assert (spec.recipe.schedule.epochs, spec.recipe.schedule.max_seconds) == (3, 60)
    assert (spec.recipe.precision, spec.alias) == ("float32", "a")


def test_an_initial_model_gives_its_architecture_and_its_vocabulary(tmp_path):
    base = ModelSpec(4, 3, (LayerSpec("gru", 8),))
    model = ModelStore(tmp_path).read(put_model(tmp_path, "base", base, 0.1, "abcd"))
    spec = make_job_spec("more", TEXT, architecture=NOTHING, training={}, initial_model=model)
    assert spec.initial_model == "base@1"
    assert spec.recipe.architecture.spec(4) == base


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"training": {"precision": "int8"}}, "`precision` is 'int8'; there are auto, float32"),
        ({"training": {"batch_size": 4_000}}, "needs 200,001"),
        ({"architecture": {"units": 4_096, "layers": 2}}, "weights; 50,000,000 is most"),
    ],
)
def test_a_request_that_cannot_be_done_is_refused(change, sentence):
    with pytest.raises(Validation, match=sentence):
        make_job_spec("name", TEXT, **({"architecture": {}, "training": {}} | change))
