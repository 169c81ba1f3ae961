"""Rounds of requests over every route. A round leaves nothing behind that a user could delete."""

import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2

from tests.keys.people import bearer

TEXT = "The quick brown fox jumps over the lazy dog. " * 400
GENERATED = 40
VOCABULARY = list("abcdefgh \n")
BATCH_EVERY_S = 10.0
ENDED = {"completed", "cancelled", "failed", "expired"}
OUTPUTS = ("output_file_id", "error_file_id")


class Rounds:
    """One client of a server: its rounds, and which methods and paths it has asked."""

    def __init__(
        self, url: str, secret: str, admin_key: str, key_id: str, checkpoint: bytes, n: int
    ) -> None:
        hooks = {"request": [self._remember], "response": [self._check]}
        options = {"base_url": url, "timeout": 120, "event_hooks": hooks}
        self.http = httpx2.Client(headers=bearer(secret), **options)
        self.admin = httpx2.Client(headers=bearer(admin_key), **options)
        self._key_id = key_id  # of a key that nobody uses
        self._checkpoint, self._name, self._random = checkpoint, f"client-{n}", random.Random(n)
        self._next_batch_s = 0.0
        self.asked: set[tuple[str, str]] = set()
        self.wrong: list[str] = []

    def _remember(self, request: httpx2.Request) -> None:
        self.asked.add((request.method, request.url.path))

    def _check(self, reply: httpx2.Response) -> None:
        if reply.status_code >= 500 or reply.status_code in {401, 403, 404, 405, 422}:
            reply.read()
            request = reply.request
            self.wrong.append(
                f"{request.method} {request.url.path}: {reply.status_code} {reply.text}"
            )

    def run(self, until: float, pause: threading.Barrier, every_s: float) -> None:
        """Run rounds until a moment of the monotonic clock, and stand still every `every_s`."""
        following = time.monotonic() + every_s
        while time.monotonic() < until:
            for one in self._random.sample(ROUNDS, len(ROUNDS)):
                one(self)
            if time.monotonic() > following:
                following = time.monotonic() + every_s
                pause.wait()  # all stand still: the server is measured
                pause.wait()
        pause.abort()

    def close(self) -> None:
        """Close the connections."""
        self.http.close()
        self.admin.close()

    # -- rounds

    def texts(self) -> None:
        """Generate by every family of routes, streamed and whole."""
        seed = self._random.randrange(2**32)
        parameters = {"max_new_tokens": GENERATED, "seed": seed, "temperature": 0.8}
        body = {"inputs": "The ", "parameters": parameters}
        whole = self.http.post("/generate", json=body).json()["generated_text"]
        assert len(whole) == GENERATED
        streamed = "".join(
            event["token"]["text"] for event in self._events("/generate_stream", body)
        )
        assert streamed == whole
        self.http.post("/", json=body)
        completion = {"model": "default", "prompt": "The ", "max_tokens": GENERATED}
        completion |= {"seed": seed, "temperature": 0.8}
        reply = self.http.post("/v1/completions", json=completion).json()
        assert reply["choices"][0]["text"] == whole
        self._events("/v1/completions", completion | {"stream": True, "n": 2, "best_of": 2})
        chat = {"model": "default", "messages": [{"role": "user", "content": "The fox"}]}
        self.http.post("/v1/chat/completions", json=chat | {"max_tokens": GENERATED})
        self._events("/v1/chat/completions", chat | {"max_tokens": GENERATED, "stream": True})
        self.http.post("/v1/embeddings", json={"model": "default", "input": ["The fox", "A dog"]})
        constrained = body | {
            "parameters": parameters | {"grammar": {"type": "regex", "value": "[a-z ]{9}"}}
        }
        self.http.post("/generate", json=constrained)

    def abandoned(self) -> None:
        """Leave streams in their midst."""
        body = {"inputs": "The ", "parameters": {"max_new_tokens": 100_000}}
        for _ in range(3):
            with self.http.stream("POST", "/generate_stream", json=body) as reply:
                for _ in zip(range(5), reply.iter_lines(), strict=False):
                    pass

    def tokens_and_scores(self) -> None:
        """Tokenize, detokenize and score."""
        ids = [
            token["id"] for token in self.http.post("/tokenize", json={"inputs": "The fox"}).json()
        ]
        assert self.http.post("/detokenize", json={"ids": ids}).json()["text"] == "The fox"
        self.http.post("/score", json={"inputs": "The fox"})
        self.http.post("/score/text", content=TEXT[:5_000], headers={"Content-Type": "text/plain"})

    def sessions(self) -> None:
        """Everything that a session can do; all of it is deleted in the end."""
        made = self.http.post("/sessions", json={"text": "The ", "seed": 7, "ttl_s": 60}).json()
        at, ids = f"/sessions/{made['id']}", [made["id"]]
        turn = {
            "inputs": "fox ",
            "session_id": made["id"],
            "parameters": {"max_new_tokens": GENERATED},
        }
        self._events("/generate_stream", turn)
        self.http.post("/generate", json=turn, headers={"Idempotency-Key": f"{made['id']}-1"})
        self.http.post(f"{at}/append", json={"text": "and "})
        ids += [
            each["id"] for each in self.http.post(f"{at}/fork", json={"n": 3}).json()["sessions"]
        ]
        self.http.post(f"/sessions/{ids[1]}/rewind", json={"to": 20})
        exported = self.http.get(f"{at}/state").content
        binary = {"Content-Type": "application/octet-stream"}
        ids.append(
            self.http.post("/sessions/import", content=exported, headers=binary).json()["id"]
        )
        self.http.get(at)
        self.http.get(f"{at}/text")
        self.http.get("/sessions")
        with self.http.stream("GET", f"{at}/events") as reply:
            for _ in zip(range(3), reply.iter_lines(), strict=False):
                pass
        self.http.post(f"{at}/cancel")
        for session_id in ids:
            self.http.delete(f"/sessions/{session_id}")

    def jobs(self) -> None:
        """Submit a job that no worker takes, look at it, cancel it, and delete what there is."""
        text = {"Content-Type": "text/plain"}
        corpus = self.http.post(
            f"/corpora?name={self._name}", content=self._name + TEXT, headers=text
        )
        body = {"name": self._name, "corpus": corpus.json()["id"]}
        job = self.http.post("/train-jobs", json=body).json()["id"]
        self.http.get("/corpora")
        self.http.get("/train-jobs")
        self.http.get(f"/train-jobs/{job}")
        self.http.post(f"/train-jobs/{job}/cancel")
        with self.http.stream("GET", f"/train-jobs/{job}/events") as reply:
            for _ in zip(range(3), reply.iter_lines(), strict=False):
                pass
        self.http.delete(f"/train-jobs/{job}")
        self.http.delete(f"/corpora/{corpus.json()['id']}")

    def inspections(self) -> None:
        """Look inside the model, steer it, and search its cells."""
        post, text = self.http.post, "The fox (a red one) jumps. "
        post("/inspect", json={"inputs": text, "cells": [0, 1]})
        post("/inspect/statistics", json={"inputs": text, "cells": [0, 1]})
        plain = {"Content-Type": "text/plain"}
        post("/inspect/text", params={"cells": "0"}, content=text, headers=plain)
        post("/inspect/ablate", json={"inputs": text, "cells": [[0], [1]]})
        post("/inspect/influence", json={"inputs": text, "back": 4})
        search = {"inputs": text * 200, "properties": ["in_parentheses"], "ablation": False}
        post("/inspect/cells", json=search)
        steer = [{"cell": 3, "op": "set", "value": 0.5}]
        parameters = {"max_new_tokens": GENERATED, "steer": steer}
        post("/generate", json={"inputs": "The ", "parameters": parameters})

    def tuning(self) -> None:
        """Fine-tune by the routes of OpenAI, with no worker, and delete what there is."""
        example = json.dumps({"prompt": f"{self._name} ", "completion": TEXT[:500]})
        file = self._upload(f"{example}\n" * 40, "fine-tune")
        jobs, body = "/v1/fine_tuning/jobs", {"model": "lstm", "training_file": file}
        job = self.http.post(jobs, json=body | {"suffix": self._name}).json()["id"]
        self.http.get(jobs)
        for at in (job, f"{job}/events", f"{job}/checkpoints"):
            self.http.get(f"{jobs}/{at}")
        self.http.post(f"{jobs}/{job}/cancel")
        corpus = self.http.get(f"/train-jobs/{job}").json()["corpus"]
        self.http.delete(f"/train-jobs/{job}")
        self.http.delete(f"/corpora/{corpus}")
        self._look_at_file(file)

    def batches(self) -> None:
        """Answer the lines of a file, and cancel another; the cards of both stay, so not often."""
        if time.monotonic() < self._next_batch_s:
            return
        self._next_batch_s = time.monotonic() + BATCH_EVERY_S
        body = {"model": "default", "prompt": "The ", "max_tokens": GENERATED}
        line = {"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": body}
        file = self._upload(json.dumps(line), "batch")
        start = {"endpoint": line["url"], "completion_window": "24h", "input_file_id": file}
        answered, left = (self.http.post("/v1/batches", json=start).json()["id"] for _ in "ab")
        self.http.post(f"/v1/batches/{left}/cancel")
        self.http.get("/v1/batches")
        until, files = time.monotonic() + 60, [file]
        for batch in (answered, left):
            while (found := self.http.get(f"/v1/batches/{batch}").json())["status"] not in ENDED:
                assert time.monotonic() < until, "a batch does not end"
                time.sleep(0.1)
            files += [found[name] for name in OUTPUTS if found[name] is not None]
        assert len(files) > 1
        for each in files:
            self._look_at_file(each)

    def _upload(self, content: str, purpose: str) -> str:
        part = {"file": ("lines.jsonl", content.encode())}
        reply = self.http.post("/v1/files", data={"purpose": purpose}, files=part)
        return str(reply.json()["id"])

    def _look_at_file(self, file: str) -> None:
        self.http.get("/v1/files")
        self.http.get(f"/v1/files/{file}")
        self.http.get(f"/v1/files/{file}/content")
        self.http.delete(f"/v1/files/{file}")

    def models(self) -> None:
        """Import, load, alias, use, unload and delete a model."""
        admin, name = self.admin, self._name
        form = {"name": name, "alias": f"{name}-alias"}
        vocabulary = json.dumps(VOCABULARY).encode()
        files = {
            "source": ("m.weights.h5", self._checkpoint),
            "vocabulary": ("vocabulary.json", vocabulary),
        }
        admin.post("/admin/models/upload", data=form, files=files)
        admin.get("/admin/models")
        at = f"/admin/models/{name}/chat-template"
        template = {"roles": {"user": {"prefix": "a"}, "assistant": {"prefix": "b"}}}
        admin.put(at, json=template)
        admin.get(at)
        admin.delete(at)
        body = {"inputs": "abc", "model": name, "parameters": {"max_new_tokens": 5}}
        self.http.post("/generate", json=body)
        admin.put(f"/admin/aliases/{name}-alias", json={"model": f"{name}@1"})
        admin.delete(f"/admin/aliases/{name}-alias")
        admin.post(f"/admin/models/{name}/unload")
        admin.post(f"/admin/models/{name}/load", json={})
        admin.post(f"/admin/models/{name}/unload")
        self._delete_model(name)

    def _delete_model(self, name: str) -> None:
        until = time.monotonic() + 60
        while self.admin.delete(f"/admin/models/{name}@1").status_code == 409:
            assert time.monotonic() < until, "a model does not end"
            time.sleep(0.1)

    def descriptions(self) -> None:
        """Read what describes the service."""
        own = "/ /ping /docs /docs/docs.js /openapi.json /health /health/live /health/ready /info"
        oip = (
            "/v1/models /v2 /v2/health/live /v2/health/ready /v2/models/demo /v2/models/demo/ready"
        )
        version = "/v2/models/demo/versions/1"
        for path in [*own.split(), *oip.split(), "/v1/models/demo", version, f"{version}/ready"]:
            self.http.get(path)

    def keys(self) -> None:
        """List the keys, and give one a new secret."""
        self.admin.get("/admin/drain")
        self.admin.get("/admin/keys")
        self.admin.get("/admin/audit")
        self.admin.get("/admin/usage")
        self.admin.get("/admin/fleet")
        self.http.get("/metrics")
        self.admin.post(f"/admin/keys/{self._key_id}/rotate", json={"grace_s": 1})

    def _events(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        with self.http.stream("POST", path, json=body) as reply:
            lines = [line[5:].strip() for line in reply.iter_lines() if line.startswith("data:")]
        return [json.loads(line) for line in lines if line != "[DONE]"]


ROUNDS: list[Callable[[Rounds], None]] = [
    Rounds.texts,
    Rounds.abandoned,
    Rounds.tokens_and_scores,
    Rounds.sessions,
    Rounds.jobs,
    Rounds.inspections,
    Rounds.tuning,
    Rounds.batches,
    Rounds.models,
    Rounds.descriptions,
    Rounds.keys,
]
