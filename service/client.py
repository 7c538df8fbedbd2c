"""A small synchronous client of the service.

with ScoreClient("http://127.0.0.1:8000") as client:
    response = client.score_images([Path("cat.png").read_bytes()])
    response = client.score_texts(["my card was declined"])
    print(response.results[0])
"""

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import httpx
from pydantic import ValidationError

from service.captures import CaptureList, CaptureRecord
from service.schemas import ModelInfo, ModelList, Problem, ScoreParameters, ScoreResponse

_CAPTURES_AT_ONCE = 1000


class ClientError(Exception):
    """The service gave no usable answer."""


class ServiceUnreachable(ClientError):
    """No connection, or it broke."""


class ServiceRefused(ClientError):
    """The service answered with a problem document; branch on `code`."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status, self.code, self.detail = status, code, detail


class ScoreClient:
    """One connection pool to one service; thread-safe as httpx.Client is."""

    def __init__(
        self, base_url: str, *, api_key: str | None = None, timeout_seconds: float = 60.0
    ) -> None:
        headers = {} if api_key is None else {"X-API-Key": api_key}
        self._http = httpx.Client(base_url=base_url, timeout=timeout_seconds, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def score_images(
        self, images: Sequence[bytes], parameters: ScoreParameters | None = None
    ) -> ScoreResponse:
        """Encoded images -> one result each, in order.  Raises ClientError.

        A single image that cannot be read raises ServiceRefused; among several it is a
        FailedResult.
        """
        files = [("file", ("image", image)) for image in images]
        return self._score(parameters, files=files)

    def score_texts(
        self, texts: Sequence[str], parameters: ScoreParameters | None = None
    ) -> ScoreResponse:
        """Texts -> one result each, in order.  Raises ClientError, as score_images does."""
        # escaped, so that half a surrogate pair can be sent, and refused there
        body = json.dumps({"inputs": [{"text": text} for text in texts]}).encode()
        return self._score(parameters, content=body, content_type="application/json")

    def score_npy(self, body: bytes, parameters: ScoreParameters | None = None) -> ScoreResponse:
        """Bytes of numpy.save, uint8 (N, H, W, C), or (N, H, W) with W not 1, 3, 4 -> N results."""
        return self._score(parameters, content=body, content_type="application/x-npy")

    def models(self) -> list[ModelInfo]:
        return ModelList.model_validate_json(self._send("GET", "/models").content).models

    def captures(self) -> list[CaptureRecord]:
        """Everything kept for review.  Raises ClientError; a service asks for its admin key."""
        found: dict[str, CaptureRecord] = {}  # the list may move between two pages
        offset, total = 0, 1
        while offset < total:
            page = {"offset": offset, "limit": _CAPTURES_AT_ONCE}
            answer = self._send("GET", "/captures", params=page)
            captures = CaptureList.model_validate_json(answer.content)
            found |= {record.id: record for record in captures.captures}
            offset, total = offset + _CAPTURES_AT_ONCE, captures.total
        return list(found.values())

    def capture(self, identity: str) -> bytes | None:
        """One input; None where it went meanwhile.  Raises ClientError."""
        try:
            return self._send("GET", f"/captures/{identity}").content
        except ServiceRefused as exc:
            if exc.code == "unknown_capture":
                return None
            raise

    def _score(
        self,
        parameters: ScoreParameters | None,
        *,
        files: list[tuple[str, tuple[str, bytes]]] | None = None,
        content: bytes | None = None,
        content_type: str | None = None,
    ) -> ScoreResponse:
        query = (parameters or ScoreParameters()).model_dump(exclude_none=True)
        headers = {} if content_type is None else {"Content-Type": content_type}
        response = self._send(
            "POST", "/score", params=query, files=files, content=content, headers=headers
        )
        try:
            return ScoreResponse.model_validate_json(response.content)
        except ValidationError as exc:
            raise ClientError(f"{response.url} does not answer like oodscore: {exc}") from exc

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | float] | None = None,
        files: list[tuple[str, tuple[str, bytes]]] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        try:
            response = self._http.request(
                method, path, params=params, files=files, content=content, headers=headers
            )
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise ServiceUnreachable(f"{self._http.base_url}: {exc}") from exc
        if response.is_success:
            return response
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            raise ServiceRefused(response.status_code, "unknown", response.text[:200]) from None
        raise ServiceRefused(problem.status, problem.code, problem.detail)
