"""The subcommands for keys: add, list, rotate, revoke. They change the store, with no server."""

import asyncio
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from service.errors import Validation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from service.keys.key import Key
    from service.keys.key_ring import KeyRing

app = typer.Typer(no_args_is_help=True, help="Make, list, rotate and revoke API keys.")

T = TypeVar("T")

MAX_DAYS = 36_500

RedisUrl = Annotated[
    str | None, typer.Option(help="Where Redis is; default: the private Valkey of --data-dir.")
]
DataDir = Annotated[Path | None, typer.Option(help="Data folder of the server.")]
KeyId = Annotated[str, typer.Argument(help="Id of the key, as `carousel keys list` shows it.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What or whom the key is for.")],
    scope: Annotated[
        list[str], typer.Option(help="generate, train, admin or metrics; may be repeated.")
    ],
    owner: Annotated[
        str | None, typer.Option(help="Owner of sessions, corpora and jobs; default: the name.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Model that the key may use; may be repeated.")
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="Limit, as NAME=NUMBER; may be repeated.")
    ] = None,
    expires_in_days: Annotated[float | None, typer.Option(help="Default: never.")] = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print its secret, which is stored nowhere: on standard output, alone."""
    if expires_in_days is not None and not 0 < expires_in_days <= MAX_DAYS:
        raise Validation(
            f"--expires-in-days is {expires_in_days:g}; it is above 0 and at most {MAX_DAYS}"
        )
    expires_in_s = None if expires_in_days is None else 86_400 * expires_in_days

    from service.limits.limits import Limits

    async def added(keys: "KeyRing") -> str:
        models = tuple(model) if model else None
        key, secret = await keys.add(
            name,
            tuple(scope),
            owner=owner,
            models=models,
            expires_in_s=expires_in_s,
            limits=Limits.parse(",".join(limit or ())),
        )
        print(_described(key), file=sys.stderr)
        return secret.text

    print(_changed(redis_url, data_dir, added))
    print(f"stored in {_place(redis_url, data_dir)}, for the servers that use it", file=sys.stderr)
    for warning in _unusable(model or ()):
        print(f"warning: {warning}", file=sys.stderr)


@app.command(name="list")
def list_keys(redis_url: RedisUrl = None, data_dir: DataDir = None) -> None:
    """List the keys, without their secrets. It makes no data folder."""
    from service.settings import Settings

    settings = Settings.read(redis_url=redis_url, data_dir=data_dir)
    none = f"there are no keys in {_place(redis_url, data_dir)}"

    async def listed(keys: "KeyRing") -> str:
        return "\n".join(map(_described, await keys.all())) or none

    is_new = settings.redis_url is None and not (settings.data_dir / "valkey").exists()
    print(none if is_new else _changed(redis_url, data_dir, listed))


@app.command()
def rotate(
    key_id: KeyId,
    grace_s: Annotated[float, typer.Option(help="How long the old secret goes on.")] = 0.0,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Give a key another secret and print it; id, owner and scopes stay."""

    async def rotated(keys: "KeyRing") -> str:
        key, secret = await keys.rotate(key_id, grace_s)
        print(_described(key), file=sys.stderr)
        return secret.text

    print(_changed(redis_url, data_dir, rotated))


@app.command()
def revoke(key_id: KeyId, redis_url: RedisUrl = None, data_dir: DataDir = None) -> None:
    """Make a key invalid, in every running server within five seconds."""

    async def revoked(keys: "KeyRing") -> str:
        return _described(await keys.revoke(key_id))

    print(_changed(redis_url, data_dir, revoked))


def _changed(
    redis_url: str | None, data_dir: Path | None, change: "Callable[[KeyRing], Awaitable[T]]"
) -> T:
    """Return what `change` says of the keys of a server's store. Raises CarouselError."""
    from service.app import open_key_ring, open_store
    from service.settings import Settings
    from service.start_checks import lost_secret_of

    settings = Settings.read(redis_url=redis_url, data_dir=data_dir)
    if lost := lost_secret_of(settings):
        print(f"warning: {lost}", file=sys.stderr)

    async def run(url: str) -> T:
        keys = open_key_ring(settings, url)
        try:
            return await change(keys)
        finally:
            await keys.close()

    with open_store(settings) as url:
        return asyncio.run(run(url))


def _place(redis_url: str | None, data_dir: Path | None) -> str:
    """Say where the keys are: a key in another folder than the server's opens nothing."""
    from service.settings import Settings

    settings = Settings.read(redis_url=redis_url, data_dir=data_dir)
    if settings.redis_url is not None:
        return "the store of CAROUSEL_REDIS_URL"
    return f"the private Valkey of {settings.data_dir.absolute()}"


def _unusable(names: "Iterable[str]") -> "Iterator[str]":
    """Yield what is odd about models that a key names: it may be made before they are stored.

    A folder without models says nothing: the servers may have another one, or are to be started.
    """
    from service.models.resolve import read_record
    from service.models.store import ModelStore
    from service.settings import Settings

    store = ModelStore(Settings.read().model_store)
    refs = store.refs()
    known = {*map(str, refs), *(ref.name for ref in refs)}
    aliases = read_record(store).aliases
    for name in names if refs else ():
        if name in aliases:
            yield f"{name!r} is an alias, and a key names models: it does not open its model"
        elif name not in known:
            stored = ", ".join(sorted({ref.name for ref in refs})[:20])
            yield (
                f"no model {name!r} is stored in {store.folder} (there are: {stored}); the key may "
                "use it once it is"
            )


def _described(key: "Key") -> str:
    words = [key.id, key.name, f"owner={key.owner}", f"scopes={','.join(key.scopes)}"]
    if key.models is not None:
        words.append(f"models={','.join(key.models)}")
    words += [f"{name}={value}" for name, value in key.limits.members().items()]
    now_s = time.time()
    if key.revoked_s is not None:
        words.append(f"revoked={_date(key.revoked_s)}")
    elif key.expires_s is not None:
        words.append(f"{'expired' if key.expires_s <= now_s else 'expires'}={_date(key.expires_s)}")
    if key.revoked_s is None and key.grace_until_s > now_s:
        words.append(f"old-secret-until={_date(key.grace_until_s)}")
    return "  ".join(words)


def _date(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
