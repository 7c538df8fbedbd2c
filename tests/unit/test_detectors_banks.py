"""Detectors with a bank or a subspace, against independent readings of their formulas."""

import numpy as np
import pytest
import torch
from linear_world import Array, World, far, fit, score, world
from scipy.special import logsumexp
from sklearn.neighbors import KernelDensity, NearestNeighbors

from training.detectors import DETECTORS, FitError, vim
from training.detectors.cop import Cop
from training.detectors.corp import Corp
from training.detectors.kde import Kde, mean_logs
from training.detectors.knn import Knn
from training.detectors.nnguide import NNGuide
from training.detectors.vim import Vim


def unit(features: Array) -> Array:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def kth_distance(bank: Array, test: Array, k: int) -> Array:
    return NearestNeighbors(n_neighbors=k).fit(bank).kneighbors(test)[0][:, -1]


@pytest.fixture
def train() -> World:
    return world(seed=1)


@pytest.fixture
def test() -> Array:
    return np.concatenate([world(seed=2, count=60).features, far(seed=3)])


@pytest.mark.parametrize("k", [1, 7, 50])
def test_knn_is_the_distance_to_the_kth_neighbour(train: World, test: Array, k: int) -> None:
    detector = fit(Knn(k=k), train, train)
    expected = kth_distance(unit(train.features), unit(test), k)
    np.testing.assert_allclose(score(detector, train.outputs(test)), expected, rtol=1e-4)
    assert detector.remarks() == ()
    assert detector.hyperparameters()["bank_size"] == 600


def test_knn_bank_is_a_sample_that_fits_and_k_shrinks_with_it(train: World, test: Array) -> None:
    # 150 of 600 vectors of 20 floats: the 50th of all is about the 12th of a quarter
    detector = fit(Knn(k=50, bank_megabytes=150 * 20 * 4 / 1e6), train, train)
    assert detector.hyperparameters()["bank_size"] == 150
    assert detector.hyperparameters()["neighbour"] == 12
    bank = detector.state_dict()["bank"].double().numpy()
    assert kth_distance(unit(train.features), bank, 1).max() < 1e-6
    assert len(np.unique(bank, axis=0)) == 150
    sampled = score(detector, train.outputs(test))
    np.testing.assert_allclose(sampled, kth_distance(bank, unit(test), 12), rtol=1e-4)
    whole = score(fit(Knn(k=50), train, train), train.outputs(test))
    assert np.corrcoef(sampled, whole)[0, 1] > 0.95
    assert abs(np.log(sampled / whole).mean()) < 0.05
    other = fit(Knn(k=50, bank_megabytes=150 * 20 * 4 / 1e6, seed=1), train, train)
    assert not np.allclose(score(other, train.outputs(test)), sampled)


def test_knn_keeps_its_digits_where_neighbours_are_close() -> None:
    rng = np.random.default_rng(0)
    center = rng.normal(0, 1, 20)
    features = (center + rng.normal(0, 5e-3, (600, 20))).astype(np.float32).astype(np.float64)
    train = world(seed=1)
    near = World(train.weight, train.bias, features, train.labels)
    expected = kth_distance(unit(features[:500]), unit(features[500:]), 5)
    part = World(train.weight, train.bias, features[:500], train.labels[:500])
    found = score(fit(Knn(k=5), part, part), near.outputs(features[500:]))
    assert expected.max() < 1e-2
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # what would come out of one product: sqrt(2 - 2 cos) in float32
    bank, query = (unit(p).astype(np.float32) for p in (features[:500], features[500:]))
    cosine = np.sort(query @ bank.T, axis=1)[:, -5]
    naive = np.sqrt(np.maximum(2 - 2 * cosine, 0))
    assert np.abs(naive / expected - 1).max() > 1e-3


def test_knn_with_k_beyond_a_class_says_what_it_takes(train: World) -> None:
    few = World(train.weight, train.bias, train.features[:60], train.labels[:60])
    detector = fit(Knn(k=50), few, few)
    assert detector.hyperparameters()["neighbour"] == 5
    (remark,) = detector.remarks()
    assert "k is 5 instead of 50" in remark
    assert "60 inputs of all classes" in remark


def test_a_zero_feature_is_far_from_every_direction(train: World) -> None:
    zero = train.outputs(np.zeros((1, 20)))
    assert score(fit(Knn(), train, train), zero) == pytest.approx(1.0)
    for name in ("cop", "corp", "kde", "mahalanobis_normalised", "nnguide"):
        assert np.isfinite(score(fit(DETECTORS[name](), train, train), zero)).all()


@pytest.mark.parametrize("name", ["knn", "nnguide"])
def test_a_bank_too_small_for_two_vectors_is_refused(train: World, name: str) -> None:
    with pytest.raises(FitError, match=r"bank_megabytes is 0\.0001, which holds 1 vectors of 20"):
        fit(DETECTORS[name](bank_megabytes=1e-4), train, train)


@pytest.mark.parametrize(("k", "share", "size"), [(10, 1.0, 600), (10, 0.2, 120), (20, 0.01, 100)])
def test_nnguide(train: World, test: Array, k: int, share: float, size: int) -> None:
    detector = fit(NNGuide(k=k, bank_share=share), train, train)
    assert detector.hyperparameters()["bank_size"] == size
    assert detector.remarks() == ()
    bank = detector.state_dict()["bank"].double().numpy().T
    rows = unit(train.features) * logsumexp(train.logits, axis=1)[:, None]
    assert kth_distance(rows, bank, 1).max() < 1e-4
    similar = np.sort(unit(test) @ bank.T, axis=1)[:, -k:]
    expected = -logsumexp(train.logits_of(test), axis=1) * similar.mean(1)
    np.testing.assert_allclose(score(detector, train.outputs(test)), expected, rtol=1e-4, atol=1e-4)


def test_nnguide_says_where_its_assumptions_fail(train: World) -> None:
    middle = np.median(logsumexp(train.logits, axis=1))
    low = World(train.weight, train.bias - middle, train.features, train.labels)
    share = (logsumexp(low.logits, axis=1) <= 0).mean()
    assert 0 < share < 1
    (negative,) = fit(NNGuide(bank_share=1.0), low, low).remarks()
    assert f"{share:.1%} of the bank" in negative
    small = World(train.weight, train.bias + 9, train.features[:50], train.labels[:50])
    (few,) = fit(NNGuide(), small, small).remarks()
    assert "over 10 neighbours instead of 100; the bank holds 50 inputs" in few


@pytest.mark.parametrize("transform", ["normalise", "whiten"])
def test_kde_against_scikit_learn(train: World, test: Array, transform: str) -> None:
    detector = fit(Kde(transform=transform, components=8), train, train)
    h = float(detector.state_dict()["bandwidth"])
    if transform == "normalise":
        bank, query = unit(train.features), unit(test)
    else:
        values, vectors = np.linalg.eigh(np.cov(train.features.T, bias=True))
        scaled = vectors[:, -8:] / np.sqrt(values[-8:])
        bank = (train.features - train.features.mean(0)) @ scaled
        query = (test - train.features.mean(0)) @ scaled
        np.testing.assert_allclose(np.cov(bank.T, bias=True), np.eye(8), atol=1e-9)
    # one leaf: the bounds of a tree are crude where the density is far below 1
    theirs = KernelDensity(bandwidth=h, leaf_size=1000).fit(bank).score_samples(query)
    # ours leaves out the density's constant
    expected = -(theirs + bank.shape[1] * (np.log(h) + np.log(2 * np.pi) / 2))
    np.testing.assert_allclose(score(detector, train.outputs(test)), expected, rtol=1e-4, atol=1e-3)
    assert detector.remarks() == ()


def test_kde_chooses_the_bandwidth_that_explains_the_left_out(train: World) -> None:
    chosen = float(fit(Kde(), train, train).state_dict()["bandwidth"])
    bank = unit(train.features)

    def likelihood(h: float) -> float:
        """Scikit-learn's density without each row: its kernel at distance 0 taken out."""
        with_itself = np.exp(KernelDensity(bandwidth=h).fit(bank).score_samples(bank)) * 600
        own = (2 * np.pi * h * h) ** -10
        return float(np.log(np.maximum(with_itself - own, 1e-300) / 599).mean())

    # the grid's steps are a factor of 1.21 apart
    assert likelihood(chosen) > likelihood(chosen * 1.25)
    assert likelihood(chosen) > likelihood(chosen / 1.25)


def test_kde_likelihoods_do_not_suffer_from_parts_or_underflow() -> None:
    rng = np.random.default_rng(5)
    distances = rng.uniform(0.5, 40, (130, 300)).astype(np.float32)
    distances[np.arange(130), np.arange(130)] = np.inf
    factors = -np.geomspace(0.01, 100, 9)
    terms = distances.astype(np.float64) * factors[:, None, None]
    expected = logsumexp(terms, axis=2).mean(axis=1)
    found = mean_logs(torch.from_numpy(distances), torch.from_numpy(factors))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_kde_bank_is_balanced(train: World) -> None:
    kept = (train.labels != 0) | (np.arange(600) % 10 == 0)
    skewed = World(train.weight, train.bias, train.features[kept], train.labels[kept])
    rare = int((skewed.labels == 0).sum())
    assert rare < 20
    detector = fit(Kde(bank_size=120), skewed, skewed)
    state = detector.state_dict()
    bank = (state["bank"] * state["bandwidth"]).numpy()
    nearest = NearestNeighbors(n_neighbors=1).fit(unit(skewed.features)).kneighbors(bank)[1][:, 0]
    counts = np.bincount(skewed.labels[nearest], minlength=6)
    assert counts.tolist() == [rare, 20, 20, 20, 20, 20]


def test_kde_does_not_underflow_far_away(train: World) -> None:
    detector = fit(Kde(transform="whiten"), train, train)
    distances = np.array([[1e2], [1e3], [1e4]])
    scores = score(detector, train.outputs(np.ones((3, 20)) * distances))
    assert np.isfinite(scores).all()
    assert scores[0] > 1e3
    np.testing.assert_allclose(scores[2] / scores[1], 100, rtol=0.1)


def test_kde_of_repeated_inputs_says_so_or_refuses(train: World) -> None:
    twice = World(
        train.weight, train.bias, *(np.repeat(v, 2, axis=0) for v in (train.features, train.labels))
    )
    (remark,) = fit(Kde(), twice, twice).remarks()
    assert "first or last of the grid" in remark
    features = train.features.copy()
    features[:500] = features[0]
    same = World(train.weight, train.bias, features, train.labels)
    with pytest.raises(FitError, match="more than half of the training features are the same"):
        fit(Kde(), same, same)


def vim_reading(train: World, test: Array, dim: int) -> tuple[Array, float]:
    origin = -np.linalg.pinv(train.weight) @ train.bias
    offset = train.features - origin
    _, _, directions = np.linalg.svd(offset)
    residual = directions[dim:].T
    norms = np.linalg.norm(offset @ residual, axis=1)
    alpha = train.logits.max(1).mean() / norms.mean()
    virtual = alpha * np.linalg.norm((test - origin) @ residual, axis=1)
    return virtual - logsumexp(train.logits_of(test), axis=1), alpha


@pytest.mark.parametrize(("asked", "dim"), [(0, 10), (3, 3), (19, 19)])
def test_vim(train: World, test: Array, asked: int, dim: int) -> None:
    detector = fit(Vim(principal_dim=asked), train, train)
    expected, alpha = vim_reading(train, test, dim)
    assert detector.hyperparameters()["principal_dim"] == dim
    assert detector.hyperparameters()["alpha"] == pytest.approx(alpha, rel=1e-5)
    np.testing.assert_allclose(score(detector, train.outputs(test)), expected, rtol=1e-4, atol=1e-4)


def test_vim_scales_by_a_sample_where_there_is_too_much(
    train: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vim, "_RESIDUAL_SAMPLE", 150)
    sampled = fit(Vim(), train, train).state_dict()["alpha"]
    assert sampled == pytest.approx(vim_reading(train, train.features, 10)[1], rel=0.05)


def test_vim_counts_only_directions_that_vary(train: World) -> None:
    """Half of the features are silent and the head ignores them: no residual may be empty."""
    mask = np.arange(20) < 10
    half = World(train.weight * mask, train.bias, train.features * mask, train.labels)
    assert fit(Vim(), half, half).hyperparameters()["principal_dim"] == 5
    with pytest.raises(FitError, match="principal_dim is 10; the training features vary in 10 of"):
        fit(Vim(principal_dim=10), half, half)


def test_vim_refuses_what_it_cannot_scale(train: World) -> None:
    low = World(train.weight, train.bias - 1000, train.features, train.labels)
    with pytest.raises(FitError, match="mean maximum logit is -"):
        fit(Vim(), low, low)
    unprepared = Vim()
    unprepared.observe(train.outputs(train.features), torch.from_numpy(train.labels))
    with pytest.raises(FitError, match="prepare it first"):
        unprepared.finish()


def residual_reading(bank: Array, query: Array, ratio: float) -> tuple[Array, int]:
    """Principal components by singular values of the centred bank."""
    mean = bank.mean(0)
    _, singular, directions = np.linalg.svd(bank - mean, full_matrices=False)
    held = np.cumsum(singular**2) / np.sum(singular**2)
    kept = int(np.searchsorted(held, ratio)) + 1
    rest = directions[kept:]
    return np.linalg.norm((query - mean) @ rest.T, axis=1), kept


@pytest.mark.parametrize("ratio", [0.01, 0.85, 0.99])
def test_cop(train: World, test: Array, ratio: float) -> None:
    detector = fit(Cop(variance_ratio=ratio), train, train)
    expected, kept = residual_reading(unit(train.features), unit(test), ratio)
    assert detector.hyperparameters()["components"] == kept
    np.testing.assert_allclose(score(detector, train.outputs(test)), expected, rtol=1e-4, atol=1e-6)


def test_corp(train: World, test: Array) -> None:
    detector = fit(Corp(), train, train)
    state = {name: value.double().numpy() for name, value in detector.state_dict().items()}

    def mapped(features: Array) -> Array:
        angles = unit(features) @ state["frequencies"] + state["phases"]
        return np.sqrt(2 / 80) * np.cos(angles)

    expected, kept = residual_reading(mapped(train.features), mapped(test), 0.8)
    assert detector.hyperparameters()["components"] == kept
    assert detector.hyperparameters()["fourier_features"] == 80  # 4 D
    np.testing.assert_allclose(score(detector, train.outputs(test)), expected, rtol=1e-4, atol=1e-6)
    again = score(fit(Corp(), train, train), train.outputs(test))
    np.testing.assert_array_equal(again, score(detector, train.outputs(test)))
    other = score(fit(Corp(seed=1), train, train), train.outputs(test))
    assert not np.allclose(other, again)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_corp_features_approximate_the_gaussian_kernel(train: World, gamma: float) -> None:
    detector = Corp(gamma=gamma, fourier_features=2000)
    detector.observe(train.outputs(train.features[:1]), torch.from_numpy(train.labels[:1]))
    state = {name: value.double().numpy() for name, value in detector.state_dict().items()}
    points = unit(train.features[:40])
    mapped = np.sqrt(2 / 2000) * np.cos(points @ state["frequencies"] + state["phases"])
    kernel = np.exp(-gamma * np.square(points[:, None] - points).sum(2))
    # each product is a mean of 2000 terms of standard deviation at most 1
    assert np.abs(mapped @ mapped.T - kernel).max() < 5 / np.sqrt(2000)


@pytest.mark.parametrize("name", ["cop", "corp"])
def test_a_subspace_that_is_everything_is_refused(name: str) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (600, 20))
    train = world(seed=1)
    round_world = World(train.weight, train.bias, features, train.labels)
    with pytest.raises(FitError, match=f"{name}: 0.9999 of the variance needs all"):
        fit(DETECTORS[name](variance_ratio=0.9999), round_world, round_world)


@pytest.mark.parametrize("name", ["cop", "corp", "kde", "knn", "nnguide", "vim"])
def test_labels_of_one_class_are_enough(train: World, test: Array, name: str) -> None:
    """They look at no class, or only balance them."""
    single = World(train.weight, train.bias, train.features, np.full(600, 3))
    scores = score(fit(DETECTORS[name](), single, single), train.outputs(test))
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cop", {"variance_ratio": 0.0}),
        ("cop", {"variance_ratio": 1.0}),
        ("corp", {"variance_ratio": 1.5}),
        ("corp", {"gamma": 0.0}),
        ("corp", {"fourier_features": 1}),
        ("kde", {"transform": "none"}),
        ("kde", {"components": 0}),
        ("kde", {"bank_size": 1}),
        ("kde", {"bank_size": 10_001}),
        ("knn", {"k": 0}),
        ("knn", {"bank_megabytes": 0.0}),
        ("nnguide", {"k": 0}),
        ("nnguide", {"bank_share": 0.0}),
        ("nnguide", {"bank_share": 1.1}),
        ("nnguide", {"bank_megabytes": -1.0}),
        ("vim", {"principal_dim": -1}),
    ],
)
def test_impossible_options_are_refused_by_name(name: str, options: dict) -> None:
    with pytest.raises(ValueError, match=f"{name}: {next(iter(options))}|{name}: transform"):
        DETECTORS[name](**options)
