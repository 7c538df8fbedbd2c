"""Detectors of several passes: sub-networks under dropout, and networks of other seeds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from toy import CLASSES, SPEC, TOY_SPEC, ToyNet, digits, noise_pixels, toy_pixels

from training.backbones import BACKBONES
from training.classifier import Backbone, Classifier, ImageClassifier
from training.detectors import FitError, NotFitted
from training.export import export_graph, open_network, relative_gap
from training.fitting import torch_network
from training.graph_detectors import GRAPH_DETECTORS, FitContext, GraphDetector
from training.graph_detectors.deep_ensemble import DeepEnsemble
from training.graph_detectors.dropout_calls import dropout_calls
from training.graph_detectors.mc_dropout import McDropout
from training.graph_detectors.mixture import Mixture
from training.outputs import Outputs
from training.side_scorer import SideScorer

Change = Callable[[nn.Module], None]


class DropNet(nn.Module):
    """Two blocks with norm and dropout, one layer that drops twice; `residual`: a side path."""

    tap_names = ("conv", "hidden")
    penultimate = "hidden"

    def __init__(self, *, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop_maps: nn.Module = nn.Dropout2d(0.25)
        self.mix = nn.Conv2d(6, 6, 3, padding=1)
        self.hidden = nn.Linear(6, 24)
        self.drop: nn.Module = nn.Dropout(0.4)
        self.deeper = nn.Linear(24, 16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Outputs:
        conv = torch.relu(self.norm(self.conv(images)))
        mixed = self.mix(self.drop_maps(conv))
        maps = torch.relu(conv + mixed if self.residual else mixed)
        hidden = self.drop(torch.relu(self.hidden(maps.mean(dim=(2, 3)))))
        deeper = self.drop(torch.relu(self.deeper(hidden)))
        return Outputs({"conv": conv, "hidden": deeper}, self.head(deeper), self.penultimate)


def drop_net(*, residual: bool = False, change: Change | None = None) -> Classifier:
    """Weights of a generator of its own; statistics of the norm are not the initial ones."""
    torch.manual_seed(5)
    net = DropNet(residual=residual)
    classifier = ImageClassifier(net, TOY_SPEC)
    with torch.no_grad():
        classifier(toy_pixels(64, seed=1)[0])  # in training mode
    for linear in (net.hidden, net.deeper, net.head):
        nn.init.normal_(linear.weight, std=0.7)
    if change is not None:
        change(net)
    return classifier.eval()


def context(classifier: Classifier, *members: Classifier) -> FitContext:
    return FitContext(classifier, [], toy_pixels(20, seed=3)[0], members)


def toy_member(seed: int) -> Classifier:
    torch.manual_seed(seed)
    return ImageClassifier(ToyNet(), TOY_SPEC).eval()


def lenet() -> Classifier:
    torch.manual_seed(1)
    backbone = BACKBONES["lenet"](1, 10)
    return ImageClassifier(backbone, SPEC).eval()


PIXELS = torch.cat([toy_pixels(8, seed=6)[0], noise_pixels(6, seed=7)])


# --- the formulas


def votes(spread: float, agreement: float = 0.0) -> NDArray[np.float64]:
    """Logits (M, B, K) = (5, 40, 10)."""
    rng = np.random.default_rng(0)
    common = rng.normal(0, spread, (1, 40, 10))
    return common + (1 - agreement) * rng.normal(0, spread, (5, 40, 10))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def published(logits: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """H of the mean, H of the mean minus the mean H, log-odds of the mean: word by word."""
    each = softmax(logits)
    mean = each.mean(0)

    def entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
        return -(p * np.log(p + 1e-12)).sum(-1)

    top = mean.max(-1)
    return {
        "entropy": entropy(mean),
        "mutual_information": entropy(mean) - entropy(each).mean(0),
        "log_odds": np.log((1 - top) / top),
    }


@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_scores_are_those_of_the_published_formulas(spread: float) -> None:
    logits = votes(spread)
    mixture = Mixture.of(torch.from_numpy(logits.astype(np.float32)))
    for name, expected in published(logits).items():
        score = getattr(mixture, name)()
        assert score.dtype == torch.float32
        np.testing.assert_allclose(score.numpy(), expected, rtol=2e-4, atol=2e-6, err_msg=name)


def test_sure_votes_keep_their_order() -> None:
    # float32 probabilities of all of these are 1 and 0
    logits = torch.zeros(3, 4, 5)
    logits[:, :, 0] = torch.tensor([30.0, 40.0, 50.0, 60.0])
    logits[1, :, 0] += 1
    assert (logits.softmax(2).amax(2) == 1).all()
    mixture = Mixture.of(logits)
    for name in ("entropy", "mutual_information", "log_odds"):
        score = getattr(mixture, name)()
        assert (score.diff() < 0).all(), name
    gap = np.exp(-30.0 - np.array([0, 1, 0]))  # of each vote for each other class
    share = gap / gap.sum()
    expected = 4 * gap.mean() * np.log(3) + 4 * gap.mean() * (share * np.log(share)).sum()
    assert float(mixture.mutual_information()[0]) == pytest.approx(expected, rel=1e-3)


def test_votes_that_agree_have_no_mutual_information_and_never_a_negative_one() -> None:
    agreeing = torch.from_numpy(votes(3.0)[:1]).repeat(5, 1, 1)
    assert float(Mixture.of(agreeing).mutual_information().max()) < 1e-12
    nearly = Mixture.of(torch.from_numpy(votes(3.0, agreement=1 - 1e-9)))
    assert float(nearly.mutual_information().min()) >= 0
    assert torch.isfinite(Mixture.of(torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]])).entropy()).all()


def test_probabilities_are_averaged_not_logits() -> None:
    opposed = torch.tensor([[[30.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]])
    mixture = Mixture.of(opposed)
    np.testing.assert_allclose(mixture.log_mean.exp(), [[2 / 3, 1 / 6, 1 / 6]], rtol=1e-6)


# --- dropout


def test_passes_are_those_of_the_stored_masks() -> None:
    """LeNet by hand: elements after fc1, whole maps after the pooling."""
    classifier = lenet()
    pixels = torch.from_numpy(digits()[0][:4])
    detector = McDropout(passes=5)
    detector.fit(FitContext(classifier, [], pixels))
    maps, units = detector.masks
    assert maps.shape == (5, 64, 1, 1)
    assert units.shape == (5, 128)
    net = classifier.backbone
    with torch.no_grad():
        found = detector.votes(classifier, pixels)
        conv = torch.relu(net.conv2(torch.relu(net.conv1(classifier.normalise(pixels)))))
        expected = torch.stack(
            [
                net.fc2(
                    torch.relu(net.fc1((F.max_pool2d(conv, 2) * map_ / 0.75).flatten(1)))
                    * unit
                    / 0.5
                )
                for map_, unit in zip(maps.float(), units.float(), strict=True)
            ]
        )
        scores = detector(classifier, pixels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    formulas = published(expected.double().numpy())
    for name, formula in (("mc_dropout", "entropy"), ("mc_dropout_mi", "mutual_information")):
        np.testing.assert_allclose(scores[name], formulas[formula], rtol=1e-3, atol=1e-6)


def test_masks_drop_the_share_they_should_and_keep_the_mean() -> None:
    classifier = drop_net()
    detector = McDropout(passes=400)
    detector.fit(context(classifier))
    maps, first, second = detector.masks  # self.drop runs twice: two masks
    assert [tuple(mask.shape) for mask in (maps, first, second)] == [
        (400, 6, 1, 1),
        (400, 24),
        (400, 16),
    ]
    for mask, p in ((maps, 0.25), (first, 0.4), (second, 0.4)):
        assert float(mask.float().mean()) == pytest.approx(1 - p, abs=0.03)
    assert (first[:, :16] != second).any()


@pytest.mark.parametrize("residual", [False, True])
def test_the_trunk_is_shared_where_nothing_passes_the_dropout_by(residual: bool) -> None:
    classifier = drop_net(residual=residual)
    detector = McDropout(passes=6)
    detector.fit(context(classifier))
    assert detector.shares_trunk is not residual
    rows: list[int] = []
    handle = classifier.backbone.conv.register_forward_hook(
        lambda _layer, inputs, _output: rows.append(len(inputs[0]))
    )
    with torch.no_grad():
        given = detector.votes(classifier, PIXELS)
        handle.remove()
        assert rows == [6 * 14 if residual else 14]
        detector.shares_trunk = False
        whole = detector.votes(classifier, PIXELS)
        # pass by pass, as a loop over masked copies would
        for number in range(6):
            single = McDropout(passes=2)
            masks = enumerate(detector.masks)
            single.restore(
                {f"mask_{i}": m[[number, number]] for i, m in masks}
                | {"shares_trunk_": torch.tensor(False)}
            )
            alone = single.votes(classifier, PIXELS)[0]
            torch.testing.assert_close(whole[number], alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(given, whole, rtol=1e-4, atol=1e-4)


def test_every_pass_differs_for_every_input() -> None:
    classifier = drop_net()
    detector = McDropout()
    detector.fit(context(classifier))
    with torch.no_grad():
        found = detector.votes(classifier, PIXELS)
    assert found.shape == (16, len(PIXELS), CLASSES)
    assert float(found.var(0).amax(1).min()) > 1e-3
    gaps = (found[:, None] - found[None]).abs().amax((2, 3)) + torch.eye(16)
    assert float(gaps.min()) > 1e-3  # no two passes alike


def test_the_network_is_left_as_it_was() -> None:
    classifier = drop_net(residual=True)
    before = {name: value.clone() for name, value in classifier.backbone.state_dict().items()}
    flags = [module.training for module in classifier.modules()]
    hooks = sum(len(module._forward_hooks) for module in classifier.modules())
    draws = torch.get_rng_state()
    with torch.no_grad():
        logits = classifier(PIXELS).logits
        detector = McDropout()
        detector.fit(context(classifier))
        detector(classifier, PIXELS)
        again = classifier(PIXELS).logits
    torch.testing.assert_close(again, logits, rtol=0, atol=0)
    assert [module.training for module in classifier.modules()] == flags
    assert sum(len(module._forward_hooks) for module in classifier.modules()) == hooks
    assert torch.equal(torch.get_rng_state(), draws)
    for name, value in classifier.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name  # the norm's statistics among them


def test_masks_follow_from_the_seed_alone() -> None:
    classifier = drop_net()

    def masks(seed: int) -> list[Tensor]:
        torch.manual_seed(np.random.default_rng().integers(1000))
        detector = McDropout(passes=4, seed=seed)
        detector.fit(context(classifier))
        detector.fit(context(classifier))  # a refit forgets the first
        return detector.masks

    assert all(torch.equal(a, b) for a, b in zip(masks(3), masks(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(masks(3), masks(4), strict=True))


# --- networks of other seeds


def test_members_vote_as_the_networks_they_were() -> None:
    members = [toy_member(seed) for seed in (1, 2, 3)]
    detector = DeepEnsemble()
    detector.fit(context(*members))
    with torch.no_grad():
        found = detector.votes(members[0], PIXELS)
        expected = torch.stack([member(PIXELS).logits for member in members])
        scores = detector(members[0], PIXELS)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    formulas = published(expected.double().numpy())
    for suffix, formula in (("", "entropy"), ("_mi", "mutual_information"), ("_msp", "log_odds")):
        name = f"deep_ensemble{suffix}"
        np.testing.assert_allclose(scores[name], formulas[formula], rtol=1e-3, atol=1e-5)
    assert float(scores["deep_ensemble_mi"].min()) > 0


def test_members_keep_their_own_statistics_of_the_norm() -> None:
    first, second = drop_net(), drop_net(change=lambda net: nn.init.constant_(net.norm.bias, 0.3))
    with torch.no_grad():
        second.backbone.norm.running_mean += 0.5
        detector = DeepEnsemble()
        detector.fit(context(first, second))
        expected = torch.stack([first(PIXELS).logits, second(PIXELS).logits])
        torch.testing.assert_close(detector.votes(first, PIXELS), expected)
    assert not torch.equal(expected[0], expected[1])


# --- both


def fitted(kind: str) -> SideScorer:
    if kind == "deep_ensemble":
        members = [toy_member(seed) for seed in (1, 2, 3)]
        detector: GraphDetector = GRAPH_DETECTORS["deep_ensemble"]()
        detector.fit(context(*members))
        return SideScorer(members[0], detector).eval()
    classifier = drop_net(residual=kind == "residual")
    detector = GRAPH_DETECTORS["mc_dropout"]()
    detector.fit(context(classifier))
    return SideScorer(classifier, detector).eval()


@pytest.fixture(scope="module", params=["chain", "residual", "deep_ensemble"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SideScorer, Path]:
    scorer = fitted(request.param)
    path = tmp_path_factory.mktemp("graph") / scorer.detector.graph
    export_graph(scorer, TOY_SPEC, path)
    return scorer, path


@pytest.mark.parametrize("batch", [1, 7, 28])
def test_graph_and_torch_agree_whatever_the_batch(
    exported: tuple[SideScorer, Path], batch: int
) -> None:
    scorer, path = exported
    pixels = torch.cat([PIXELS, PIXELS.flip(1)]).numpy()
    wanted = torch_network(scorer)(pixels)
    network = open_network(path, threads=1)
    parts = [network(pixels[start : start + batch]) for start in range(0, len(pixels), batch)]
    for output, expected in wanted.items():
        actual = np.concatenate([part[output] for part in parts])
        assert actual.dtype == np.float32
        assert relative_gap(expected, actual) < 1e-4, output


def test_the_passes_of_the_graph_disagree(exported: tuple[SideScorer, Path]) -> None:
    """A graph that lost its masks, or runs one member several times, has none of this."""
    scorer, path = exported
    information = open_network(path)(PIXELS.numpy())[f"score/{scorer.detector.name}_mi"]
    assert information.min() > 1e-4
    large = 5 * 16  # bytes of the smallest mask below
    model = onnx.load(path)
    masks = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.BOOL]
    if scorer.detector.name == "mc_dropout":
        assert len(masks) == 3
        assert all(len(mask.raw_data) > large for mask in masks)


def test_scores_do_not_depend_on_chance_or_neighbours(exported: tuple[SideScorer, Path]) -> None:
    scorer, _ = exported
    with torch.no_grad():
        together = scorer(PIXELS)
        torch.manual_seed(99)
        for name, values in scorer(PIXELS).items():
            assert torch.equal(values, together[name])
        alone = [scorer(image[None]) for image in PIXELS]
    for name, values in together.items():
        each = torch.cat([scores[name] for scores in alone])
        torch.testing.assert_close(values, each, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["chain", "residual", "deep_ensemble"])
def test_state_comes_back_from_a_file(kind: str, tmp_path: Path) -> None:
    scorer = fitted(kind)
    save_file(scorer.detector.state_dict(), tmp_path / "fit.safetensors")
    state = load_file(tmp_path / "fit.safetensors")
    restored = GRAPH_DETECTORS[scorer.detector.name]()
    restored.restore(dict(sorted(state.items(), reverse=True)))  # whatever the order
    with torch.no_grad():
        expected = scorer(PIXELS)
        found = SideScorer(scorer.classifier, restored).eval()(PIXELS)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-6, atol=1e-7)
    assert restored.hyperparameters() == scorer.detector.hyperparameters()


def test_many_masks_come_back_in_the_order_of_their_calls() -> None:
    detector = McDropout(passes=2)
    state = {f"mask_{number}": torch.full((2, number + 1), True) for number in range(12)}
    detector.restore(dict(sorted(state.items())) | {"shares_trunk_": torch.tensor(True)})
    assert [mask.shape[1] for mask in detector.masks] == list(range(1, 13))


def test_every_score_is_described(exported: tuple[SideScorer, Path]) -> None:
    scorer, path = exported
    described = scorer.describe()
    assert {f"score/{name}" for name in described} == set(open_network(path)(PIXELS.numpy()))
    for description in described.values():
        assert description.cost == "multi_pass"
        assert description.reference.startswith("arXiv:")
        assert description.summary.endswith(".")
    assert scorer.detector.graph == f"passes-{scorer.detector.name}.onnx"


# --- refusals


def without_dropout(net: nn.Module) -> None:
    net.drop = nn.Dropout(0.0)
    net.drop_maps = nn.Identity()


class CallsFunction(nn.Module):
    def __init__(self, function: Callable[[Tensor, bool], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        return self.function(values, self.training)


def with_function(function: Callable[[Tensor, bool], Tensor]) -> Change:
    def change(net: nn.Module) -> None:
        net.drop = CallsFunction(function)

    return change


def everything_dropped(net: nn.Module) -> None:
    net.drop = nn.Dropout(1.0)


def another_rule(net: nn.Module) -> None:
    net.drop = nn.AlphaDropout(0.1)


def attention(net: nn.Module) -> None:
    net.attention = nn.MultiheadAttention(4, 2, dropout=0.1)


def little_dropout(net: nn.Module) -> None:
    without_dropout(net)
    net.drop_maps = nn.Dropout2d(0.01)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without_dropout, r"no dropout layer with p > 0, so all passes would be the same"),
        (with_function(lambda v, on: F.dropout(v, 0.5, on)), r"calls the function dropout \(p = 0"),
        (with_function(lambda v, on: F.dropout(v) if on else v), "calls the function dropout"),
        (with_function(lambda v, on: F.dropout2d(v, training=on)), "calls the function dropout2d"),
        (with_function(lambda v, on: torch.dropout(v, 0.2, on)), "calls the function dropout"),
        (
            with_function(
                lambda v, on: F.scaled_dot_product_attention(
                    v[None], v[None], v[None], dropout_p=0.3 if on else 0.0
                )[0]
            ),
            r"scaled_dot_product_attention \(p = 0.3\)",
        ),
        (everything_dropped, "layer drop drops everything"),
        (another_rule, "layer drop is a AlphaDropout"),
        (attention, "layer attention is a MultiheadAttention"),
        (little_dropout, "two of 16 passes would drop the same of 6 units"),
    ],
)
@pytest.mark.filterwarnings("ignore:dropout2d:UserWarning")  # torch's, on a (B, D) input
def test_a_network_without_maskable_dropout_is_refused(change: Change, named: str) -> None:
    with pytest.raises(FitError, match=named):
        McDropout().fit(context(drop_net(change=change)))


class InTrainingOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Dropout(0.5)

    def forward(self, values: Tensor) -> Tensor:
        return self.inner(values) if self.training else values


def test_dropout_that_only_training_runs_is_no_dropout() -> None:
    def change(net: nn.Module) -> None:
        without_dropout(net)
        net.drop_maps = InTrainingOnly()

    classifier = drop_net(change=change)
    with pytest.raises(FitError, match=r"none of drop_maps\.inner runs in evaluation mode"):
        McDropout().fit(context(classifier))


def test_unfit_calls_are_refused() -> None:
    classifier = drop_net()
    with pytest.raises(ValueError, match="passes is 1"):
        McDropout(passes=1)
    with pytest.raises(NotFitted, match="mc_dropout has no masks"):
        McDropout()(classifier, PIXELS)
    with pytest.raises(NotFitted, match="deep_ensemble has no members"):
        DeepEnsemble()(classifier, PIXELS)
    detector = McDropout()
    detector.fit(context(classifier))
    with pytest.raises(ValueError, match="fitted on a network with 3 dropout calls"):
        detector(drop_net(change=without_dropout), PIXELS)
    with pytest.raises(FitError, match="training mode"):
        McDropout().fit(context(drop_net().train()))


def test_an_ensemble_of_one_is_refused() -> None:
    first, second = toy_member(1), toy_member(2)
    with pytest.raises(FitError, match="set members in the config to at least 2"):
        DeepEnsemble().fit(context(first))
    with pytest.raises(FitError, match="member 1 has the weights of another"):
        DeepEnsemble().fit(context(first, toy_member(1)))
    with pytest.raises(FitError, match="member 2 has the weights of another"):
        DeepEnsemble().fit(context(first, second, toy_member(2)))
    with pytest.raises(FitError, match="member 1 is another kind of network"):
        DeepEnsemble().fit(context(first, drop_net()))


@pytest.mark.parametrize(
    ("backbone", "options", "calls"),
    [("wrn_40_2", {}, 18), ("densenet_bc_100", {"dropout": 0.2}, 98), ("lenet", {}, 2)],
)
def test_dropout_of_the_registered_backbones_is_found(
    backbone: str, options: dict[str, float], calls: int
) -> None:
    channels, side = (1, 28) if backbone == "lenet" else (3, 32)
    network: Backbone = BACKBONES[backbone](channels, 10, **options)
    assert isinstance(network, nn.Module)
    found = dropout_calls(network.eval(), torch.randn(2, channels, side, side))
    assert len(found) == calls
