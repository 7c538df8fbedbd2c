"""What does decoding cost, and what does it let through?  python -m benchmarks.image_decoding

The service's decoding (Pillow, limits checked in the header) beside torchvision's and, where it is
installed, OpenCV's: PNG and JPEG made here, 32 to 2,000 pixels a side; processor milliseconds an
image, the decoders in turn within every round, medians.  And what each does with a file that is
cut, and with a header that announces 2.5 gigapixels.  Prints it and writes
results/image_decoding.json.
"""

import argparse
import importlib
import io
import json
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import zoom
from torchvision.io import ImageReadMode
from torchvision.io import decode_image as torchvision_decode

from benchmarks.environment import environment
from service.decoding import ImageLimits, decode_image
from service.settings import Settings

RESULT = Path(__file__).parent / "results" / "image_decoding.json"
SIDES = (32, 224, 1000, 2000)
FORMATS = ("PNG", "JPEG")
ROUNDS = 15
_DEFAULTS = Settings.model_fields
LIMITS = ImageLimits(_DEFAULTS["max_image_bytes"].default, _DEFAULTS["max_pixels"].default)


def by_service(data: bytes) -> Any:
    return np.asarray(decode_image(data, LIMITS))


def by_torchvision(data: bytes) -> Any:
    return torchvision_decode(
        torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB
    ).numpy()


def by_opencv(data: bytes) -> Any:
    # no dependency: compared where it is installed
    cv2: Any = importlib.import_module("cv2")

    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if found is None:
        raise ValueError("no image")
    return found


def decoders() -> dict[str, Callable[[bytes], Any]]:
    found = {"service (Pillow)": by_service, "torchvision": by_torchvision}
    try:
        cv2: Any = importlib.import_module("cv2")
        cv2.setNumThreads(1)
        found[f"OpenCV {cv2.__version__}"] = by_opencv
    except ImportError:
        print("OpenCV is not installed; left out")
    return found


def picture(side: int, form: str) -> bytes:
    """Smooth colours with some noise: neither a photograph nor random bits."""
    rng = np.random.default_rng(side)
    smooth: Any = zoom(rng.random((8, 8, 3)) * 255, (side / 8, side / 8, 1), order=1)[:side, :side]
    noise = rng.normal(0, 4, (side, side, 3))
    pixels = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **({"quality": 90} if form == "JPEG" else {}))
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG whose header announces 50,000 x 50,000 pixels, and that holds some of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(150_001 * 40))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def costs(some: dict[str, Callable[[bytes], Any]], rounds: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for form in FORMATS:
        for side in SIDES:
            data = picture(side, form)
            repeat = max(1, 100_000 // side**2)
            taken: dict[str, list[float]] = {name: [] for name in some}
            for _ in range(rounds):
                for name, decode in some.items():
                    began = time.process_time()
                    for _ in range(repeat):
                        decode(data)
                    taken[name].append((time.process_time() - began) / repeat * 1e3)
            found = {name: round(median(times), 4) for name, times in taken.items()}
            rows.append({"format": form, "side": side, "bytes": len(data), "milliseconds": found})
            print(form, side, found, flush=True)
    return rows


def outcome(name: str, kind: str) -> str:
    """In a process of its own, with 2 GB of memory at most."""
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30));"
        "from benchmarks import image_decoding as b;"
        f"print('decoded', b.decoders()[{name!r}](b.hostile({kind!r})).shape)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout.strip().splitlines()[-1]
    return done.stderr.strip().splitlines()[-1][:160] or f"ended with {done.returncode}"


def hostile(kind: str) -> bytes:
    if kind == "bomb":
        return bomb()
    data = picture(224, kind.split()[-1])
    return data[: len(data) * 2 // 3]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image_decoding")
    parser.add_argument("--quick", action="store_true", help="two rounds; writes nothing")
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    some = decoders()
    record = {
        "environment": environment(),
        "costs": costs(some, 2 if arguments.quick else ROUNDS),
        "hostile": {
            kind: {name: outcome(name, kind) for name in some}
            for kind in ("cut PNG", "cut JPEG", "bomb")
        },
    }
    json.dump(record["hostile"], sys.stdout, indent=1)
    if not arguments.quick:
        RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
