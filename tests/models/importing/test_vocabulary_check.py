"""The order of a vocabulary is checked by the training text: trained models are the judges."""

import json
import random
from pathlib import Path

import pytest

from service.errors import BadCheckpoint
from service.models.importing.importer import Importer
from service.models.importing.request import ImportRequest
from service.models.store import ModelStore
from tests.models.importing.conftest import run_script

pytestmark = [pytest.mark.tf, pytest.mark.slow]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    run_script("trained.py", folder)
    return folder


@pytest.fixture
def imported(trained, tmp_path):
    """A function that imports a trained model with a text or a vocabulary."""

    def run(source, **options):
        paths = {}
        for key, value in options.items():
            name = f"{tmp_path.name}.{key}"
            (trained / name).write_bytes(value if isinstance(value, bytes) else value.encode())
            paths[key] = Path(name)
        request = ImportRequest(Path(source), "m", precision="float32", **paths)
        return Importer(trained, ModelStore(tmp_path / "store")).run(request)

    return run


def text_of(trained):
    return (trained / "text.txt").read_text()


def test_the_text_as_it_was_read(trained, imported):
    text = text_of(trained)
    for read, note in (
        (text.encode(), "sorted characters"),
        (text.replace("\n", "\r\n").encode(), "sorted characters"),
        (b"\xef\xbb\xbf" + text.encode(), "byte order mark"),
    ):
        bundle = imported("sorted.keras", vocabulary_text=read)
        assert list(bundle.tokenizer.tokens) == sorted(set(text))
        assert any(note in sentence for sentence in bundle.manifest.assumptions)
        assert "below the" in bundle.manifest.text_score


def test_an_order_by_frequency_of_the_text_in_lower_case(trained, imported):
    bundle = imported("frequency.keras", vocabulary_text=text_of(trained))
    assert any("by frequency" in sentence for sentence in bundle.manifest.assumptions)
    assert any("lower case" in sentence for sentence in bundle.manifest.assumptions)
    text = "The old king"
    assert bundle.tokenizer.encode(text) == bundle.tokenizer.encode(text.lower())


def test_the_words_of_a_text(trained, imported):
    expected = json.loads((trained / "tokenizer.json").read_text())
    index = json.loads(expected["config"]["word_index"])
    bundle = imported("words.h5", vocabulary_text=text_of(trained))
    assert bundle.tokenizer.tokens[1:] == tuple(index)
    given = imported(
        "words.h5",
        vocabulary=(trained / "tokenizer.json").read_text(),
        vocabulary_text=text_of(trained),
    )
    assert given.tokenizer.tokens == bundle.tokenizer.tokens
    assert "1000 of 1000" in given.manifest.round_trip


@pytest.mark.parametrize("kind", ["sorted.keras", "words.h5"])
def test_a_wrong_order_of_the_right_size_is_refused_each_time(trained, imported, kind):
    text = text_of(trained)
    right = sorted(set(text))
    if kind == "words.h5":
        config = json.loads((trained / "tokenizer.json").read_text())["config"]
        right = ["", *json.loads(config["word_index"])]
    common = [right.index(c) for c in ("etaoin" if kind == "sorted.keras" else right[1:9])]
    for seed in range(20):
        rng, wrong = random.Random(seed), list(right)
        match seed % 4:
            case 0:
                rest = wrong[1:]
                rng.shuffle(rest)
                wrong[1:] = rest
            case 1:
                i, j = rng.sample(common, 2)
                wrong[i], wrong[j] = wrong[j], wrong[i]
            case 2:
                wrong[1:] = wrong[2 + seed // 4 :] + wrong[1 : 2 + seed // 4]
            case 3:
                wrong[1:] = wrong[:0:-1]
        assert sorted(wrong) == sorted(right)
        with pytest.raises(BadCheckpoint, match=r"order of the model's ids|at wrong ids"):
            imported(kind, vocabulary=json.dumps(wrong), vocabulary_text=text)


def test_another_text_of_the_right_size_is_refused(trained, imported):
    text = text_of(trained)
    other = text.translate(str.maketrans("abcdefghijk", "bcdefghijka"))
    with pytest.raises(BadCheckpoint, match="no order of these characters fits the weights"):
        imported("sorted.keras", vocabulary_text=other)
