"""POST /models/reload."""

from fastapi import APIRouter

from service.auth import ADMIN_KEY
from service.routes.dependencies import RuntimeOf
from service.routes.models import model_list
from service.schemas import ModelList, Problem

router = APIRouter(tags=["operation"], dependencies=ADMIN_KEY)


@router.post(
    "/models/reload",
    responses={
        401: {"model": Problem, "description": "No key, or an unknown one."},
        403: {"model": Problem, "description": "The key may not administer, or none may."},
        503: {"model": Problem, "description": "The models are being loaded."},
    },
)
async def reload_models(runtime: RuntimeOf) -> ModelList:
    """Look at the models folder now; answers once what is new is served or refused.

    Every folder counts as complete, and what was refused is tried again.
    """
    runtime.require_repository()  # not held: a request may be the last to hold an old version
    await runtime.reloader.look()
    return model_list(runtime)
