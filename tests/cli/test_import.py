"""`carousel import`: its report, and each misplaced file in one sentence."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.cli.import_paths import import_request
from service.cli.import_report import WIDTH, report_lines
from service.cli.sample_text import Sample, sample_of
from service.errors import Validation
from service.models.bundle import Bundle, WindowRecord
from service.models.cell import LayerSpec
from service.models.spec import ModelRef, ModelSpec
from service.models.store import ModelStore
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.words import WordTokenizer
from service.models.window import Padding, Window
from tests.bundles import put_model
from tests.cli.commands import printed, refused
from tests.models.importing.keras_writer import write_keras_3_weights, write_whole
from tests.process import ROOT


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_whole(folder / "model.h5")
    write_keras_3_weights(folder / "model.weights.h5")
    (folder / "vocabulary.json").write_text('["a", "b", "\\n"]')
    (folder / "text.txt").write_text("ab\nba\n")
    (folder / "empty.h5").touch()
    (folder / "folder").mkdir()
    return folder


def test_the_report_says_what_was_found_assumed_and_measured_and_what_comes_next(files, tmp_path):
    command = ("import", files / "model.weights.h5", "--name", "mine", "--precision", "float32")
    out = printed(*command, "--vocabulary", files / "vocabulary.json", folder=tmp_path)
    assert f" -m service serve --model-store {tmp_path}/model_store\n" in out
    lines = [line for line in out.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= WIDTH
    flat = " ".join(out.split())
    bundle = ModelStore(tmp_path / "model_store").read(ModelRef("mine", 1))
    for sentence in (
        "imported mine@1",
        "keras-3-weights-hdf5, from model.weights.h5, vocabulary.json",
        "architecture Embedding(3, 2) → LSTM(2) → Dense(3)",
        "state carried",
        "tokenizer characters, 3 tokens",
        "precision float32",
        bundle.manifest.precision_reason,
        *bundle.manifest.assumptions,
        "sample, the most likely tokens, after '\\n'",
        "sample, temperature 0.8",
        " -m service load mine@1",
    ):
        assert sentence in flat, out
    assert bundle.manifest.assumptions
    words = shlex.split(out[out.index("  curl ") :])
    assert words[1] == "http://127.0.0.1:8000/generate"
    assert json.loads(words[words.index("-d") + 1]) == {"inputs": "\n", "model": "mine@1"}


WINDOWED = ModelSpec(3, None, (LayerSpec("lstm", 2),), window=Window(5, Padding.NONE))


def windowed(store: Path) -> Bundle:
    return ModelStore(store).read(put_model(store, "w", WINDOWED, weight=0.1, tokens="abc"))


def test_a_window_is_reported_with_what_carried_state_would_cost(tmp_path):
    bundle = windowed(tmp_path)
    records = {
        "window": WindowRecord(
            tokens=99, nats_window=0.5, nats_carried=1.25, same_next_token=0.125
        ),
        "window_of_text": WindowRecord(
            tokens=77, nats_window=0.25, nats_carried=2.5, same_next_token=0.5
        ),
    }
    record = {
        "parity": bundle.manifest.parity.model_copy(update=records),
        "round_trip": "1000 sequences are the same",
        "text_score": "10 kB score 1.5 nats",
    }
    bundle = replace(bundle, manifest=bundle.manifest.model_copy(update=record))
    sample = Sample((0, 1, 2, 0, 1), {0.0: "abc", 0.8: ""})
    lines = list(report_lines(bundle, sample, Path("model_store")))
    flat = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= WIDTH
    for sentence in (
        "state a window of 5 tokens, read from a zero state for each token",
        f"own text {records['window'].sentence}",
        f"training text {records['window_of_text'].sentence}",
        "--assume state=carried takes one step a token; the text differs from the author's",
        "architecture OneHot(3) → LSTM(2) → Dense(3) state",
        "round trip 1000 sequences are the same",
        "order 10 kB score 1.5 nats",
        "after 5 random tokens abc",
        "(the text ends at once)",
        "at least 5 tokens",
    ):
        assert sentence in flat, lines


def test_what_a_file_holds_does_not_reach_the_terminal_as_control_characters(tmp_path):
    bundle = windowed(tmp_path)
    hostile = {"precision_reason": "a\x1b[2Jb", "assumptions": ("layer '\x1b]0;x\x07'",)}
    bundle = replace(bundle, manifest=bundle.manifest.model_copy(update=hostile))
    lines = list(report_lines(bundle, Sample((0,), {0.0: "a\x1bc\nb\r\x9b"}), tmp_path))
    assert all(line.isprintable() for line in lines)
    assert "  a\\x1bc" in lines


def test_a_window_that_is_never_padded_is_filled_for_the_sample(tmp_path):
    sample = sample_of(windowed(tmp_path))
    assert len(sample.prompt) == 5
    assert [len(text) for text in sample.texts.values()] == [200, 200]


def test_the_sample_begins_with_the_begin_token_else_with_what_the_model_likes(tmp_path):
    bundle = windowed(tmp_path)
    spec = ModelSpec(6, None, (LayerSpec("lstm", 2),))
    ref = put_model(tmp_path, "words", spec, weight=0.1, tokens="abcdef")
    words = ("", "<s>", "the", "owl", "and", "cat")
    weights = ModelStore(tmp_path).read(ref).weights
    bias = np.array([9, 0, 0, 9, 9, 0], np.float32)  # it likes the owl
    biased = type(weights)(spec, {**weights, "output.bias": bias})
    prompts = []
    for special in (SpecialTokens(pad=0, begin=1), SpecialTokens(pad=0)):
        tokenizer = WordTokenizer(words, UnknownPolicy.SKIP, None, special)
        made = replace(bundle, spec=spec, weights=biased, tokenizer=tokenizer)
        prompts.append(sample_of(made).prompt)
    assert prompts[0] == (1,)
    assert len(prompts[1]) == 4
    assert set(prompts[1]) <= {3, 4}


MODEL, VOCABULARY = "model.h5", "vocabulary.json"


@pytest.mark.parametrize(
    ("source", "options", "sentence"),
    [
        ("nothing.h5", {}, "the model {}/nothing.h5 is not there"),
        ("empty.h5", {}, "the model {}/empty.h5 is empty"),
        ("folder", {}, "the model {}/folder is an empty folder"),
        (MODEL, {"vocabulary": "folder"}, "--vocabulary {}/folder is a folder; name a file"),
        (MODEL, {"vocabulary": "no.json"}, "--vocabulary {}/no.json is not there"),
        (MODEL, {"vocabulary_text": "no.txt"}, "--vocabulary-text {}/no.txt is not there"),
        (MODEL, {"config": "no.json"}, "--config {}/no.json is not there"),
        (MODEL, {"vocabulary": MODEL}, "is an HDF5 file, as models are saved in: the model is the"),
        (MODEL, {"assume": ["state"]}, "--assume 'state' is not key=value"),
        (MODEL, {"assume": ["=x"]}, "--assume '=x' is not key=value"),
        (MODEL, {"assume": ["a=1", "a=2"]}, "--assume a is given twice"),
    ],
)
def test_a_misplaced_file_is_one_sentence(files, source, options, sentence):
    paths = {k: files / v if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(Validation) as error:
        import_request(files / source, "m", **{"vocabulary": files / VOCABULARY} | paths)
    assert sentence.format(files) in str(error.value)


def test_the_request_has_every_file_below_one_folder(files, tmp_path):
    (tmp_path / "text.txt").write_text("abc")
    root, request = import_request(
        files / MODEL,
        "m",
        vocabulary=files / VOCABULARY,
        vocabulary_text=tmp_path / "text.txt",
        config=files / "text.txt",
        assume=["state=carried", "unknown_token=a=b"],
    )
    names = ("source", "vocabulary", "vocabulary_text", "config")
    found = [root / getattr(request, name) for name in names]
    assert found == [files / MODEL, files / VOCABULARY, tmp_path / "text.txt", files / "text.txt"]
    assert request.assume == {"state": "carried", "unknown_token": "a=b"}


def test_the_prefix_of_a_checkpoint_is_a_source(files, tmp_path):
    (tmp_path / "ckpt_10.index").write_bytes(b"x")
    root, request = import_request(tmp_path / "ckpt_10", "m", vocabulary=files / VOCABULARY)
    assert root / request.source == tmp_path / "ckpt_10"


@pytest.mark.parametrize(
    ("source", "vocabulary", "sentence"),
    [
        ("nothing.h5", VOCABULARY, "is not there"),
        (VOCABULARY, MODEL, "--vocabulary "),
        (VOCABULARY, VOCABULARY, "vocabulary.json cannot be imported: "),
    ],
)
def test_an_import_that_fails_prints_one_sentence(files, tmp_path, source, vocabulary, sentence):
    command = ("import", files / source, "--name", "m", "--vocabulary", files / vocabulary)
    assert sentence in refused(*command, folder=tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="runs the command as another user")
def test_a_file_that_may_not_be_read_is_one_sentence(files, tmp_path):
    locked = tmp_path / "locked.h5"
    locked.write_bytes((files / MODEL).read_bytes())
    locked.chmod(0o000)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    (tmp_path / "closed").mkdir(mode=0o000)
    script = """if True:
        import os, sys
        from pathlib import Path
        from service.cli.import_paths import import_request
        from service.errors import Validation
        os.setuid(65534)
        for name in sys.argv[1:]:
            try:
                import_request(Path(name), "m")
            except Validation as error:
                print(error)
    """
    inside = tmp_path / "closed" / "model.h5"
    command = [sys.executable, "-c", script, str(locked), str(inside)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"the model {locked} may not be read: its permissions forbid it",
        f"the model {inside} cannot be read: Permission denied",
    ]


def test_a_refusal_has_the_spelling_of_the_command_line(files, tmp_path):
    said = refused(
        "import",
        str(files / MODEL),
        "--name",
        "m",
        "--vocabulary",
        str(files / VOCABULARY),
        "--assume",
        "colour=red",
        folder=tmp_path,
    )
    assert said.startswith("assume.colour is not known; ")
    assert said.endswith(" (assume.KEY is --assume KEY=VALUE here)")
