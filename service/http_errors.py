"""Error -> HTTP.  One table; problem documents of RFC 9457; never a stack trace."""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from service import errors
from service.errors import (
    AccessDenied,
    DetectorUnavailable,
    Overloaded,
    RateLimited,
    ServiceError,
)
from service.logs import request_id
from service.schemas import Problem, describe_problems

PROBLEM_JSON = "application/problem+json"
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")

STATUS: Mapping[type[ServiceError], int] = {
    errors.MalformedRequest: 400,
    errors.InvalidParameter: 400,
    errors.NoInputs: 400,
    errors.AcceptanceOutOfReach: 400,
    errors.UnknownDetector: 400,
    errors.UnknownTensor: 400,
    errors.MixedModalities: 400,
    errors.KeyMissing: 401,
    errors.KeyUnknown: 401,
    errors.ScopeMissing: 403,
    errors.AdminClosed: 403,
    errors.UnknownModel: 404,
    errors.UnknownVersion: 404,
    errors.ReportMissing: 404,
    errors.CapturesOff: 404,
    errors.CaptureMissing: 404,
    errors.BodyTooLarge: 413,
    errors.TooManyInputs: 413,
    errors.TensorTooLong: 413,
    errors.JsonTooLong: 413,
    errors.ImageTooLarge: 413,
    errors.ImageTooManyPixels: 413,
    errors.TextTooLong: 413,
    errors.ContentTypeUnsupported: 415,
    errors.ContentEncodingUnsupported: 415,
    errors.ArrayInvalid: 422,
    errors.TensorInvalid: 422,
    errors.ImageUnreadable: 422,
    errors.ImageAnimated: 422,
    errors.TextUnreadable: 422,
    errors.Base64Invalid: 422,
    errors.WrongModality: 422,
    errors.ModalityNotServed: 422,
    errors.Overloaded: 429,
    errors.RateLimited: 429,
    errors.HeadTooLarge: 431,
    errors.InferenceFailed: 500,
    errors.ScoreNotFinite: 500,
    errors.DetectorUnavailable: 503,
    errors.NotReady: 503,
    errors.ShuttingDown: 503,
    errors.DeadlinePassed: 504,
}


def is_open_inference(path: str) -> bool:
    """Paths of the Open Inference Protocol, which has a form of its own for errors."""
    return path == "/v2" or path.startswith("/v2/")


def problem_response(
    status: int, code: str, detail: str, instance: str, headers: Mapping[str, str] | None = None
) -> Response:
    if is_open_inference(instance):
        body = to_json({"error": detail, "code": code})
        return Response(body, status, headers=dict(headers or {}), media_type="application/json")
    problem = Problem(
        type=f"urn:oodscore:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=instance,
        code=code,
        request_id=request_id.get() or "",
    )
    return Response(
        problem.model_dump_json(), status, headers=dict(headers or {}), media_type=PROBLEM_JSON
    )


def service_error_response(
    error: ServiceError, instance: str, more_headers: Mapping[str, str] | None = None
) -> Response:
    headers = dict(more_headers or {})
    if isinstance(error, AccessDenied):
        headers["WWW-Authenticate"] = error.challenge
    elif isinstance(error, Overloaded | RateLimited | DetectorUnavailable):
        headers["Retry-After"] = str(error.retry_after_seconds)
    elif STATUS[type(error)] == 503:
        headers["Retry-After"] = "1"
    return problem_response(STATUS[type(error)], error.code, error.detail, instance, headers)


def internal_error_response(instance: str) -> Response:
    return problem_response(
        500, "internal_error", "an error of the service; its log has the cause", instance
    )


def refusal(request: Request, error: ServiceError) -> Response:
    """The answer to a request that raised it; counted."""
    request.app.state.runtime.metrics.rejected_requests.labels(error.code).inc()
    headers = getattr(request.state, "answer_headers", None)
    # the frames of its traceback hold it, and the request, until a full garbage collection
    error.__traceback__ = None
    return service_error_response(error, request.url.path, headers)


def install(app: FastAPI) -> None:
    """Answer every refusal of the routes, of FastAPI and of the router as a problem."""

    async def on_service_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, ServiceError)  # noqa: S101  registered for nothing else
        return refusal(request, exc)

    async def on_validation_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)  # noqa: S101
        return await on_service_error(
            request, errors.InvalidParameter(describe_problems(exc.errors()))
        )

    async def on_http_exception(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)  # noqa: S101
        code = HTTPStatus(exc.status_code).name.lower()
        headers = exc.headers
        if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers = {"Allow": _allowed_methods(request)}
        return problem_response(exc.status_code, code, str(exc.detail), request.url.path, headers)

    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_exception)


def _allowed_methods(request: Request) -> str:
    """Of every route of that path: starlette names those of the first one only."""

    def allowed(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] == Match.FULL for route in request.app.routes)

    return ", ".join(method for method in _METHODS if allowed(method))
