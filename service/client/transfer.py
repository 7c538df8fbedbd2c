"""What both clients need to send a request and to take its answer in."""

import time

import httpx

from service.client.errors import ServiceUnreachable
from service.client.exchange import Send, Terms
from service.client.options import RequestSize, Retries

_LARGEST_ANSWER_BYTES = 256 * 1024 * 1024


def terms_of(base_url: str, timeout_seconds: float, retries: Retries, size: RequestSize) -> Terms:
    """Raises ValueError."""
    if not timeout_seconds > 0:
        raise ValueError(f"timeout_seconds is {timeout_seconds}; it is above 0")
    return Terms(base_url, timeout_seconds, retries, size)


def url_of(base_url: str) -> httpx.URL:
    """Raises ServiceUnreachable."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as exc:
        raise ServiceUnreachable(f"{base_url}: {exc}") from exc
    if url.scheme not in ("http", "https") or not url.host:
        raise ServiceUnreachable(f"{base_url}: an address begins with http:// or https://")
    return url


def key_header(api_key: str | None) -> dict[str, str]:
    """Raises ValueError, which does not repeat the key."""
    if api_key is None:
        return {}
    if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise ValueError("the API key holds characters that no key has, or is empty")
    return {"Authorization": f"Bearer {api_key}"}


def headers_of(send: Send) -> dict[str, str]:
    """The service need not work longer than the caller waits."""
    headers = {"X-Request-Timeout": f"{send.timeout_seconds:.3f}"}
    if send.call.content_type is not None:
        headers["Content-Type"] = send.call.content_type
    return headers


class Body:
    """An answer as it comes in; httpx bounds each read, this the whole of it."""

    def __init__(self, timeout_seconds: float) -> None:
        self._data = bytearray()
        self._give_up_at = time.monotonic() + timeout_seconds

    def add(self, chunk: bytes) -> None:
        """Raises httpx.ReadTimeout; httpx.DecodingError for an answer of no sensible size."""
        self._data += chunk
        if len(self._data) > _LARGEST_ANSWER_BYTES:
            raise httpx.DecodingError(f"the answer is larger than {_LARGEST_ANSWER_BYTES} bytes")
        if time.monotonic() > self._give_up_at:
            raise httpx.ReadTimeout("the answer did not end in time")

    def whole(self) -> bytes:
        return bytes(self._data)
