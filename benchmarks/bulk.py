"""What each engine of bulk scoring costs: the same images by processes, by Dask and by Ray.

    python -m benchmarks.bulk --python ENVIRONMENT_WITH_RAY/bin/python

One after the other in turns, each as its own command line, start and end of its workers included;
the tables have to be the same to the bit.  Ray is no dependency of development: `--python` names an
environment with the extras `dask` and `ray`.  Writes results/bulk.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.environment import environment

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "bulk.json"
MODEL = "fashion-mnist"
ENGINES = ("process", "dask", "ray")
SIZE = 28
WORKERS = 2


def write_images(folder: Path, count: int) -> None:
    """Grey PNGs of noise over a slope: as long to decode and to score as garments."""
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 200, SIZE)[:, None]
    for index in range(count):
        pixels = np.clip(slope * rng.random() + rng.normal(30, 20, (SIZE, SIZE)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:06}.png")


def score(python: str, images: Path, engine: str, out: Path, rows: int) -> float:
    """Wall seconds of one command."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [
        *(python, "-m", "service", "score", str(images), "--model", MODEL, "--out", str(out)),
        *("--models-dir", str(ROOT / "models"), "--engine", engine, "--workers", str(WORKERS)),
        *("--partition-rows", str(rows)),
    ]
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(f"{engine}: {done.stdout}{done.stderr}")
    return seconds


def measure(python: str, count: int, rounds: int, rows: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        images.mkdir()
        write_images(images, count)
        tables: list[Any] = []
        for turn in range(rounds):
            for engine in ENGINES:
                out = Path(folder, f"{engine}-{turn}.parquet")
                seconds[engine].append(score(python, images, engine, out, rows))
                tables.append(pq.read_table(out))
        same = all(table.equals(tables[0]) for table in tables)
    fastest = min(seconds["process"])
    return {
        "environment": environment(),
        "model": MODEL,
        "inputs": count,
        "partition_rows": rows,
        "workers": WORKERS,
        "rounds": rounds,
        "identical_tables": same,
        "engines": {
            engine: {
                "seconds": [round(each, 2) for each in some],
                "fastest": round(min(some), 2),
                "median": round(median(some), 2),
                "to_processes": round(min(some) / fastest, 2),
            }
            for engine, some in seconds.items()
        },
    }


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bulk")
    parser.add_argument("--python", default=sys.executable, help="with the extras dask and ray")
    parser.add_argument("--inputs", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--partition-rows", type=int, default=250)
    asked = parser.parse_args(given)
    record = measure(asked.python, asked.inputs, asked.rounds, asked.partition_rows)
    RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
