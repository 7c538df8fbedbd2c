"""An example receiver: every alert that Alertmanager sends becomes one JSON line.

    python webhook.py [PORT]        default 8080

GET answers 200, for health checks.  Standard library only.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_LARGEST_BODY = 1_000_000


def lines(notification: dict[str, Any]) -> list[str]:
    """Of Alertmanager's webhook, version 4: status, labels and annotations of each alert."""
    return [
        json.dumps(
            {"status": alert["status"], **alert["labels"], **alert["annotations"]}, sort_keys=True
        )
        for alert in notification["alerts"]
    ]


class Receiver(BaseHTTPRequestHandler):
    timeout = 10

    def do_GET(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", "0"))
        if size > _LARGEST_BODY:
            self._answer(413)
            return
        try:
            received = lines(json.loads(self.rfile.read(size)))
        except (ValueError, KeyError, TypeError):
            self._answer(400)
            return
        for line in received:
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
        self._answer(200)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: what was received is the log."""

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    ThreadingHTTPServer(("", port), Receiver).serve_forever()
