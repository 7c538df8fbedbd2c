"""GET /docs: Swagger UI from a package of this environment; nothing comes from elsewhere."""

import asyncio
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse

from service.security_headers import DOCUMENTATION

router = APIRouter(include_in_schema=False)

_OURS = Path(__file__).parents[1] / "page"
_SWAGGER_UI = Path(str(files("fastapi_swagger.resources")))
_ASSETS = {
    "swagger-ui.css": (_SWAGGER_UI, "text/css"),
    "swagger-ui-bundle.js": (_SWAGGER_UI, "text/javascript"),
    "docs.js": (_OURS, "text/javascript"),
}


@router.get("/openapi.json")
async def openapi_document(request: Request) -> JSONResponse:
    """Made on the first call, in a thread."""
    return JSONResponse(await asyncio.to_thread(request.app.openapi))


@router.get("/docs")
async def docs() -> FileResponse:
    """Every route, with examples that run."""
    return FileResponse(_OURS / "docs.html", media_type="text/html", headers=DOCUMENTATION)


@router.get("/docs/{name}")
async def docs_asset(name: str) -> FileResponse:
    if name not in _ASSETS:
        raise HTTPException(404)
    folder, media_type = _ASSETS[name]
    return FileResponse(folder / name, media_type=media_type, headers=DOCUMENTATION)
