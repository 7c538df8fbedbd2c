"""Ask a running service for one score and see that it was counted.  Standard library only.

    python smoke.py [URL]        default http://127.0.0.1:8000

Exit 0 when the service is ready, answers and counts; 1 with the reason when not.
"""

import json
import struct
import sys
import urllib.error
import urllib.request
import zlib

# The service is asked itself, never through a proxy.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(url: str, body: bytes | None = None, content_type: str = "") -> tuple[int, bytes]:
    """GET, or POST when there is a body; status and body of the answer, errors included."""
    headers = {"Content-Type": content_type} if body else {}
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310
    try:
        with OPENER.open(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read()


def grey_ramp_png(side: int = 32) -> bytes:
    """An 8-bit greyscale picture, written by hand."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = (bytes((x + y) * 255 // (2 * side) for x in range(side)) for y in range(side))
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    )


def check(url: str) -> str:
    """One line about the score that came back.  Raises SystemExit with the reason."""
    status, body = call(f"{url}/readyz")
    if status != 200:
        raise SystemExit(f"/readyz answered {status}: {body[:300]!r}")

    status, body = call(f"{url}/score", grey_ramp_png(), "image/png")
    if status == 404:  # no image model is served; then a text model is
        text = json.dumps({"inputs": [{"text": "a short text"}]}).encode()
        status, body = call(f"{url}/score", text, "application/json")
    if status != 200:
        raise SystemExit(f"/score answered {status}: {body[:300]!r}")
    answer = json.loads(body)
    result = answer["results"][0]
    if result["decision"] not in ("ID", "OOD"):
        raise SystemExit(f"no decision in {body[:300]!r}")

    status, body = call(f"{url}/metrics")
    counted = f'oodscore_decisions_total{{decision="{result["decision"]}"'.encode()
    if status != 200 or counted not in body:
        raise SystemExit(f"/metrics answered {status} and does not count the decision")
    model = answer["model"]
    return (
        f"smoke: {model['name']} {model['version']} answered {result['decision']}, "
        f"p-value {result['p_value']:.3g}"
    )


if __name__ == "__main__":
    base = (sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000").rstrip("/")
    sys.stdout.write(check(base) + "\n")
