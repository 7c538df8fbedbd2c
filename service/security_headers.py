"""What every answer tells the browser it may be shown in.

An answer allows nothing; the pages of the service allow their own files and nothing inline; no
answer may be framed, guessed at, or sent on with its address.
"""

from collections.abc import Mapping

_NOWHERE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_NOTHING = f"default-src 'none'; {_NOWHERE}"

# on every answer that does not say otherwise
DEFAULTS: Mapping[str, str] = {
    "Content-Security-Policy": _NOTHING,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_RAW_DEFAULTS = [(name.lower().encode(), value.encode()) for name, value in DEFAULTS.items()]

PAGE: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    f"img-src 'self' blob:; connect-src 'self'; {_NOWHERE}",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
}
# Swagger UI draws with inline styles and icons; its scripts are files like ours
DOCUMENTATION: Mapping[str, str] = {
    **PAGE,
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    f"style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; {_NOWHERE}",
}
# a report may draw and style itself; it may not run scripts, load anything or be framed
REPORT: Mapping[str, str] = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    f"{_NOWHERE}; sandbox",
    "Cache-Control": "no-cache",
}
# what callers sent is never shown as a page of this service
CAPTURE: Mapping[str, str] = {"Content-Security-Policy": f"{_NOTHING}; sandbox"}


def add_defaults(headers: list[tuple[bytes, bytes]]) -> None:
    """Those of `DEFAULTS` the answer does not have yet; names are small letters, as in ASGI."""
    given = {name for name, _ in headers}
    headers.extend(pair for pair in _RAW_DEFAULTS if pair[0] not in given)
