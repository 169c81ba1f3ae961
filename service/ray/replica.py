"""A replica: the service's app in a process that Ray has placed, with the replica's settings."""

import asyncio
from typing import Any

from ray import serve
from starlette.types import ASGIApp

from service.app import create_app
from service.errors import GenerationFailed
from service.fleet.join import ServerProcess
from service.ray.autoscaling import STREAMS
from service.ray.environment import replica_settings
from service.ray.gate import IngressGate
from service.ray.ingress import ingress_token
from service.telemetry import log_to_stderr


@serve.ingress(None)
class Replica:
    """The deployment's class. All methods run on the event loop of the app."""

    def __init__(self) -> None:
        """Read the settings, which the environment has. Raises BadRequest."""
        self._settings = replica_settings()
        log_to_stderr(self._settings.log_level, "json")
        self._service: Any = None

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the app, which has loaded its models when Ray's start of it returns."""
        settings = self._settings
        assert settings.redis_url is not None
        assert settings.secret is not None
        process = ServerProcess(serve.get_replica_context().rank.rank, listens_late=True)
        app = create_app(settings, settings.redis_url.get_secret_value(), process=process)
        self._service = app.state.carousel
        token = ingress_token(settings.secret.get_secret_value())
        return IngressGate(app, token, process.name, settings.proxy_networks)

    def check_health(self) -> None:
        """Raise GenerationFailed where an engine has failed: Ray then replaces the replica.

        It asks nothing else. A store that is away for a minute is no reason to restart the fleet.
        """
        for model in self._service.registry.in_memory():
            if model.runtime.engine.failure is not None:
                raise GenerationFailed(model.runtime.engine.failure)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what the number of replicas is decided by."""
        await asyncio.sleep(0)
        models = self._service.registry.in_memory()
        return {STREAMS: float(sum(model.runtime.engine.streams for model in models))}
