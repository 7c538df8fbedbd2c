"""The shipped bundles: a table of worker processes is what /score answers, to the bit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from bulk_runs import assert_same, online
from live_server import live_server
from pictures import encode
from typer.testing import CliRunner

from service.bundle import read_manifest
from service.cli import app

ROOT = Path(__file__).parents[2]
SENTENCES = (
    "what is the balance of my savings account",
    "Book me a table for two, please!",
    "how long do i boil an egg",
    "",
    "the parliament adjourned its debate on fisheries until the ministers had read the report",
    "naïve café ☕ " * 30,
)
IMAGES, TEXTS = 24, 18

pytestmark = pytest.mark.slow


def write_images(folder: Path, side: int, channels: int) -> None:
    """Noise over slopes, of other sizes too; one is cut."""
    rng = np.random.default_rng(3)
    folder.mkdir()
    for index in range(IMAGES):
        wide = side if index % 4 else side + index
        slope = np.linspace(0, 200 * rng.random(), wide)[:, None, None]
        pixels = np.clip(slope + rng.normal(40, 25, (wide, wide, channels)), 0, 255)
        data = encode(pixels.astype(np.uint8), "JPEG" if index % 3 == 0 else "PNG")
        suffix = "jpg" if index % 3 == 0 else "png"
        (folder / f"{index:02}.{suffix}").write_bytes(data[:60] if index == 7 else data)


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "clinc150"])
def test_a_table_of_processes_is_what_score_answers(name: str, tmp_path: Path) -> None:
    newest = max((ROOT / "models" / name).iterdir(), key=lambda folder: int(folder.name))
    manifest = read_manifest(newest)
    on_demand = [each.name for each in manifest.detectors if each.graph != "forward.onnx"]
    detectors = ",".join(["combined", "knn", "mahalanobis", "vim", *on_demand[:1]])
    if manifest.modality == "image":
        inputs = tmp_path / "images"
        write_images(inputs, manifest.input.height, manifest.input.channels)
        files = sorted(inputs.iterdir())
        bodies = [
            (file.read_bytes(), "image/jpeg" if file.suffix == ".jpg" else "image/png")
            for file in files
        ]
    else:
        texts = [f"{SENTENCES[i % len(SENTENCES)]} {'please ' * (i // 6)}" for i in range(TEXTS)]
        inputs = tmp_path / "texts.jsonl"
        inputs.write_text("\n".join(json.dumps({"text": text}) for text in texts))
        bodies = [
            (json.dumps({"inputs": [{"text": text}]}).encode(), "application/json")
            for text in texts
        ]
    models = tmp_path / "models"
    shutil.copytree(newest, models / name / newest.name)
    out = tmp_path / "scores.parquet"
    words = ["score", str(inputs), "--model", name, "--detectors", detectors, "--out", str(out)]
    words += ["--models-dir", str(models), "--workers", "2", "--partition-rows", "5"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code in (0, 1), result.output
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == len(bodies)
    with live_server(models) as server:
        for row, (body, kind) in zip(rows, bodies, strict=True):
            assert_same(row, online(server, body, kind, f"?model={name}&detectors={detectors}"))
    assert sum(row["decision"] is not None for row in rows) >= len(rows) - 4
