"""The page at /: drop an image or type a text, and see what the model makes of it."""

from pathlib import Path

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

from service.security_headers import PAGE

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parents[1] / "page"
_INDEX = "index.html"
_MEDIA_TYPES = {
    _INDEX: "text/html",
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
    **dict.fromkeys(
        ("script.js", "service.js", "answer.js", "histogram.js", "examples.js"), "text/javascript"
    ),
}


@router.get("/")
async def index() -> FileResponse:
    """The page itself; it asks /models and /score."""
    return _file(_INDEX)


@router.get("/page/{name}")
async def asset(name: str) -> FileResponse:
    """Its style and its script."""
    if name not in _MEDIA_TYPES:
        raise HTTPException(404)
    return _file(name)


def _file(name: str) -> FileResponse:
    return FileResponse(_FOLDER / name, media_type=_MEDIA_TYPES[name], headers=PAGE)
