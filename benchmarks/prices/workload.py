"""A config's network and detectors, priced without data or training.

What a graph costs depends on its shapes, not on its weights: the network's are random, its
normalisation layers see a few hundred drawn patterns, and its head points at the patterns' mean
features, so that every class is predicted and every detector can be fitted.  Detectors with a
bank are fitted on as many feature vectors as CIFAR-10 has training images, mixed of those few
hundred, so that their banks are as large as there.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from service.bundle import Cost, ImageInput
from training.classifier import Classifier
from training.combiners import Ensemble
from training.config import CombinerConfig, RunConfig
from training.data import ImageSet
from training.detectors import DETECTORS, Detector, FitError
from training.fitting import fit_ensembles, fit_graph_detectors
from training.graph_detectors import GRAPH_DETECTORS, GraphDetector
from training.networks import build_classifier
from training.outputs import Outputs
from training.scorer import SCORE_PREFIX, Scorer
from training.side_scorer import Scorers, SideScorer

CLASSES = 10
TRAIN_IMAGES = 320
HELD_OUT_IMAGES = 100
BANK_ROWS = 50_000
_BATCH = 64
_MIXED_BATCH = 4096
_MEAN_LOGIT = 5.0
_TILT = 0.1
# what changes the time of a fit and not the graph
_QUICK_FIT: dict[str, dict[str, Any]] = {
    "fssd": {"noise_count": 100},
    "odin_star": {"epsilon": 0.0014},
    "mahalanobis_star": {"epsilon": 0.0014},
}

Batch = tuple[Outputs, Tensor]  # what the network gives, and the labels


@dataclass(frozen=True)
class ForwardPart:
    """A detector or ensemble of the forward graph, with its outputs; `bank`: it reads one, itself
    or through a member."""

    name: str
    cost: Cost
    outputs: tuple[str, ...]
    bank: bool
    ensemble: bool


@dataclass(frozen=True)
class Workload:
    """What is priced; `names`: of the forward graph's detectors, in order; `left_out`: detector
    -> why it is not priced."""

    scorers: Scorers
    spec: ImageInput
    names: tuple[str, ...]
    config: str
    backbone: str
    description: str
    left_out: dict[str, str]

    @torch.no_grad()
    def parts(self) -> list[ForwardPart]:
        """Detectors, then ensembles, which may read any before them."""
        scorer = self.scorers.forward
        spec = self.spec
        pixels = torch.zeros((1, spec.height, spec.width, spec.channels), dtype=torch.uint8)
        outputs = scorer.classifier(pixels)
        costs: dict[str, Cost] = {name: given.cost for name, given in scorer.describe().items()}
        found: list[ForwardPart] = []
        banked: set[str] = set()
        for name, detector in zip(self.names, scorer.detectors, strict=True):
            scores = tuple(detector(outputs))
            cost = costs[scores[0]]
            if cost == "bank":
                banked |= set(scores)
            found.append(ForwardPart(name, cost, _prefixed(scores), cost == "bank", False))
        for ensemble in scorer.ensembles:
            assert isinstance(ensemble, Ensemble)  # noqa: S101
            name = ensemble.name
            if banked & set(ensemble.members):
                banked.add(name)
            found.append(ForwardPart(name, costs[name], _prefixed([name]), name in banked, True))
        return found


def drawn_workload(config: RunConfig, bank_rows: int = BANK_ROWS) -> Workload:
    """The config's backbone with random weights and all it lists that one network can give.

    Ensembles of a graph beside the forward one are left out: among several passes they are
    nothing.  ValueError for a config of texts.
    """
    spec = config.input
    if spec is None:
        raise ValueError(f"the config {config.name} reads texts; prices are those of images")
    torch.manual_seed(config.seed)
    classifier = build_classifier(spec, config.backbone, config.backbone_options, CLASSES)
    train, held_out = patterns(spec, TRAIN_IMAGES, seed=1), patterns(spec, HELD_OUT_IMAGES, seed=2)
    settle(classifier, *train)
    options = {d.name: d.options | _QUICK_FIT.get(d.name, {}) for d in config.detectors}
    left_out: dict[str, str] = {}
    if options.pop("deep_ensemble", None) is not None:
        left_out["deep_ensemble"] = "costs as many plain passes as it has networks"
    seen, seen_held_out = _passes(classifier, *train), _passes(classifier, *held_out)
    mixed = list(_mixed(classifier, seen, bank_rows))
    fitted: dict[str, Detector] = {}
    for name in filter(DETECTORS.__contains__, options):
        detector = DETECTORS[name](**options[name])
        try:
            _fit(detector, classifier, mixed if detector.cost == "bank" else seen, seen_held_out)
        except FitError as reason:
            left_out[name] = str(reason)
        else:
            fitted[name] = detector
    names = tuple(f"pattern {c}" for c in range(CLASSES))
    train_id = ImageSet("patterns", *train, names, "drawn")
    dev_id = ImageSet("patterns", *held_out, names, "drawn")
    sides: list[GraphDetector] = []
    for name in filter(GRAPH_DETECTORS.__contains__, options):
        side = GRAPH_DETECTORS[name](**options[name])
        try:
            fit_graph_detectors(classifier, [side], list(fitted.values()), train_id, dev_id, [])
        except FitError as reason:
            left_out[name] = str(reason)
        else:
            sides.append(side)
    forward = Scorer(classifier, list(fitted.values())).eval()
    combiners = _of_forward(forward, config.combiners)
    outliers = ImageSet("noise", *noise(spec, HELD_OUT_IMAGES), (), "drawn")
    scorers = fit_ensembles(
        forward,
        [SideScorer(classifier, side).eval() for side in sides],
        combiners,
        dev_id,
        {"noise": outliers},
    )
    description = (
        f"{config.backbone}, {spec.height}x{spec.width}x{spec.channels}, {CLASSES} classes: random "
        f"weights, detectors of the config {config.name} fitted on {TRAIN_IMAGES} drawn patterns, "
        f"banks on {bank_rows:,} feature vectors"
    )
    return Workload(
        scorers, spec, tuple(fitted), config.name, config.backbone, description, left_out
    )


def _of_forward(forward: Scorer, combiners: Iterable[CombinerConfig]) -> list[CombinerConfig]:
    """Those whose members the forward graph gives."""
    known = set(forward.describe())
    found: list[CombinerConfig] = []
    for combiner in combiners:
        if set(combiner.members) <= known:
            found.append(combiner)
            known.add(combiner.name)
    return found


def patterns(
    spec: ImageInput, count: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, H, W, C) and labels: waves, each class of its own direction, length and colour,
    under noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % CLASSES
    rows, columns = np.mgrid[: spec.height, : spec.width] / max(spec.height, spec.width)
    angles = np.pi * labels / CLASSES
    waves = np.cos(angles)[:, None, None] * rows + np.sin(angles)[:, None, None] * columns
    cycles = (2 + labels % 5)[:, None, None]
    phases = rng.uniform(0, 1, (count, 1, 1))
    shades = np.sin(2 * np.pi * (cycles * waves + phases))[..., None]
    tints = np.random.default_rng(0).uniform(0.2, 1, (CLASSES, spec.channels))[labels]
    clean = 128 + 90 * shades * tints[:, None, None]
    noisy = clean + rng.normal(0, 20, clean.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), labels


def noise(spec: ImageInput, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images of pure noise; labels -1."""
    shape = (count, spec.height, spec.width, spec.channels)
    images = np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)
    return images, np.full(count, -1, np.int64)


@torch.no_grad()
def settle(classifier: Classifier, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """Running statistics of the images; a head that tells the classes' mean features apart."""
    norms = [m for m in classifier.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
    classifier.train()
    for pixels in torch.from_numpy(images).split(_BATCH):
        classifier(pixels)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    classifier.eval()
    batches = _passes(classifier, images, labels)
    features = torch.cat([outputs.features for outputs, _ in batches])
    classes = torch.from_numpy(labels)
    means = torch.stack([features[classes == c].mean(0) for c in range(CLASSES)])
    center = means.mean(0)
    generator = torch.Generator().manual_seed(4)
    weight = means - center  # its rows sum to zero; a head's do not
    weight += _TILT * weight.std() * torch.randn(weight.shape, generator=generator)
    bias = (center.square().sum() - means.square().sum(1)) / 2
    winning = (features @ weight.T + bias).amax(1)
    scale = _MEAN_LOGIT / winning.mean()
    classifier.head.weight.copy_(scale * weight)
    classifier.head.bias.copy_(scale * bias)


@torch.no_grad()
def _passes(
    classifier: Classifier, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> list[Batch]:
    """What the network gives for the images, in batches; kept, as every detector reads it."""
    parts = torch.from_numpy(images).split(_BATCH), torch.from_numpy(labels).split(_BATCH)
    return [(classifier(pixels), label) for pixels, label in zip(*parts, strict=True)]


@torch.no_grad()
def _mixed(classifier: Classifier, batches: Sequence[Batch], count: int) -> Iterator[Batch]:
    """`count` mixtures of two inputs of one class, as outputs with the penultimate layer alone:
    detectors with a bank read no other."""
    features = torch.cat([outputs.features for outputs, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    generator = torch.Generator().manual_seed(3)
    firsts = torch.randint(0, len(features), (count,), generator=generator)
    # inputs of one class stand CLASSES apart
    steps = torch.randint(1, len(features) // CLASSES, (count,), generator=generator)
    seconds = (firsts + CLASSES * steps) % len(features)
    shares = torch.rand(count, 1, generator=generator)
    mixed = shares * features[firsts] + (1 - shares) * features[seconds]
    layer = classifier.penultimate
    for part, chosen in zip(mixed.split(_MIXED_BATCH), firsts.split(_MIXED_BATCH), strict=True):
        yield Outputs({layer: part}, classifier.head(part), layer), labels[chosen]


@torch.no_grad()
def _fit(
    detector: Detector, classifier: Classifier, train: Sequence[Batch], held_out: Sequence[Batch]
) -> None:
    """The protocol's one pass.  Raises FitError."""
    detector.prepare(classifier)
    for outputs, labels in train:
        detector.observe(outputs, labels)
    for outputs, labels in held_out:
        detector.observe_held_out(outputs, labels)
    detector.finish()


def _prefixed(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(SCORE_PREFIX + name for name in names)
