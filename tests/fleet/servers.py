"""Several servers, each a process of its own, over one store of models and one Redis."""

import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx2

from tests.process import Server, serving
from tests.sessions.valkey import OwnValkey

SECRET = "a-secret-that-both-servers-have-and-nobody-else"


@dataclass
class Member:
    """One server, and a client of it."""

    server: Server
    http: httpx2.Client
    stack: ExitStack

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.server.process

    def generates(self, model: str) -> int:
        """The status of a request that names a model."""
        body = {"model": model, "prompt": "a", "max_tokens": 1}
        return self.http.post("/v1/completions", json=body).status_code

    def loaded(self) -> set[str]:
        return {model["id"] for model in self.http.get("/info").json()["models"]}

    def fleet(self) -> dict[str, object]:
        return self.http.get("/admin/fleet").json()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Servers:
    """Servers that are started and ended by a test."""

    home: Path
    store: OwnValkey
    members: list[Member] = field(default_factory=list)

    def start(self, **settings: str) -> Member:
        folder = self.home / f"server-{len(self.members)}"
        folder.mkdir()
        stack = ExitStack()
        given = {
            "CAROUSEL_REDIS_URL": self.store.url,
            "CAROUSEL_SECRET": SECRET,
            "CAROUSEL_THREADS": "1",
            "CAROUSEL_MODEL_STORE": str(self.home / "model_store"),
            "CAROUSEL_IMPORT_DIR": str(self.home / "imports"),
            "CAROUSEL_DATA_DIR": str(self.home / "data"),
            **settings,
        }
        server = stack.enter_context(serving(folder, **given))
        http = stack.enter_context(httpx2.Client(base_url=server.url, timeout=90))
        self.members.append(Member(server, http, stack))
        return self.members[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as all_of_them:
            for member in self.members:
                all_of_them.push(member.stack)
