import time
import unicodedata
from itertools import pairwise

import numpy as np
import pytest

from service.errors import UnknownCharacter, Validation
from service.training.corpus import BPTTBatches, BPTTChunk, Corpus, EvaluationBatches, encoded


class StartsAnew(BPTTBatches):
    """A bug planted: every second window is of another pass, so no window goes on."""

    def chunk(self, index, start=0):
        return super().chunk(index ^ 1 if self.n_chunks > 1 else index, start)


class WrapsInWindow(BPTTBatches):
    """A bug planted: the last target of a window is the window's own first character."""

    def chunk(self, index, start=0):
        inputs = super().chunk(index, start).inputs
        return BPTTChunk(inputs, np.roll(inputs, -1, axis=1))


class WrapsAround(BPTTBatches):
    """A bug planted: the targets are the text turned by one, so the last target is the first."""

    def chunk(self, index, start=0):
        window = super().chunk(index, start)
        targets = window.targets.copy()
        if index == self.n_chunks - 1:
            targets[-1, -1] = super().chunk(0, start).inputs[0, 0]
        return BPTTChunk(window.inputs, targets)


def numbers(n):
    return np.arange(n, dtype=np.int32)


def chunks(lanes):
    return [lanes.chunk(index) for index in range(lanes.n_chunks)]


def goes_on(lanes):
    """Whether every window begins with what the one before it had to predict last."""
    return all(
        (after.inputs[:, 0] == before.targets[:, -1]).all()
        for before, after in pairwise(chunks(lanes))
    )


def targets_follow(lanes):
    """Whether every target is the character after its input; the text is 0, 1, 2, …"""
    return all((window.targets == window.inputs + 1).all() for window in chunks(lanes))


def test_a_window_begins_where_the_one_before_it_ended():
    lanes = BPTTBatches(numbers(61), n_streams=3, chunk_characters=5)
    assert lanes.n_chunks == 4
    assert goes_on(lanes)
    assert not goes_on(StartsAnew(numbers(61), n_streams=3, chunk_characters=5))


def test_targets_come_from_the_text_across_every_edge():
    assert targets_follow(BPTTBatches(numbers(61), n_streams=3, chunk_characters=5))
    for planted in (WrapsInWindow, WrapsAround):
        assert not targets_follow(planted(numbers(61), n_streams=3, chunk_characters=5))


def test_lanes_are_equal_stretches_and_nothing_wraps_around():
    windows = chunks(BPTTBatches(numbers(61), n_streams=3, chunk_characters=5))
    lanes = np.hstack([window.inputs for window in windows])
    assert (lanes == numbers(60).reshape(3, 20)).all()
    assert windows[-1].targets[-1, -1] == 60


def test_a_later_start_moves_the_edges_up_to_the_end_of_the_text():
    lanes = BPTTBatches(numbers(65), n_streams=3, chunk_characters=5)
    assert lanes.chunk(0, start=4).inputs[0].tolist() == [4, 5, 6, 7, 8]
    assert lanes.n_spare == 4
    assert lanes.chunk(3, start=4).targets[-1, -1] == 64


def test_the_shortest_text_fills_one_window_and_a_shorter_one_is_refused():
    assert BPTTBatches(numbers(16), n_streams=3, chunk_characters=5).n_chunks == 1
    with pytest.raises(Validation, match="has 15 characters; 3 streams of 5 need at least 16"):
        BPTTBatches(numbers(15), n_streams=3, chunk_characters=5)


@pytest.mark.parametrize("n", [2, 3, 399, 400, 801, 4001, 30_000])
def test_judged_lanes_predict_every_character_but_the_first_once(n):
    predicted = np.zeros(n, int)
    for window in EvaluationBatches(numbers(n), chunk_characters=70):
        counted = window.counted > 0
        assert (window.targets == window.inputs + 1).all()
        np.add.at(predicted, window.targets[counted], 1)
    assert predicted[0] == 0
    assert (predicted[1:] == 1).all()


def test_a_judged_lane_has_read_what_is_before_its_stretch():
    inputs = np.hstack([w.inputs for w in EvaluationBatches(numbers(4001))])
    counted = np.hstack([w.counted for w in EvaluationBatches(numbers(4001))])
    assert counted.argmax(axis=1).tolist() == [0] + [100] * 9
    assert (np.diff(inputs[:, :500]) == 1).all()


def test_nothing_to_predict_is_refused():
    with pytest.raises(Validation, match="has 1 characters; it needs at least 2"):
        EvaluationBatches(numbers(1))


def test_the_split_loses_nothing_and_shares_nothing():
    corpus = Corpus.of("abcdefghij" * 10)
    split = corpus.split(corpus.vocabulary, 0.06)
    assert len(split.training) == 94
    assert np.concatenate([split.training, split.validation]).tolist() == list(range(10)) * 10
    assert split.validation_bytes == 6


def test_training_windows_hold_no_character_of_the_validation_part():
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 1000)))
    split = Corpus.of(text).split(Corpus.of(text).vocabulary, 0.1)
    lanes = BPTTBatches(split.training, n_streams=4, chunk_characters=7)
    targets = [lanes.chunk(i, lanes.n_spare).targets.max() for i in range(lanes.n_chunks)]
    assert max(targets) == 899
    assert split.validation.min() == 900


def test_a_text_that_is_not_utf_8_is_refused_where_it_stops_being_it():
    with pytest.raises(Validation, match="not UTF-8: byte 4 is 0xff"):
        Corpus.decode(b"the\n\xff\xfe")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "0 different characters in 0"), (b"aaaa", "1 different characters in 4")],
)
def test_a_text_of_fewer_than_two_different_characters_is_refused(content, sentence):
    with pytest.raises(Validation, match=f"{sentence}; it needs at least 2"):
        Corpus.decode(content)


def test_newlines_and_composition_are_normalised_and_recorded():
    corpus = Corpus.decode(b"\xef\xbb\xbfole\xcc\x81\r\nx\ry\n")
    assert corpus.text == "ol\u00e9\nx\ny\n"
    assert corpus.n_newlines_replaced == 2
    assert not corpus.was_composed
    same = Corpus.decode("ol\u00e9\nx\ny\n".encode())
    assert corpus.sha256 == same.sha256
    assert corpus.n_bytes == 9
    assert same.n_newlines_replaced == 0
    assert same.was_composed


@pytest.mark.parametrize("run", ["\u0301\u0327" * 60_000, "\u0f73" * 60_000])
def test_a_long_run_of_marks_is_refused_at_once_and_says_where(run):
    began = time.monotonic()
    with pytest.raises(Validation, match=rf"30 .* character 5 \(U\+{ord(run[0]):04X}\)"):
        Corpus.of("abc a" + run)
    assert time.monotonic() - began < 2  # composing it takes ten seconds and more


@pytest.mark.parametrize("before", range(65))
def test_thirty_marks_in_a_row_are_taken_wherever_they_are_and_one_more_is_not(before):
    text = "a" * before + "e" + "\u0301\u0327" * 15
    assert Corpus.of(text + "b").text == unicodedata.normalize("NFC", text + "b")
    assert Corpus.of(text).text == unicodedata.normalize("NFC", text)
    for after in ("", "b" * 40):
        with pytest.raises(Validation, match=f"from character {before + 1} "):
            Corpus.of(text + "\u0301" + after)


def test_the_vocabulary_is_the_characters_in_order_with_their_counts():
    corpus = Corpus.of("banana\n")
    assert corpus.vocabulary == ("\n", "a", "b", "n")
    assert corpus.counts == {"\n": 1, "a": 3, "b": 1, "n": 2}


def test_tokens_are_places_in_the_vocabulary_and_special_ones_are_never_used():
    assert encoded("ba\U0001f600", ["[UNK]", "a", "b", "\U0001f600"]).tolist() == [2, 1, 3]
    with pytest.raises(UnknownCharacter, match=r"U\+0063\) at offset 2"):
        encoded("abc", ["a", "b"])
