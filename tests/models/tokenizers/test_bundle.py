"""Bundles whose tokenizer has a file of its own."""

import json

import numpy as np
import pytest

from service.errors import BadCheckpoint
from service.models.bundle import (
    Bundle,
    BundleMetadata,
    Parity,
    Precision,
    Provenance,
    build_files,
    content_files,
)
from service.models.cell import LayerSpec
from service.models.importing.folder import ImportFolder
from service.models.importing.importer import _read_written
from service.models.importing.request import ImportReport
from service.models.spec import ModelRef, ModelSpec, Weights
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.tokenizers.subwords import SubwordTokenizer
from tests.models.tokenizers.tokenizer_files import TEXT, bpe

RECORD = BundleMetadata(
    precision=Precision.FLOAT32,
    precision_reason="made by a test",
    source=Provenance(format="test", files={}),
    parity=Parity(tokens=0, largest_logit_difference={}),
)


def model(tokenizer):
    spec = ModelSpec(len(tokenizer), None, (LayerSpec("lstm", 2),))
    arrays = {name: np.zeros(shape, np.float32) for name, shape in spec.weight_shapes.items()}
    return spec, Weights(spec, arrays), tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return SubwordTokenizer(bpe().to_str().encode())


def written(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_bundle_keeps_the_file(tokenizer, tmp_path):
    files = build_files(ModelRef("m", 1), *model(tokenizer), RECORD)
    assert {*files} == {
        "manifest.json",
        "weights.safetensors",
        "vocabulary.json",
        "tokenizer.json",
    }
    bundle = Bundle.read(written(tmp_path, files))
    assert isinstance(bundle.tokenizer, SubwordTokenizer)
    assert bundle.tokenizer.encode(TEXT) == tokenizer.encode(TEXT)
    assert dict(bundle.tokenizer.files) == dict(tokenizer.files)
    (tmp_path / "tokenizer.json").write_bytes(files["tokenizer.json"] + b" ")
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json is not the file that the manifest"):
        Bundle.read(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        Bundle.read(tmp_path)


def test_the_digest_depends_on_the_file(tokenizer):
    def digest(tokenizer):
        files = build_files(ModelRef("m", 1), *model(tokenizer), RECORD)
        return json.loads(files["manifest.json"])["digest"]

    value = json.loads(tokenizer.files["tokenizer.json"])
    value["pre_tokenizer"]["add_prefix_space"] = True
    other = SubwordTokenizer(json.dumps(value).encode())
    assert other.tokens == tokenizer.tokens
    assert digest(other) != digest(tokenizer)
    # The digest of a bundle without such a file has not changed.
    expected = "373284834fca4cb1f90b699e73a5974e4860d865678eed0797562360f79a312e"
    assert digest(CharacterTokenizer("abc")) == expected


def test_the_file_that_an_import_writes_is_read(tokenizer, tmp_path):
    spec, weights, _ = model(tokenizer)
    written(tmp_path, content_files(weights, tokenizer))
    report = ImportReport(
        architecture=spec.to_json(),
        unknown_character=tokenizer.unknown,
        tokenizer=dict(tokenizer.options),
        metadata=RECORD,
    )
    with ImportFolder(tmp_path, 10**8) as folder:
        assert _read_written(report, folder)[2].encode(TEXT) == tokenizer.encode(TEXT)
        (tmp_path / "tokenizer.json").write_bytes(b"{}")
        with pytest.raises(BadCheckpoint, match="no object 'model'"):
            _read_written(report, folder)
