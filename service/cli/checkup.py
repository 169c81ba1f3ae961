"""What a start on this machine would meet: settings, folders, store, port, memory, each a line."""

import asyncio
import contextlib
import json
import os
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, build_opener, urlopen

from service.api.metrics_listener import DEFAULT_PORT, bind
from service.api.tracing import check_traces
from service.cgroup import MachineShare, machine_share
from service.errors import BadRequest, CarouselError, StoreUnavailable
from service.keys.key_store import count_keys
from service.sessions.config import SessionConfig, ValkeyConfig
from service.sessions.embedded import EmbeddedValkey
from service.sessions.signing import check_secret
from service.sessions.store_client import check_store_at
from service.settings import Settings
from service.start_checks import (
    admin_key_of,
    check_device,
    check_folder,
    check_int8_kernel,
    check_training,
    default_limits_of,
    exposed,
    listen,
    lost_secret_of,
    needs_no_key,
)
from service.tls import check_certificate, server_context

STORE_WAIT_S = ANSWER_WAIT_S = 2.0
PYTHONS = ((3, 11), (3, 13))


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a server needs, what was found of it, and whether it is as it should be."""

    name: str
    found: str  # of a fault: with what mends it
    is_fault: bool = False


def checks_of(settings: Settings) -> Iterator[Check]:
    """Check what a server with these settings would need. Changes nothing."""
    share = machine_share()
    yield _python()
    yield _processes(settings, share)
    yield _threads(settings, share)
    folders = {"model_store": False, "import_dir": False, "data_dir": True}
    for name, is_written in folders.items():
        yield _attempt(name, partial(_folder, settings, name, is_written=is_written))
    yield _attempt("store", lambda: _store(settings))
    yield _attempt("port", lambda: _port(settings))
    yield _attempt("int8", lambda: _int8(settings))
    yield _attempt("device", lambda: _device(settings))
    yield _attempt("tls", lambda: _tls(settings))
    yield _attempt("metrics", lambda: _metrics(settings))
    yield _attempt("keys", lambda: _keys(settings))
    yield _attempt("limits", lambda: _limits(settings))
    yield _attempt("secret", lambda: _secret(settings))
    yield _attempt("traces", lambda: check_traces(os.environ) or "none are sent")
    yield _attempt("arithmetic", lambda: _arithmetic(settings))
    yield _memory(settings.memory_budget_bytes, available_bytes(share.memory_bytes))
    yield _attempt("training", lambda: _training(settings))


def available_bytes(most: int, path: Path = Path("/proc/meminfo")) -> int:
    """Return the memory that new processes may take; `most` where the system does not say it."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return most
    found = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return min(most, next(found, most))


def _attempt(name: str, find: Callable[[], str]) -> Check:
    try:
        return Check(name, find())
    except CarouselError as error:
        return Check(name, str(error), is_fault=True)


def _python() -> Check:
    first, last = PYTHONS
    text = ".".join(map(str, sys.version_info[:3]))
    if first <= sys.version_info[:2] <= last:
        return Check("python", text)
    return Check("python", f"{text}; install 3.11, 3.12 or 3.13", is_fault=True)


def _processes(settings: Settings, share: MachineShare) -> Check:
    n = settings.n_processes
    if settings.processes == "auto":
        text = (
            f"{n}, by auto: {share.cores} of {share.machine_cores} cores and "
            f"{share.memory_bytes / 1024**3:.1f} GiB may be used"
        )
        return Check("processes", text)
    if n <= share.cores:
        return Check("processes", str(n))
    mend = "set CAROUSEL_PROCESSES to less, or to auto"
    text = f"{n}; {share.cores} of {share.machine_cores} cores may be used: {mend}"
    return Check("processes", text, is_fault=True)


def _threads(settings: Settings, share: MachineShare) -> Check:
    n = settings.n_processes
    threads = settings.threads if n == 1 else settings.threads_of_process
    spins = settings.spins if n == 1 else settings.spin == "on"
    text = f"{threads} of the network, {'spinning' if spins else 'not spinning'}"
    text += f", in each of {n} processes" if n > 1 else ""
    cores = f"{share.cores} of {share.machine_cores} cores may be used"
    if threads * n <= max(share.cores, n):
        return Check("threads", f"{text}; {cores}")
    return Check("threads", f"{text}; {cores}: set CAROUSEL_THREADS to less", is_fault=True)


def _folder(settings: Settings, name: str, *, is_written: bool) -> str:
    path: Path = getattr(settings, name)
    existing = path.absolute()
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    is_there = existing == path.absolute()
    check_folder(existing, f"CAROUSEL_{name.upper()}", is_written=is_written or not is_there)
    return str(path) if is_there else f"{path}, which the start creates"


def _store(settings: Settings) -> str:
    if settings.redis_url is None:
        return f"a private Valkey in {settings.data_dir / 'valkey'}"
    config = replace(SessionConfig(), start_wait_s=STORE_WAIT_S)
    asyncio.run(check_store_at(settings.redis_url.get_secret_value(), config))
    return "answers, and may be used"


def _port(settings: Settings) -> str:
    try:
        for each in listen(settings.host, settings.port):
            each.close()
    except CarouselError:
        if not _is_carousel(settings):
            raise
        return f"a Carousel serves {settings.host}:{settings.port}"
    return f"{settings.host}:{settings.port} is free"


def _is_carousel(settings: Settings) -> bool:
    """Whether the program that has the port is a Carousel, with TLS or without.

    It is sent no key: the certificate is not checked, since any name may be in it.
    """
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))
    for scheme in ("http", "https") if settings.tls_cert is None else ("https", "http"):
        reply: Any = None
        with contextlib.suppress(OSError, HTTPException, ValueError):
            try:
                url = f"{scheme}://{host}:{settings.port}/info"
                with opener.open(url, timeout=ANSWER_WAIT_S) as found:
                    reply = json.load(found)
            except HTTPError as refusal:  # it wants a key
                with refusal:
                    reply = json.load(refusal)
        if isinstance(reply, dict) and not {"process", "error_type"}.isdisjoint(reply):
            return True
    return False


def _tls(settings: Settings) -> str:
    server_context(settings.tls_cert, settings.tls_key)
    if settings.tls_cert is None:
        return "none: the port speaks HTTP"
    return (
        f"the certificate is valid until {check_certificate(settings.tls_cert, settings.tls_key)}"
    )


def _metrics(settings: Settings) -> str:
    host, port = settings.metrics_host, settings.metrics_port
    if port == 0:
        return "no listener of their own"
    n, serving = settings.n_processes, 0
    first = DEFAULT_PORT if port is None else port
    addresses = [f"{host}:{first + i}" for i in range(n)]
    for i, address in enumerate(addresses):
        try:
            bound = bind(host, first, i)
            assert bound is not None
            bound.close()
        except CarouselError as error:
            if _is_our_metrics(address):
                serving += 1
            elif port is None:
                return f"no listener: {address} is in use; CAROUSEL_METRICS_PORT names another port"
            else:
                raise error from None
    where = addresses[0] if n == 1 else f"{addresses[0]} to {first + n - 1}"
    return f"a Carousel serves {where}" if serving else f"{where} {'is' if n == 1 else 'are'} free"


def _is_our_metrics(address: str) -> bool:
    try:
        with urlopen(f"http://{address}/metrics", timeout=STORE_WAIT_S) as reply:
            return b"carousel_build_info" in reply.read()
    except (OSError, HTTPException):
        return False


def _keys(settings: Settings) -> str:
    if admin_key_of(settings):
        return "CAROUSEL_ADMIN_KEY is one"
    n_keys, needs_none = _n_keys(settings), needs_no_key(settings)
    if n_keys:
        return f"{n_keys} in the store, so that each request needs one"
    if n_keys is None:
        if not needs_none:
            return f"needed at {settings.host}, and the start looks for one"
        return "not known while the store does not run: `carousel keys list` lists those in it"
    if not needs_none:
        raise exposed(settings)
    return f"none is needed at {settings.host} until there is one"


def _n_keys(settings: Settings) -> int | None:
    """Return how many keys there are; None where the store does not say it, and is not started."""
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
    else:
        folder = settings.data_dir / "valkey"
        if not any(folder.glob("*")):
            return 0
        valkey = EmbeddedValkey(folder, ValkeyConfig())
        if not valkey.is_alive():
            return None
        url = valkey.url
    with contextlib.suppress(StoreUnavailable):
        return asyncio.run(count_keys(url))
    return None


def _limits(settings: Settings) -> str:
    given = default_limits_of(settings).members()
    return ", ".join(f"{name}={n}" for name, n in given.items()) or "none but those of keys"


def _secret(settings: Settings) -> str:
    if lost := lost_secret_of(settings):
        raise BadRequest(lost)
    if settings.secret is None:
        return f"in {settings.data_dir / 'secret'}, which other servers do not have"
    check_secret(settings.secret.get_secret_value())
    return "CAROUSEL_SECRET"


def _memory(budget: int, available: int) -> Check:
    text = f"{available / 1e9:.1f} GB free; the budget of models is {budget / 1e9:.1f} GB"
    if available >= budget:
        return Check("memory", text)
    mend = "end other processes, or set CAROUSEL_MEMORY_BUDGET to less"
    return Check("memory", f"{text}: {mend}", is_fault=True)


def _int8(settings: Settings) -> str:
    from service.models.compile import has_vnni, own_instructions
    from service.models.kernel_choice import remembered

    instructions = own_instructions()
    check_int8_kernel(settings, instructions)
    if settings.int8_kernel == "onnxruntime" or not instructions:
        return "ONNX Runtime"
    own = f"Carousel's own kernel, with {instructions}"
    if settings.int8_kernel == "own" or not has_vnni():
        return own
    found = "; ".join(remembered(settings.model_store)) or "no model has been loaded yet"
    return f"{own}, or ONNX Runtime, as a model's first load measures: {found}"


def _arithmetic(settings: Settings) -> str:
    """Compress a text and get it back, by each kind of program and by the default model."""
    from service.compression.self_test import check_arithmetic, check_default_model

    found = [*check_arithmetic(), *check_default_model(settings.model_store)]
    return f"compressed texts come back, with 1 and 2 threads: {', '.join(found)}"


def _device(settings: Settings) -> str:
    check_device(settings)
    if settings.device == "gpu":
        return f"a GPU, {settings.gpu_rows} rows a step"
    return "the processor" + ("; loads in float16 need a GPU" * (settings.device == "auto"))


def _training(settings: Settings) -> str:
    try:
        check_training("training")
    except CarouselError as error:
        if settings.workers:
            raise
        return f"not here: {error}"
    return f"can run; {settings.workers} workers start with the server"
