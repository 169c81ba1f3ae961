"""/v1/fine_tuning/jobs as OpenAI's own package uses them: a model is trained, then completes."""

import io
import json
import random
import time
from collections.abc import Iterator

import openai
import pytest

from service.models.cell import LayerSpec
from service.models.spec import ModelSpec
from tests.bundles import put_model
from tests.process import Server, serving

CHARACTERS = "\n abcdefghijklmnopqrstuvwxyz:"
SPEC = ModelSpec(len(CHARACTERS), 8, (LayerSpec("lstm", 16),))
SMALL = {"architecture": {"units": 16, "layers": 1, "embedding_dim": 8}}
SHORT = {"training": {"sequence_length": 20, "validations_per_epoch": 1}}
ONE_EPOCH = {"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 2.0}
LIMIT_S = 200.0


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tuning")
    put_model(folder / "model_store", "base", SPEC, tokens=CHARACTERS, random_seed=1)
    put_model(folder / "model_store", "onehot", ModelSpec(3, None, (LayerSpec("lstm", 2),)))
    compiled = f"--tf_xla_persistent_cache_directory={folder / 'xla'}"
    with serving(folder, CAROUSEL_WORKERS="1", TF_XLA_FLAGS=compiled) as running:
        yield running


@pytest.fixture(scope="module")
def client(server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def examples(n: int = 1_500) -> bytes:
    rng, words = random.Random(1), ["the", "owl", "sat", "in", "an", "oak", "by", "moon", "light"]
    return "".join(
        json.dumps({"prompt": f"{rng.choice(words)} ", "completion": rng.choice(words)}) + "\n"
        for _ in range(n)
    ).encode()


def upload(client, content: bytes, name="examples.jsonl", purpose="fine-tune") -> str:
    return client.files.create(file=(name, io.BytesIO(content)), purpose=purpose).id


def ended(client, job_id: str):
    until = time.monotonic() + LIMIT_S
    while (job := client.fine_tuning.jobs.retrieve(job_id)).status in {"queued", "running"}:
        assert time.monotonic() < until, job
        time.sleep(0.2)
    return job


@pytest.fixture(scope="module")
def file(client) -> str:
    return upload(client, examples())


@pytest.mark.tf
def test_a_new_model_is_trained_and_completes(client, file):
    made = client.fine_tuning.jobs.create(
        model="lstm",
        training_file=file,
        suffix="owl",
        seed=7,
        metadata={"kept": "yes"},
        method={"type": "supervised", "supervised": {"hyperparameters": ONE_EPOCH}},
        extra_body=SMALL | SHORT,
    )
    assert (made.object, made.model, made.training_file) == ("fine_tuning.job", "lstm", file)
    assert made.status in {"queued", "running"}
    assert (made.fine_tuned_model, made.finished_at, made.error) == (None, None, None)
    assert made.hyperparameters.n_epochs == 1
    assert made.hyperparameters.learning_rate_multiplier == 2.0
    job = ended(client, made.id)
    assert (job.status, job.error) == ("succeeded", None)
    assert job.fine_tuned_model == "lstm-owl@1"
    assert (job.seed, job.metadata) == (7, {"kept": "yes"})
    assert job.trained_tokens > 0
    assert job.finished_at >= job.created_at
    text = client.completions.create(model=job.fine_tuned_model, prompt="the ", max_tokens=9)
    assert len(text.choices[0].text) == 9

    told = list(client.fine_tuning.jobs.list_events(job.id, limit=2))  # reads every page
    assert told[0].message.startswith("done")
    assert [one.id for one in told] == sorted(
        (one.id for one in told), key=lambda each: [*map(int, each.split("-"))], reverse=True
    )
    assert any("validation loss=" in one.message and one.type == "metrics" for one in told)
    (best,) = client.fine_tuning.jobs.checkpoints.list(job.id)
    assert best.fine_tuned_model_checkpoint == job.fine_tuned_model
    assert best.metrics.valid_loss > 0
    assert job.id in [one.id for one in client.fine_tuning.jobs.list(limit=1)]


@pytest.mark.tf
def test_a_stored_model_is_trained_further_on_conversations(client):
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "an owl"}]
    content = (json.dumps({"messages": messages}) + "\n").encode() * 300
    job = client.fine_tuning.jobs.create(
        model="base",
        training_file=upload(client, content),
        hyperparameters=ONE_EPOCH,
        extra_body=SHORT,
    )
    job = ended(client, job.id)
    assert (job.status, job.fine_tuned_model, job.error) == ("succeeded", "base-ft@1", None)
    asked = [{"role": "user", "content": "hello"}]
    reply = client.chat.completions.create(model=job.fine_tuned_model, messages=asked, max_tokens=5)
    assert reply.choices[0].message.role == "assistant"


@pytest.mark.tf
def test_a_job_is_cancelled(client):
    text = upload(client, b"the owl sat in an oak by moon light\n" * 2_000, "a.txt")
    job = client.fine_tuning.jobs.create(
        model="gru",
        training_file=text,
        hyperparameters={"n_epochs": 10_000, "batch_size": 8},
        extra_body=SMALL | SHORT,
    )
    client.fine_tuning.jobs.cancel(job.id)
    found = ended(client, job.id)
    assert (found.status, found.fine_tuned_model) == ("cancelled", None)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert list(client.fine_tuning.jobs.checkpoints.list(job.id)) == []


@pytest.mark.parametrize(
    ("given", "param", "sentence"),
    [
        ({"model": "nobody"}, "model", "for a new model `model` is a cell: "),
        ({"model": "onehot"}, None, "reads one-hot characters"),
        ({"suffix": "Not A Name"}, "suffix", "is not a name"),
        ({"training_file": "file-none"}, "training_file", "there is no file 'file-none'"),
        ({"validation_file": "file-1"}, "validation_file", "None"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations", ""),
        ({"method": {"type": "dpo"}}, "method.type", "supervised"),
        ({"metadata": {"x": "y" * 600}}, "metadata", "`metadata` has at most 16 members"),
        ({"hyperparameters": {"n_epochs": 0}}, None, "`epochs` is 0"),
        ({"hyperparameters": {"n_epochs": 3}, "extra_body": {"training": {"epochs": 2}}},
         "training", "`training.epochs` is in `hyperparameters`, too"),
        ({"extra_body": {"architecture": {"cell": "gru"}}}, "architecture", "`cell` is gru"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(client, file, given, param, sentence):
    body = {"model": "lstm", "training_file": file} | given
    with pytest.raises(openai.APIStatusError) as refused:
        client.fine_tuning.jobs.create(**body)
    assert refused.value.status_code in {404, 422}
    error = refused.value.body
    assert sentence in error["message"], error
    if param is not None:
        assert error["param"] == param


def test_the_parameters_of_training_stand_once(client, file):
    with pytest.raises(openai.UnprocessableEntityError, match="is there twice"):
        client.fine_tuning.jobs.create(
            model="lstm",
            training_file=file,
            hyperparameters=ONE_EPOCH,
            method={"type": "supervised", "supervised": {"hyperparameters": ONE_EPOCH}},
        )


def test_a_file_that_cannot_be_trained_on(client):
    batch = upload(client, b"{}\n", purpose="batch")
    with pytest.raises(openai.UnprocessableEntityError, match="with the purpose fine-tune"):
        client.fine_tuning.jobs.create(model="lstm", training_file=batch)
    odd = upload(client, b'{"text": "one"}\n{"input": "two"}\n')
    with pytest.raises(openai.UnprocessableEntityError, match="line 2 is no example"):
        client.fine_tuning.jobs.create(model="lstm", training_file=odd)
    binary = upload(client, b"\xff\xfe\x00", "a.txt")
    with pytest.raises(openai.UnprocessableEntityError, match="not UTF-8"):
        client.fine_tuning.jobs.create(model="lstm", training_file=binary)
    short = upload(client, b"a short text\n", "a.txt")
    with pytest.raises(openai.UnprocessableEntityError, match="lower them or give more text"):
        client.fine_tuning.jobs.create(model="lstm", training_file=short)


def test_a_job_that_is_not_there(client):
    for call in (
        client.fine_tuning.jobs.retrieve,
        client.fine_tuning.jobs.cancel,
        client.fine_tuning.jobs.list_events,
        client.fine_tuning.jobs.checkpoints.list,
    ):
        with pytest.raises(openai.NotFoundError):
            call("none")
    assert client.fine_tuning.jobs.list(after="none").data is not None
