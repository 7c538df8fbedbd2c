"""Scores against independent float64 readings of the formulas."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from toy import TOY_SPEC, noise_pixels, toy_classifier, toy_pixels

from training.detectors import DETECTORS, FitError
from training.detectors.energy import Energy
from training.detectors.fssd import Fssd
from training.detectors.gaussian import ClassMoments, nearest_class_distance
from training.detectors.mahalanobis import Mahalanobis
from training.detectors.msp import Msp
from training.outputs import Outputs


def logits_only(values: np.ndarray) -> Outputs:
    logits = torch.from_numpy(values.astype(np.float32))
    return Outputs({"logits": logits}, logits, "logits")


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, (200, 10))


def test_msp_is_the_log_odds_of_the_maximum_probability(logits: np.ndarray) -> None:
    top = softmax(logits, axis=1).max(1)
    score = Msp()(logits_only(logits))["msp"].numpy()
    np.testing.assert_allclose(score, np.log((1 - top) / top), rtol=1e-4, atol=1e-5)


def test_msp_ranks_where_float32_probabilities_tie() -> None:
    confident = np.array([[40.0, 0, 0], [60.0, 0, 0], [80.0, 0, 0]])
    assert (torch.softmax(torch.tensor(confident).float(), 1).amax(1) == 1).all()
    score = Msp()(logits_only(confident))["msp"]
    assert score[0] > score[1] > score[2]


@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_energy(logits: np.ndarray, temperature: float) -> None:
    expected = -temperature * logsumexp(logits / temperature, axis=1)
    score = Energy(temperature)(logits_only(logits))["energy"].numpy()
    np.testing.assert_allclose(score, expected, rtol=1e-5)


def test_max_logit(logits: np.ndarray) -> None:
    score = DETECTORS["max_logit"]()(logits_only(logits))["max_logit"].numpy()
    np.testing.assert_allclose(score, -logits.max(1), rtol=1e-6)


def test_huge_logits_stay_finite() -> None:
    outputs = logits_only(np.array([[1e4, -1e4, 0], [3e4, 3e4, 3e4]]))
    for name in ("msp", "max_logit", "energy"):
        assert torch.isfinite(DETECTORS[name]()(outputs)[name]).all(), name


def reference_distance(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, shrinkage: float
) -> np.ndarray:
    """The textbook formula with an explicit inverse, float64."""
    means = np.stack([train[labels == c].mean(0) for c in range(labels.max() + 1)])
    centred = train - means[labels]
    covariance = centred.T @ centred / len(train)
    dim = len(covariance)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / dim * np.eye(dim)
    precision = np.linalg.inv(covariance)
    gaps = test[:, None] - means[None]
    return np.einsum("nkd,de,nke->nk", gaps, precision, gaps).min(1)


@pytest.mark.parametrize("batch", [1000, 64, 7])
def test_streamed_distance_equals_the_textbook_formula(batch: int) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 1000)
    mixing = rng.normal(0, 1, (20, 20))
    train = rng.normal(0, 1, (1000, 20)) @ mixing + 50 + labels[:, None]
    test = rng.normal(0, 2, (100, 20)) @ mixing + 50
    moments = ClassMoments()
    for start in range(0, 1000, batch):
        part = slice(start, start + batch)
        moments.add(torch.from_numpy(train[part]), torch.from_numpy(labels[part]), 5)
    classes = moments.whitened(1e-3)
    score = nearest_class_distance(
        torch.from_numpy(test).float(), classes.whitening, classes.whitened_means
    )
    # float32 features of size 50 against float64: 1e-3 is what their rounding allows
    np.testing.assert_allclose(
        score.numpy(), reference_distance(train, labels, test, 1e-3), rtol=1e-3
    )


def test_a_silent_unit_that_wakes_does_not_flip_the_decision() -> None:
    """Constant on train, moves by 0.05 at test time: weighs no more than an average unit."""
    rng = np.random.default_rng(2)
    labels = np.arange(2000) % 2
    train = rng.normal(0, 1, (2000, 16)) + 4 * labels[:, None]
    train[:, 3] = 0
    moments = ClassMoments()
    moments.add(torch.from_numpy(train), torch.from_numpy(labels), 2)
    classes = moments.whitened(1e-3)

    def score(x: np.ndarray) -> np.ndarray:
        features = torch.from_numpy(x).float()
        return nearest_class_distance(features, classes.whitening, classes.whitened_means).numpy()

    still = train[:500].copy()
    moved = still.copy()
    moved[:, 3] = 0.05
    threshold = np.quantile(score(train), 0.95)
    assert np.median(score(moved) - score(still)) < 3
    assert (score(moved) > threshold).mean() < 0.2
    moved[:, 3] = 5  # a real motion off the ID subspace is seen
    assert (score(moved) > threshold).all()


def test_features_that_never_vary_and_nan_are_refused() -> None:
    moments = ClassMoments()
    moments.add(torch.ones(8, 3), torch.tensor([0, 1] * 4), 2)
    with pytest.raises(FitError, match="do not vary"):
        moments.whitened(1e-3)
    with pytest.raises(FitError, match="NaN"):
        moments.add(torch.full((2, 3), torch.nan), torch.tensor([0, 1]), 2)


def taps_of(pixels: torch.Tensor) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {k: v.double().numpy() for k, v in toy_classifier()(pixels).taps.items()}


@pytest.mark.parametrize("mode", ["pixels", "normalised"])
def test_fssd_against_a_float64_reading(mode: str) -> None:
    pixels, labels = toy_pixels(400, seed=2)
    test = torch.cat([toy_pixels(30, seed=3)[0], noise_pixels(30, seed=4)])
    detector = Fssd(noise_mode=mode, noise_count=250, noise_seed=5)  # type: ignore[arg-type]
    classifier = toy_classifier()
    detector.prepare(classifier)
    with torch.no_grad():
        detector.observe(classifier(pixels), labels)
        detector.finish()
        scores = {k: v.numpy() for k, v in detector(classifier(test)).items()}

    generator = torch.Generator().manual_seed(5)
    noise = []
    for count in (100, 100, 50):
        if mode == "pixels":
            noise.append(
                torch.randint(0, 256, (count, 12, 12, 1), generator=generator, dtype=torch.uint8)
            )
        else:
            noise.append(torch.randint(0, 255, (count, 1, 12, 12), generator=generator))
    with torch.no_grad():
        if mode == "pixels":
            probe = classifier(torch.cat(noise)).taps
        else:
            probe = classifier.from_normalised((torch.cat(noise).float() - 127.5) / 255).taps
    logs: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for layer, tap in probe.items():
        center = tap.double().flatten(1).numpy().mean(0)
        for part, images in (("train", pixels), ("test", test)):
            flat = taps_of(images)[layer].reshape(len(images), -1)
            distance = np.sqrt(((flat - center) ** 2).sum(1))
            logs[part].append(np.log(distance))
            if part == "test":
                name = "fssd" if layer == "hidden" else f"fssd_{layer}"
                np.testing.assert_allclose(scores[name], -distance, rtol=1e-4)
    density = reference_distance(
        np.stack(logs["train"], 1), labels.numpy(), np.stack(logs["test"], 1), 1e-3
    )
    np.testing.assert_allclose(scores["fssd_density"], density, rtol=2e-3, atol=1e-2)


def test_mahalanobis_pools_maps_and_reads_every_layer() -> None:
    pixels, labels = toy_pixels(400, seed=2)
    test = toy_pixels(50, seed=3)[0]
    detector = Mahalanobis(shrinkage=0.01)
    with torch.no_grad():
        detector.observe(toy_classifier()(pixels), labels)
        detector.finish()
        scores = detector(toy_classifier()(test))
    assert set(scores) == {"mahalanobis_conv", "mahalanobis", "mahalanobis_logits"}
    train_conv = taps_of(pixels)["conv"].mean((2, 3))
    expected = reference_distance(
        train_conv, labels.numpy(), taps_of(test)["conv"].mean((2, 3)), 0.01
    )
    np.testing.assert_allclose(scores["mahalanobis_conv"].numpy(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("energy", {"temperature": 0.0}),
        ("mahalanobis", {"shrinkage": 0.0}),
        ("fssd", {"noise_mode": "salt"}),
        ("fssd", {"noise_count": 0}),
        ("fssd", {"shrinkage": 1.0}),
    ],
)
def test_impossible_hyperparameters_are_refused_by_name(name: str, options: dict) -> None:
    with pytest.raises(ValueError, match=f"{name}: {next(iter(options))}"):
        DETECTORS[name](**options)


def test_agreement_with_pytorch_ood_on_the_shared_scores(logits: np.ndarray) -> None:
    from pytorch_ood.detector import EnergyBased, MaxLogit

    tensor = torch.from_numpy(logits).float()
    outputs = logits_only(logits)
    theirs = {"energy": EnergyBased.score(tensor), "max_logit": MaxLogit.score(tensor)}
    for name, expected in theirs.items():
        torch.testing.assert_close(DETECTORS[name]()(outputs)[name], expected, rtol=1e-5, atol=1e-5)


def test_the_toy_input_has_the_spec() -> None:
    assert toy_pixels(1, 0)[0].shape[1:] == (TOY_SPEC.height, TOY_SPEC.width, TOY_SPEC.channels)
