"""What the service kept for review, as flows."""

from urllib.parse import quote

from service.captures import CaptureList, CaptureRecord
from service.client.errors import ServiceRefused
from service.client.exchange import Call, Flow, Terms, exchange, parsed

_AT_ONCE = 1000


def captures(terms: Terms) -> Flow[list[CaptureRecord]]:
    """All pages of the list, each record once: the list may move between two pages."""
    found: dict[str, CaptureRecord] = {}
    offset, total = 0, 1
    while offset < total:
        page = {"offset": offset, "limit": _AT_ONCE}
        reply = yield from exchange(Call("GET", "/captures", page), terms)
        answer = parsed(reply, CaptureList, terms)
        found |= {record.id: record for record in answer.captures}
        offset, total = offset + _AT_ONCE, answer.total
    return list(found.values())


def capture(identity: str, terms: Terms) -> Flow[bytes | None]:
    try:
        reply = yield from exchange(Call("GET", f"/captures/{quote(identity, safe='')}", {}), terms)
    except ServiceRefused as refused:
        if refused.code == "unknown_capture":
            return None
        raise
    return reply.body
