"""The application on Ray Serve: from a fleet's file to a deployment, and what Ray says of it."""

import secrets
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from service import __version__
from service.errors import BadRequest, ModelNotReady
from service.ray.autoscaling import replicas_for_streams
from service.ray.environment import (
    HAPROXY_FLAG,
    NO_HAPROXY,
    RAY_VERSION,
    check_head,
    fleet_settings,
)
from service.ray.fleet_file import FleetFile
from service.ray.replica import Replica
from service.ray.telling_line import telling_line

_ASK_LIMIT_S = 60.0
_MOST_ONGOING = 100_000  # the engine refuses what is too much, in its own words
_LOCATIONS = {"every_node": "EveryNode", "head": "HeadOnly"}


@dataclass(frozen=True, slots=True)
class FleetNode:
    """A machine of a fleet, as Ray has it."""

    address: str
    is_head: bool
    cores: float
    is_alive: bool

    def row(self) -> dict[str, object]:
        """Return it as a row of a table."""
        state = "alive" if self.is_alive else "dead"
        return {"node": self.address, "head": self.is_head, "cores": self.cores, "state": state}


def connect(file: FleetFile) -> None:
    """Connect to the fleet by this machine's node. Raises BadRequest where there is none."""
    check_head(file)
    try:
        ray.init(address=file.head, namespace="serve", log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise BadRequest(
            f"no node of the fleet at {file.head} runs on this machine ({first}); start one "
            "with `carousel fleet node FILE`"
        ) from error


def check_nodes() -> None:
    """Check how each node of the fleet was started. Raises BadRequest with one that is wrong.

    A node takes its flags from the shell that has started it. One without them would have Ray's
    proxy in Python, or could not start HAProxy.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    answers = [_flags_of(node["NodeID"]) for node in alive]
    for node, (flag, has_secret) in zip(alive, ray.get(answers, timeout=_ASK_LIMIT_S), strict=True):
        if flag != "1":
            raise BadRequest(f"{node['NodeManagerAddress']}: {NO_HAPROXY}")
        if not has_secret:
            raise BadRequest(
                f"{node['NodeManagerAddress']} was started without CAROUSEL_SECRET; start it with "
                "`carousel fleet node FILE`"
            )


def _flags_of(node: str) -> Any:
    def flags(name: str) -> tuple[str | None, bool]:
        import os  # noqa: PLC0415 (it runs on the other node)

        return os.environ.get(name), bool(os.environ.get("CAROUSEL_SECRET"))

    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0)(flags).options(scheduling_strategy=here).remote(HAPROXY_FLAG)


def deploy(file: FleetFile, *, restarts: bool = False) -> None:
    """Start the application or bring it to the file; return when it is so.

    Replicas are replaced where their settings or their size are others, or if `restarts`.

    Raises BadRequest where the fleet has other addresses than the file, ModelNotReady where
    HAProxy or a replica does not start.
    """
    options = {"host": file.replica_host, "port": file.port, "keep_alive_timeout_s": 30}
    try:
        serve.start(proxy_location=_LOCATIONS[file.ingress], http_options=options)
    except RuntimeError as error:  # HAProxy's port may be taken
        raise ModelNotReady(f"HAProxy did not start: {telling_line(str(error))}") from error
    _check_address(file)
    try:
        serve.run(deployment_of(file, restarts=restarts), name=file.name, route_prefix="/")
    except RuntimeError as error:
        raise ModelNotReady(f"the replicas did not start: {_reason(file, error)}") from error


def deployment_of(file: FleetFile, *, restarts: bool) -> serve.Application:
    """Return what Ray deploys for a file."""
    replicas, settings = file.replicas, fleet_settings(file)
    scaling = AutoscalingConfig(
        min_replicas=replicas.min,
        max_replicas=replicas.max,
        initial_replicas=replicas.min,
        target_ongoing_requests=replicas.streams,
        upscale_delay_s=replicas.upscale_delay_s,
        downscale_delay_s=replicas.downscale_delay_s,
        look_back_period_s=replicas.look_back_s,
        metrics_interval_s=1.0,
        policy=AutoscalingPolicy(policy_function=replicas_for_streams),
    )
    deployment = serve.deployment(
        Replica,
        name="replica",
        autoscaling_config=scaling,
        max_ongoing_requests=_MOST_ONGOING,
        max_queued_requests=-1,
        max_replicas_per_node=replicas.per_node,
        max_surge_percent=replicas.surge,
        graceful_shutdown_timeout_s=file.shutdown_s(settings),
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5.0,
        ray_actor_options={
            "num_cpus": replicas.threads,
            "runtime_env": {"env_vars": file.environment},
        },
    )
    # Without one, Ray makes up a new one each time, and replaces replicas that need not be.
    version = f"{__version__}-{secrets.token_hex(4)}" if restarts else __version__
    deployment._version = version  # noqa: SLF001 (no public way is left)
    return deployment.bind()


def _check_address(file: FleetFile) -> None:
    from ray.serve.context import _get_global_client  # noqa: PLC0415

    controller = _get_global_client()._controller  # noqa: SLF001 (no public call tells it)
    found = ray.get(controller.get_http_config.remote(), timeout=_ASK_LIMIT_S)
    if (found.host, found.port) != (file.replica_host, file.port):
        raise BadRequest(
            f"the fleet's port is {found.port}, and the file says {file.port}; that changes only "
            "with `carousel fleet down FILE` and `up`"
        )


def _reason(file: FleetFile, error: RuntimeError) -> str:
    """Return the most telling line of what Ray reports."""
    found = serve.status().applications.get(file.name)
    lines = [str(error)]
    if found is not None:
        lines = [found.message, *(one.message for one in found.deployments.values())]
    return telling_line("\n".join(lines))


def rows(file: FleetFile) -> list[dict[str, object]]:
    """Return what the fleet consists of, and how each part is."""
    found: list[dict[str, object]] = []
    head = file.head.rpartition(":")[0]
    for node in ray.nodes():
        address = node["NodeManagerAddress"]
        cores = node["Resources"].get("CPU", 0.0)
        is_head = "node:__internal_head__" in node["Resources"] or address == head
        found.append(FleetNode(address, is_head, cores, node["Alive"]).row() | {"kind": "node"})
    return found


def status(file: FleetFile) -> dict[str, object]:
    """Return the state of the application and its replicas, the ingresses and the nodes."""
    state = serve.status()
    application = state.applications.get(file.name)
    deployments = {} if application is None else application.deployments
    return {
        "application": "NOT_STARTED" if application is None else str(application.status.value),
        "message": "" if application is None else application.message,
        "replicas": {
            str(name): count
            for one in deployments.values()
            for name, count in one.replica_states.items()
        },
        "ingresses": {node: str(one.value) for node, one in state.proxies.items()},
        "nodes": rows(file),
        "ray": RAY_VERSION,
    }


def down() -> None:
    """End the application and its ingresses; the nodes stay."""
    serve.shutdown()
