"""Resident memory that a graph takes, each in a process of its own.

Run as a program it opens one graph as the service does and prints JSON; it imports no torch.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from service.onnx_session import OnnxSession

_RUNS = 3  # the second run still grows buffers


def resident_bytes(
    path: Path, outputs: Sequence[str], shape: Sequence[int], batches: Sequence[int]
) -> dict[int, int]:
    """Batch size -> bytes that opening and running added; smaller batches run first.

    `shape`: (H, W, C) of an image.  Raises CalledProcessError if the process fails.
    """
    request = {
        "path": str(path),
        "outputs": list(outputs),
        "shape": list(shape),
        "batches": sorted(batches),
    }
    command = [sys.executable, "-m", "benchmarks.prices.memory"]
    answer = subprocess.run(
        command, input=json.dumps(request), stdout=subprocess.PIPE, text=True, check=True
    )
    return {int(batch): used for batch, used in json.loads(answer.stdout).items()}


def _main() -> None:
    request = json.load(sys.stdin)
    process = psutil.Process()
    before = process.memory_info().rss
    session = OnnxSession(Path(request["path"]), provider="cpu", threads=1)
    found: dict[int, int] = {}
    for batch in request["batches"]:
        pixels = np.zeros((batch, *request["shape"]), np.uint8)
        for _ in range(_RUNS):
            session.run(pixels, request["outputs"])
        found[batch] = process.memory_info().rss - before
    print(json.dumps(found))


if __name__ == "__main__":
    _main()
