"""Capture for review: the list, one input of it, and its deletion.  Admins only."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from service.auth import ADMIN_KEY
from service.captures import CaptureList, CaptureStore
from service.errors import CaptureMissing, CapturesOff
from service.routes.dependencies import RuntimeOf
from service.schemas import Problem
from service.security_headers import CAPTURE

_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "No API key, or an unknown one."},
    403: {"model": Problem, "description": "The key lacks the scope admin, or no key has it."},
    404: {"model": Problem, "description": "Captures are off, or there is none of that id."},
}

router = APIRouter(tags=["captures"], dependencies=ADMIN_KEY, responses=_ERRORS)


async def _store_of(runtime: RuntimeOf) -> CaptureStore:
    """Raises CapturesOff."""
    if runtime.captures is None:
        raise CapturesOff
    return runtime.captures


StoreOf = Annotated[CaptureStore, Depends(_store_of)]


@router.get("/captures")
async def list_captures(
    store: StoreOf,
    model: str | None = None,
    version: str | None = None,
    label: str | None = None,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> CaptureList:
    """The most OOD inputs of each predicted label, by model and version, the most OOD first."""
    wanted = {"model": model, "version": version, "label": label}
    records = [
        record
        for record in await asyncio.to_thread(store.records)
        if all(value in (None, getattr(record, name)) for name, value in wanted.items())
    ]
    return CaptureList(
        captures=records[offset : offset + limit],
        total=len(records),
        stored=store.stored,
        stored_bytes=store.stored_bytes,
    )


@router.get("/captures/{identity}", response_class=Response)
async def show_capture(store: StoreOf, identity: str) -> Response:
    """The input as it is kept."""
    found = await asyncio.to_thread(store.read, identity)
    if found is None:
        raise CaptureMissing(identity)
    record, data = found
    disposition = f'attachment; filename="{record.file_name}"'
    return Response(
        data,
        media_type=record.media_type,
        headers={**CAPTURE, "Content-Disposition": disposition},
    )


@router.delete("/captures/{identity}", status_code=204)
async def delete_capture(store: StoreOf, identity: str) -> None:
    """Delete one for good."""
    if not await asyncio.to_thread(store.remove, identity):
        raise CaptureMissing(identity)
