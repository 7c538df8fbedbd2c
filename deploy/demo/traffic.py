"""Send garments to a running service, then more and more drawings that are none.

    python traffic.py [--url http://127.0.0.1:8000] [--rate 5] [--calm 300] [--drift 600]

Run by `make traffic`, so that dashboards move and alerts come.  The garments are golden inputs of
the shipped bundle that the service itself finds ID, moved by a pixel, mirrored, a little lighter
or darker; the drawings are made here.  Ends with exit code 0 after `calm` + `drift` seconds.
"""

import argparse
import io
import random
import sys
import time
from pathlib import Path

import httpx
import numpy as np
from demo import GARMENT, REPOSITORY, draw_smiley
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

MODEL = "fashion-mnist"
HIGHEST_SHARE = 0.5  # of drawings, at the end of the drift
REPORT_SECONDS = 10


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def score(client: httpx.Client, image: bytes) -> bool:
    """True where the service says OOD."""
    headers = {"Content-Type": "image/png"}
    answer = client.post("/score", params={"model": MODEL}, content=image, headers=headers)
    if answer.status_code != httpx.codes.OK:
        raise SystemExit(f"/score answered {answer.status_code}: {answer.text[:300]}")
    return answer.json()["results"][0]["decision"] == "OOD"


def garments(client: httpx.Client, models: Path) -> list[Image.Image]:
    """The sneaker of the demo and the golden inputs, those of them that the service finds ID."""
    version = client.get(f"/models/{MODEL}").json()["version"]
    with np.load(models / MODEL / version / "golden.npz", allow_pickle=False) as golden:
        inputs: NDArray[np.uint8] = golden["inputs"]
    with Image.open(GARMENT) as sneaker:
        pictures = [sneaker.convert("L"), *(Image.fromarray(pixels[:, :, 0]) for pixels in inputs)]
    return [picture for picture in pictures if not score(client, png(picture))]


def varied(picture: Image.Image, rng: random.Random) -> Image.Image:
    """The same garment, seen a little differently."""
    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    moved = Image.new("L", picture.size)
    moved.paste(picture, (rng.randint(-1, 1), rng.randint(-1, 1)))
    return ImageEnhance.Brightness(moved).enhance(rng.uniform(0.9, 1.1))


def share_of_drawings(passed: float, calm: float, drift: float) -> float:
    """0 while calm, then rising evenly to HIGHEST_SHARE."""
    if passed < calm or drift == 0:
        return 0.0
    return HIGHEST_SHARE * min(1.0, (passed - calm) / drift)


def send(client: httpx.Client, pictures: list[Image.Image], options: argparse.Namespace) -> None:
    rng = random.Random(0)  # noqa: S311
    drawing = draw_smiley()
    began = reported = time.monotonic()
    sent = found = 0
    while (passed := time.monotonic() - began) < options.calm + options.drift:
        share = share_of_drawings(passed, options.calm, options.drift)
        strange = rng.random() < share
        image = drawing if strange else png(varied(rng.choice(pictures), rng))
        found += score(client, image)
        sent += 1
        if (now := time.monotonic()) - reported >= REPORT_SECONDS:
            say(f"{passed:4.0f} s: {sent} sent, {share:.0%} drawings, {found / sent:.0%} OOD")
            reported, sent, found = now, 0, 0
        time.sleep(max(0.0, began + passed + 1 / options.rate - time.monotonic()))


def main() -> int:
    parser = argparse.ArgumentParser(description="Traffic that drifts, for the dashboards.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--models", type=Path, default=REPOSITORY / "models")
    parser.add_argument("--rate", type=float, default=5.0, help="requests a second, at most")
    parser.add_argument("--calm", type=float, default=300.0, help="seconds of garments alone")
    parser.add_argument("--drift", type=float, default=600.0, help="seconds of more and more else")
    options = parser.parse_args()
    # loopback: never through a proxy
    with httpx.Client(base_url=options.url, trust_env=False, timeout=30) as client:
        try:
            pictures = garments(client, options.models)
        except httpx.TransportError as exc:
            raise SystemExit(f"nobody answers at {options.url} ({exc}); try make serve") from exc
        if not pictures:
            raise SystemExit(f"{MODEL} finds none of its golden inputs ID")
        say(f"{len(pictures)} garments, {options.calm:.0f} s as they are, then more and more else")
        send(client, pictures, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
