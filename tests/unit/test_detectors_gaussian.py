"""Gaussian detectors: formulas, and what breaks a covariance in practice."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from linear_world import Array, World, far, fit, score, world
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from training.detectors import DETECTORS, FitError
from training.detectors.gaussian import ClassMoments, Moments
from training.detectors.gda import Gda
from training.detectors.mahalanobis import Mahalanobis
from training.detectors.mahalanobis_normalised import MahalanobisNormalised
from training.detectors.rmds import Rmds

INVERTING = ("gda", "mahalanobis", "mahalanobis_normalised", "rmds")
FITTED = (*INVERTING, "cop", "corp", "kde", "knn", "nnguide", "vim")


def regularised(covariance: Array, shrinkage: float, floor: float) -> Array:
    """Variances below the floor raised to it, then shrinkage: another reading."""
    result = covariance.copy()
    for j, variance in enumerate(np.diag(covariance)):
        result[j, j] = max(variance, floor)
    target = np.trace(result) / len(result) * np.eye(len(result))
    return (1 - shrinkage) * result + shrinkage * target


def usual(covariance: Array) -> float:
    """Torch's median: of an even number, the lower of the two in the middle."""
    variances = np.sort(np.diag(covariance)[np.diag(covariance) > 0])
    return float(variances[(len(variances) - 1) // 2])


def class_means(train: World) -> Array:
    return np.stack([train.features[train.labels == c].mean(0) for c in range(6)])


def tied_covariance(train: World) -> Array:
    centred = train.features - class_means(train)[train.labels]
    return centred.T @ centred / len(centred)


def class_distances(train: World, test: Array, shrinkage: float, share: float) -> Array:
    """(n, K) squared distances under the tied covariance, by an explicit inverse."""
    covariance = tied_covariance(train)
    precision = np.linalg.inv(regularised(covariance, shrinkage, share * usual(covariance)))
    gaps = test[:, None] - class_means(train)
    return np.einsum("nkd,de,nke->nk", gaps, precision, gaps)


def unit(features: Array) -> Array:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.fixture
def train() -> World:
    return world(seed=1)


@pytest.fixture
def test() -> Array:
    return np.concatenate([world(seed=2, count=60).features, far(seed=3)])


@pytest.mark.parametrize("batch", [1000, 64, 7, 1])
def test_streamed_moments_are_those_of_the_whole(batch: int) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (1000, 8)) @ rng.normal(0, 1, (8, 8)) + 1000
    labels = rng.integers(0, 3, 1000)
    moments, classes = Moments(), ClassMoments()
    for part, names in zip(
        torch.from_numpy(features).split(batch), torch.from_numpy(labels).split(batch), strict=True
    ):
        moments.add(part)
        moments.add(part[:0])
        classes.add(part, names, 3)
    for found in (moments, classes.total()):
        assert found.count == 1000
        np.testing.assert_allclose(found.mean.numpy(), features.mean(0), rtol=1e-12)
        np.testing.assert_allclose(
            found.covariance(lost=1).numpy(), np.cov(features.T), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("silent_floor", [0.0, 0.1, 1.0])
def test_mahalanobis_against_the_inverse(train: World, test: Array, silent_floor: float) -> None:
    detector = fit(Mahalanobis(silent_floor=silent_floor), train, train)
    expected = class_distances(train, test, 1e-3, silent_floor).min(1)
    np.testing.assert_allclose(score(detector, train.outputs(test)), expected, rtol=1e-4)


def test_mahalanobis_normalised_reads_directions(train: World, test: Array) -> None:
    detector = fit(MahalanobisNormalised(), train, train)
    directions = World(train.weight, train.bias, unit(train.features), train.labels)
    expected = class_distances(directions, unit(test), 1e-3, 0.1).min(1)
    np.testing.assert_allclose(score(detector, train.outputs(test)), expected, rtol=1e-4)
    np.testing.assert_allclose(
        score(detector, train.outputs(test * 7)), score(detector, train.outputs(test)), rtol=1e-4
    )


def test_rmds_subtracts_the_distance_to_everything(train: World, test: Array) -> None:
    detector = fit(Rmds(), train, train)
    covariance = np.cov(train.features.T, bias=True)
    floor = 0.1 * usual(tied_covariance(train))
    precision = np.linalg.inv(regularised(covariance, 1e-3, floor))
    gaps = test - train.features.mean(0)
    background = np.einsum("nd,de,ne->n", gaps, precision, gaps)
    expected = class_distances(train, test, 1e-3, 0.1).min(1) - background
    np.testing.assert_allclose(score(detector, train.outputs(test)), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("prior", ["uniform", "empirical"])
def test_gda_density_is_the_mixture_of_full_gaussians(test: Array, prior: str) -> None:
    train = world(seed=1, count=3000)  # 500 a class, 20 features: every covariance its own
    # without the rectifier: a feature silent in one class has no density there to compare with
    noise = np.random.default_rng(7).normal(0, 0.5, train.features.shape)
    features = (train.features + noise).astype(np.float32).astype(np.float64)
    kept = (train.labels > 0) | (np.arange(3000) % 4 == 0)  # class 0 is rarer
    train = World(train.weight, train.bias, features[kept], train.labels[kept])
    detector = fit(Gda(shrinkage=1e-6, silent_floor=0.0, prior=prior), train, train)
    parts = []
    for c in range(6):
        own = train.features[train.labels == c]
        weight = len(own) / len(train.features) if prior == "empirical" else 1 / 6
        gaussian = multivariate_normal(own.mean(0), np.cov(own.T))
        parts.append(np.log(weight) + gaussian.logpdf(test))
    expected = -logsumexp(np.stack(parts), axis=0)
    np.testing.assert_allclose(score(detector, train.outputs(test)), expected, rtol=1e-4)
    assert detector.remarks() == ()
    assert detector.hyperparameters()["largest_tied_share"] == 0


def test_gda_density_of_few_inputs_leans_on_the_shared_covariance(test: Array) -> None:
    train = world(seed=1, count=90)  # fewer than 20 a class, 20 features
    detector = fit(Gda(), train, train)
    counts = np.bincount(train.labels)
    assert counts.max() <= 20
    means = class_means(train)
    tied = tied_covariance(train) * 90 / (90 - 6)
    parts = []
    for c, count in enumerate(counts):
        share = 20 / (20 + count)
        mixed = (1 - share) * np.cov(train.features[train.labels == c].T) + share * tied
        covariance = regularised(mixed, 1e-3, 0.1 * usual(tied))
        parts.append(np.log(count / 90) + multivariate_normal(means[c], covariance).logpdf(test))
    expected = -logsumexp(np.stack(parts), axis=0)
    np.testing.assert_allclose(score(detector, train.outputs(test)), expected, rtol=1e-4, atol=1e-3)
    share = 20 / (20 + counts.min())
    assert detector.hyperparameters()["largest_tied_share"] == pytest.approx(share, abs=1e-6)
    (remark,) = detector.remarks()
    assert "6 of 6 classes" in remark
    assert f"{share:.0%}" in remark


def test_gda_ranks_where_densities_underflow(train: World) -> None:
    detector = fit(Gda(), train, train)
    outward = np.ones((4, 20)) * np.array([[1e2], [1e3], [1e4], [1e5]])
    scores = score(detector, train.outputs(outward))
    assert np.isfinite(scores).all()
    assert (np.diff(scores) > 0).all()
    assert scores[0] > 1e3  # its density is far below the smallest float64


def test_gda_refuses_covariances_that_do_not_fit() -> None:
    train = world(seed=1)
    with pytest.raises(FitError, match=r"6 covariances of 20 features.*covariance_megabytes is 0"):
        fit(Gda(covariance_megabytes=0.01), train, train)


def silent_world(size: float, constant: float) -> World:
    """64 features of standard deviation about `size` within a class; feature 5 never moves."""
    rng = np.random.default_rng(4)
    labels = np.arange(4000) % 4
    patterns = rng.normal(0, 2, (4, 64))
    features = np.maximum(patterns[labels] + rng.normal(0, 1, (4000, 64)), 0) * size
    features[:, 5] = constant
    bias = np.ones(4)
    exact = [v.astype(np.float32).astype(np.float64) for v in (patterns, bias, features)]
    return World(exact[0], exact[1], exact[2], labels)


def flipped(detector_name: str, train: World, options: dict[str, float], step: float) -> float:
    """Share of ID decisions at 95 % acceptance that turn when feature 5 moves by `step`."""
    fit_part = World(train.weight, train.bias, train.features[:3000], train.labels[:3000])
    detector = fit(DETECTORS[detector_name](**options), fit_part, fit_part, batch=500)
    still = train.features[3000:]
    moved = still.copy()
    moved[:, 5] += step
    outputs, after = train.outputs(still), train.outputs(moved)
    name = "gda_density" if detector_name == "gda" else detector_name
    before = detector(outputs)[name].numpy()
    threshold = np.quantile(before, 0.95)
    # the same logits: what is asked is what the features' statistics make of the motion
    after = type(after)(after.taps, outputs.logits, after.penultimate)
    turned = (before <= threshold) & (detector(after)[name].numpy() > threshold)
    return float(turned.mean() / (before <= threshold).mean())


@pytest.mark.parametrize("constant", [0.0, 0.7])
@pytest.mark.parametrize(("size", "most"), [(1.0, 0.005), (0.1, 0.05)])
@pytest.mark.parametrize("name", FITTED)
def test_a_constant_feature_that_moves_by_a_twentieth_turns_no_decision(
    name: str, size: float, most: float, constant: float
) -> None:
    """But for those that lay at the threshold; at size 0.1 the motion is two thirds of the
    standard deviation of the others."""
    options = {"bank_size": 500} if name == "kde" else {}
    assert flipped(name, silent_world(size, constant), options, 0.05) <= most


@pytest.mark.parametrize("name", INVERTING)
def test_it_is_the_floor_that_keeps_them(name: str) -> None:
    options = {"shrinkage": 1e-6, "silent_floor": 0.0}
    assert flipped(name, silent_world(0.1, 0.0), options, 0.05) > 0.9


@pytest.mark.parametrize("name", INVERTING)
def test_a_large_motion_off_the_id_subspace_is_seen(name: str) -> None:
    assert flipped(name, silent_world(0.1, 0.0), {}, 1.0) > 0.9


@pytest.mark.parametrize("name", INVERTING)
def test_repeated_features_are_no_obstacle(name: str) -> None:
    """A singular covariance: half of the features are copies of the other half."""
    train = world(seed=1)
    train = World(
        np.tile(train.weight, 2) / 2, train.bias, np.tile(train.features, 2), train.labels
    )
    detector = fit(DETECTORS[name](), train, train)
    inside = world(seed=2, count=200)
    same = np.tile(inside.features, 2)
    torn = same + np.repeat([[0.5, -0.5]], 20, axis=1).reshape(1, 40)
    before, after = (score(detector, train.outputs(part)) for part in (same, torn))
    assert np.isfinite(before).all()
    assert np.median(after - before) > 10  # the copies never differed on train-ID


@pytest.mark.parametrize("name", FITTED)
def test_two_inputs_a_class_end_in_finite_scores_or_a_reason(name: str) -> None:
    train = world(seed=1)
    rows = np.concatenate([np.flatnonzero(train.labels == c)[:2] for c in range(6)])
    few = World(train.weight, train.bias, train.features[rows], train.labels[rows])
    detector = fit(DETECTORS[name](), few, few)
    scores = score(detector, few.outputs(far(seed=3)))
    assert np.isfinite(scores).all()
    assert scores.std() > 0
    assert bool(detector.remarks()) == (name in ("gda", "knn", "nnguide"))


@pytest.mark.parametrize("name", INVERTING)
def test_labels_of_one_class_only_are_refused_by_number(name: str) -> None:
    train = world(seed=1)
    single = World(train.weight, train.bias, train.features, np.full(600, 3))
    with pytest.raises(FitError, match=r"classes \[0, 1, 2, 4, 5\] have fewer than two"):
        fit(DETECTORS[name](), single, single)


def test_a_network_of_one_class_has_no_relative_distance() -> None:
    train = world(seed=1, classes=1)
    with pytest.raises(FitError, match="one class"):
        fit(Rmds(), train, train)
    for name in ("gda", "mahalanobis", "mahalanobis_normalised"):
        scores = score(fit(DETECTORS[name](), train, train), train.outputs(far(seed=3)))
        assert np.isfinite(scores).all()


@pytest.mark.parametrize("value", [0.0, 0.3])
@pytest.mark.parametrize("name", [*INVERTING, "cop", "corp", "kde", "vim"])
def test_features_that_never_vary_are_refused(name: str, value: float) -> None:
    train = world(seed=1)
    frozen = World(train.weight, train.bias, np.full((600, 20), value), train.labels)
    with pytest.raises(FitError, match=r"do not vary|vary in [01] of 20 directions"):
        fit(DETECTORS[name](), frozen, frozen)


@pytest.mark.parametrize("name", FITTED)
def test_a_feature_that_is_not_finite_is_refused(name: str) -> None:
    train = world(seed=1)
    for value in (np.nan, np.inf):
        features = train.features.copy()
        features[77, 3] = value
        broken = World(train.weight, train.bias, features, train.labels)
        with pytest.raises(FitError, match="NaN or infinite"):
            fit(DETECTORS[name](), broken, broken)


@pytest.mark.parametrize("name", [*INVERTING, "kde"])
@pytest.mark.parametrize("label", [-1, 6])
def test_a_label_that_is_no_class_is_refused(name: str, label: int) -> None:
    train = world(seed=1)
    labels = train.labels.copy()
    labels[5] = label
    wrong = World(train.weight, train.bias, train.features, labels)
    with pytest.raises(FitError, match=f"labels span .*{label}.*classes 0 to 5"):
        fit(DETECTORS[name](), wrong, train)


@pytest.mark.parametrize(
    "options",
    [
        {"shrinkage": 0.0},
        {"shrinkage": 1.0},
        {"silent_floor": -0.1},
        {"silent_floor": 1.1},
    ],
)
@pytest.mark.parametrize("name", INVERTING)
def test_impossible_regularisation_is_refused_by_name(name: str, options: dict) -> None:
    with pytest.raises(ValueError, match=f"{name}: {next(iter(options))}"):
        DETECTORS[name](**options)


@pytest.mark.parametrize("options", [{"prior": "flat"}, {"covariance_megabytes": 0.0}])
def test_impossible_options_of_gda_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=f"gda: {next(iter(options))}"):
        Gda(**options)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc"
)
_FIT_IN_A_PROCESS = """
import re, sys
import numpy as np
import torch
from linear_world import World
from training.detectors import DETECTORS
from training.outputs import Outputs

torch.set_num_threads(1)

def peak_bytes():
    # not ru_maxrss, which starts at the size of the process that started this one
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])

classes = 100
generator = torch.Generator().manual_seed(0)
patterns = torch.randn(classes, 512, generator=generator)
world = World(patterns.double().numpy(), np.ones(classes), np.zeros((0, 512)), np.zeros(0, int))
classifier = world.classifier
detectors = [DETECTORS[name]() for name in sys.argv[1:]]
torch.linalg.eigh(torch.eye(64, dtype=torch.float64) @ torch.eye(64, dtype=torch.float64))
before = peak_bytes()
for detector in detectors:
    detector.prepare(classifier)
for _ in range(200):
    labels = torch.randint(0, classes, (250,), generator=generator)
    features = torch.relu(patterns[labels] + torch.randn(250, 512, generator=generator))
    outputs = Outputs({"features": features}, features @ patterns.T, "features")
    for detector in detectors:
        detector.observe(outputs, labels)
for detector in detectors:
    detector.finish()
print(peak_bytes() - before)
"""


def fit_bytes(*names: str) -> int:
    """Growth of the peak resident memory over fitting these together, one pass of 50,000 x 512."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _FIT_IN_A_PROCESS, *names],
        env={"PYTHONPATH": f"{root}:{root / 'tests'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@needs_proc
def test_fitting_50000_by_512_features_takes_less_than_a_gigabyte() -> None:
    """100 classes: 210 MB of covariances for gda alone."""
    grown = fit_bytes("gda")
    assert 150e6 < grown < 1e9


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FITTED if name != "gda"])
def test_every_other_detector_fits_in_a_gigabyte(name: str) -> None:
    assert fit_bytes(name) < 1e9
