"""Start the service on the shipped bundles; score a garment, a picture of none, two questions.

Run by `make demo`.  Exit code 0 only if the garment and the question the default text model was
made for are ID, and the other picture and the other question are OOD.
"""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from PIL import Image, ImageDraw

REPOSITORY = Path(__file__).parents[2]
GARMENT = Path(__file__).with_name("garment.png")  # Fashion-MNIST, MIT licence
# written for this demo: one of the assistant's 150 intents, and none of them
KNOWN_QUESTION = "please book me a flight from boston to paris for next friday"
UNKNOWN_QUESTION = "which animals did darwin describe on the galapagos islands"
READY_SECONDS = 60


def draw_smiley() -> bytes:
    """A face, drawn here: white on black like the garments, and no garment."""
    picture = Image.new("L", (28, 28), 0)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((2, 2, 25, 25), outline=255, width=2)
    draw.ellipse((8, 8, 11, 12), fill=255)
    draw.ellipse((16, 8, 19, 12), fill=255)
    draw.arc((7, 9, 20, 21), 20, 160, fill=255, width=2)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(client: httpx.Client, url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(f"the service stopped with exit code {server.returncode}; see above")
        try:
            if client.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"the service was not ready within {READY_SECONDS} s")


def score_image(
    client: httpx.Client, url: str, model: str, what: str, image: bytes, expected: str
) -> bool:
    """POST one image; print the answer in words.  True if the decision is the expected one."""
    answer = client.post(
        f"{url}/score",
        params={"model": model},
        content=image,
        headers={"Content-Type": "image/png"},
        timeout=30,
    )
    return told(answer, what) == expected


def score_text(client: httpx.Client, url: str, text: str, expected: str) -> bool:
    """The same of a text, by the default text model."""
    answer = client.post(f"{url}/score", json={"inputs": [{"text": text}]}, timeout=30)
    return told(answer, f"the question {text!r}") == expected


def told(answer: httpx.Response, what: str) -> str:
    """Print the answer to one input in words.  Returns the decision."""
    answer.raise_for_status()
    body = answer.json()
    (result,) = body["results"]
    model = body["model"]
    say(
        f"{what}: {result['decision']}  (label {result['label']!r}, confidence "
        f"{result['confidence']:.2f}, {result['detector']} score {result['score']:.2f}, "
        f"p-value {result['p_value']:.4f}, model {model['name']}/{model['version']})"
    )
    return str(result["decision"])


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "OODSCORE_PORT": str(port),
        "OODSCORE_HOST": "127.0.0.1",
        "OODSCORE_MODELS_DIR": str(REPOSITORY / "models"),
        "OODSCORE_SHUTDOWN_DELAY_SECONDS": "0",
        "OODSCORE_LOG_LEVEL": "warning",
    }
    command = [str(Path(sys.executable).with_name("oodscore")), "serve"]
    client = httpx.Client(trust_env=False)  # loopback: never through a proxy
    server = subprocess.Popen(command, env=environment)  # noqa: S603
    try:
        wait_until_ready(client, url, server)
        say(f"serving the bundles of models/ on {url}")
        garments = "fashion-mnist"
        sneaker = GARMENT.read_bytes()
        right = [
            score_image(client, url, garments, "a sneaker (Fashion-MNIST)", sneaker, "ID"),
            score_image(client, url, garments, "a smiley (drawn by code)", draw_smiley(), "OOD"),
            score_text(client, url, KNOWN_QUESTION, "ID"),
            score_text(client, url, UNKNOWN_QUESTION, "OOD"),
        ]
        metrics = client.get(f"{url}/metrics", timeout=10).text
        say("from /metrics:")
        for line in metrics.splitlines():
            if line.startswith("oodscore_decisions_total"):
                say(f"  {line}")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
    return 0 if all(right) else 1


if __name__ == "__main__":
    raise SystemExit(main())
