"""`carousel batch`: every shape of a request, one or more processes, and a kill at any moment."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.models.cell import LayerSpec
from service.models.spec import ModelSpec
from tests.bundles import put_model
from tests.cli.commands import carousel, refused
from tests.process import ROOT, environment, free_port

SPEC = ModelSpec(5, None, (LayerSpec("lstm", 24),))
SAMPLED = {"max_new_tokens": 40, "temperature": 1.0}


@pytest.fixture
def folder(tmp_path):
    """The models owl@1 and cat@1, each of the characters a to e."""
    for seed, name in enumerate(("owl", "cat")):
        put_model(tmp_path / "model_store", name, SPEC, tokens="abcde", random_seed=seed)
    return tmp_path


def write(path, lines) -> None:
    path.write_text(
        "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    )


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(folder, *options, code=0, output="out.jsonl"):
    done = carousel(
        "batch", folder / "in.jsonl", folder / output, "--model", "owl", *options, folder=folder
    )
    assert (done.returncode, done.stdout) == (code, ""), done
    return done.stderr


def openai(custom_id, url, **body):
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def test_each_shape_is_answered_as_its_route_answers_it(folder):
    chat = [{"role": "user", "content": "abc"}]
    write(
        folder / "in.jsonl",
        [
            openai("one", "/v1/completions", model="owl", prompt="abc", max_tokens=5, n=2),
            openai("two", "/v1/embeddings", model="cat", input=["ab", "c"]),
            openai("three", "/v1/completions", model="dog", prompt="abc"),
            openai("four", "/score", inputs="abcabc"),
            {"inputs": "abc", "parameters": {"max_new_tokens": 7, "details": True}},
            "this is no JSON\n",
            {"inputs": "xyz"},
            {"prompt": "abc", "max_tokens": 5, "temperature": 0},
            {"messages": chat, "max_tokens": 3},
        ],
    )
    told = run(folder, "--processes", 1, code=1)
    assert "9 lines (4 failed)" in told
    rows = rows_of(folder / "out.jsonl")
    assert [row["line"] for row in rows] == list(range(1, 10))
    assert [row["custom_id"] for row in rows[:5]] == ["one", "two", "three", "four", None]
    codes = [row["error"] and row["error"]["code"] for row in rows]
    assert codes == [
        *(None, None, "model_not_found", None, None),
        *("bad_request", "unknown_character", None, "unknown_character"),
    ]
    bodies = [row["response"] and row["response"]["body"] for row in rows]
    assert [len(choice["text"]) for choice in bodies[0]["choices"]] == [5, 5]
    assert bodies[0]["model"] == "owl@1"
    assert bodies[0]["usage"] == {"prompt_tokens": 3, "completion_tokens": 10, "total_tokens": 13}
    assert [len(one["embedding"]) for one in bodies[1]["data"]] == [24, 24]
    assert bodies[1]["model"] == "cat@1"
    assert len(bodies[3]["tokens"]) == 6
    assert bodies[4]["details"]["generated_tokens"] == 7
    assert rows[2]["response"]["status_code"] == 404
    assert not list(
        (folder / "model_store").glob("registry*")
    )  # nothing is loaded by the next start


def test_lines_without_a_route_are_scored_with_the_task(folder):
    write(folder / "in.jsonl", [{"inputs": "abc"}, {"inputs": "abc", "details": False}])
    run(folder, "--task", "score", "--processes", 1)
    first, second = (row["response"]["body"] for row in rows_of(folder / "out.jsonl"))
    assert first["nats"] == second["nats"] > 0
    assert "tokens" not in second


def test_one_and_two_processes_write_the_same_and_repeat_it(folder):
    names = ({}, {"custom_id": "n"})
    write(
        folder / "in.jsonl",
        [
            *({"inputs": "abc"[: 1 + i % 3], "parameters": SAMPLED} for i in range(40)),
            *({"prompt": ["ab", "c"], "max_tokens": 20, "temperature": 1.0} | one for one in names),
            {"prompt": "ab", "n": 3, "best_of": 4, "max_tokens": 9, "temperature": 1.0},
        ],
    )
    for n in (1, 2):
        run(folder, "--processes", n, output=f"{n}.jsonl")
    first, second = ((folder / f"{n}.jsonl").read_bytes() for n in (1, 2))
    assert first == second
    texts = [row["response"]["body"]["generated_text"] for row in rows_of(folder / "1.jsonl")[:40]]
    assert len(set(texts)) == 40  # lines without a seed are no copies of each other
    again = run(folder, "--processes", 1, output="1.jsonl")
    assert "43 lines, of which 43 were there" in again
    assert (folder / "1.jsonl").read_bytes() == first


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_killed_runs_go_on_and_write_what_one_run_writes(folder, processes):
    write(
        folder / "in.jsonl",
        [{"inputs": "abc", "parameters": SAMPLED | {"max_new_tokens": 600}} for _ in range(400)],
    )
    run(folder, "--processes", 1, output="whole.jsonl")
    whole, output = (folder / "whole.jsonl").read_bytes(), folder / "out.jsonl"
    kills = 0
    for wanted in (len(whole) // 4, len(whole) // 2):
        process = started(folder, processes)
        until = time.monotonic() + 100
        while process.poll() is None and time.monotonic() < until:
            if output.exists() and output.stat().st_size > wanted:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        process.wait()
        with output.open("ab") as file:  # as if the kill had come in a write
            size = output.stat().st_size
            file.write(whole[size : size + 40])
        assert whole.startswith(output.read_bytes())
    assert kills
    assert f"{400:,} lines, of which" in run(folder, "--processes", processes)
    assert output.read_bytes() == whole


def test_children_end_with_a_killed_parent(folder):
    write(
        folder / "in.jsonl",
        [{"inputs": "abc", "parameters": SAMPLED | {"max_new_tokens": 100_000}}] * 50,
    )
    process = started(folder, 2)
    children = waited_for(lambda: [pid for pid in children_of(process.pid) if is_ready(pid)], 2)
    process.kill()
    process.wait()
    waited_for(lambda: [pid for pid in children if not is_alive(pid)], 2)


def test_what_cannot_be_done_is_one_sentence(folder):
    write(folder / "in.jsonl", [{"inputs": "abc"}])
    command = "batch", folder / "in.jsonl"
    assert "is the input" in refused(*command, folder / "in.jsonl", "--model", "owl", folder=folder)
    assert "no model or alias 'dog'" in refused(
        *command, folder / "out.jsonl", "--model", "dog", folder=folder
    )
    (folder / "out.jsonl").write_text("notes\n")
    assert "give another output" in refused(
        *command, folder / "out.jsonl", "--model", "owl", folder=folder
    )
    assert (folder / "out.jsonl").read_text() == "notes\n"


def started(folder, processes: int) -> subprocess.Popen[bytes]:
    variables = environment(folder, free_port())
    del variables["CAROUSEL_PORT"]
    command = ["batch", "in.jsonl", "out.jsonl", "--model", "owl", "--processes", str(processes)]
    return subprocess.Popen(
        [sys.executable, "-m", "service", *command],
        cwd=folder,
        env=variables | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_ready(pid: int) -> bool:
    return b"service.batch_process" in Path(f"/proc/{pid}/cmdline").read_bytes()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def waited_for(found, n: int, limit_s: float = 60) -> list[int]:
    until = time.monotonic() + limit_s
    while len(result := found()) < n:
        assert time.monotonic() < until
        time.sleep(0.05)
    return result
