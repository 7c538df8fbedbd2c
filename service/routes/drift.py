"""GET /drift."""

import asyncio

from fastapi import APIRouter

from service.auth import METRICS_KEY
from service.drift import DriftReport
from service.routes.dependencies import RepositoryOf, RuntimeOf
from service.schemas import Problem

router = APIRouter(tags=["operation"], dependencies=METRICS_KEY)


@router.get(
    "/drift",
    responses={
        404: {"model": Problem, "description": "Unknown model or version."},
        503: {"model": Problem, "description": "The models are being loaded."},
    },
)
async def show_drift(
    runtime: RuntimeOf, repository: RepositoryOf, model: str | None = None
) -> DriftReport:
    """Do the inputs still look like those the models were calibrated on?"""
    if model is not None:
        repository.get(model)
    if runtime.drift is None:
        return DriftReport(tracking=False, models=[])
    reports = await asyncio.to_thread(runtime.drift.reports)
    kept = [report for report in reports if model is None or report.name == model]
    return DriftReport(tracking=True, models=kept)
