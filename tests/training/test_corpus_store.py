"""The store of corpora: what is stored is what was uploaded, and crashes leave nothing behind."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from service.errors import CorpusInUse, CorpusNotFound, TooLarge, Validation
from service.training import corpus_store
from service.training.corpus_store import LEFT_OVER_S, LIMITS, CorpusStore, check_text

TEXT = b"one\r\ntwo\n"


@pytest.fixture
def corpora(tmp_path) -> CorpusStore:
    return CorpusStore(tmp_path / "corpora")


def put(corpora, content=TEXT, name="name"):
    path = corpora.upload()
    path.write_bytes(content)
    try:
        return corpora.put("me", name, path)
    finally:
        path.unlink()


@pytest.mark.parametrize(
    "content", [TEXT, b"\xef\xbb\xbf\xef\xbb\xbfab", "ole\u0301\r".encode(), "\U0001f600a".encode()]
)
def test_what_is_read_is_what_the_card_says(corpora, content):
    card = put(corpora, content)
    corpus = corpora.read("me", card.id)
    assert (corpus.sha256, corpus.n_bytes) == (card.sha256, card.bytes)
    assert "".join(corpus.vocabulary) == card.vocabulary
    assert (len(corpus.text), len(corpus.counts)) == (card.characters, card.vocabulary_size)
    assert card.id == card.sha256[:32]


def test_the_same_text_is_stored_once_even_if_it_comes_four_times_at_once(corpora, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        cards = list(pool.map(lambda name: put(corpora, TEXT, name), "abcd"))
    assert cards == [cards[0]] * 4
    assert corpora.cards("me") == cards[:1]
    assert corpora.cards("you") == []
    (owner,) = (tmp_path / "corpora").iterdir()
    assert [path.name for path in owner.iterdir()] == [cards[0].id]


def test_a_text_that_is_refused_leaves_nothing(corpora, tmp_path):
    with pytest.raises(Validation, match="byte 1 is 0xff"):
        put(corpora, b"a\xff")
    (owner,) = (tmp_path / "corpora").iterdir()
    assert list(owner.iterdir()) == []


def checked_within(folder, child=corpus_store.__name__, **limits):
    """A store whose texts are checked by another child, or within other limits."""
    limits = replace(LIMITS, **limits)
    return CorpusStore(folder, partial(check_text, limits=limits, child=child))


def test_a_disk_that_is_full_is_told_as_such(tmp_path):
    with pytest.raises(OSError, match="No space left"):
        put(checked_within(tmp_path, "tests.training.full_disk"))
    with pytest.raises(OSError, match="File too large"):
        put(checked_within(tmp_path, file_bytes=4))


def test_a_check_that_its_limits_end_is_too_large(tmp_path):
    with pytest.raises(TooLarge, match=r"took longer than its 0\.001 seconds .* in parts"):
        put(checked_within(tmp_path, wall_s=0.001))
    with pytest.raises(TooLarge, match=r"more than its 30000000 bytes of memory.* in parts"):
        put(checked_within(tmp_path, memory_bytes=30_000_000))
    with pytest.raises(TooLarge, match="checking the text failed"):
        put(checked_within(tmp_path, "service.nothing"))


def test_what_is_incoming_or_vanishes_is_no_corpus_and_hides_none(corpora, tmp_path):
    card = put(corpora)
    (owner,) = (tmp_path / "corpora").iterdir()
    shutil.copytree(owner / card.id, owner / ".incoming-0123")
    assert corpora.cards("me") == [card]
    shutil.copytree(owner / card.id, owner / ("0" * 32))

    class Vanishing(CorpusStore):
        def card(self, owner, corpus_id):
            if corpus_id == "0" * 32:
                raise CorpusNotFound(corpus_id)
            return super().card(owner, corpus_id)

    assert Vanishing(tmp_path / "corpora").cards("me") == [card]


def test_a_sweep_takes_what_is_old_and_nothing_else(corpora, tmp_path):
    card = put(corpora)
    (owner,) = (tmp_path / "corpora").iterdir()
    old, new = (corpora.upload() for _ in range(2))
    for path in (old, new):
        path.write_bytes(TEXT)
    abandoned, running = owner / ".incoming-old", owner / ".incoming-new"
    for path in (abandoned, running):
        path.mkdir()
        (path / "corpus.json").write_text(json.dumps({}))
    long_ago = time.time() - LEFT_OVER_S - 1
    for path in (old, abandoned, owner / card.id):
        os.utime(path, (long_ago, long_ago))
    corpora.sweep()
    assert [path.exists() for path in (old, new, abandoned, running)] == [False, True, False, True]
    assert corpora.cards("me") == [card]
    CorpusStore(tmp_path / "nowhere").sweep()


def test_a_text_is_deleted_unless_it_is_used(corpora, tmp_path):
    card = put(corpora)
    with pytest.raises(CorpusNotFound):
        corpora.delete("other", card.id, lambda: None)

    def refuse():
        raise CorpusInUse("a job reads it")

    with pytest.raises(CorpusInUse):
        corpora.delete("me", card.id, refuse)
    assert corpora.card("me", card.id) == card
    corpora.delete("me", card.id, lambda: None)
    assert corpora.cards("me") == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with pytest.raises(CorpusNotFound):
        corpora.delete("me", card.id, lambda: None)
