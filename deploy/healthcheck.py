"""Exit 0 when the service is ready, 1 when it is not.  Standard library only.

    python healthcheck.py [PORT]

The port is the argument, or OODSCORE_PORT, or 8000; the path is OODSCORE_HEALTH_PATH
or /readyz; OODSCORE_HOST counts when it names one address rather than all of them.
"""

import http.client
import os
import sys

TIMEOUT_SECONDS = 2.0
ALL_ADDRESSES = {"", "0.0.0.0", "::"}  # noqa: S104 - compared with, never bound


def target(arguments: list[str], environment: dict[str, str]) -> tuple[str, int, str]:
    """Host, port and path to ask."""
    host = environment.get("OODSCORE_HOST", "")
    port = int(arguments[0] if arguments else environment.get("OODSCORE_PORT") or 8000)
    path = environment.get("OODSCORE_HEALTH_PATH") or "/readyz"
    return "127.0.0.1" if host in ALL_ADDRESSES else host, port, path


def is_ready(host: str, port: int, path: str) -> bool:
    """Whether a GET answers 200.  Talks to the address itself: proxies are not asked."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> int:
    host, port, path = target(sys.argv[1:], dict(os.environ))
    if is_ready(host, port, path):
        return 0
    sys.stderr.write(f"not ready: http://{host}:{port}{path}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
