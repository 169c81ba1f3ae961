"""Keys of a running server, made by its admin routes."""

from typing import Self

import httpx2

from tests.keys.conftest import ADMIN_KEY


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


class Admin:
    """The holder of CAROUSEL_ADMIN_KEY."""

    def __init__(self, url: str) -> None:
        self.http = httpx2.Client(base_url=url, headers=bearer(ADMIN_KEY), timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def add(self, name: str, *scopes: str, **members: object) -> dict:
        reply = self.http.post(
            "/admin/keys", json={"name": name, "scopes": list(scopes), **members}
        )
        assert reply.status_code == 201, reply.text
        return reply.json()

    def rotate(self, key: dict, grace_s: float, **headers: str) -> httpx2.Response:
        body = {"grace_s": grace_s}
        return self.http.post(f"/admin/keys/{key['id']}/rotate", json=body, headers=headers)

    def revoke(self, key: dict) -> None:
        assert self.http.delete(f"/admin/keys/{key['id']}").status_code == 200
