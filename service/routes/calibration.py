"""The calibration scores behind the thresholds, as histograms."""

from fastapi import APIRouter

from service.auth import ANY_KEY
from service.routes.dependencies import RepositoryOf
from service.schemas import CalibrationHistogram, CalibrationHistograms, Problem

router = APIRouter(tags=["models"], dependencies=ANY_KEY)


@router.get(
    "/models/{name}/calibration",
    responses={
        404: {"model": Problem, "description": "Unknown model or version."},
        503: {"model": Problem, "description": "The models are being loaded."},
    },
)
async def show_calibration(
    repository: RepositoryOf, name: str, version: str | None = None
) -> CalibrationHistograms:
    """Where the scores of held-out in-distribution inputs lie, per detector: what a score is to be
    seen against."""
    bundle = repository.get(name, version)
    return CalibrationHistograms(
        name=bundle.name,
        version=bundle.version,
        variant=bundle.variant,
        detectors={
            detector: CalibrationHistogram(
                low=histogram.low,
                high=histogram.high,
                counts=list(histogram.counts),
                below=histogram.below,
                above=histogram.above,
            )
            for detector, histogram in bundle.histograms.items()
        },
    )
