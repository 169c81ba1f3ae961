"""What a server prints on its terminal: that it is ready, or what to do so that it becomes so."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.api.state import AppState
from service.errors import CarouselError
from service.models.loaded_model import ModelInfo, ModelStatus
from service.models.spec import ModelRef

POLL_S = 0.2
PATIENCE_S = 3.0
"""A start that takes longer than this says why: a first one compiles the kernels."""
COMMAND = "carousel"


def address_of(host: str, port: int, *, is_tls: bool = False) -> str:
    """Return the URL of a server that listens on an address."""
    scheme = "https" if is_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def show(lines: Sequence[str]) -> None:
    """Print lines at once."""
    print("\n".join(lines), flush=True)


@dataclass(frozen=True, slots=True)
class Announcer:
    """What is called when a server has no model to begin with, and when it is ready."""

    on_empty: Callable[[Sequence[str]], None] = show  # gets the lines of advice
    on_ready: Callable[[], None] | None = None  # of a process of several; otherwise it is printed


async def announce(state: AppState, address: str, announcer: Announcer) -> None:
    """Tell what a server without a model lacks, and that it is ready once it is."""
    await state.opened.wait()
    if not state.registry.has_models:
        announcer.on_empty(advice(state.registry.listings(), state.store.folder))
    while not state.is_ready:  # noqa: ASYNC110 (it depends on the store and on every model)
        await asyncio.sleep(POLL_S)
    if announcer.on_ready is None:
        show(ready(address, needs_key=await _has_keys(state)))
    else:
        announcer.on_ready()


async def explain_wait(state: AppState, patience_s: float = PATIENCE_S) -> None:
    """Print what a start still does after `patience_s`; nothing if the models are there by then."""
    await asyncio.sleep(patience_s)
    loading = [one.ref for one in state.registry.listings() if one.status is ModelStatus.LOADING]
    if loading:
        print(waiting(loading), flush=True)


def waiting(loading: Sequence[ModelRef]) -> str:
    """Return the line for a start that takes long, so that nobody takes it for one that hangs."""
    names = ", ".join(map(str, loading))
    return f"Carousel is loading {names}; the first start on a machine compiles, for a minute or so"


def ready(address: str, *, needs_key: bool = False) -> Sequence[str]:
    """Return the lines for a server that answers generate requests."""
    body = """'{"inputs": "The "}'"""
    header = "-H 'Content-Type: application/json'"
    if needs_key:
        header = f'-H "Authorization: Bearer $KEY" {header}'
    scheme, _, place = address.partition("://")
    for every in ("0.0.0.0:", "[::]:"):  # addresses to listen on, and none to connect to
        if place.startswith(every):
            place = f"localhost:{place.removeprefix(every)}"
    return (
        f"Carousel is ready at {address}; try:",
        f"  curl -N {scheme}://{place}/generate_stream {header} -d {body}",
    )


async def _has_keys(state: AppState) -> bool:
    """Return whether there are keys; not known is none, since this is an example only."""
    with contextlib.suppress(CarouselError):
        return bool(await state.keys.all())
    return False


def advice(models: Sequence[ModelInfo], model_store: Path) -> Sequence[str]:
    """Return the lines for a server that has loaded no model: why, and the commands that help."""
    failed = [model for model in models if model.status is ModelStatus.FAILED]
    if failed:
        lines = [f"{model.ref} could not be loaded: {model.error}" for model in failed]
        return ("Carousel has no model to serve.", *lines, f"try: {COMMAND} load {failed[0].ref}")
    if models:
        newest = models[-1].ref
        return (
            f"Carousel has no model loaded; {len(models)} stored in {model_store}. Load one:",
            f"  {COMMAND} load {newest}",
        )
    return (
        f"Carousel has no model: none is stored in {model_store}. Import or train one:",
        f"  {COMMAND} import CHECKPOINT --vocabulary FILE --name NAME",
        f"  {COMMAND} train TEXT --name NAME",
        f"and load it: {COMMAND} load NAME",
    )
