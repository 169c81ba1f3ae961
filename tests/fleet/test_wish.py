import pytest

from service.errors import ModelInUse, ModelNotFound
from service.fleet.convergence import asks_for_load, next_to_change
from service.fleet.report import ProcessPhase, ProcessReport
from service.fleet.wish import ModelWish, Wish
from service.models.bundle import Precision
from service.models.retention import Retention
from service.models.spec import ModelRef
from service.models.store import RegistryRecord

A, B = ModelRef("a", 1), ModelRef("b", 1)
PINNED = Retention(pin=True)


def left(wish: Wish, done: dict[ModelRef, ModelWish]) -> ModelRef | None:
    return next_to_change(wish, done, {}, 0.0, 1.0)


def test_the_first_model_becomes_the_default_and_no_later_one():
    wish = Wish().with_load(A).with_load(B)
    assert wish.aliases == {"default": A}
    assert wish.revision == 2


def test_a_load_of_a_loaded_model_loads_it_again():
    before = Wish().with_load(A)
    after = before.with_load(A, Precision.INT8)
    assert left(after, dict(before.models)) == A
    assert asks_for_load(after.models[A], before.models[A])


def test_a_pin_of_a_loaded_model_loads_nothing():
    before = Wish().with_load(A, Precision.INT8)
    after = before.with_load(A, None, PINNED)
    assert left(after, dict(before.models)) == A
    assert not asks_for_load(after.models[A], before.models[A])
    assert after.models[A].precision is Precision.INT8  # of a process that starts later


def test_a_load_without_a_retention_keeps_the_one_there_is():
    wish = Wish().with_load(A, None, PINNED)
    assert wish.with_load(A, Precision.INT8).models[A].retention == PINNED
    assert wish.with_unload(A).with_load(A).models[A].retention == PINNED


def test_an_unload_comes_before_a_load_and_is_carried_out_once():
    wish = Wish().with_load(A).with_load(B)
    done = dict(wish.models)
    wish = wish.with_unload(B).with_load(A)
    assert left(wish, done) == B
    assert left(wish, done | {B: wish.models[B]}) == A
    assert left(wish, dict(wish.models)) is None


def test_what_has_failed_is_due_again_after_a_while_unless_it_is_unloaded():
    wish = Wish().with_load(A)
    done = dict(wish.models)
    assert next_to_change(wish, done, {A: 1.0}, 1.5, 1.0) is None
    assert next_to_change(wish, done, {A: 1.0}, 2.0, 1.0) == A
    gone = wish.with_unload(A)
    assert next_to_change(gone, dict(gone.models), {A: 1.0}, 9.0, 1.0) is None


def test_a_wanted_or_aliased_version_is_not_forgotten():
    wish = Wish().with_load(A).with_load(B)
    with pytest.raises(ModelInUse, match="it is to be loaded"):
        wish.without_model(B)
    with pytest.raises(ModelInUse, match="'default' points"):
        wish.with_unload(A).without_model(A)
    assert B not in wish.with_unload(B).without_model(B).models


def test_an_alias_that_is_not_there_is_not_removed():
    with pytest.raises(ModelNotFound, match="there are: default"):
        Wish().with_load(A).without_alias("prod")


def test_the_record_of_a_folder_and_back():
    record = RegistryRecord((A,), {"default": A}, {A: PINNED, B: Retention(False, 5.0)})
    assert Wish.of_record(record).record() == record


@pytest.mark.parametrize(
    "wish",
    [ModelWish(1, 1), ModelWish(3, 2, False, Precision.INT8, PINNED, True, 4.5)],
)
def test_a_wish_is_read_as_it_was_written_also_by_an_earlier_version(wish):
    assert ModelWish.from_json(wish.to_json()) == wish
    assert ModelWish.from_json(wish.to_json()[:-1] + ',"later":1}') == wish


def test_a_report_is_read_as_it_was_written_also_by_an_earlier_version():
    report = ProcessReport("p", ProcessPhase.SERVING, 3, {"a@1": "d"}, {"b@1": "why"})
    assert ProcessReport.from_json(report.to_json()) == report
    assert ProcessReport.from_json(report.to_json()[:-1] + ',"later":1}') == report


def test_another_model_of_the_same_name_is_not_the_one():
    report = ProcessReport("p", ProcessPhase.SERVING, 3, {"a@1": "d"})
    assert report.lacks("a@1", "d") is None
    assert "another model" in str(report.lacks("a@1", "e"))
