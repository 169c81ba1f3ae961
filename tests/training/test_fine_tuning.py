"""Which stored models may be trained further, and with what."""

import pytest

from service.errors import Validation
from service.models.cell import LayerSpec
from service.models.spec import ModelSpec
from service.models.store import ModelStore
from service.training.job_spec import architecture_of
from tests.bundles import put_model


def model(folder, spec: ModelSpec, characters: str):
    return ModelStore(folder).read(put_model(folder, "base", spec, 0.1, characters))


def test_one_hot_characters_are_refused(tmp_path):
    bundle = model(tmp_path, ModelSpec(4, None, (LayerSpec("lstm", 8),)), "abcd")
    with pytest.raises(Validation, match="reads one-hot characters"):
        architecture_of(bundle, {}, "ab")


def test_what_is_asked_for_may_repeat_it_and_nothing_else(tmp_path):
    bundle = model(tmp_path, ModelSpec(4, 3, (LayerSpec("gru", 8),)), "abcd")
    found = architecture_of(bundle, {"units": 8, "dropout": 0.25}, "abc")
    assert (found.cell, found.embedding_dim, found.units, found.layers) == ("gru", 3, 8, 1)
    assert found.dropout == 0.25
    with pytest.raises(Validation, match="`cell` is 'lstm', but base@1 has 'gru'"):
        architecture_of(bundle, {"cell": "lstm"}, "abc")


def test_the_vocabulary_must_cover_the_text(tmp_path):
    bundle = model(tmp_path, ModelSpec(4, 3, (LayerSpec("lstm", 8),)), "abcd")
    with pytest.raises(Validation, match="1 characters that base@1 does not know, 'z'"):
        architecture_of(bundle, {}, "abz")
