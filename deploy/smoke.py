"""Ask a running service for one score of every model it serves.  Standard library only.

    python smoke.py [URL]        default http://127.0.0.1:8000

Exit 0 when it is ready, answers and counts what it did; OODSCORE_SMOKE_KEY is sent as API key.
"""

import json
import os
import struct
import sys
import urllib.error
import urllib.request
import zlib

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(url: str, body: bytes | None = None, content_type: str = "") -> tuple[int, bytes]:
    headers = {"Content-Type": content_type} if body else {}
    if key := os.environ.get("OODSCORE_SMOKE_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310
    try:
        with OPENER.open(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read()


def png(side: int = 32) -> bytes:
    """A grey ramp, written by hand: 8-bit greyscale, no filter."""
    rows = b"".join(
        b"\0" + bytes((x + y) * 255 // (2 * side) for x in range(side)) for y in range(side)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
