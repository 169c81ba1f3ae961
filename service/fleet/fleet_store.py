"""The wish and the reports of all processes in Redis: one script to look, one to change."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from service.errors import StoreUnavailable
from service.fleet.config import FleetConfig
from service.fleet.report import ProcessReport
from service.fleet.wish import ModelWish, Wish
from service.models.spec import ModelRef
from service.sessions.config import SessionConfig
from service.sessions.redis_connection import Value
from service.sessions.store_client import open_client
from service.sessions.store_replies import random_name

# The braces keep the five on one node of a cluster, so that a script may use them together.
REVISION, MODELS, ALIASES, REPORTS, SEEN = (
    f"carousel:{{fleet}}:{name}" for name in ("rev", "want", "alias", "reports", "seen")
)

_SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True, slots=True)
class FleetView:
    """What a view has found. The wish is None in a store that has none."""

    wish: Wish | None
    reports: tuple[ProcessReport, ...]  # of the live processes, ordered by name


class FleetStore:
    """Reads and changes the wish. For one event loop. Raises StoreUnavailable and StoreFull."""

    def __init__(
        self, redis_url: str, lifetime_s: float, config: SessionConfig | None = None
    ) -> None:
        """`lifetime_s` is that of a report: a process without a newer one is gone."""
        # A full store takes the scripts too: models have to be unloaded there as well.
        names = ("look", "change", "leave")
        texts = {name: (_SCRIPTS / f"{name}.lua").read_text() for name in names}
        scripts = {name: f"#!lua flags=allow-oom\n{text}" for name, text in texts.items()}
        self._client = open_client(redis_url, config or SessionConfig(), scripts)
        self._lifetime_ms = round(lifetime_s * 1_000)

    async def look(
        self, report: Callable[[], ProcessReport] | None = None, known: Wish | None = None
    ) -> Wish | None:
        """Return the wish, None if there is none, after this process has sent its report.

        The `known` one is returned where it is the stored one, which is not sent then. What a look
        takes does not grow with the number of processes.
        """
        found = await self._look(report, known, has_reports=False)
        return _wish_of(found, known)

    async def view(
        self, report: Callable[[], ProcessReport] | None = None, known: Wish | None = None
    ) -> FleetView:
        """As `look`, and return every live process too."""
        found = await self._look(report, known, has_reports=True)
        try:
            reports = sorted(map(ProcessReport.from_json, _texts(found[3])), key=_name)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreUnavailable(f"a report in the store cannot be read: {error!r}") from error
        return FleetView(_wish_of(found, known), tuple(reports))

    async def _look(
        self,
        report: Callable[[], ProcessReport] | None,
        known: Wish | None,
        *,
        has_reports: bool,
    ) -> Sequence[object]:
        stamp, flag = "" if known is None else _stamp(known), "1" if has_reports else ""

        def args() -> Sequence[Value]:
            if report is None:
                return "", "", self._lifetime_ms, stamp, flag
            made = report()  # as it is at each attempt
            return made.process, made.to_json(), self._lifetime_ms, stamp, flag

        return await self._client.call("look", (REVISION, MODELS, ALIASES, REPORTS, SEEN), args)

    async def change(self, old: Wish | None, new: Wish) -> Wish | None:
        """Write `new`, unless the stored wish is another than `old`; return it as written."""
        written = replace(new, token=random_name())
        before = Wish() if old is None else old
        expected = "" if old is None else _stamp(old)
        was = {str(ref): one.to_json() for ref, one in before.models.items()}
        models = {str(ref): one.to_json() for ref, one in new.models.items()}
        aliases = {alias: str(ref) for alias, ref in new.aliases.items()}
        args: tuple[Value, ...] = (
            *(expected, _stamp(written)),
            *_difference(was, models),
            *_difference({alias: str(ref) for alias, ref in before.aliases.items()}, aliases),
        )
        (is_done,) = await self._client.call("change", (REVISION, MODELS, ALIASES), args)
        return written if is_done else None

    async def leave(self, process: str) -> None:
        """Forget a process that ends."""
        await self._client.call("leave", (REPORTS, SEEN), (process,))

    async def forget(self) -> None:
        """Delete the wish and every report."""
        await self._client.execute("DEL", REVISION, MODELS, ALIASES, REPORTS, SEEN)

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()


async def has_wish(redis_url: str) -> bool:
    """Return whether a store says what its processes load. Raises StoreUnavailable."""
    store = FleetStore(redis_url, FleetConfig().lifetime_s)
    try:
        return await store.look() is not None
    finally:
        await store.close()


async def forget_wish(redis_url: str) -> None:
    """Delete the wish of a store that no process uses. Raises StoreUnavailable."""
    store = FleetStore(redis_url, FleetConfig().lifetime_s)
    try:
        await store.forget()
    finally:
        await store.close()


def _difference(old: Mapping[str, str], new: Mapping[str, str]) -> Sequence[Value]:
    """Return the arguments that make one hash of another."""
    put = [pair for pair in new.items() if old.get(pair[0]) != pair[1]]
    gone = [name for name in old if name not in new]
    return (len(put), *chain.from_iterable(put), len(gone), *gone)


def _stamp(wish: Wish) -> str:
    return f"{wish.revision} {wish.token}"


def _wish_of(found: Sequence[object], known: Wish | None) -> Wish | None:
    """Return the wish of a reply. Raises StoreUnavailable if it cannot be read."""
    if not isinstance(found[0], bytes):
        return None
    if known is not None and found[0].decode() == _stamp(known):
        return known
    try:
        revision, _, token = found[0].decode().partition(" ")
        models, aliases = _texts(found[1]), _texts(found[2])
        return Wish(
            int(revision),
            token,
            {
                ModelRef.parse(ref): ModelWish.from_json(text)
                for ref, text in zip(models[::2], models[1::2], strict=True)
            },
            {
                alias: ModelRef.parse(ref)
                for alias, ref in zip(aliases[::2], aliases[1::2], strict=True)
            },
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StoreUnavailable(f"the wish in the store cannot be read: {error!r}") from error


def _texts(values: object) -> list[str]:
    assert isinstance(values, list)
    return [value.decode() for value in values]


def _name(report: ProcessReport) -> str:
    return report.process
