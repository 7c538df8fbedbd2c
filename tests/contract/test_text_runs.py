"""Tiny runs on texts, from a config file to a bundle: the numbers of torch, of its graphs and of
POST /score are the same, whatever the lengths, the padding and the neighbours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_server import live_server
from numpy.typing import NDArray
from tiny_text_bundle import INTENTS, id_texts, ood_texts

from service.bundle import (
    FORWARD,
    BundleRef,
    Manifest,
    TextEncoder,
    TextInput,
    pad_tokens,
    read_manifest,
)
from training.config import load_config
from training.export import open_network, relative_gap
from training.fitting import Network, torch_network
from training.pipeline import run
from training.restore import load_scorers

MAX_TOKENS = 24
# of float32 sums taken in another order, relative to the spread of a score
TOLERANCE = 1e-4
# its options, and a tap below the last one
BACKBONES = {
    "gru": ("{ embedding = 12, hidden = 16 }", "layer1"),
    "text_transformer": ("{ width = 16, heads = 2, blocks = 2, max_tokens = 64 }", "block1"),
}
SIDES = ("perturbed-mahalanobis.onnx", "perturbed-odin.onnx")
CONFIG = """
name = "NAME"
description = "three intents"
modality = "text"
backbone = "BACKBONE"
backbone_options = OPTIONS
several_passes_limit = 40
[text]
max_tokens = 24
tokenizer = { kind = "word", min_count = 1 }
[optimiser]
name = "adamw"
lr = 1e-2
epochs = 2
batch_size = 32
[data]
dev_count = 60
cal_count = 100
train = [{ source = "jsonl", path = "FOLDER/train.jsonl" }]
test = [{ source = "jsonl", path = "FOLDER/test.jsonl" }]
[data.test_ood]
other = [{ source = "jsonl", path = "FOLDER/other.jsonl" }]
[[detectors]]
name = "msp"
[[detectors]]
name = "mahalanobis"
[[detectors]]
name = "fssd"
options = { noise_count = 50 }
[[detectors]]
name = "odin"
[[detectors]]
name = "mahalanobis_perturbed"
[[combiners]]
name = "mahalanobis_ensemble"
members = ["mahalanobis_FIRST", "mahalanobis"]
[[combiners]]
name = "combined"
members = ["msp", "mahalanobis_ensemble"]
"""

Tokens = NDArray[np.int64]


def write_texts(folder: Path) -> None:
    """Every third text goes on for many words more, some of them past `max_tokens`."""
    rng = np.random.default_rng(0)

    def rows(texts: list[str]) -> list[str]:
        return [
            " ".join([text] * int(rng.integers(2, 6)) if index % 9 < 3 else [text])
            for index, text in enumerate(texts)
        ]

    for name, count, seed in (("train", 400, 1), ("test", 60, 2)):
        lines = [
            json.dumps({"text": text, "label": INTENTS[index % 3]})
            for index, text in enumerate(rows(id_texts(count, seed)))
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    lines = [json.dumps({"text": text}) for text in rows(ood_texts(60, 3))]
    (folder / "other.jsonl").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(
    scope="module",
    params=["gru", pytest.param("text_transformer", marks=pytest.mark.slow)],
)
def bundle(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> BundleRef:
    folder = tmp_path_factory.mktemp(request.param)
    write_texts(folder)
    options, first = BACKBONES[request.param]
    config = CONFIG
    for word, meant in {
        "NAME": request.param.replace("_", "-"),
        "BACKBONE": request.param,
        "OPTIONS": options,
        "FOLDER": str(folder),
        "FIRST": first,
    }.items():
        config = config.replace(word, meant)
    (folder / "run.toml").write_text(config)
    return run(load_config(folder / "run.toml"), repository, folder / "runs")


@pytest.fixture(scope="module")
def manifest(bundle: BundleRef) -> Manifest:
    return read_manifest(bundle.path)


@pytest.fixture(scope="module")
def spec(manifest: Manifest) -> TextInput:
    assert isinstance(manifest.input, TextInput)
    return manifest.input


def drawn(spec: TextInput, lengths: list[int]) -> list[Tokens]:
    """Texts of so many tokens, each any but padding; the unknown one is among them."""
    ids = np.setdiff1d(np.arange(spec.vocabulary_size), [spec.pad_id])
    rng = np.random.default_rng(lengths)
    return [rng.choice(ids, length) for length in lengths]


@pytest.fixture(scope="module")
def networks(bundle: BundleRef) -> dict[str, tuple[Network, Network]]:
    """By graph: torch, restored from the bundle alone, and the graph in onnxruntime."""
    scorers = load_scorers(bundle.path)
    in_torch = {FORWARD: torch_network(scorers.forward)} | {
        side.detector.graph: torch_network(side) for side in scorers.sides
    }
    return {name: (each, open_network(bundle.path / name)) for name, each in in_torch.items()}


def test_forward_and_gradient_graphs_are_in_the_bundle(
    manifest: Manifest, networks: dict[str, tuple[Network, Network]]
) -> None:
    assert {detector.graph for detector in manifest.detectors} == set(networks) == {FORWARD, *SIDES}


@pytest.mark.parametrize(
    "lengths",
    [[1], [MAX_TOKENS], [5] * 7, list(range(1, MAX_TOKENS + 1)), [3, MAX_TOKENS] * 16],
    ids=["one-word", "longest", "seven", "all-lengths", "short-beside-long"],
)
def test_torch_and_every_graph_agree_at_any_length(
    networks: dict[str, tuple[Network, Network]], spec: TextInput, lengths: list[int]
) -> None:
    tokens = pad_tokens(drawn(spec, lengths), spec.pad_id)
    for graph, (in_torch, in_onnx) in networks.items():
        expected, actual = in_torch(tokens), in_onnx(tokens)
        assert set(actual) == set(expected)
        for name, values in expected.items():
            assert np.isfinite(values).all(), (graph, name)
            assert relative_gap(values, actual[name]) < TOLERANCE, (graph, name)


def test_a_text_scores_alike_alone_in_a_batch_and_padded_to_any_length(
    networks: dict[str, tuple[Network, Network]], spec: TextInput
) -> None:
    rows = drawn(spec, [1, 2, 9, MAX_TOKENS, 5, 1, 17, 12])
    for graph, (_, network) in networks.items():
        alone = [network(row[None]) for row in rows]
        together = pad_tokens(rows, spec.pad_id)
        for more in (0, 1, 40):
            wider = np.pad(together, ((0, 0), (0, more)), constant_values=spec.pad_id)
            for name, scores in network(wider).items():
                expected = np.concatenate([each[name] for each in alone])
                assert relative_gap(expected, scores) < TOLERANCE, (graph, name, more)


def test_the_service_scores_a_text_as_its_graphs_do_whatever_stands_beside_it(
    bundle: BundleRef,
    manifest: Manifest,
    spec: TextInput,
    networks: dict[str, tuple[Network, Network]],
) -> None:
    texts = ["rain", *id_texts(12, 7), *ood_texts(4, 7), "visa please " * 30, "行く 😀"]
    encoder = TextEncoder.load(bundle.path / spec.tokenizer, spec)
    names = [detector.name for detector in manifest.detectors]
    expected: dict[str, list[float]] = {name: [] for name in names}
    for graph, (_, network) in networks.items():
        answers = [network(encoder.encode(text)[None]) for text in texts]
        for detector in manifest.detectors:
            if detector.graph == graph:
                expected[detector.name] = [float(each[detector.output][0]) for each in answers]
    with live_server(bundle.path.parents[1]) as server:

        def ask(asked: list[str]) -> list[Any]:
            inputs = [{"text": text} for text in asked]
            body = {"model": bundle.name, "detectors": names, "inputs": inputs}
            response = server.client.post("/score", json=body)
            assert response.status_code == 200, response.text
            return response.json()["results"]

        together = ask(texts)
        alone = [ask([text])[0] for text in texts]
    assert [result["truncated"] for result in together] == [
        text.startswith("visa please ") for text in texts
    ]
    for name in names:
        wanted = np.array(expected[name], np.float32)
        for results in (together, alone):
            served = np.array([r["detectors"][name]["score"] for r in results], np.float32)
            assert relative_gap(wanted, served) < TOLERANCE, name
