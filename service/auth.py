"""Who may ask for what.

Without keys in the settings everybody may score and read metrics, and nobody may administer: an
admin endpoint is refused rather than open.  With keys every route but the page, its files, the
documentation and the probes wants one, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.

Routes depend on one of `require_key` (scope `score`), `require_any_key`, `require_metrics` or
`require_admin`; a route that reads its own body calls it before reading.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.datastructures import Headers

from service.api_keys import SCOPES, ApiKey, Scope, digest_of
from service.errors import AdminClosed, KeyMissing, KeyUnknown, RateLimited, ScopeMissing
from service.metrics import Metrics
from service.rate_limit import TokenBucket

_LONGEST_SECRET = 256  # ours have 52 characters; more is not worth hashing
_BEARER = "bearer"

# how the documentation page learns of them; the check itself reads the headers
_SCHEMES = [
    Depends(HTTPBearer(auto_error=False, description="An API key, where the service wants one.")),
    Depends(APIKeyHeader(name="X-API-Key", auto_error=False)),
]


@dataclass(frozen=True)
class RateLimit:
    """Requests of one key: a second in the long run, and at once after a pause."""

    per_second: float
    burst: int


@dataclass(frozen=True)
class Caller:
    """Who asks.  `name` is that of the key, None where no key is wanted."""

    name: str | None
    scopes: frozenset[Scope]


_ANYBODY = Caller(None, frozenset({"score", "metrics"}))


class Gate:
    """The keys of the settings, each with its bucket: memory is theirs, not the callers'."""

    def __init__(self, keys: Sequence[ApiKey], limit: RateLimit | None, metrics: Metrics) -> None:
        self._keys = [(key, Caller(key.name, key.scopes)) for key in keys]
        self._buckets = (
            {}
            if limit is None
            else {k.name: TokenBucket(limit.per_second, limit.burst) for k in keys}
        )
        self._accepted = {
            key.name: metrics.key_requests.labels(key.name, "accepted") for key in keys
        }
        self._limited = {key.name: metrics.key_requests.labels(key.name, "limited") for key in keys}
        self._has_admin = any("admin" in key.scopes for key in keys)

    @property
    def closed(self) -> bool:
        """Whether a key is needed to score."""
        return bool(self._keys)

    def admit(self, headers: Headers, scopes: Sequence[Scope]) -> Caller:
        """The caller, who has at least one of `scopes`, and one request less to make.

        Raises KeyMissing, KeyUnknown, ScopeMissing, AdminClosed, RateLimited.
        """
        if tuple(scopes) == ("admin",) and not self._has_admin:
            raise AdminClosed
        caller = self._recognise(headers)
        if caller.name is not None:
            self._count(caller.name)
        if caller.scopes.isdisjoint(scopes):
            raise ScopeMissing(scopes)
        return caller

    def _recognise(self, headers: Headers) -> Caller:
        if not self._keys:
            return _ANYBODY
        secret = _secret_in(headers)
        if not secret:
            raise KeyMissing
        if len(secret) > _LONGEST_SECRET:
            raise KeyUnknown
        digest = digest_of(secret)
        found: Caller | None = None
        # every key is compared, in constant time: how long it takes tells nothing
        for key, caller in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = caller
        if found is None:
            raise KeyUnknown
        return found

    def _count(self, name: str) -> None:
        bucket = self._buckets.get(name)
        wait = 0.0 if bucket is None else bucket.take()
        if wait > 0:
            self._limited[name].inc()
            raise RateLimited(name, wait)
        self._accepted[name].inc()


def _secret_in(headers: Headers) -> bytes:
    """Header values are latin-1: any bytes come through, none raise."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == _BEARER:
        return credentials.strip().encode("latin-1")
    return headers.get("x-api-key", "").strip().encode("latin-1")


def gate_of(request: Request) -> Gate:
    return request.app.state.gate


def admit(request: Request, *scopes: Scope) -> Caller:
    """Raises what Gate.admit does; the access log names the caller's key from here on."""
    caller = gate_of(request).admit(request.headers, scopes)
    request.state.key_name = caller.name
    return caller


async def require_key(request: Request) -> Caller:
    """Scope `score`; anybody where no key is configured."""
    return admit(request, "score")


async def require_any_key(request: Request) -> Caller:
    """Any key: what is served, with which thresholds."""
    return admit(request, *SCOPES)


async def require_metrics(request: Request) -> Caller:
    """Scope `metrics` or `admin`; anybody where no key is configured."""
    return admit(request, "metrics", "admin")


async def require_admin(request: Request) -> Caller:
    """Scope `admin`, always."""
    return admit(request, "admin")


# for `APIRouter(dependencies=...)` and the decorators of routes
KEY = [Depends(require_key), *_SCHEMES]
ANY_KEY = [Depends(require_any_key), *_SCHEMES]
METRICS_KEY = [Depends(require_metrics), *_SCHEMES]
ADMIN_KEY = [Depends(require_admin), *_SCHEMES]
