"""The folder of texts: what is stored is what was said, and crashes leave nothing in the way."""

import errno
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.errors import CorpusNotFound, TooLarge, Validation
from service.training import corpus_check as intake
from service.training.corpus_store import LEFT_OVER_S, CorpusStore

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


def test_a_disk_that_is_full_is_told_as_such(corpora, monkeypatch):
    monkeypatch.setattr(intake, "write_new", full)
    path = corpora.upload()
    path.write_bytes(TEXT)
    assert intake._outcome(path, path.with_name("text")) == {"errno": errno.ENOSPC}
    monkeypatch.setattr(intake.subprocess, "run", lambda *_, **__: Ended(b'{"errno": 28}'))
    with pytest.raises(OSError, match="No space left"):
        corpora.put("me", "name", path)


def full(*_):
    raise OSError(errno.ENOSPC, "full")


class Ended:
    def __init__(self, stdout):
        self.stdout = stdout


def test_a_check_that_its_limits_end_is_too_large(corpora, monkeypatch):
    monkeypatch.setattr(intake, "WALL_S", 0.001)
    with pytest.raises(TooLarge, match="4294967296 bytes of memory or 120 seconds"):
        put(corpora)
    monkeypatch.setattr(intake, "_MODULE", "service.nothing")
    with pytest.raises(TooLarge):
        put(corpora)


def test_what_is_incoming_or_vanishes_is_no_corpus_and_hides_none(corpora, tmp_path, monkeypatch):
    card = put(corpora)
    (owner,) = (tmp_path / "corpora").iterdir()
    shutil.copytree(owner / card.id, owner / ".incoming-0123")
    assert corpora.cards("me") == [card]
    shutil.copytree(owner / card.id, owner / ("0" * 32))

    look = corpora.card

    def vanished(one, corpus_id):
        if corpus_id == "0" * 32:
            raise CorpusNotFound(corpus_id)
        return look(one, corpus_id)

    monkeypatch.setattr(corpora, "card", vanished)
    assert corpora.cards("me") == [card]


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
