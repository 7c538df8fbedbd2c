"""What is served: classes, detectors, thresholds, reports."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import FileResponse

from service.auth import ANY_KEY
from service.bundle import ImageInput, TextInput
from service.errors import ReportMissing
from service.loading import LoadedBundle
from service.repository import Repository
from service.routes.dependencies import RepositoryOf, RuntimeOf
from service.runtime import Runtime
from service.schemas import (
    DetectorInfo,
    ImageInfo,
    ModelInfo,
    ModelList,
    Problem,
    TextInfo,
    VersionInfo,
)
from service.security_headers import REPORT as REPORT_HEADERS

router = APIRouter(tags=["models"], dependencies=ANY_KEY)

REPORT = "report.html"
_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "Unknown model, version or report."},
    503: {"model": Problem, "description": "The models are being loaded."},
}


@router.get("/models", responses={503: _ERRORS[503]})
async def list_models(runtime: RuntimeOf) -> ModelList:
    """Every model at its default version, and every version in the models folder."""
    return model_list(runtime)


def model_list(runtime: Runtime) -> ModelList:
    """Raises NotReady."""
    repository = runtime.require_repository()
    return ModelList(
        models=[_info(repository, repository.get(name)) for name in repository.names],
        versions=[
            VersionInfo(
                name=version.name,
                version=version.version,
                state=version.state,
                error=version.error,
                since=version.since,
            )
            for version in runtime.versions()
        ],
        problem=runtime.reloader.folder.problem,
    )


@router.get("/models/{name}", responses=_ERRORS)
async def show_model(repository: RepositoryOf, name: str, version: str | None = None) -> ModelInfo:
    """One version of a model; its default one if `version` is left out."""
    return _info(repository, repository.get(name, version))


@router.get("/models/{name}/{version}/report", responses=_ERRORS, response_class=FileResponse)
async def show_report(repository: RepositoryOf, name: str, version: str) -> FileResponse:
    """The evaluation report the version was published with."""
    path = repository.get(name, version).file(REPORT)
    if path is None:
        raise ReportMissing(name, version)
    return FileResponse(path, media_type="text/html", headers=REPORT_HEADERS)


def _info(repository: Repository, bundle: LoadedBundle) -> ModelInfo:
    manifest = bundle.manifest
    has_report = bundle.file(REPORT) is not None
    return ModelInfo(
        name=bundle.name,
        version=bundle.version,
        versions=repository.versions(bundle.name),
        default=bundle.name == repository.defaults.get(bundle.modality),
        modality=manifest.modality,
        description=manifest.description,
        classes=list(manifest.class_names),
        input=_input_info(manifest.input),
        primary_detector=manifest.policy.primary,
        detectors=[
            DetectorInfo(
                name=spec.name,
                cost=spec.cost,
                threshold=spec.threshold,
                id_acceptance=spec.id_acceptance,
                calibration_size=spec.calibration_size,
                acceptance_interval=spec.acceptance_interval,
                on_demand=spec.on_demand,
                state=bundle.state(spec.graph),
                reference=spec.reference,
            )
            for spec in manifest.detectors
        ],
        provider=bundle.provider,
        variant=bundle.variant,
        digest=bundle.digest,
        created=manifest.provenance.created,
        report=f"/models/{bundle.name}/{bundle.version}/report" if has_report else None,
    )


def _input_info(spec: ImageInput | TextInput) -> ImageInfo | TextInfo:
    if isinstance(spec, TextInput):
        return TextInfo(max_tokens=spec.max_tokens, vocabulary_size=spec.vocabulary_size)
    return ImageInfo(height=spec.height, width=spec.width, channels=spec.channels)
