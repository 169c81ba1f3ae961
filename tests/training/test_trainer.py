"""The training loop: it resumes to the same bits, stops for a reason, and reports what it does."""

import json
import math
import os
import shutil
from dataclasses import replace
from itertools import count, product

import numpy as np
import pytest
from safetensors import safe_open

from service.errors import BadCheckpoint, UnknownCharacter, Validation
from service.models.initializers import initial_weights
from service.models.spec import Weights
from service.training import checkpoint
from service.training.cells import RECURRENCES
from service.training.corpus import BPTTChunk, Corpus, EvaluationBatches
from service.training.events import CheckpointEvent, ProgressEvent, ValidationEvent
from service.training.matmul import resolved
from service.training.recipe import Architecture, Hyperparameters, Recipe
from service.training.result import StopReason
from service.training.train_step import TrainStep
from service.training.trainer import _Training, train

pytestmark = pytest.mark.tf

CORPUS = Corpus.of("".join(f"{i} times {i} is {i * i}.\n" for i in range(260)))
RECIPE = Recipe(
    Architecture(embedding_dim=8, units=24, layers=1, dropout=0.2),
    Hyperparameters(
        epochs=3, batch_size=8, sequence_length=16, learning_rate=1e-2, validation_fraction=0.2
    ),
    seed=5,
)


def run(folder, recipe=RECIPE, corpus=CORPUS, *, steps=None, initial=None, events=None):
    """Train, stopped before the step that would be one more than `steps` in this run."""
    asked = count(1)
    events = [] if events is None else events
    return train(
        corpus,
        corpus.vocabulary,
        recipe,
        folder,
        initial=initial,
        report=events.append,
        should_stop=lambda: steps is not None and next(asked) > steps,
    )


def same(a, b):
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def never():
    return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    events = []
    return run(folder, events=events), folder, events


@pytest.mark.slow
def test_a_training_stopped_anywhere_ends_with_the_same_bits(undisturbed, tmp_path):
    whole, folder, _ = undisturbed
    # In the first pass, at a window's edge before a validation, and in the last pass.
    for steps in (1, whole.n_steps // 2 - 2, 4):
        assert run(tmp_path, steps=steps).stop_reason is StopReason.STOPPED
    trained = run(tmp_path)
    assert same(trained.weights, whole.weights)
    last, expected = (checkpoint.read(f / checkpoint.LAST) for f in (tmp_path, folder))
    assert same(last.arrays, expected.arrays)
    for mine, theirs in zip(trained.history, whole.history, strict=True):
        assert replace(mine, elapsed_s=0.0) == replace(theirs, elapsed_s=0.0)


@pytest.mark.slow
def test_a_validation_that_is_stopped_is_made_up_for(undisturbed, tmp_path):
    whole, _, _ = undisturbed
    every = whole.history[0].step
    # Asked before each step, then before the validation and before its windows.
    stopped = run(tmp_path, steps=every + 2)
    assert (stopped.stop_reason, stopped.step, stopped.history) == (StopReason.STOPPED, every, ())
    trained = run(tmp_path)
    assert [v.step for v in trained.history] == [v.step for v in whole.history]
    assert same(trained.weights, whole.weights)


@pytest.mark.slow
def test_another_seed_is_another_training(undisturbed, tmp_path):
    whole, _, _ = undisturbed
    other = run(tmp_path, replace(RECIPE, seed=6))
    assert not same(other.weights, whole.weights)


@pytest.mark.slow
def test_a_state_that_was_not_restored_would_be_seen(undisturbed, tmp_path):
    # What the test of the same bits relies on.
    whole, folder, _ = undisturbed
    run(tmp_path, steps=whole.n_steps - 2)
    path = tmp_path / checkpoint.LAST
    snapshot = checkpoint.read(path)
    snapshot.arrays["state/0"] = np.zeros_like(snapshot.arrays["state/0"])
    checkpoint.write(path, snapshot.arrays, snapshot.facts)
    run(tmp_path)
    assert not same(checkpoint.read(path).arrays, checkpoint.read(folder / checkpoint.LAST).arrays)


def test_a_finished_training_is_returned_without_another_step(undisturbed):
    whole, folder, _ = undisturbed
    events = []
    again = run(folder, events=events)
    assert again.stop_reason is StopReason.COMPLETED
    assert again.step == whole.step
    assert same(again.weights, whole.weights)
    assert events == []


def test_it_learns_and_says_so(undisturbed):
    whole, _, events = undisturbed
    evaluated = [event for event in events if isinstance(event, ValidationEvent)]
    assert tuple(evaluated) == whole.history
    assert whole.history[-1].validation_nats < 0.8 * math.log(len(CORPUS.vocabulary))
    assert whole.best == min(whole.history, key=lambda v: v.validation_nats)
    last = evaluated[-1]
    assert last.step == last.n_steps == whole.n_steps
    assert last.epoch == 3
    assert last.bits_per_character == pytest.approx(last.validation_nats / math.log(2))
    assert last.bits_per_byte == pytest.approx(last.bits_per_character)
    assert last.perplexity == pytest.approx(math.exp(last.validation_nats))
    assert {e.name for e in events if isinstance(e, CheckpointEvent)} == {"best", "last"}


def test_progress_is_said_about_once_a_second(undisturbed):
    whole, _, events = undisturbed
    progress = [event for event in events if isinstance(event, ProgressEvent)]
    assert len(progress) <= whole.elapsed_s + 1
    assert all(0 < event.step <= event.n_steps for event in progress)


@pytest.mark.slow
def test_bits_per_byte_count_what_utf_8_needs(tmp_path):
    corpus = Corpus.of("".join(f"{i}é" for i in range(600)))
    share = len("é".encode()) + sum(len(str(i)) for i in range(540, 600)) / 60
    recipe = replace(RECIPE, schedule=replace(RECIPE.schedule, epochs=1, validations_per_epoch=1))
    best = run(tmp_path, recipe, corpus).best
    assert best.bits_per_character / best.bits_per_byte == pytest.approx(share / 4, rel=0.01)


@pytest.mark.slow
def test_a_training_resumes_in_its_own_precision_on_another_machine(tmp_path):
    for precision in ("float32", "bfloat16"):
        machine = _Training(
            CORPUS, CORPUS.vocabulary, RECIPE, tmp_path, None, lambda _, mine=precision: mine
        )
        asked = count(1)
        trained = machine.run(lambda _: None, lambda one=asked: next(one) > 1)
        assert trained.precision == "float32"
    assert trained.step == 2
    with pytest.raises(Validation, match="another training: precision, recipe differs"):
        run(tmp_path, replace(RECIPE, precision="bfloat16"))


def test_a_folder_of_another_training_is_refused(undisturbed):
    _, folder, _ = undisturbed
    with pytest.raises(Validation, match="another training: recipe differs"):
        run(folder, replace(RECIPE, seed=6))
    with pytest.raises(Validation, match="another training: corpus_sha256 differs"):
        run(folder, corpus=Corpus.of(CORPUS.text[:-1]))


def test_a_checkpoint_that_is_cut_short_is_refused(undisturbed, tmp_path):
    _, folder, _ = undisturbed
    path = tmp_path / checkpoint.LAST
    path.write_bytes((folder / checkpoint.LAST).read_bytes()[:-1])
    with pytest.raises(BadCheckpoint, match=r"last\.safetensors cannot be read"):
        run(tmp_path)


def test_a_crash_while_writing_leaves_the_checkpoint_before(undisturbed, tmp_path):
    whole, folder, _ = undisturbed
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / f"last.{os.getpid()}.part").write_bytes(b"half a file")
    again = run(tmp_path)
    assert (again.step, again.history) == (whole.step, whole.history)
    assert same(again.weights, whole.weights)


@pytest.mark.slow
def test_a_rate_far_too_high_ends_with_a_sentence(tmp_path):
    recipe = replace(RECIPE, schedule=replace(RECIPE.schedule, learning_rate=1e38))
    with pytest.raises(Validation, match=r"loss .* is (nan|inf); lower learning_rate.*1e\+38"):
        run(tmp_path, recipe)


@pytest.mark.slow
def test_patience_ends_a_training_that_gets_no_better(tmp_path):
    schedule = replace(RECIPE.schedule, learning_rate=0.0, patience=2, weight_ema=0.0, epochs=9)
    trained = run(tmp_path, replace(RECIPE, schedule=schedule))
    assert trained.stop_reason is StopReason.OUT_OF_PATIENCE
    assert len(trained.history) == 3
    assert trained.best == trained.history[0]
    assert run(tmp_path, replace(RECIPE, schedule=schedule)).step == trained.step


@pytest.mark.slow
def test_seconds_count_over_all_runs_of_a_training(tmp_path):
    recipe = replace(RECIPE, schedule=replace(RECIPE.schedule, max_seconds=3600.0, epochs=10_000))
    first = run(tmp_path, recipe, steps=1)
    assert first.stop_reason is StopReason.STOPPED
    assert (first.weights, first.best) == (None, None)  # nothing was evaluated
    path = tmp_path / checkpoint.LAST
    snapshot = checkpoint.read(path)
    assert 0 < snapshot.facts["elapsed_s"] < 3600
    checkpoint.write(path, snapshot.arrays, snapshot.facts | {"elapsed_s": 3600.0})
    second = run(tmp_path, recipe)
    assert second.stop_reason is StopReason.OUT_OF_TIME
    assert second.step == first.step
    assert second.best.step == first.step  # what was trained in time is evaluated


@pytest.mark.slow
def test_a_training_stopped_in_its_last_validation_is_stopped_and_goes_on(tmp_path):
    recipe = replace(RECIPE, schedule=replace(RECIPE.schedule, max_seconds=3600.0, epochs=10_000))
    assert run(tmp_path, recipe, steps=1).stop_reason is StopReason.STOPPED
    path = tmp_path / checkpoint.LAST
    snapshot = checkpoint.read(path)
    checkpoint.write(path, snapshot.arrays, snapshot.facts | {"elapsed_s": 3600.0})
    stopped = run(tmp_path, recipe, steps=0)  # which is asked in the validation, and only there
    assert (stopped.stop_reason, stopped.weights) == (StopReason.STOPPED, None)
    ended = run(tmp_path, recipe)
    assert ended.stop_reason is StopReason.OUT_OF_TIME
    assert ended.best.step == ended.step == 1


@pytest.mark.slow
def test_it_starts_from_weights_that_are_given(undisturbed, tmp_path):
    whole, _, _ = undisturbed
    schedule = replace(RECIPE.schedule, learning_rate=0.0, epochs=1)
    trained = run(tmp_path, replace(RECIPE, schedule=schedule), initial=whole.weights)
    assert trained.best.validation_nats == pytest.approx(whole.best.validation_nats, abs=1e-5)
    other = initial_weights(Architecture(units=3, layers=1).spec(4), 0)
    with pytest.raises(BadCheckpoint):
        run(tmp_path, initial=other)


def test_a_text_beyond_the_vocabulary_is_refused(tmp_path):
    with pytest.raises(UnknownCharacter):
        train(CORPUS, ["0", "1"], RECIPE, tmp_path, report=print, should_stop=lambda: True)


def test_a_text_too_short_for_its_batches_is_refused(tmp_path):
    with pytest.raises(Validation, match="need at least 129: lower batch_size"):
        run(tmp_path, corpus=Corpus.of("abc" * 40))


def test_the_best_checkpoint_is_the_weights_that_are_served(undisturbed):
    whole, folder, _ = undisturbed
    with safe_open(folder / checkpoint.BEST, "numpy") as file:
        facts = json.loads(file.metadata()["facts"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert same(Weights(whole.spec, arrays), whole.weights)
    assert facts["validation"]["validation_nats"] == whole.best.validation_nats


def learner(recipe, vocabulary_size=11, precision="float32"):
    spec = recipe.architecture.spec(vocabulary_size)
    return TrainStep(spec, recipe, 100, initial_weights(spec, 1), precision)


def test_streams_of_an_evaluation_cost_what_one_stream_would(undisturbed):
    whole, _, _ = undisturbed
    spec, tokens = whole.spec, CORPUS.split(CORPUS.vocabulary, 0.5).validation
    judge = TrainStep(spec, RECIPE, 1, whole.weights, "float32")
    one = EvaluationBatches(tokens, warm_up=len(tokens))
    many = EvaluationBatches(tokens)
    assert (one.n_streams, many.n_streams > 4) == (1, True)
    assert judge.evaluate(many, never) == pytest.approx(judge.evaluate(one, never), abs=2e-3)


def test_the_first_loss_is_that_of_a_guess():
    recipe = replace(RECIPE, architecture=replace(RECIPE.architecture, dropout=0.0))
    tokens = np.random.default_rng(0).integers(11, size=(8, 17)).astype(np.int32)
    loss = learner(recipe).learn(BPTTChunk(tokens[:, :-1], tokens[:, 1:]), is_first=True)
    assert loss == pytest.approx(math.log(11), abs=0.05)


SIZES = [(40, 8, 16), (300, 64, 128)]
FAST = {(SIZES[0], "lstm", "bfloat16"), (SIZES[1], "gru", "float32")}


@pytest.mark.parametrize(
    ("vocabulary", "dim", "units", "cell", "precision"),
    [
        pytest.param(*size, *rest, marks=[] if (size, *rest) in FAST else [pytest.mark.slow])
        for size in SIZES
        for rest in product(RECURRENCES, ["float32", "bfloat16"])
    ],
)
def test_a_large_vocabulary_is_learnt_without_folding(vocabulary, dim, units, cell, precision):
    if cell == "simple_rnn":
        units *= 4  # without gates it has a fourth of an LSTM's weights
    architecture = Architecture(cell, dim, units, layers=1, dropout=0.0)
    recipe = replace(RECIPE, architecture=architecture)
    tokens = np.random.default_rng(0).integers(vocabulary, size=(8, 17)).astype(np.int32)
    window = BPTTChunk(tokens[:, :-1], tokens[:, 1:])
    mine = learner(recipe, vocabulary, precision)
    losses = [mine.learn(window, is_first=True) for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]
    assert mine.evaluate(EvaluationBatches(tokens.ravel()), never) > 0


def test_auto_is_bfloat16_only_where_the_processor_has_it(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t: fpu avx2 fma\n")
    assert resolved("auto", cpuinfo) == "float32"
    assert resolved("bfloat16", cpuinfo) == "bfloat16"
    cpuinfo.write_text("flags\t: fpu avx512_bf16 fma\n")
    assert resolved("auto", cpuinfo) == "bfloat16"
    assert resolved("float32", cpuinfo) == "float32"
    assert resolved("auto", tmp_path / "none") == "float32"
