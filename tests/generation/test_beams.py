"""Beam search itself, without a thread."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.constraints.compiler import compile_constraint
from service.constraints.spec import regex
from service.errors import GenerationFailed
from service.generation.beam_worker import _step
from service.generation.beams import BeamParams, BeamSearchState, most_likely
from service.generation.request import FinishReason, GenerationRequest, SamplingParams
from service.models.compile import compile_program
from service.models.reference import ReferenceModel
from service.models.step import Batch
from tests.fakes.digest_program import DigestProgram
from tests.generation.beam_oracle import Rules, language, logprobs_of, oracle, reread
from tests.generation.invariance import Stage, Transcript
from tests.models.networks import SPECS, random_weights

PATTERNS = ["(a|b)*", "a{1,3}b?", "(ab|ba)+", "[abc]*c", "(aaaaaaaa)*", "b?a?b?", "a|ab|abc|b"]
PENALTIES = [1.0, 0.0, 2.0, -1.0, 0.5, -3.0, 10.0, -10.0]


@st.composite
def searches(draw) -> tuple[tuple[int, ...], Rules]:
    texts = "abcde"[: draw(st.integers(2, 5))]
    longest, width = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    never = draw(st.sampled_from([(), (), (1,)])) if len(texts) > 2 else ()
    drawn = "".join(c for i, c in enumerate(texts) if i not in never)
    patterns = [None, *(one for one in PATTERNS if language(one, texts, longest))]
    rules = Rules(
        texts,
        longest,
        width,
        draw(st.integers(1, width)),
        draw(st.sampled_from(PENALTIES)),
        tuple(draw(st.lists(st.text(drawn, min_size=1, max_size=3), max_size=2))),
        draw(st.sampled_from(patterns)) if len(texts) > 2 and not never else None,
        never,
    )
    return tuple(draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=3))), rules


def asked(prompt, rules: Rules, **more) -> tuple[GenerationRequest, BeamParams]:
    constraint = None
    if rules.pattern is not None:
        constraint = compile_constraint(regex(rules.pattern), rules.texts)
    request = GenerationRequest(
        prompt,
        rules.longest,
        SamplingParams(seed=0),
        rules.stops,
        constraint=constraint,
        **more,
    )
    return request, BeamParams(rules.width, rules.n, rules.penalty)


class Run:
    """A search with its program, a step at a time."""

    def __init__(self, program, prompt, rules: Rules, **more) -> None:
        request, params = asked(prompt, rules, **more)
        self.program, self.search = (
            program,
            BeamSearchState(request, params, rules.texts, rules.never),
        )
        self.batch, self.steps = program.new_batch(rules.width), 0
        for token in prompt[:-1]:
            self.batch.tokens[0] = token
            program.step(self.batch, 1)
        self.batch.tokens[0] = prompt[-1]

    def step(self) -> None:
        assert self.search.rows <= len(self.batch.tokens)
        _step(self.program, self.batch, self.search)
        self.steps += 1

    def to_the_end(self, *, is_taken: bool = False) -> list[Transcript]:
        """If `is_taken`, the certain tokens are taken after each step, for a single completion."""
        seen: list[Transcript] = [Transcript()] if is_taken else []
        while not self.search.is_over:
            self.step()
            if is_taken and not self.search.is_over:
                seen[0].add(self.search.take_certain())
        for rank, chunk in enumerate(self.search.completions()):
            if rank == len(seen):
                seen.append(Transcript())
            seen[rank].add(chunk)
        return seen


def check_equal(seen: list[Transcript], expected, texts: str) -> None:
    assert [tuple(one.tokens) for one in seen] == [one.shown for one in expected]
    assert [tuple(one.sampled) for one in seen] == [one.sampled for one in expected]
    for one, wanted in zip(seen, expected, strict=True):
        assert one.logprobs == pytest.approx(wanted.logprobs[: len(wanted.shown)], abs=1e-5)
        assert one.finish.reason is wanted.reason
        assert one.finish.generated_tokens == len(wanted.sampled)
        is_stopped = wanted.reason is FinishReason.STOP_SEQUENCE
        stop_token = one.finish.stop_token
        assert (stop_token.id if stop_token else None) == (
            wanted.sampled[-1] if is_stopped else None
        )
        hidden = "".join(texts[token] for token in wanted.sampled[len(wanted.shown) :])
        assert one.finish.stop == (hidden if is_stopped else None)


@settings(max_examples=400, deadline=None)
@given(one=searches(), is_taken=st.booleans())
@example(((0,), Rules("abc", 4, 3, 2, 0.0, ("a",), "[abc]*c")), False)
def test_a_search_equals_its_definition(one, is_taken):
    prompt, rules = one
    program = DigestProgram(len(rules.texts))
    seen = Run(program, prompt, rules).to_the_end(is_taken=is_taken and rules.n == 1)
    check_equal(seen, oracle(reread(program), prompt, rules), rules.texts)


@pytest.mark.parametrize("name", ["lstm", "two lstms", "gru, reset before"])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_search_equals_its_definition_on_the_reference_network(name, width):
    spec = SPECS[name]
    weights = random_weights(spec, scale=1.0)
    program, reference = compile_program(spec, weights, "float32"), ReferenceModel(spec, weights)
    texts = "".join(chr(97 + i) for i in range(spec.vocabulary_size))
    for stops, penalty, prompt in itertools.product([(), ("e", "bc")], [1.0, -1.0], [(3,), (1, 2)]):
        rules = Rules(texts, 6, width, width, penalty, stops)
        seen = Run(program, prompt, rules).to_the_end()
        check_equal(
            seen, oracle(lambda tokens: reference.run(tokens)[-1], prompt, rules), rules.texts
        )


@pytest.mark.parametrize(("size", "longest", "width"), [(4, 2, 4), (2, 3, 4), (3, 3, 9)])
@pytest.mark.parametrize("stops", [(), ("b",), ("ab",), ("aa", "b")])
@pytest.mark.parametrize("penalty", [1.0, 0.0, -1.0])
def test_a_search_wide_enough_finds_the_most_likely_of_all_texts(
    size, longest, width, stops, penalty
):
    texts, program = "abcd"[:size], DigestProgram(size)
    network = reread(program)
    for prompt in itertools.product(range(size), repeat=2):
        scores = {}
        for tokens in itertools.product(range(size), repeat=longest):
            said = "".join(texts[token] for token in tokens)
            cuts = [said.find(stop) + len(stop) for stop in stops if stop in said]
            end = min(cuts, default=longest)
            total = sum(logprobs_of(network((*prompt, *tokens[:n])))[tokens[n]] for n in range(end))
            scores[tokens[:end]] = total / end**penalty
        ranked = sorted(scores, key=lambda tokens: -scores[tokens])
        rules = Rules(texts, longest, width, width, penalty, stops)
        seen = Run(program, prompt, rules).to_the_end()
        assert [tuple(one.sampled) for one in seen] == ranked[:width]


@settings(max_examples=60, deadline=None)
@given(one=searches())
def test_a_width_of_one_equals_greedy_decoding_bit_for_bit(one):
    """Except for ends that only a search considers: a complete text that could continue."""
    prompt, rules = one
    rules = dataclasses.replace(rules, width=1, n=1, pattern=None, never=(), stops=rules.stops[:1])
    program = DigestProgram(len(rules.texts))
    request, _ = asked(prompt, dataclasses.replace(rules, stops=()), top_tokens=2)
    stage = Stage(program, rules.texts)
    greedy = dataclasses.replace(request, sampling=SamplingParams(seed=0, temperature=0.0))
    stage.submit(greedy)
    stage.work_to_the_end()
    plain = dataclasses.replace(rules, stops=())
    (seen,) = Run(program, prompt, plain, top_tokens=2).to_the_end(is_taken=True)
    assert seen == stage.seen[0]


@settings(max_examples=300, deadline=None)
@given(one=searches())
def test_take_certain_returns_the_whole_common_prefix(one):
    """Only last tokens are held back of what all hypotheses that may be returned have in common."""
    prompt, rules = one
    rules = dataclasses.replace(rules, n=1)
    run, taken = Run(DigestProgram(len(rules.texts)), prompt, rules), []
    while not run.search.is_over:
        run.step()
        if run.search.is_over:
            break
        taken += run.search.take_certain().tokens
        shown = []
        for live in run.search._live:
            tokens = taken + path(live.node)
            assert len(tokens) == run.steps
            held = live.stops.held if live.stops else ""
            shown.append(tokens[: len(tokens) - len(held)])
        for text in run.search._finished:
            tokens = taken + path(text.node)
            assert len(tokens) == text.length
            shown.append(tokens[: text.length - (text.hidden or 1)])
        common = list(
            itertools.takewhile(lambda column: len(set(column)) == 1, zip(*shown, strict=False))
        )
        assert len(taken) == len(common)


def path(node) -> list[int]:
    tokens = []
    while node.parent is not None:
        tokens.append(node.token.id)
        node = node.parent
    return tokens[::-1]


class Table(DigestProgram):
    """A network that depends on the last token alone."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__(len(rows))
        self.rows = np.array(rows, np.float32)

    def step(self, batch: Batch, rows: int) -> None:
        batch.logits[:rows] = self.rows[batch.tokens[:rows]]


def test_a_finished_hypothesis_takes_no_beam_from_a_live_one():
    program = Table([[0.0, 1.0, 0.0], [0.0] * 3, [0.0] * 3])  # "b" is the likeliest after "a"
    rules = Rules("abc", 3, 1, 1, 10.0, pattern="b|ccc")
    (seen,) = Run(program, (0,), rules).to_the_end()
    assert seen.tokens == [2, 2, 2]
    check_equal([seen], oracle(reread(program), (0,), rules), rules.texts)


class Level(DigestProgram):
    """A network with equal logits."""

    def step(self, batch: Batch, rows: int) -> None:
        batch.logits[:rows] = 0.0


def test_ties_go_to_the_earlier_hypothesis_and_the_smaller_token():
    seen = Run(Level(3), (0,), Rules("abc", 2, 4, 4, 1.0)).to_the_end()
    assert [one.tokens for one in seen] == [[0, 0], [0, 1], [0, 2], [1, 0]]


def test_a_search_ends_when_no_hypothesis_can_win():
    rules = Rules("abc", 500, 3, 1, 1.0, ("a",))
    run = Run(DigestProgram(3), (0,), rules)
    run.to_the_end()
    assert run.steps < 500
    long = dataclasses.replace(rules, stops=())
    run = Run(DigestProgram(3), (0,), long)
    run.to_the_end()
    assert run.steps == 500


def test_the_tree_holds_only_tokens_that_are_not_certain():
    run = Run(DigestProgram(5), (0,), Rules("abcde", 3_000, 4, 1, 1.0))
    most = 0
    while not run.search.is_over:
        run.step()
        run.search.take_certain()
        most = max(most, size(run.search._root))
    assert most < 300


def size(node) -> int:
    return 1 + sum(size(branch) for branch in node.branches)


def test_top_tokens_belong_to_the_position_of_their_token():
    program, rules = DigestProgram(5), Rules("abcde", 6, 3, 3, 1.0)
    for one in Run(program, (1,), rules, top_tokens=2).to_the_end():
        for n, top in enumerate(one.top_tokens):
            row = logprobs_of(reread(program)((1, *one.tokens[:n])))
            best = sorted(range(5), key=lambda i: -row[i])[:2]
            assert [token.id for token in top] == best
            assert [token.logprob for token in top] == pytest.approx(row[best])
            assert one.logprobs[n] == pytest.approx(row[one.tokens[n]])
        assert len(one.top_tokens) == 6


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_end_the_search(poison):
    class Poisoned(DigestProgram):
        def step(self, batch: Batch, rows: int) -> None:
            super().step(batch, rows)
            batch.logits[:rows, 1 if poison == np.inf else slice(None)] = poison

    with pytest.raises(GenerationFailed, match="not finite"):
        Run(Poisoned(3), (0,), Rules("abc", 5, 2, 1, 1.0)).to_the_end()


def test_most_likely_is_in_order_and_ties_go_to_the_first():
    values = np.array([[1.0, 3.0, -np.inf], [3.0, 2.0, 1.0]])
    assert most_likely(values, 3) == [1, 3, 4]
    assert most_likely(values, 4) == [1, 3, 4, 0]
    assert most_likely(values, 9) == [1, 3, 4, 0, 5]
