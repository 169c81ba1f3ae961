"""Planted cells are found, and where nothing is planted nothing is."""

import asyncio

import numpy as np
import pytest

from service.errors import Validation
from service.inspection.ablator import Ablator
from service.inspection.cell_search import CellSearch, CellValues, Verdict, changing_tokens
from service.inspection.cell_searcher import CellSearcher, SearchedText
from service.inspection.config import InspectionConfig
from service.inspection.correlation import HeldOutSplit, auc, correlations, f1, standardised
from service.inspection.find_sentence import sentence
from service.inspection.inspection_thread import InspectionThread
from service.inspection.inspector import Inspector
from service.inspection.labels import Label, named_label
from service.models.bundle import Precision
from service.models.compile import compile_program
from tests.inspection.planted import ALPHABET, CELL, UNITS, planted_weights, random_text, spec_of

TEXT = random_text(6_000)
TOKENS = np.array([ALPHABET.index(one) for one in TEXT], np.int64)


def searched(cell, weights, labels, precision=Precision.FLOAT32):
    async def run():
        spec, thread = spec_of(cell), InspectionThread(InspectionConfig())
        program = compile_program(spec, weights, precision)
        ablator = Ablator(spec, precision, lambda: weights, thread)
        inspector = Inspector(program, spec, thread, ablator)
        text = SearchedText(TOKENS, np.arange(1, len(TOKENS) + 1), ())
        found = await inspector.searcher.search(program, text, labels, "a", asyncio.Event())
        thread.close()
        return found

    return asyncio.run(run())


@pytest.mark.parametrize("cell", ["lstm", "peephole_lstm", "gru"])
def test_a_planted_cell_is_found_and_its_use_is_shown(cell):
    label = named_label("in_parentheses", TEXT)
    (used,) = searched(cell, planted_weights(cell, ")"), [label])
    best, second = used.cells[:2]
    assert best.place == (0, CELL)
    assert best.r > 0.999
    assert best.r_chosen_on > 0.999
    assert best.beyond > 0.99
    assert (best.auc, best.precision, best.recall) == pytest.approx((1, 1, 1), abs=1e-3)
    assert abs(second.r) < 0.6
    assert used.few[0].places == [(0, CELL)]
    assert used.few[0].score > 0.999
    assert used.null_95 < 0.3
    assert used.by_character < 0.5
    assert used.verdict is Verdict.USED
    use = next(use for use in used.uses if use.place == best.place)
    assert ALPHABET[use.token] in "()"
    assert (use.rank, use.of) == (1, UNITS)  # others are held, too: here all that there are
    held_out = TEXT[HeldOutSplit.of(len(TEXT), 0.3).held_out]
    assert use.count == held_out.count(ALPHABET[use.token])
    assert 0.0 < used.untrained < 0.6
    said = sentence(used, lambda one: ALPHABET[one.token])
    assert said.startswith("Cell 5 of layer 0 follows in_parentheses: r +1.00")
    assert f"it costs {ALPHABET[use.token]!r}" in said

    (found,) = searched(cell, planted_weights(cell), [label])
    assert found.cells[0].place == (0, CELL)
    assert found.verdict is Verdict.FOUND
    assert all(use.bits == 0 for use in found.uses if use.place == (0, CELL))


def random_label(random: np.random.Generator, n: int) -> np.ndarray:
    """A binary label whose runs are as long as those of parentheses."""
    runs = random.integers(3, 30, n // 8)
    return np.repeat(np.arange(len(runs)) % 2, runs)[:n].astype(np.float64)


def test_nothing_planted_nothing_found():
    """200 labels that have nothing to do with the text: hardly one is more than `none`."""
    spec, thread = spec_of("lstm"), InspectionThread(InspectionConfig())
    program = compile_program(spec, planted_weights("lstm"), Precision.FLOAT32)

    async def run():
        inspector = Inspector(program, spec, thread, Ablator(spec, Precision.FLOAT32, dict, thread))
        text = SearchedText(TOKENS, np.arange(1, len(TOKENS) + 1), ())
        return await inspector.searcher.traced(program, text, "a", asyncio.Event())

    values = asyncio.run(run())
    thread.close()
    split, random, verdicts = HeldOutSplit.of(len(TOKENS), 0.3), np.random.default_rng(11), []
    search = CellSearch(values, TOKENS, split, n_rotations=40)
    for number in range(200):
        label = random_label(random, len(TOKENS))
        verdicts.append(search.find(Label(f"label {number}", "binary", label), label).verdict)
    n_false = sum(verdict is not Verdict.NONE for verdict in verdicts)
    # One in twenty passes where it was chosen, and few of those on the part held out as well.
    assert n_false <= 4
    assert sum(verdict in {Verdict.FOUND, Verdict.USED} for verdict in verdicts) == 0


def test_a_label_that_the_character_tells_is_free():
    values = (ALPHABET.index("a") == TOKENS).astype(float)
    cell = values[:, None] + np.random.default_rng(0).normal(0, 0.05, (len(TOKENS), 1))
    found = CellSearch(
        CellValues([(0, 0)], cell.astype(np.float32)), TOKENS, HeldOutSplit.of(len(TOKENS), 0.3)
    ).find(Label("a", "binary", values), values)
    assert found.cells[0].r > 0.9
    assert found.verdict is Verdict.FREE
    assert "the current character reaches 1.00" in sentence(found, lambda _: "")


def test_what_does_not_survive_held_out_text_is_not_confirmed():
    random, n = np.random.default_rng(2), len(TOKENS)
    label, noise = random_label(random, n), random.normal(0, 1, n)
    split = HeldOutSplit.of(n, 0.3)
    cell = label + noise
    cell[split.held_out] = 1.5 * noise[split.held_out] - label[split.held_out]
    found = CellSearch(CellValues([(0, 7)], cell[:, None].astype(np.float32)), TOKENS, split).find(
        Label("turned", "binary", label), label
    )
    assert found.verdict is Verdict.NOT_CONFIRMED
    assert "No cell follows turned: cell 7 of layer 0 had r +0.4" in sentence(found, lambda _: "")


def test_tokens_are_left_out_before_each_part():
    split = HeldOutSplit.of(6_000, 0.3)
    assert split.held_out == slice(4_500, 6_000)  # .3 of 5,000
    assert split.chosen_on == slice(500, 4_000)


def test_the_untrained_network_is_judged_on_text_held_out():
    random, n = np.random.default_rng(2), len(TOKENS)
    label, split = random_label(random, n), HeldOutSplit.of(n, 0.3)
    cells = random.normal(0, 1, (n, 3))
    cells[split.chosen_on, 1] += 3.0 * label[split.chosen_on]
    search = CellSearch(
        CellValues([(0, i) for i in range(3)], cells.astype(np.float32)), TOKENS, split
    )
    held_out = np.corrcoef(cells[split.held_out, 1], label[split.held_out])[0, 1]
    assert search.best_r(label) == pytest.approx(abs(held_out), abs=1e-5)


def test_a_negative_cell_has_a_threshold_of_its_own_sign():
    random = np.random.default_rng(2)
    label = random_label(random, len(TOKENS))
    cell = (-label + random.normal(0, 0.1, len(TOKENS)))[:, None].astype(np.float32)
    found = CellSearch(CellValues([(0, 0)], cell), TOKENS, HeldOutSplit.of(len(TOKENS), 0.3)).find(
        Label("negative", "binary", label), label
    )
    (best,) = found.cells
    assert best.r < -0.9
    assert -0.8 < best.threshold < -0.2
    assert min(best.precision, best.recall, best.auc) > 0.99


def test_few_cells_complete_each_other():
    """The second is not the second best alone, which says the same as the best."""
    x, y, noise = np.random.default_rng(3).normal(0, 1, (3, len(TOKENS)))
    cells = np.stack([x, x + 0.01 * noise, y], axis=1).astype(np.float32)
    values, split = CellValues([(0, i) for i in range(3)], cells), HeldOutSplit.of(len(TOKENS), 0.3)
    label = 3.0 + x + 0.5 * y
    found = CellSearch(values, TOKENS, split).find(Label("sum", "number", label), label)
    assert {cell.place for cell in found.cells[:2]} == {(0, 0), (0, 1)}
    assert (found.few[1].places[1], len(found.few)) == ((0, 2), 2)
    assert found.few[1].score > 0.999
    assert found.few[0].score == pytest.approx(0.8, abs=0.05)  # of 1.25 parts, one


def test_thresholds_are_of_the_part_that_cells_are_chosen_on():
    """Where the cell lies higher in the part held out, everything is said to have the property."""
    label, split = random_label(np.random.default_rng(2), len(TOKENS)), HeldOutSplit.of(6_000, 0.3)
    cell = label.copy()
    cell[split.held_out] += 0.7
    values = CellValues([(0, 0)], cell[:, None].astype(np.float32))
    found = CellSearch(values, TOKENS, split).find(Label("shifted", "binary", label), label)
    share = label[split.held_out].mean()
    assert found.cells[0].precision == pytest.approx(share)
    assert found.few[0].f1 == pytest.approx(2 * share / (1 + share))


def test_cells_that_hardly_deviate_are_left_out():
    label = random_label(np.random.default_rng(2), len(TOKENS))
    cell = (0.01 * label[:, None]).astype(np.float32)
    found = CellSearch(CellValues([(0, 0)], cell), TOKENS, HeldOutSplit.of(len(TOKENS), 0.3)).find(
        Label("tiny", "binary", label), label
    )
    assert found.cells == ()
    assert found.verdict is Verdict.NONE


def test_numbers_are_numpy_s():
    random = np.random.default_rng(3)
    x, y = random.normal(size=(500, 3)), random.normal(size=500)
    r = correlations(standardised(x), y[:, None])[:, 0]
    assert r == pytest.approx(np.corrcoef(x.T, y)[-1, :-1], abs=1e-6)
    label = (y > 0.5).astype(float)
    scores = np.round(x[:, 0], 1)
    pairs = np.sign(scores[label > 0][:, None] - scores[label == 0][None])
    assert auc(scores, label) == pytest.approx((pairs.mean() + 1) / 2)
    assert f1(np.array([True, True, False]), np.array([1.0, 0.0, 1.0])) == (0.5, 0.5, 0.5)
    assert changing_tokens(np.array([1, 2] * 6), np.array([0.0, 1.0] * 6)) == [2, 1]


def test_a_text_that_is_too_short_or_changes_too_rarely_is_refused():
    thread = InspectionThread(InspectionConfig(max_search_values=24 * 5_500))
    ablator = Ablator(spec_of("lstm"), Precision.FLOAT32, dict, thread)
    searcher = CellSearcher(spec_of("lstm"), thread, ablator, None)

    def text(n):
        return SearchedText(TOKENS[:n], np.arange(1, n + 1), ())

    with pytest.raises(Validation, match="4999 tokens; a find needs at least 5000"):
        searcher.check(text(4_999), [])
    with pytest.raises(Validation, match="the limit is 132000: give at most 5500 tokens"):
        searcher.check(text(5_501), [])
    rare = Label("rare", "binary", (np.arange(6_000) > 3_000).astype(float))
    with pytest.raises(Validation, match="rare changes 1 times in the part of the text that is"):
        searcher.check(text(5_500), [rare])
    thread.close()


def test_one_search_runs_at_a_time():
    from service.errors import Overloaded  # noqa: PLC0415

    thread = InspectionThread(InspectionConfig())
    with thread.admit_search(), pytest.raises(Overloaded, match="a search for cells runs"):
        thread.admit_search().__enter__()
    thread.admit_search().__enter__()
    thread.close()
    assert UNITS == 24
