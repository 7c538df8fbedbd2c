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
from prometheus_client import Counter
from starlette.datastructures import Headers

from service.api_keys import SCOPES, ApiKey, Scope, digest_of
from service.errors import AdminClosed, KeyMissing, KeyUnknown, RateLimited, ScopeMissing
from service.key_watch import KeyWatch
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


@dataclass(frozen=True)
class _Known:
    """A key with what it has used up; `bucket` None: as much as it likes."""

    key: ApiKey
    caller: Caller
    bucket: TokenBucket | None
    accepted: Counter
    limited: Counter

    def count(self) -> None:
        """Raises RateLimited."""
        wait = 0.0 if self.bucket is None else self.bucket.take()
        if wait > 0:
            self.limited.inc()
            raise RateLimited(self.key.name, wait)
        self.accepted.inc()


class Gate:
    """The keys of the settings, each with its bucket: memory is theirs, not the callers'.

    Event loop only.
    """

    def __init__(
        self,
        keys: Sequence[ApiKey],
        limit: RateLimit | None,
        metrics: Metrics,
        watch: KeyWatch | None = None,
    ) -> None:
        """`watch` tells of keys that came or went while the service runs."""
        self._limit, self._metrics, self._watch = limit, metrics, watch
        self._known: list[_Known] = []
        self._use(keys)

    def admit(self, headers: Headers, scopes: Sequence[Scope]) -> Caller:
        """The caller, who has at least one of `scopes`, and one request less to make.

        Raises KeyMissing, KeyUnknown, ScopeMissing, AdminClosed, RateLimited.
        """
        if self._watch is not None and (keys := self._watch.news()) is not None:
            self._use(keys)
        if tuple(scopes) == ("admin",) and not self._has_admin:
            raise AdminClosed
        if not self._known:
            return _ANYBODY  # what is left are scopes that anybody has
        known = self._recognise(headers)
        known.count()
        if known.caller.scopes.isdisjoint(scopes):
            raise ScopeMissing(scopes)
        return known.caller

    def _recognise(self, headers: Headers) -> _Known:
        secret = _secret_in(headers)
        if not secret:
            raise KeyMissing
        if len(secret) > _LONGEST_SECRET:
            raise KeyUnknown
        digest = digest_of(secret)
        found: _Known | None = None
        # every key is compared, in constant time: how long it takes tells nothing
        for known in self._known:
            if hmac.compare_digest(known.key.digest, digest):
                found = known
        if found is None:
            raise KeyUnknown
        return found

    def _use(self, keys: Sequence[ApiKey]) -> None:
        """Names that stay keep what they have used up."""
        buckets = {known.key.name: known.bucket for known in self._known}
        self._known = [
            _Known(
                key,
                Caller(key.name, key.scopes),
                buckets.get(key.name) or self._new_bucket(),
                self._metrics.key_requests.labels(key.name, "accepted"),
                self._metrics.key_requests.labels(key.name, "limited"),
            )
            for key in keys
        ]
        self._has_admin = any("admin" in key.scopes for key in keys)

    def _new_bucket(self) -> TokenBucket | None:
        limit = self._limit
        return None if limit is None else TokenBucket(limit.per_second, limit.burst)


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
