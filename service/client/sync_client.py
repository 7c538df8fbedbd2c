"""ScoreClient: flows done with httpx.Client and time.sleep."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

from service.captures import CaptureRecord
from service.client import captures, scoring
from service.client.exchange import Flow, Outcome, Reply, Send, Wait
from service.client.options import DEFAULT_RETRIES, DEFAULT_SIZE, RequestSize, Retries
from service.client.transfer import Body, headers_of, key_header, terms_of, url_of
from service.schemas import ModelInfo, ScoreParameters, ScoreResponse

_T = TypeVar("_T")
_ALL = ScoreParameters()


class ScoreClient:
    """One connection pool to one service; thread-safe as httpx.Client is."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 60.0,
        retries: Retries = DEFAULT_RETRIES,
        request_size: RequestSize = DEFAULT_SIZE,
    ) -> None:
        """`timeout_seconds` is for one request with all its retries; a list that is cut into
        several requests has it for each.  (A server that keeps sending its headers byte by byte
        can stretch it here; AsyncScoreClient cuts it off.)

        Raises ServiceUnreachable: no address; ValueError: a key or a time that is none.
        """
        self._terms = terms_of(base_url, timeout_seconds, retries, request_size)
        self._http = httpx.Client(base_url=url_of(base_url), headers=key_header(api_key))

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
        self, images: Sequence[bytes], parameters: ScoreParameters = _ALL
    ) -> ScoreResponse:
        """Encoded images -> one result each, in order.  Raises ClientError.

        A single image that cannot be read raises ServiceRefused; among several it is a
        FailedResult.  One version of the model answers all of them.
        """
        return self._do(scoring.score_images(images, parameters, self._terms))

    def score_texts(
        self, texts: Sequence[str], parameters: ScoreParameters = _ALL
    ) -> ScoreResponse:
        """Texts -> one result each, in order.  Raises ClientError, as score_images does."""
        return self._do(scoring.score_texts(texts, parameters, self._terms))

    def score_array(
        self, images: NDArray[np.uint8], parameters: ScoreParameters = _ALL
    ) -> ScoreResponse:
        """uint8 (N, H, W, C), or (N, H, W) with W not 1, 3, 4 -> N results, as score_images."""
        return self._do(scoring.score_array(images, parameters, self._terms))

    def score_npy(self, body: bytes, parameters: ScoreParameters = _ALL) -> ScoreResponse:
        """Bytes of numpy.save of such an array -> N results."""
        return self._do(scoring.score_npy(body, parameters, self._terms))

    def models(self) -> list[ModelInfo]:
        """What is served.  Raises ClientError."""
        return self._do(scoring.models(self._terms))

    def captures(self) -> list[CaptureRecord]:
        """Everything kept for review; for a key with scope admin.  Raises ClientError."""
        return self._do(captures.captures(self._terms))

    def capture(self, identity: str) -> bytes | None:
        """One input; None where it went meanwhile.  Raises ClientError."""
        return self._do(captures.capture(identity, self._terms))

    def _do(self, flow: Flow[_T]) -> _T:
        outcome: Outcome = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as stop:
                return stop.value
            outcome = self._wait(step) if isinstance(step, Wait) else self._send(step)

    def _wait(self, step: Wait) -> None:
        time.sleep(step.seconds)

    def _send(self, send: Send) -> Outcome:
        body = Body(send.timeout_seconds)
        call = send.call
        try:
            with self._http.stream(
                call.method,
                call.path,
                params=call.query,
                content=call.content,
                files=call.files,
                headers=headers_of(send),
                timeout=send.timeout_seconds,
            ) as response:
                for chunk in response.iter_bytes():
                    body.add(chunk)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            return exc
        return Reply(response.status_code, response.headers, body.whole())
