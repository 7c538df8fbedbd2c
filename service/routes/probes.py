"""Liveness, readiness, metrics."""

import asyncio

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from service.auth import METRICS_KEY
from service.routes.dependencies import RuntimeOf
from service.schemas import Problem, Status

router = APIRouter()


@router.head("/livez", include_in_schema=False)
@router.get("/livez", tags=["operation"])
async def livez() -> Status:
    """The process answers."""
    return Status(status="alive")


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    tags=["operation"],
    responses={503: {"model": Problem, "description": "Loading the models, or shutting down."}},
)
async def readyz(runtime: RuntimeOf) -> Status:
    """All models are verified and the service is not shutting down."""
    runtime.check_ready()
    return Status(status="ready")


@router.get("/metrics", tags=["operation"], response_class=Response, dependencies=METRICS_KEY)
async def metrics(runtime: RuntimeOf) -> Response:
    """Prometheus text format."""
    # rendering thousands of lines takes tens of milliseconds
    text = await asyncio.to_thread(generate_latest, runtime.metrics.registry)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})
