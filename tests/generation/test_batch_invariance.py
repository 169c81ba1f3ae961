"""The theorem of `invariance.py` on the pure scheduler, and planted faults that it must find."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis.errors import NoSuchExample

from service.generation.plan import Feed, Plan, Restore, Start, Swap
from service.generation.request import FinishReason
from service.generation.table import SlotTable
from service.generation.token_texts import TextRules
from tests.fakes.digest_program import DigestProgram
from tests.generation.invariance import CONFIG, SHARED, check_invariance
from tests.generation.strategies import histories, requests

TEXTS = "abcdefg"
BUDGET = 400  # examples; the planted faults must be found within what the theorem gets
HISTORIES = histories(requests(len(TEXTS), TEXTS))


@settings(max_examples=BUDGET, deadline=None)
@given(history=HISTORIES)
def test_a_generation_in_a_batch_equals_the_generation_alone(history):
    check_invariance(DigestProgram(len(TEXTS)), TEXTS, history)


@settings(max_examples=BUDGET, deadline=None)
@given(history=HISTORIES)
def test_a_generation_whose_owner_takes_turns_with_others_equals_the_one_alone(history):
    check_invariance(DigestProgram(len(TEXTS)), TEXTS, history, config=SHARED)


WORDS = ("", " a", " bc", " d", "", " ef", " a b")
RULES = TextRules(joiner=" ", end_ids=(0, 4))
WORD_HISTORIES = histories(requests(len(WORDS), "abcdef "))


@settings(max_examples=BUDGET, deadline=None)
@given(history=WORD_HISTORIES)
def test_words_and_end_tokens_in_a_batch_equal_those_alone(history):
    check_invariance(DigestProgram(len(WORDS)), WORDS, history, rules=RULES)


@pytest.mark.parametrize("reason", FinishReason)
def test_some_history_ends_in_each_way(reason):
    def has_it(history):
        ends = check_invariance(DigestProgram(len(WORDS)), WORDS, history, rules=RULES)
        return any(end.reason is reason for end in ends)

    find(WORD_HISTORIES, has_it, settings=settings(max_examples=BUDGET, deadline=None))


class StaleSlot(SlotTable):
    """A new generation gets the state of the row's last one."""

    def start(self, change: Start) -> None:
        state = [array[change.row].copy() for array in self._batch.states]
        super().start(change)
        for array, row in zip(self._batch.states, state, strict=True):
            array[change.row] = row


class LostToken(SlotTable):
    """The last prompt token of a burst is not fed."""

    def run(self, plan: Plan, **how: bool):
        feeds = tuple(Feed(f.row, [*f.tokens[:-1], 0], f.n_prompt) for f in plan.feeds)
        return super().run(replace(plan, feeds=feeds), **how)


class SwappedState(SlotTable):
    """Rows are swapped without their states."""

    def swap(self, change: Swap) -> None:
        self._batch.tokens[[change.a, change.b]] = self._batch.tokens[[change.b, change.a]]
        self._sampler.swap(change.a, change.b)


class SwappedParameters(SlotTable):
    """Rows are swapped without their parameters."""

    def swap(self, change: Swap) -> None:
        self._batch.swap(change.a, change.b)


class ForgottenState(SlotTable):
    """A preempted row continues from the zero state."""

    def restore(self, change: Restore) -> None:
        super().restore(change)
        self._batch.put(change.row, None)


class ForgottenToken(SlotTable):
    """A preempted row continues with another token."""

    def restore(self, change: Restore) -> None:
        super().restore(change)
        self._batch.tokens[change.row] = 0


class ForgottenPosition(SlotTable):
    """A preempted row draws the random numbers of the row's last generation."""

    def restore(self, change: Restore) -> None:
        saved = change.saved.sampling
        assert saved is not None
        saved.parameters["position"] = 0
        super().restore(change)


class ForgottenPenalties(SlotTable):
    """The tokens that a preempted row has had count no more."""

    def restore(self, change: Restore) -> None:
        super().restore(change)
        self._sampler._counts[change.row] = 0


class ForgottenBiases(SlotTable):
    """A preempted row gets the biases of the row's last generation."""

    def restore(self, change: Restore) -> None:
        before = self._sampler._biases[change.row].copy()
        super().restore(change)
        self._sampler._biases[change.row] = before


class ComputedAhead(SlotTable):
    """A burst computes the rows before its own too."""

    def run(self, plan: Plan, **how: bool):
        return super().run(replace(plan, first=0), **how)


class ComputedBeyond(SlotTable):
    """A burst computes a row after its own too."""

    def run(self, plan: Plan, **how: bool):
        if plan.rows < len(self._batch.tokens):
            self._burst.run(plan.rows + 1, plan.steps, plan.rows)
        return super().run(plan, **how)


class CopiedPart(SlotTable):
    """A burst of a part of the rows loses their states."""

    def run(self, plan: Plan, **how: bool):
        before = [array.copy() for array in self._batch.states] if plan.first else []
        samples, states = super().run(plan, **how)
        for array, state in zip(self._batch.states, before, strict=False):
            array[:] = state
        return samples, states


@pytest.mark.parametrize(
    ("fault", "config"),
    [
        *[(fault, CONFIG) for fault in (StaleSlot, LostToken, SwappedState, SwappedParameters)],
        *[(fault, CONFIG) for fault in (ForgottenState, ForgottenToken, ForgottenPosition)],
        *[(fault, CONFIG) for fault in (ForgottenPenalties, ForgottenBiases)],
        *[(fault, SHARED) for fault in (ComputedAhead, ComputedBeyond, CopiedPart, SwappedState)],
    ],
)
def test_a_planted_fault_is_found(fault, config):
    def is_red(history):
        try:
            check_invariance(DigestProgram(len(TEXTS)), TEXTS, history, fault, config=config)
        except AssertionError:
            return True
        return False

    quick = settings(
        max_examples=BUDGET,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=[Phase.generate],
    )
    try:
        find(HISTORIES, is_red, settings=quick)
    except NoSuchExample:
        pytest.fail(f"{fault.__name__} stays green")
