from itertools import pairwise

import numpy as np
import pytest

from service.errors import Validation
from service.training.corpus import Corpus, Lanes
from service.training.topics import ALPHABET, topics_text


def numbers(n):
    return np.arange(n, dtype=np.int32)


def test_a_window_begins_where_the_one_before_it_ended():
    windows = list(Lanes(numbers(61), n_lanes=3, window_characters=5))
    assert len(windows) == 4
    for before, after in pairwise(windows):
        assert (after.inputs[:, 0] == before.inputs[:, -1] + 1).all()


def test_targets_come_from_the_text_across_every_edge():
    for window in Lanes(numbers(61), n_lanes=3, window_characters=5):
        assert (window.targets == window.inputs + 1).all()


def test_lanes_are_equal_stretches_and_nothing_wraps_around():
    windows = list(Lanes(numbers(61), n_lanes=3, window_characters=5))
    lanes = np.hstack([window.inputs for window in windows])
    assert (lanes == numbers(60).reshape(3, 20)).all()
    assert windows[-1].targets[-1, -1] == 60


def test_a_later_start_moves_the_edges():
    first = next(iter(Lanes(numbers(61), n_lanes=3, window_characters=5, start=4)))
    assert first.inputs[0].tolist() == [4, 5, 6, 7, 8]


def test_the_shortest_text_fills_one_window_and_a_shorter_one_is_refused():
    assert Lanes(numbers(16), n_lanes=3, window_characters=5).n_windows == 1
    with pytest.raises(Validation, match="15 characters; 3 lanes of 5 from 0 on need 16"):
        Lanes(numbers(15), n_lanes=3, window_characters=5)


def test_the_cut_loses_nothing_and_shares_nothing():
    corpus = Corpus.cut(numbers(100), 0.06)
    assert corpus.training.tolist() == list(range(94))
    assert corpus.validation.tolist() == list(range(94, 100))


def test_training_windows_hold_no_character_of_the_validation_part():
    corpus = Corpus.cut(numbers(1000), 0.1)
    lanes = Lanes(corpus.training, n_lanes=4, window_characters=7)
    assert max(window.targets.max() for window in lanes) < corpus.validation.min()


def test_a_topic_that_repeats_part_of_a_longer_one_is_left_out():
    topics = {
        "compound": "Beginning.\n\nThe if.\n\nThe else.",
        "if": "The if.\n\nThe\nelse.",
        "x": "X.",
    }
    text = topics_text(0, topics)
    assert text.count("The if.") == 1
    assert "X." in text


def test_typographic_signs_are_written_in_ascii_and_what_is_left_of_others_goes():
    text = "“It’s” – fine… 20° ß"  # noqa: RUF001 (the point of it)
    assert topics_text(0, {"a": text}) == '"It\'s" - fine... 20 \n'


def test_cpythons_topics_need_no_character_outside_the_alphabet():
    text = topics_text(3)
    assert set(text) <= set(ALPHABET)
    assert len(text) > 300_000
    assert text == topics_text(3)
    assert text != topics_text(4)
