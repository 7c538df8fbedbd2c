"""The Open Inference Protocol: health, and what the server and its models say of themselves."""

from fastapi import APIRouter

from service.auth import ANY_KEY
from service.open_inference import (
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
    model_metadata,
    server_metadata,
)
from service.routes.dependencies import RepositoryOf, RuntimeOf
from service.routes.v2_openapi import ERRORS, UNKNOWN

router = APIRouter(tags=["open inference protocol"])


@router.get("/v2/health/live")
async def live() -> ServerLive:
    """The process answers."""
    return ServerLive(live=True)


@router.get("/v2/health/ready", responses=ERRORS)
async def ready(runtime: RuntimeOf) -> ServerReady:
    """All models are verified and the service is not shutting down."""
    runtime.check_ready()
    return ServerReady(ready=True)


@router.get("/v2")
async def server() -> ServerMetadata:
    """Name, release, extensions."""
    return server_metadata()


@router.get("/v2/models/{name}", dependencies=ANY_KEY, responses=UNKNOWN)
async def model(repository: RepositoryOf, name: str) -> ModelMetadata:
    """Inputs and outputs of a model's default version."""
    return model_metadata(repository.get(name).manifest, repository.versions(name))


@router.get("/v2/models/{name}/versions/{version}", dependencies=ANY_KEY, responses=UNKNOWN)
async def model_version(repository: RepositoryOf, name: str, version: str) -> ModelMetadata:
    """Inputs and outputs of one version."""
    return model_metadata(repository.get(name, version).manifest, repository.versions(name))


@router.get("/v2/models/{name}/ready", dependencies=ANY_KEY, responses=UNKNOWN)
async def model_ready(repository: RepositoryOf, name: str) -> ModelReady:
    """Whether the model is served."""
    return ModelReady(name=repository.get(name).name, ready=True)


@router.get("/v2/models/{name}/versions/{version}/ready", dependencies=ANY_KEY, responses=UNKNOWN)
async def version_ready(repository: RepositoryOf, name: str, version: str) -> ModelReady:
    """Whether that version is loaded."""
    return ModelReady(name=repository.get(name, version).name, ready=True)
