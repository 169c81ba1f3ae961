"""The service routes: liveness, readiness and information."""

import json
from typing import Any

from fastapi import APIRouter, Request, Response

from service import __version__
from service.api.fields import MAX_CHOICES, MAX_NEW_TOKENS, MAX_PROMPT_CHARACTERS, MAX_STOPS
from service.api.model_description import described
from service.api.state import get_state

router = APIRouter(tags=["service"])


@router.get("/health/live", response_class=Response)
async def live() -> Response:
    """Return 200 while the event loop runs."""
    return Response()


@router.get("/health/ready", response_class=Response)
@router.get("/health", response_class=Response)
@router.get("/ping", include_in_schema=False)
async def ready(request: Request) -> Response:
    """Return 200 if requests of every kind, those of sessions too, would be accepted, else 503.

    Without its store the server is not ready, although it goes on generating without sessions.
    """
    problem = get_state(request).problem
    if problem is None:
        return Response()
    body = json.dumps({"error": "unhealthy", "error_type": "healthcheck", "reason": problem})
    return Response(body, 503, {"Retry-After": "1"}, "application/json")


@router.get("/info")
async def info(request: Request) -> dict[str, Any]:
    """Return the members of TGI's reply, and every loaded model."""
    state = get_state(request)
    registry, config, loaded = state.registry, state.engine_config, list(state.loaded())
    default = next((m for m in loaded if m.ref == registry.aliases.get("default")), None)
    return {
        "model_id": str(default.ref) if default else None,
        "model_sha": default.manifest.digest if default else None,
        "model_pipeline_tag": "text-generation",
        # Per model. With a large vocabulary an engine has fewer rows (`max_table_entries`).
        "max_concurrent_requests": config.max_rows + config.queue_limit,
        "max_best_of": MAX_CHOICES,
        "max_stop_sequences": MAX_STOPS,
        "max_input_tokens": MAX_PROMPT_CHARACTERS,
        "max_total_tokens": MAX_PROMPT_CHARACTERS + MAX_NEW_TOKENS,
        "validation_workers": 1,
        "max_client_batch_size": 1,
        "router": "carousel",
        "process": state.fleet.process,
        "version": __version__,
        "sha": None,
        "docker_label": None,
        "models": [
            {
                "id": str(model.ref),
                "digest": model.manifest.digest,
                "precision": model.precision,
                "device": model.runtime.device,
                "architecture": model.spec.summary,
                **described(model),
                "state_bytes": model.spec.state_bytes,
                "running": model.runtime.running,
                "waiting": model.runtime.waiting,
            }
            for model in loaded
        ],
    }
