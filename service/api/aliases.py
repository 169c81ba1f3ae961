"""The routes of aliases: set one, which moves in every process at once, and remove one."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from service.api.fields import Body, Name
from service.api.fleet import ChangeReply, ChangeReport, Waiting
from service.api.state import get_state

router = APIRouter(prefix="/admin", tags=["admin"])


class AliasBody(Body):
    """The body of PUT /admin/aliases/{alias}."""

    model: Name


class Aliases(BaseModel):
    """Every alias and its version, and how far every process is."""

    aliases: dict[str, str]
    fleet: ChangeReport


@router.put("/aliases/{alias}", responses={200: {"model": Aliases}, 202: {"model": Aliases}})
async def set_alias(
    request: Request, response: Response, alias: str, body: AliasBody, waiting: Waiting
) -> dict[str, Any]:
    """Point an alias to a model; it applies to new requests.

    Where several processes serve, it moves in one step, once each has the model ready.
    """
    state = get_state(request)
    state.registry.refresh_if_readable()  # another process may have stored it
    target = state.registry.resolve(body.model)
    outcome = await state.fleet.set_alias(alias, target, wait_s=waiting.limit_s)
    aliases = {name: str(ref) for name, ref in sorted(state.registry.aliases.items())}
    return {"aliases": aliases, "fleet": waiting.report(response, outcome)}


@router.delete("/aliases/{alias}", status_code=204, responses={202: {"model": ChangeReply}})
async def remove_alias(request: Request, alias: str, waiting: Waiting) -> Response:
    """Remove an alias; its model stays, and running requests go on."""
    outcome = await get_state(request).fleet.remove_alias(alias, wait_s=waiting.limit_s)
    response = Response(status_code=204)
    report = waiting.report(response, outcome)
    return response if response.status_code == 204 else JSONResponse({"fleet": report}, 202)
