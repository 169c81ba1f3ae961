"""The file that describes a fleet on Ray: its address, its replicas, and their settings."""

import contextlib
import ipaddress
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from service.errors import BadRequest
from service.settings import PREFIX, Settings

SECRETS = ("redis_url", "secret", "admin_key")
"""Settings that no file has: Ray would keep them in its records, which its dashboard shows."""

_OF_THE_FLEET = (
    "host",
    "port",
    "threads",
    "processes",
    "workers",
    "worker_queues",
    "tls_cert",
    "tls_key",
)
_GIVEN = frozenset(Settings.model_fields) - {*SECRETS, *_OF_THE_FLEET}
REGISTER_S = 5.0
"""How long a replica that leaves stays open, so that every HAProxy has been told."""

_END_S = 10.0


class Replicas(BaseModel):
    """How many replicas there are, and how large each is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: int = Field(default=1, ge=1, le=1_000)
    max: int = Field(default=1, ge=1, le=1_000)
    streams: float = Field(default=32.0, gt=0)  # that generate, of each replica, on average
    threads: int = Field(default=1, ge=1, le=256)
    surge: int = Field(default=0, ge=0, le=100)  # percent of them, more during an update
    per_node: int | None = Field(default=None, ge=1, le=100)
    upscale_delay_s: float = Field(default=5.0, ge=0, le=3_600)
    downscale_delay_s: float = Field(default=300.0, ge=0, le=86_400)
    look_back_s: float = Field(default=10.0, gt=0, le=3_600)

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max is {self.max}, below min, which is {self.min}")
        return self


class FleetFile(BaseModel):
    """A fleet, as its file has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="carousel", pattern=r"^[a-z][a-z0-9-]{0,39}$")
    head: str = Field(pattern=r"^[A-Za-z0-9._-]{1,253}:\d{1,5}$")  # address and port of Ray's head
    host: str = Field(default="127.0.0.1", pattern=r"^[A-Za-z0-9.:_-]{1,253}$")  # of HAProxy
    port: int = Field(default=8000, ge=1, le=65535)
    ingress: Literal["every_node", "head"] = "every_node"
    replicas: Replicas = Field(default_factory=Replicas)
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)

    @field_validator("settings")
    @classmethod
    def _check_settings(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name in given:
            if name in SECRETS:
                raise ValueError(
                    f"{name} is a secret: set {PREFIX}{name.upper()} in the environment of each"
                    " node and of `carousel fleet`"
                )
            if name in _OF_THE_FLEET:
                raise ValueError(f"{name} is no setting of a replica of a fleet; remove it")
            if name not in _GIVEN:
                raise ValueError(f"there is no setting {name}; there are {sorted(_GIVEN)}")
        return given

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file. Raises BadRequest where it is no valid one, OSError where it is none."""
        try:
            content = yaml.safe_load(path.read_text("utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            first = str(error).replace("\n", " ")
            raise BadRequest(f"{path} is no YAML: {first}") from error
        if not isinstance(content, dict):
            raise BadRequest(f"{path} has no mapping; it needs at least `head: ADDRESS:PORT`")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, fault["loc"])) or "the file"
            message = fault["msg"].removeprefix("Value error, ")
            raise BadRequest(f"{path}: {place}: {message}") from error

    @property
    def environment(self) -> dict[str, str]:
        """The settings of each replica, as environment variables. None of them is a secret."""
        given = {name: _text_of(value) for name, value in self.settings.items()}
        own = {
            "host": self.host,
            "port": str(self.port),
            "threads": str(self.replicas.threads),
            "spin": given.get("spin", "off"),  # there are other replicas, and Ray, on its cores
            "metrics_port": given.get("metrics_port", "0"),
        }
        return {f"{PREFIX}{name.upper()}": value for name, value in (given | own).items()}

    @property
    def replica_host(self) -> str:
        """Where replicas listen: for HAProxy on every node, unless all nodes are this machine's."""
        name = self.head.rpartition(":")[0]
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(name).is_loopback:
                return name
        return "127.0.0.1" if name == "localhost" else "0.0.0.0"  # noqa: S104 (they have a gate)

    def shutdown_s(self, settings: Settings) -> float:
        """Return how long a replica may take to end: its streams have all of the drain."""
        return REGISTER_S + settings.lame_duck_s + settings.drain_s + _END_S


def _text_of(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
