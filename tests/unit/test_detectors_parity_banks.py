"""Agreement with pytorch-ood on the same features and logits, and the reasons where it differs.

Their sign and their scale are turned into ours in each test; what is held equal is the score.
"""

import numpy as np
import pytest
import torch
from linear_world import Array, World, far, fit, score, world
from numpy.testing import assert_allclose
from pytorch_ood.detector import GMM, KNN, RMD, Mahalanobis, NNGuide, ViM
from torch import Tensor

from training.detectors import gaussian
from training.detectors.gda import Gda
from training.detectors.knn import Knn
from training.detectors.mahalanobis import Mahalanobis as OurMahalanobis
from training.detectors.mahalanobis_normalised import MahalanobisNormalised
from training.detectors.nnguide import NNGuide as OurNNGuide
from training.detectors.rmds import Rmds
from training.detectors.vim import Vim

# Ours without what theirs has not: no silent floor, and a ridge as faint as theirs.
BARE = {"shrinkage": 1e-7, "silent_floor": 0.0}


@pytest.fixture
def train() -> World:
    """900 inputs of 6 classes; no feature silent within a class, which theirs could not invert."""
    source = world(seed=1, count=900)
    noise = np.random.default_rng(7).normal(0, 0.5, source.features.shape)
    features = (source.features + noise).astype(np.float32).astype(np.float64)
    return World(source.weight, source.bias, features, source.labels)


@pytest.fixture
def test() -> Array:
    return np.concatenate([world(seed=2, count=60).features, far(seed=3)])


def tensors(train: World, test: Array) -> tuple[Tensor, Tensor, Tensor]:
    """Training features, labels, test features."""
    return (
        torch.from_numpy(train.features).float(),
        torch.from_numpy(train.labels),
        torch.from_numpy(test).float(),
    )


def test_mahalanobis_but_for_half_and_n(train: World, test: Array) -> None:
    """Theirs is half of d^2, under a scatter that is not divided by n."""
    features, labels, query = tensors(train, test)
    theirs = Mahalanobis(None).fit_features(features, labels).predict_features(query)
    ours = score(fit(OurMahalanobis(**BARE), train, train), train.outputs(test))
    assert_allclose(ours / (2 * 900), theirs.numpy(), rtol=1e-4)


def test_mahalanobis_normalised_is_theirs_on_directions(train: World, test: Array) -> None:
    features, labels, query = (
        torch.nn.functional.normalize(part) if part.dim() == 2 else part
        for part in tensors(train, test)
    )
    theirs = Mahalanobis(None)
    theirs.fit_features(features, labels)
    ours = score(fit(MahalanobisNormalised(**BARE), train, train), train.outputs(test))
    # their ridge of 1e-6 meets a scatter of directions
    assert_allclose(ours / (2 * 900), theirs.predict_features(query).numpy(), rtol=1e-3)


def test_rmds_but_for_n(train: World, test: Array) -> None:
    """Here, too, neither scatter is divided by n: theirs is ours / n."""
    features, labels, query = tensors(train, test)
    theirs = RMD(None).fit_features(features, labels).predict_features(query)
    ours = score(fit(Rmds(**BARE), train, train), train.outputs(test))
    assert_allclose(ours / 900, theirs.numpy(), rtol=1e-4, atol=1e-4 * np.abs(ours).max() / 900)


def test_a_background_that_alone_is_not_divided_by_n_vanishes(train: World, test: Array) -> None:
    """Releases that divided the classes' covariance only: their score is Mahalanobis again."""
    features, labels, query = tensors(train, test)
    theirs = RMD(None).fit_features(features, labels)
    theirs.precision = theirs.precision * 900
    found = theirs.predict_features(query).numpy()
    relative = score(fit(Rmds(**BARE), train, train), train.outputs(test))
    plain = score(fit(OurMahalanobis(**BARE), train, train), train.outputs(test))
    background = plain - relative
    assert_allclose(found, plain - background / 900, rtol=1e-4, atol=1e-3)
    assert_allclose(found, plain, rtol=0.01)
    assert np.abs(relative / plain - 1).min() > 0.05


@pytest.mark.parametrize("k", [1, 50])
def test_knn(train: World, test: Array, k: int) -> None:
    features, labels, query = tensors(train, test)
    theirs = KNN(None, k=k).fit_features(features, labels).predict_features(query)
    ours = score(fit(Knn(k=k), train, train), train.outputs(test))
    assert_allclose(ours, theirs.numpy(), rtol=1e-4)


def test_knn_without_their_normalisation_is_another_score(train: World, test: Array) -> None:
    """normalize=False, the only form of older releases, reads length as well; on features of
    unit length it is ours."""
    features, labels, query = tensors(train, test)
    theirs = KNN(None, k=1, normalize=False)
    ours = score(fit(Knn(k=1), train, train), train.outputs(test))
    raw = theirs.fit_features(features, labels).predict_features(query).numpy()
    assert np.corrcoef(raw, ours)[0, 1] < 0.9
    directions = [torch.nn.functional.normalize(part) for part in (features, query)]
    same = theirs.fit_features(directions[0], labels).predict_features(directions[1])
    assert_allclose(ours, same.numpy(), rtol=1e-4)


@pytest.mark.parametrize("dim", [4, 15])
def test_vim(train: World, test: Array, dim: int) -> None:
    features, labels, query = tensors(train, test)
    head = train.classifier.head
    theirs = ViM(None, d=dim, w=head.weight, b=head.bias).fit_features(features, labels)
    ours = score(fit(Vim(principal_dim=dim), train, train), train.outputs(test))
    assert_allclose(ours, theirs.predict_features(query).numpy(), rtol=1e-4, atol=1e-3)


def test_nnguide_with_the_whole_training_set_as_bank(train: World, test: Array) -> None:
    features, labels, query = tensors(train, test)
    theirs = NNGuide(lambda z: z, head=train.classifier.head, k=10)
    theirs.fit_features(features, labels)
    ours = score(fit(OurNNGuide(k=10, bank_share=1.0), train, train), train.outputs(test))
    assert_allclose(ours, theirs.predict_features(query).numpy(), rtol=1e-4, atol=1e-4)


def test_gda_density_but_for_the_unbiased_covariance(
    train: World, test: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Theirs divides a class's scatter by n_c, ours, as DDU does, by n_c - 1."""
    features, labels, query = tensors(train, test)
    theirs = GMM(None, reg=1e-9).fit_features(features, labels).predict_features(query).numpy()
    ours = score(fit(Gda(**BARE), train, train), train.outputs(test))
    assert np.abs(ours / theirs - 1).max() > 1e-3
    unbiased = gaussian.Moments.covariance
    monkeypatch.setattr(gaussian.Moments, "covariance", lambda self, lost=0: unbiased(self))
    biased = score(fit(Gda(**BARE), train, train), train.outputs(test))
    assert_allclose(biased, theirs, rtol=1e-4)
