"""One suite over every detector with a graph of its own.  A new one needs no new test here."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from toy import TOY_SPEC, ToyNet, noise_pixels, toy_pixels

from training.classifier import Classifier, ImageClassifier
from training.data import ImageSet
from training.detectors.fssd import Fssd
from training.detectors.mahalanobis import Mahalanobis
from training.detectors.vmdls_b import VmdlsB
from training.export import export_graph, open_network, relative_gap
from training.export.gradient_graph import GRADIENT_PREFIX, export_gradient_graph
from training.fitting import fit_detectors, torch_network
from training.graph_detectors import (
    GRAPH_DETECTORS,
    FitContext,
    GradientDetector,
    GraphDetector,
)
from training.outputs import Outputs
from training.side_scorer import SideScorer

# FSSD expects OOD near the noise centre, which holds for no early layer (training.detectors.fssd).
UNDIRECTED = {"fssd_official_perturbed", "fssd_perturbed"}
# Scores that read size as well: the logits of saturated noise are large on the toy network, and a
# long step enlarges them more than those of stripes; faint noise gives the sub-networks hardly
# anything to disagree about.  Each is held to the other noise.
READS_SIZE = {("odin_star", "saturated"), ("mc_dropout_mi", "faint")}


class DropNet(ToyNet):
    """The toy network with dropout on its hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.3)

    def forward(self, images: Tensor) -> Outputs:
        conv = torch.relu(self.conv(images))
        hidden = self.dropout(torch.relu(self.hidden(conv.amax(dim=(2, 3)))))
        logits = self.head(hidden)
        return Outputs({"conv": conv, "hidden": hidden, "logits": logits}, logits, self.penultimate)


def trained(seed: int) -> Classifier:
    torch.manual_seed(seed)
    classifier = ImageClassifier(DropNet(), TOY_SPEC)
    pixels, labels = toy_pixels(400, seed=1)
    optimiser = torch.optim.Adam(classifier.parameters(), lr=0.02)
    for _ in range(150):
        loss = nn.functional.cross_entropy(classifier(pixels).logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return classifier.eval()


@cache
def context() -> FitContext:
    classifier = trained(0)
    sets = []
    for count, seed in ((400, 2), (200, 102)):
        pixels, labels = toy_pixels(count, seed)
        sets.append(ImageSet("toy", pixels.numpy(), labels.numpy(), tuple("abcd"), "made here"))
    detectors = [Mahalanobis(), Fssd(noise_count=100), VmdlsB()]
    fit_detectors(classifier, detectors, *sets)
    return FitContext(classifier, detectors, toy_pixels(200, 102)[0], (trained(1),), sets[0])


@cache
def fitted(name: str) -> GraphDetector:
    detector = GRAPH_DETECTORS[name]()
    detector.fit(context())
    return detector


def side_of(name: str) -> SideScorer:
    return SideScorer(context().classifier, fitted(name)).eval()


def scores_of(detector: GraphDetector, pixels: Tensor) -> dict[str, np.ndarray]:
    return torch_network(SideScorer(context().classifier, detector).eval())(pixels.numpy())


@pytest.fixture(params=sorted(GRAPH_DETECTORS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_scores_are_finite_float32_one_per_input(name: str) -> None:
    for score in scores_of(fitted(name), toy_pixels(7, seed=3)[0]).values():
        assert score.shape == (7,)
        assert score.dtype == np.float32
        assert np.isfinite(score).all()


@pytest.mark.parametrize("contrast", ["saturated", "faint"])
def test_far_ood_scores_higher_than_id(name: str, contrast: str) -> None:
    id_scores = scores_of(fitted(name), toy_pixels(100, seed=4)[0])
    noise = noise_pixels(100, seed=5)
    if contrast == "faint":
        noise = 128 + (noise > 0).to(torch.uint8)
    ood_scores = scores_of(fitted(name), noise)
    truth = np.repeat([0, 1], 100)
    for score, values in id_scores.items():
        if name in UNDIRECTED or (score.removeprefix("score/"), contrast) in READS_SIZE:
            continue
        both = np.concatenate([values, ood_scores[score]])
        assert roc_auc_score(truth, both) > 0.8, score


def test_score_names_are_known_before_a_fit(name: str) -> None:
    detector, network = GRAPH_DETECTORS[name](), context().classifier
    detector.check_network(network, noise_pixels(2, seed=1))
    suffixes = detector.suffixes(network.tap_names, network.penultimate)
    given = scores_of(fitted(name), toy_pixels(1, seed=4)[0])
    assert [f"score/{name}{suffix}" for suffix in suffixes] == list(given)


def test_a_score_ignores_the_rest_of_the_batch(name: str) -> None:
    pixels = torch.cat([toy_pixels(5, seed=6)[0], noise_pixels(4, seed=7)])
    for score, values in scores_of(fitted(name), pixels).items():
        alone = [scores_of(fitted(name), image[None])[score] for image in pixels]
        np.testing.assert_allclose(np.concatenate(alone), values, rtol=2e-4, atol=1e-4)


def test_a_refit_forgets_the_first_fit(name: str) -> None:
    refitted = GRAPH_DETECTORS[name]()
    other = toy_pixels(60, 77)[0]
    refitted.fit(replace(context(), held_out=other))
    refitted.fit(context())
    pixels = toy_pixels(20, seed=8)[0]
    for score, values in scores_of(fitted(name), pixels).items():
        np.testing.assert_allclose(scores_of(refitted, pixels)[score], values, rtol=1e-6)


def test_state_round_trips(name: str) -> None:
    restored = GRAPH_DETECTORS[name]()
    restored.restore(fitted(name).state_dict())
    pixels = toy_pixels(20, seed=8)[0]
    for score, values in scores_of(fitted(name), pixels).items():
        np.testing.assert_allclose(scores_of(restored, pixels)[score], values, rtol=1e-6)
    assert restored.hyperparameters() == fitted(name).hyperparameters()
    assert restored.remarks() == fitted(name).remarks()


def test_every_score_is_described(name: str) -> None:
    described = side_of(name).describe()
    assert {f"score/{score}" for score in described} == set(
        scores_of(fitted(name), toy_pixels(1, 1)[0])
    )
    for description in described.values():
        assert description.summary.endswith(".")
        assert description.reference.startswith(("arXiv:", "openreview:"))
        assert description.cost in ("gradient", "multi_pass")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """(name, lowering) -> the exported graph; gradient graphs also give their gradients."""
    folder = tmp_path_factory.mktemp("graphs")
    found: dict[tuple[str, str], Path] = {}
    for name in GRAPH_DETECTORS:
        side = side_of(name)
        for lowering in ("cpu", "cuda"):
            path = folder / f"{lowering}-{side.detector.graph}"
            if isinstance(side.detector, GradientDetector):
                export_gradient_graph(side, TOY_SPEC, path, lowering, gradients=True)
            elif lowering == "cpu":
                export_graph(side, TOY_SPEC, path)
            else:
                continue
            found[name, lowering] = path
    return found


@pytest.mark.parametrize("lowering", ["cpu", "cuda"])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_torch_and_onnx_agree(
    graphs: dict[tuple[str, str], Path], name: str, lowering: str, batch: int
) -> None:
    if (name, lowering) not in graphs:
        pytest.skip(f"{name} has no backward pass to write in two ways")
    pixels = torch.cat([toy_pixels(64, seed=21)[0], noise_pixels(64, seed=22)]).numpy()
    network = open_network(graphs[name, lowering], threads=1)
    parts = [network(pixels[start : start + batch]) for start in range(0, len(pixels), batch)]
    outputs = {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}
    truth = np.repeat([0, 1], 64)
    gradient = isinstance(fitted(name), GradientDetector)
    for score, expected in torch_network(side_of(name))(pixels).items():
        actual = outputs[score]
        assert abs(roc_auc_score(truth, actual) - roc_auc_score(truth, expected)) <= 0.001, score
        assert relative_gap(expected, actual) < (1e-2 if gradient else 1e-4), score


@pytest.mark.parametrize("lowering", ["cpu", "cuda"])
def test_the_step_goes_the_way_autograd_says(
    graphs: dict[tuple[str, str], Path], name: str, lowering: str
) -> None:
    detector = fitted(name)
    if not isinstance(detector, GradientDetector):
        pytest.skip(f"{name} takes no step")
    pixels = torch.cat([toy_pixels(64, seed=21)[0], noise_pixels(64, seed=22)])
    outputs = open_network(graphs[name, lowering], threads=1)(pixels.numpy())
    classifier = context().classifier
    wanted = detector.gradients(classifier, pixels)
    for sweep, gradient in wanted.items():
        actual = torch.from_numpy(outputs[GRADIENT_PREFIX + sweep.name])
        agreement = ((actual >= 0) == (gradient >= 0)).float().mean()
        assert agreement >= 0.999, sweep.name


def test_the_batch_dimension_is_dynamic(graphs: dict[tuple[str, str], Path]) -> None:
    for path in graphs.values():
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (pixels,) = session.get_inputs()
        assert pixels.type == "tensor(uint8)"
        assert pixels.shape[1:] == [12, 12, 1]
        for node in (pixels, *session.get_outputs()):
            assert isinstance(node.shape[0], str), node.name


def test_no_graph_names_a_file_of_this_machine(graphs: dict[tuple[str, str], Path]) -> None:
    for path in graphs.values():
        content = path.read_bytes()
        assert b".py" not in content
        assert str(Path(__file__).parents[2]).encode() not in content
