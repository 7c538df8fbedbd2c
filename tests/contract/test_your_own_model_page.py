"""Every command of docs/your-own-model.md, run as it stands there."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from own_models import (
    trained_sorter,
    write_intents,
    write_onnx,
    write_photos,
    write_screenshots,
    write_weights,
)
from typer.testing import CliRunner

from service.bundle import FORWARD, TextEncoder, pad_tokens, read_manifest
from service.cli import app as service_app
from training.cli import app as training_app
from training.detectors import DETECTORS
from training.export import open_network, relative_gap
from training.fit import NEEDS
from training.fitting import torch_network
from training.graph_detectors import GRAPH_DETECTORS
from training.restore import load_scorers

PAGE = (Path(__file__).parents[2] / "docs" / "your-own-model.md").read_text()
BLOCKS = [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)]
APPS = {"oodscore": service_app, "oodscore-train": training_app}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page says there is."""
    folder = tmp_path_factory.mktemp("shop")
    network = trained_sorter()
    write_weights(network, folder / "sorter.safetensors")
    write_onnx(network, folder / "sorter.onnx")
    write_photos(folder / "photos")
    write_screenshots(folder / "screenshots")
    write_intents(folder)
    (folder / "shop").mkdir()
    (folder / "shop" / "networks.py").write_text("from own_models import Sorter as Sorter\n")
    return folder


def loose(name: str) -> float:
    """vim scales a small residual, and its rounding, up to a logit's size; combined reads it."""
    return 5e-3 if name in ("score/vim", "score/combined") else 1e-4


def run_block(block: list[str], shop: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each command -> its output."""
    monkeypatch.chdir(shop)
    monkeypatch.syspath_prepend(shop)
    outputs: list[str] = []
    for command in block:
        program, *arguments = shlex.split(command)
        if arguments[0] == "score":
            arguments.append("--json")
        result = CliRunner().invoke(APPS[program], arguments)
        assert result.exit_code == 0, f"{command}\n{result.output}{result.exception!r}"
        outputs.append(result.stdout)
    return outputs


def test_a_photograph_in_three_commands(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers, published, scored = run_block(BLOCKS[0], shop, monkeypatch)
    assert [line.split()[1] for line in layers.splitlines() if line[0] == "*"] == [
        "stem",
        "down",
        "body",
    ]
    assert published.strip() == "models/sorter/1"
    answer = json.loads(scored)
    assert answer["decision"] == "ID"
    assert answer["label"] == "7"


def test_a_text_in_three_commands(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    published, scored, _ = run_block(BLOCKS[1], shop, monkeypatch)
    bundle = shop / published.strip()
    answer = json.loads(scored)
    manifest = read_manifest(bundle)
    assert answer["label"] in manifest.class_names == ("card", "weather", "travel")

    scorers = load_scorers(bundle)
    rows = [
        json.loads(line)["text"] for line in (shop / "questions.jsonl").read_text().splitlines()
    ][::60]
    from tokenizers import Tokenizer

    encoder = TextEncoder(Tokenizer.from_file(str(bundle / "tokenizer.json")), manifest.input)  # type: ignore
    tokens = pad_tokens([encoder.tokens(row).ids for row in rows], 0)
    expected = torch_network(scorers.forward)(tokens)
    given = open_network(bundle / FORWARD)(tokens)
    for name, values in expected.items():
        assert relative_gap(values, given[name]) < loose(name), name
    wider = open_network(bundle / FORWARD)(np.pad(tokens, ((0, 0), (0, 5))))
    for name, values in given.items():
        assert relative_gap(values, wider[name]) < loose(name), name
    own = transformers.AutoModelForSequenceClassification.from_pretrained(shop / "intents").eval()
    ids = torch.from_numpy(tokens)
    with torch.no_grad():
        logits = own(input_ids=ids, attention_mask=(ids != 0).long()).logits.numpy()
    assert relative_gap(logits, given["logits"]) < 1e-4


def test_an_onnx_graph_in_one_command(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (published,) = run_block(BLOCKS[2], shop, monkeypatch)
    assert published.strip() == "models/sorter-onnx/1"


def test_a_bundle_is_measured_on_data_of_ones_own(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the bundle of the first block was made."""
    (printed,) = run_block(BLOCKS[3], shop, monkeypatch)
    assert "screenshots" in printed
    assert printed.splitlines()[-1] == "evaluation/report.html"
    listed = (shop / "evaluation" / "mistakes.jsonl").read_text().splitlines()
    accepted = [one for one in map(json.loads, listed) if one["set"] == "screenshots"]
    assert all(one["file"].startswith("screenshots/") for one in accepted)
    assert "Worst mistakes" in (shop / "evaluation" / "report.html").read_text()


def test_the_table_of_needs_names_every_detector_that_estimates() -> None:
    (table,) = re.findall(r"\| detectors \| at least.*?\n\n", PAGE, re.DOTALL)
    named = set(re.findall(r"[a-z_]+", table)) & set(DETECTORS | GRAPH_DETECTORS)
    assert set(NEEDS) - named <= {"mahalanobis_perturbed", "mahalanobis_star"}
