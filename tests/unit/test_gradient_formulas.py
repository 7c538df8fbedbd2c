"""Closed-form derivatives against autograd of the written loss; steps and their choice."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toy import noise_pixels, toy_classifier, toy_pixels

from training.data import ImageSet
from training.detectors import FitError, NotFitted
from training.detectors.fssd import Fssd
from training.detectors.mahalanobis import Mahalanobis
from training.fitting import fit_detectors
from training.graph_detectors import GRAPH_DETECTORS, FitContext, GradientDetector
from training.graph_detectors.gradient import OOD_FREE_EPSILONS
from training.outputs import Outputs, pooled


def image_set(count: int, seed: int) -> ImageSet:
    pixels, labels = toy_pixels(count, seed)
    return ImageSet("toy", pixels.numpy(), labels.numpy(), tuple("abcd"), "made here")


@pytest.fixture(scope="module")
def context() -> FitContext:
    detectors = [Mahalanobis(), Fssd(noise_count=50)]
    fit_detectors(toy_classifier(), detectors, image_set(400, 2), image_set(100, 3))
    return FitContext(toy_classifier(), detectors, toy_pixels(100, 3)[0])


def fitted(name: str, context: FitContext, **options: object) -> GradientDetector:
    detector = GRAPH_DETECTORS[name](**options)
    assert isinstance(detector, GradientDetector)
    detector.fit(context)
    return detector


def odin_loss(outputs: Outputs, layer: str, context: FitContext) -> Tensor:
    # T times the cross-entropy, whose derivative the closed form gives
    scaled = outputs.logits / 1000
    return 1000 * F.cross_entropy(scaled, outputs.logits.argmax(1), reduction="sum")


def mahalanobis_loss(outputs: Outputs, layer: str, context: FitContext) -> Tensor:
    fit = context.detector(Mahalanobis, "test")
    whitened = pooled(outputs.taps[layer]) @ fit.get_buffer(f"whitening_{layer}").T
    gaps = whitened[:, None] - fit.get_buffer(f"whitened_means_{layer}")
    return gaps.square().sum(2).amin(1).sum() / 2


def distance_loss(outputs: Outputs, layer: str, context: FitContext) -> Tensor:
    center = context.detector(Fssd, "test").get_buffer(f"center_{layer}")
    return (outputs.taps[layer] - center).flatten(1).norm(dim=1).sum()


LOSSES = {
    "odin": odin_loss,
    "odin_star": odin_loss,
    "mahalanobis_perturbed": mahalanobis_loss,
    "mahalanobis_star": mahalanobis_loss,
    "fssd_perturbed": lambda *arguments: -distance_loss(*arguments),
    "fssd_official_perturbed": distance_loss,
}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients_are_those_of_the_loss(name: str, context: FitContext) -> None:
    detector = fitted(name, context, epsilon=0.01)
    classifier = context.classifier
    pixels = torch.cat([toy_pixels(8, 5)[0], noise_pixels(8, 6)])
    for sweep, gradient in detector.gradients(classifier, pixels).items():
        leaf = classifier.continuous(pixels).requires_grad_()
        loss = LOSSES[name](classifier.from_continuous(leaf, pixels), sweep.name, context)
        (expected,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)


def test_every_gradient_detector_is_checked() -> None:
    made = {name: make() for name, make in GRAPH_DETECTORS.items()}
    assert {n for n, d in made.items() if isinstance(d, GradientDetector)} == set(LOSSES)


def test_a_step_lowers_its_loss_and_a_zero_gradient_counts_as_positive(context: FitContext) -> None:
    classifier = context.classifier
    pixels = toy_pixels(40, 5)[0]
    for name, loss in LOSSES.items():
        detector = fitted(name, context, epsilon=1e-4)
        for sweep, gradient in detector.gradients(classifier, pixels).items():
            moved = detector.stepped(classifier, pixels, gradient, torch.tensor(1e-4))
            before = loss(classifier(pixels), sweep.name, context)
            after = loss(classifier.from_continuous(moved, pixels), sweep.name, context)
            assert after < before, name
    odin = fitted("odin", context)
    flat = torch.zeros(2, 1, 12, 12)
    moved = odin.stepped(classifier, pixels[:2], flat, torch.tensor(0.03))
    step = moved - classifier.continuous(pixels[:2])
    torch.testing.assert_close(step, torch.full_like(flat, -0.03 / 0.3))


def test_odin_ranks_as_the_published_confidence(context: FitContext) -> None:
    detector = fitted("odin", context, epsilon=0.0)
    classifier = context.classifier
    pixels = torch.cat([toy_pixels(30, 5)[0], noise_pixels(30, 6)])
    with torch.no_grad():
        score = detector(classifier, pixels)["odin"]
        logits = classifier(pixels).logits.double()
    published = -(logits / 1000).softmax(1).amax(1)
    # -T log p - T log K, by hand
    expected = -1000 * (torch.log(-published) + np.log(4))
    torch.testing.assert_close(score.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_ood_free_step_is_the_one_that_looks_most_id(context: FitContext) -> None:
    star = fitted("mahalanobis_star", context)
    classifier = context.classifier
    layers = [sweep.name for sweep in star.sweeps(classifier(context.held_out[:1]))]
    for index, layer in enumerate(layers):
        means = []
        for epsilon in OOD_FREE_EPSILONS:
            fixed = fitted("mahalanobis_star", context, epsilon=epsilon)
            with torch.no_grad():
                scores = list(fixed(classifier, context.held_out).values())[index]
            means.append(float(scores.double().mean()))
        assert float(star.steps[index]) == pytest.approx(OOD_FREE_EPSILONS[int(np.argmin(means))])
        assert layer in star.sweeps(classifier(context.held_out[:1]))[index].name


def test_what_is_missing_is_named(context: FitContext) -> None:
    bare = FitContext(context.classifier, [], context.held_out)
    with pytest.raises(FitError, match="fssd_perturbed builds on the detector fssd"):
        fitted("fssd_perturbed", bare)
    with pytest.raises(NotFitted, match="odin"):
        GRAPH_DETECTORS["odin"]()(context.classifier, context.held_out[:2])
    with pytest.raises(ValueError, match="temperature"):
        GRAPH_DETECTORS["odin"](temperature=0)
    with pytest.raises(ValueError, match="epsilon is 2"):
        GRAPH_DETECTORS["odin"](epsilon=2)
    with pytest.raises(ValueError, match="published or official"):
        GRAPH_DETECTORS["fssd_perturbed"](variant="other")
