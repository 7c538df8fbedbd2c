"""Detectors that read features and the head, against independent float64 readings."""

import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from linear_world import Array, World, far, fit, score, world
from scipy.special import logsumexp, softmax
from torch import Tensor, nn

from training.detectors import DETECTORS, Detector, FitError, react
from training.detectors.dice import Dice
from training.detectors.fdbd import Fdbd
from training.detectors.gradnorm import GradNorm
from training.detectors.nci import Nci
from training.detectors.penultimate import FeatureSummary, linear_head
from training.outputs import Outputs

FITTED = ("ash_s", "dice", "fdbd", "nci", "react", "scale", "she")
FEATURE_DETECTORS = (*FITTED, "gradnorm")
LOGIT_DETECTORS = ("energy", "entropy", "gen", "kl_matching", "msp_temperature", "openmax")


@pytest.fixture
def train() -> World:
    return world(seed=1)


@pytest.fixture
def held_out() -> World:
    return world(seed=2, count=400)


def with_features(source: World, features: Array) -> World:
    return World(source.weight, source.bias, features, source.labels)


def energy(source: World, features: Array) -> Array:
    return -logsumexp(source.logits_of(features), axis=1)


@pytest.mark.parametrize("percentile", [90.0, 50.0, 99.0])
def test_react_cuts_at_the_percentile_of_all_activations(
    train: World, held_out: World, percentile: float
) -> None:
    detector = fit(DETECTORS["react"](percentile), train, held_out)
    ceiling = np.percentile(train.features, percentile)
    assert 0 < (far(3) > ceiling).mean() < 0.7
    expected = energy(train, np.minimum(far(3), ceiling))
    np.testing.assert_allclose(
        score(detector, train.outputs(far(3))), expected, rtol=1e-4, atol=1e-4
    )
    assert detector.remarks() == ()


def test_react_samples_what_it_cannot_keep(
    train: World, held_out: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(react, "_SAMPLE", 200)
    ceiling = fit(DETECTORS["react"](), train, held_out).fitted("ceiling").item()
    # 4,000 of 12,000 activations: the sampled percentile's rank is within 2 points of 90
    assert ceiling != np.float32(np.percentile(train.features, 90))
    assert np.percentile(train.features, 88) < ceiling < np.percentile(train.features, 92)


def test_react_refuses_a_cut_that_leaves_nothing(train: World, held_out: World) -> None:
    sparse = train.features * (np.arange(20) == 0)
    with pytest.raises(FitError, match="raise percentile"):
        fit(DETECTORS["react"](), with_features(train, sparse), held_out)


def shaped(features: Array, percentile: float, prune: bool) -> Array:
    found = []
    for row in features:
        kept = np.sort(row)[::-1][: len(row) - round(len(row) * percentile / 100)]
        base = np.where(row >= kept.min(), row, 0) if prune else row
        found.append(base * np.exp(row.sum() / kept.sum()))
    return np.array(found)


@pytest.mark.parametrize(("name", "percentile"), [("ash_s", 65.0), ("scale", 85.0)])
def test_activation_shaping(name: str, percentile: float, train: World, held_out: World) -> None:
    detector = fit(DETECTORS[name](), train, held_out)
    assert detector.hyperparameters() == {"percentile": percentile}
    expected = energy(train, shaped(far(3), percentile, prune=name == "ash_s"))
    np.testing.assert_allclose(
        score(detector, train.outputs(far(3))), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["ash_s", "scale"])
def test_shaping_of_features_that_are_all_zero(name: str, train: World, held_out: World) -> None:
    detector = fit(DETECTORS[name](), train, held_out)
    silent = score(detector, train.outputs(np.zeros((2, 20))))
    np.testing.assert_allclose(silent, -logsumexp(train.bias), rtol=1e-5)


@pytest.mark.parametrize("name", ["ash_s", "scale"])
def test_shaping_refuses_negative_features_and_overflow(
    name: str, train: World, held_out: World
) -> None:
    shifted = train.features.copy()
    shifted[17, 3] = -0.25
    with pytest.raises(FitError, match=f"{name}: a penultimate feature of train-ID is -0.25"):
        fit(DETECTORS[name](), with_features(train, shifted), held_out)
    wide = world(seed=1, dim=200)
    with pytest.raises(FitError, match=r"keeps 2 of 200 features .* exp\(100\)"):
        fit(DETECTORS[name](percentile=99.0), wide, wide)


def test_react_remarks_on_negative_features(train: World, held_out: World) -> None:
    shifted = with_features(train, train.features - 0.25)
    (remark,) = fit(DETECTORS["react"](), shifted, held_out).remarks()
    assert "-0.25" in remark
    assert "rectified" in remark


def test_she_multiplies_with_the_pattern_of_correct_inputs(train: World, held_out: World) -> None:
    detector = fit(DETECTORS["she"](), train, held_out)
    patterns = np.stack(
        [train.features[train.correct & (train.labels == c)].mean(0) for c in range(6)]
    )
    all_inputs = np.stack([train.features[train.labels == c].mean(0) for c in range(6)])
    assert np.abs(patterns - all_inputs).max() > 0.01
    expected = -(far(3) * patterns[train.logits_of(far(3)).argmax(1)]).sum(1)
    np.testing.assert_allclose(score(detector, train.outputs(far(3))), expected, rtol=1e-5)


def test_she_refuses_a_class_that_is_never_right(train: World, held_out: World) -> None:
    kept = ~((train.labels == 3) & train.correct)
    wrong = World(train.weight, train.bias, train.features[kept], train.labels[kept])
    with pytest.raises(FitError, match=r"classes \[3\]"):
        fit(DETECTORS["she"](), wrong, held_out)


@pytest.mark.parametrize("origin", ["train_mean", "zero"])
def test_fdbd_adds_the_distances_to_all_boundaries(
    train: World, held_out: World, origin: str
) -> None:
    detector = fit(Fdbd(origin), train, held_out)  # type: ignore[arg-type]
    center = train.features.mean(0) if origin == "train_mean" else 0
    expected = []
    for z in far(3):
        logits = train.weight @ z + train.bias
        predicted = logits.argmax()
        total = 0.0
        for c in set(range(6)) - {predicted}:
            normal = train.weight[predicted] - train.weight[c]
            offset = train.bias[predicted] - train.bias[c]
            foot = z - (normal @ z + offset) / (normal @ normal) * normal
            tied = train.weight @ foot + train.bias
            assert tied[predicted] == pytest.approx(tied[c], abs=1e-9)  # it is on the boundary
            total += np.linalg.norm(z - foot)
        expected.append(-total / np.linalg.norm(z - center))
    np.testing.assert_allclose(score(detector, train.outputs(far(3))), expected, rtol=1e-4)


def test_fdbd_refuses_two_classes_of_one_weight(train: World, held_out: World) -> None:
    weight = train.weight.copy()
    weight[4] = weight[1]
    twins = World(weight, train.bias, train.features, train.labels)
    with pytest.raises(FitError, match=r"same for classes \[1, 4\]"):
        fit(DETECTORS["fdbd"](), twins, held_out)


def nci_terms(source: World, features: Array, center: Array) -> tuple[Array, Array]:
    centred = features - center
    predicted = source.weight[source.logits_of(features).argmax(1)]
    aligned = (predicted * centred).sum(1) / np.linalg.norm(centred, axis=1)
    return aligned, np.abs(features).sum(1)


@pytest.mark.parametrize("norm_weight", [None, 0.0, 0.3])
def test_nci_weighs_alignment_against_norm(
    train: World, held_out: World, norm_weight: float | None
) -> None:
    detector = fit(Nci(norm_weight), train, held_out)
    center = train.features.mean(0)
    aligned, norm = nci_terms(train, held_out.features, center)
    a = aligned.std() / norm.std() if norm_weight is None else norm_weight
    assert detector.fitted("weight_of_norm").item() == pytest.approx(a, rel=1e-5)
    aligned, norm = nci_terms(train, far(3), center)
    np.testing.assert_allclose(
        score(detector, train.outputs(far(3))), -aligned - a * norm, rtol=1e-4, atol=1e-5
    )


def test_nci_without_held_out_inputs_needs_the_weight(train: World, held_out: World) -> None:
    nothing = World(held_out.weight, held_out.bias, held_out.features[:0], held_out.labels[:0])
    with pytest.raises(FitError, match="set norm_weight or give more"):
        fit(Nci(), train, nothing)
    fit(Nci(norm_weight=0.1), train, nothing)
    level = with_features(held_out, np.abs(np.eye(20))[np.arange(400) % 20])
    with pytest.raises(FitError, match="does not vary; set norm_weight"):
        fit(Nci(), train, level)


@pytest.mark.parametrize("percentile", [90.0, 50.0, 0.0])
def test_dice_keeps_the_largest_contributions(
    train: World, held_out: World, percentile: float
) -> None:
    detector = fit(Dice(percentile), train, held_out)
    contributions = sorted(
        (train.weight[c, j] * train.features[:, j].mean(), c, j)
        for c in range(6)
        for j in range(20)
    )
    sparse = np.zeros_like(train.weight)
    for _, c, j in contributions[round(120 * percentile / 100) or 1 :]:
        sparse[c, j] = train.weight[c, j]
    expected = -logsumexp(far(3) @ sparse.T + train.bias, axis=1)
    np.testing.assert_allclose(score(detector, train.outputs(far(3))), expected, rtol=1e-4)


def test_dice_names_classes_that_lose_all_weights(train: World, held_out: World) -> None:
    assert fit(Dice(50.0), train, held_out).remarks() == ()
    (remark,) = fit(Dice(99.0), train, held_out).remarks()
    assert "keep none of their weights" in remark
    with pytest.raises(FitError, match="no contribution exceeds"):
        fit(Dice(), with_features(train, 0 * train.features), held_out)


def gradient_norm(source: World, features: Array, temperature: float) -> Array:
    """L1 norm of d KL(uniform || softmax(f / T)) / dW by automatic differentiation."""
    weight, bias = torch.from_numpy(source.weight), torch.from_numpy(source.bias)
    found = []
    for z in torch.from_numpy(features):
        head = weight.clone().requires_grad_()
        logs = torch.log_softmax((head @ z + bias) / temperature, dim=0)
        uniform = torch.full_like(logs, 1 / len(logs))
        divergence = (uniform * (uniform.log() - logs)).sum()
        (gradient,) = torch.autograd.grad(divergence, head)
        found.append(gradient.abs().sum().item())
    return np.array(found)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradnorm_is_the_gradient_of_the_head(train: World, temperature: float) -> None:
    queries = np.concatenate([far(3), train.features[:100]])
    ours = score(GradNorm(temperature), train.outputs(queries))
    theirs = gradient_norm(train, queries, temperature)
    np.testing.assert_allclose(-ours / theirs, 6 * temperature, rtol=1e-5)
    assert (np.argsort(ours) == np.argsort(-theirs)).all()


def test_gradnorm_in_closed_form(train: World) -> None:
    p = softmax(train.logits_of(far(3)), axis=1)
    expected = -np.abs(far(3)).sum(1) * np.abs(6 * p - 1).sum(1)
    np.testing.assert_allclose(score(GradNorm(), train.outputs(far(3))), expected, rtol=1e-5)


@pytest.mark.parametrize("name", FEATURE_DETECTORS)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_every_magnitude_gives_finite_scores_that_differ(
    name: str, size: float, train: World, held_out: World
) -> None:
    detector = fit(DETECTORS[name](), train.scaled(size), held_out.scaled(size))
    values = score(detector, train.scaled(size).outputs(far(3) * size))
    assert np.isfinite(values).all()
    assert len(np.unique(values)) > 0.9 * len(values)


@pytest.mark.parametrize("name", FITTED)
def test_the_cut_into_batches_changes_nothing(name: str, train: World, held_out: World) -> None:
    whole = fit(DETECTORS[name](), train, held_out, batch=1000).state_dict()
    cut = fit(DETECTORS[name](), train, held_out, batch=7).state_dict()
    for key, value in whole.items():
        torch.testing.assert_close(cut[key], value, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", FITTED)
def test_broken_features_are_refused(name: str, train: World, held_out: World) -> None:
    broken = train.features.copy()
    broken[5, 3] = np.inf
    with pytest.raises(FitError, match="NaN or infinite"):
        fit(DETECTORS[name](), with_features(train, broken), held_out)


@pytest.mark.parametrize("name", FITTED)
def test_a_head_or_features_that_never_came_are_named(name: str, train: World) -> None:
    headless = DETECTORS[name]()
    headless.observe(train.outputs(train.features), torch.from_numpy(train.labels))
    if name != "she":
        with pytest.raises(FitError, match="head"):
            headless.finish()
    unfed = DETECTORS[name]()
    unfed.prepare(train.classifier)
    with pytest.raises(FitError, match=r"training (features|inputs)"):
        unfed.finish()


def test_a_head_without_bias_reads_as_zero(train: World) -> None:
    classifier = train.classifier
    classifier.head.bias = None
    weight, bias = linear_head(classifier)
    assert torch.equal(bias, torch.zeros(6))
    weight.zero_()
    assert classifier.head.weight.abs().sum() > 0  # a copy


def test_the_summary_adds_in_float64() -> None:
    summary = FeatureSummary()
    for value in (1e8, 1.0, -1e8, 1.0):
        summary.add(torch.tensor([[value]]))
    assert summary.mean().item() == 0.5
    assert summary.lowest == -1e8


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ash_s", {"percentile": 100.0}),
        ("dice", {"percentile": -1.0}),
        ("fdbd", {"origin": "median"}),
        ("gradnorm", {"temperature": 0.0}),
        ("nci", {"norm_weight": -0.1}),
        ("react", {"percentile": 0.0}),
        ("scale", {"percentile": -5.0}),
    ],
)
def test_impossible_hyperparameters_are_refused_by_name(name: str, options: dict) -> None:
    with pytest.raises(ValueError, match=f"{name}: {next(iter(options))}"):
        DETECTORS[name](**options)


class _Scores(nn.Module):
    """Detectors on given features and logits, joined (B, D + K): a graph of extreme inputs."""

    def __init__(self, detectors: dict[str, Detector], dim: int) -> None:
        super().__init__()
        self.detectors = nn.ModuleDict(detectors)
        self.dim = dim

    def forward(self, joined: Tensor) -> dict[str, Tensor]:
        features, logits = joined[:, : self.dim], joined[:, self.dim :]
        outputs = Outputs({"features": features}, logits, "features")
        return {name: detector(outputs)[name] for name, detector in self.detectors.items()}


def test_graphs_hold_at_extreme_inputs(train: World, held_out: World, tmp_path: Path) -> None:
    """ONNX has neither log1p nor expm1: confident, silent and huge inputs must survive that."""
    names = [*FEATURE_DETECTORS, *LOGIT_DETECTORS]
    fits = {name: fit(DETECTORS[name](), train, held_out) for name in names}
    scores = _Scores(fits, dim=20).eval()
    sizes = np.repeat([0.0, 1e-3, 0.1, 1.0, 10.0, 1e3], 20)[:, None]
    inputs = train.outputs(far(4, count=120) * sizes)
    joined = torch.cat([inputs.features, inputs.logits], dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's dependencies deprecate one another
        program = torch.onnx.export(
            scores,
            (joined[:13],),
            input_names=["joined"],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
            opset_version=20,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    path = tmp_path / "scores.onnx"
    program.save(str(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = scores(joined)
    for name, actual in zip(names, session.run(names, {"joined": joined.numpy()}), strict=True):
        wanted = expected[name].detach().numpy()
        assert np.isfinite(wanted).all(), name
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=2e-6, err_msg=name)
