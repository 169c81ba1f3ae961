"""The settings of the service: read once from options and the environment, then frozen."""

import contextlib
import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ByteSize, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.cgroup import MachineShare, machine_share
from service.errors import BadRequest
from service.telemetry import LogFormat

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PREFIX = "CAROUSEL_"
# How the terminal and the clients reach a running server; no settings of a server.
CLIENT_VARIABLES = frozenset({"CAROUSEL_URL", "CAROUSEL_API_KEY"})
LEAST_ADMIN_KEY = 32
PROCESS_BYTES = 1024 * 1024 * 1024  # a process with some small models; see docs/how-to/scale.md


_HOST_NAME = re.compile(r"[a-z0-9._-]{1,253}")
_QUEUES = r"^train-(cpu|gpu)(,train-(cpu|gpu))?$"
_ORIGIN = re.compile(r"https?://[a-z0-9._-]{1,253}(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?")


class Settings(BaseSettings):
    """Every setting, with its default; the environment variable is CAROUSEL_ and the name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    threads: int = Field(default_factory=lambda: min(256, machine_share().cores), ge=1, le=256)
    processes: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = 1  # which share the port
    spin: Literal["auto", "on", "off"] = "auto"  # auto: where the machine is its own
    int8_kernel: Literal["auto", "own", "onnxruntime"] = "auto"  # auto: measured at a first load
    int4_weights: bool = False  # with VNNI, where they cost at most 0.005 nats: faster lone streams
    device: Literal["auto", "cpu", "gpu"] = "auto"  # auto: the processor, but float16 on a GPU
    gpu_rows: int = Field(default=2_048, ge=64, le=65_536)  # that each step of a GPU computes
    gpu_memory: ByteSize | None = Field(default=None, gt=0)  # None: what the GPU has
    memory_budget: ByteSize | None = Field(default=None, gt=0)  # None: half of the container's
    autoload: bool = False  # off: a request for a model that is not loaded is a 409
    load_wait_s: float = Field(default=30.0, ge=0, le=3_600)  # then it is a 507
    drain_s: float = Field(default=25.0, ge=0, le=3_600)  # give a service manager 5 s more
    lame_duck_s: float = Field(default=0.0, ge=0, le=600)
    workers: int = Field(default=0, ge=0, le=64)  # training workers, each of one job at a time
    worker_queues: str = Field(default="train-cpu", pattern=_QUEUES)  # in order; or train-gpu
    redis_url: SecretStr | None = None  # redis+cluster://: a cluster; None: a private Valkey
    secret: SecretStr | None = None  # signs ids and exports; None: generated in data_dir
    admin_key: SecretStr | None = None  # a key with the scope admin, to make the first ones with
    allow_anonymous: bool = False  # without keys, serve other addresses than loopback as well
    public_docs: bool = False  # with keys, /docs and /openapi.json need none
    default_limits: str = ""  # of keys and of who has none: NAME=NUMBER, with commas
    ui: Literal["on", "off"] = "on"  # the page under /ui/
    allowed_hosts: str = ""  # more names that Host may have, with commas; *: any
    cors_origins: str = ""  # origins whose pages may use the API, with commas; "": none
    inspection_values: int = Field(default=8_000_000, ge=1)  # of one reply of /inspect, as bytes
    inspection_numbers: int = Field(default=200_000, ge=1)  # of one reply of /inspect, as JSON
    model_store: Path = Path("model_store")
    import_dir: Path = Path("imports")
    data_dir: Path = Path(".data")
    metrics_host: str = "127.0.0.1"  # where the metrics are served; it asks for no key
    metrics_port: int | None = Field(default=None, ge=0, le=65535)  # unset: 9100 if free; 0: none
    log_format: LogFormat = "auto"  # auto: text on a terminal
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    max_connections: int = Field(default=10_240, ge=1)  # open at once; fewer if files are limited
    max_connections_per_address: int = Field(default=2_048, ge=1)  # not of a trusted proxy
    idle_timeout_s: float = Field(default=30.0, gt=0)  # of a connection between two requests
    slow_reader_timeout_s: float = Field(default=3_600.0, gt=0)  # a reply's waits for its client
    trusted_proxies: str = ""  # addresses and networks, with commas; their X-Forwarded-For counts
    tls_cert: Path | None = None  # PEM: the certificate and its chain; None: HTTP without TLS
    tls_key: Path | None = None  # PEM; None: the key is in tls_cert

    @field_validator("trusted_proxies")
    @classmethod
    def _check_networks(cls, value: str) -> str:
        _networks(value)
        return value

    @property
    def proxy_networks(self) -> tuple[Network, ...]:
        """The networks of the trusted proxies."""
        return _networks(self.trusted_proxies)

    @property
    def folders(self) -> dict[str, str]:
        """The settings of the server's folders by their paths, the longest first."""
        names = ("model_store", "import_dir", "data_dir")
        found = {str(getattr(self, name).absolute()): PREFIX + name.upper() for name in names}
        return dict(sorted(found.items(), key=lambda item: -len(item[0])))

    @property
    def n_processes(self) -> int:
        """How many processes serve. `auto`: one for each core, with PROCESS_BYTES of memory."""
        return processes_for(machine_share()) if self.processes == "auto" else self.processes

    @property
    def has_shared_store(self) -> bool:
        """Whether other processes may have the same store: then it has what all of them load."""
        return self.redis_url is not None

    @property
    def corpora_dir(self) -> Path:
        """The folder of uploaded texts."""
        return self.data_dir / "corpora"

    @property
    def files_dir(self) -> Path:
        """The folder of uploaded files and of batches' outputs."""
        return self.data_dir / "files"

    @property
    def batches_dir(self) -> Path:
        """The folder of batches: servers write it."""
        return self.data_dir / "batches"

    @property
    def jobs_dir(self) -> Path:
        """The folder of train jobs: attempts write it, servers clean it up."""
        return self.data_dir / "jobs"

    @property
    def queues(self) -> list[str]:
        """The queues of train jobs that a worker takes jobs of, of the first one first."""
        return list(dict.fromkeys(_listed(self.worker_queues)))

    @property
    def spins(self) -> bool:
        """Whether threads of the network wait for the next step in a loop.

        On cores of its own a process is faster so; on shared ones it takes a core that others need.
        """
        return machine_share().has_own_cores if self.spin == "auto" else self.spin == "on"

    @property
    def memory_budget_bytes(self) -> int:
        """What all models in memory may take: as given, or half of what the process may use."""
        given = self.memory_budget
        return machine_share().memory_bytes // 2 if given is None else int(given)

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, given: str) -> str:
        for name in _listed(given):
            if name != "*" and not _HOST_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name; give names without ports, or *")
        return given

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, given: str) -> str:
        for origin in _listed(given):
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin, such as https://chat.example.com")
        return given

    @property
    def hosts(self) -> list[str]:
        """Names of this server in a Host header besides localhost; every address is one too."""
        return [self.host.lower(), *_listed(self.allowed_hosts)]

    @property
    def origins(self) -> list[str]:
        """Origins whose pages may use the API."""
        return _listed(self.cors_origins)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"

    def for_worker(self, redis_url: str) -> dict[str, str]:
        """Environment variables that give a training worker these settings."""
        return {
            f"{PREFIX}REDIS_URL": redis_url,
            f"{PREFIX}MODEL_STORE": str(self.model_store),
            f"{PREFIX}DATA_DIR": str(self.data_dir),
            f"{PREFIX}WORKER_QUEUES": self.worker_queues,
            f"{PREFIX}LOG_LEVEL": self.log_level,
            f"{PREFIX}LOG_FORMAT": self.log_format,
        }

    @property
    def threads_of_process(self) -> int:
        """The threads of each of `n_processes`: as given, or its part of the cores."""
        is_given = "threads" in self.model_fields_set
        return self.threads if is_given else max(1, self.threads // self.n_processes)

    def for_process(self, redis_url: str) -> dict[str, str]:
        """Environment variables that give one of `n_processes` its part of these settings.

        Threads are of each process where they are given; the memory is of all.
        """
        n = self.n_processes
        part: dict[str, object] = {
            "processes": 1,
            "threads": self.threads_of_process,
            "spin": "off" if self.spin == "auto" else self.spin,
            "memory_budget": max(1, self.memory_budget_bytes // n),
            "gpu_memory": None if self.gpu_memory is None else max(1, int(self.gpu_memory) // n),
            "redis_url": redis_url,
            "workers": 0,
        }
        values = {name: getattr(self, name) for name in type(self).model_fields} | part
        return {
            f"{PREFIX}{name.upper()}": _text_of(value)
            for name, value in values.items()
            if value is not None
        }

    @classmethod
    def read(cls, **options: object) -> Self:
        """Read the environment, after `options` that are not None. Raises BadRequest."""
        known = {PREFIX + name.upper() for name in cls.model_fields}
        for name in os.environ:
            if name.upper().startswith(PREFIX) and name.upper() not in known | CLIENT_VARIABLES:
                raise BadRequest(
                    f"the environment variable {name} is unknown; "
                    f"there are {', '.join(sorted(known))}"
                )
        given = {name: value for name, value in options.items() if value is not None}
        try:
            return cls(**given)  # type: ignore[arg-type]
        except ValidationError as error:
            first = error.errors()[0]
            name = PREFIX + str(first["loc"][0]).upper()
            raise BadRequest(f"{name} is {first['input']!r}: {first['msg']}") from error


def processes_for(share: MachineShare) -> int:
    """Return how many processes `auto` is where a server may use this share of its machine."""
    return max(1, min(256, share.cores, share.memory_bytes // PROCESS_BYTES))


def _networks(text: str) -> tuple[Network, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return tuple(ipaddress.ip_network(part) for part in parts)


def _text_of(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _listed(given: str) -> list[str]:
    return [one.strip().lower() for one in given.split(",") if one.strip()]
