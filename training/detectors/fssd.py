"""Feature space singularity distance, on every tapped layer.

Source: Huang et al. 2020, arXiv:2012.12682.  Higher = more OOD.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from training.classifier import Classifier, ImageClassifier
from training.detectors.gaussian import ClassMoments, nearest_class_distance
from training.detectors.protocol import Detector, FitError
from training.outputs import Outputs, layer_suffixes

NoiseMode = Literal["pixels", "normalised"]
_PROBE_BATCH = 50
# Maps of so many inputs and what is made of them stay in a processor's cache.
_AT_ONCE = 8
_SMALLEST_DISTANCE = 1e-12
# The density has a dimension a layer: so many inputs give each variance within 2 %.
_ENOUGH = 5_000


class Fssd(Detector):
    """Distances of a layer's flattened features to the mean features of pure noise.

    `fssd` (penultimate) and `fssd_<layer>`: minus the distance, as published: OOD is expected
    *near* the noise centre.  In early layers the opposite is often true, which published
    results repair by layer weights whose sign is learnt from OOD samples.
    `fssd_density` (ours) needs no OOD: squared Mahalanobis distance of the vector of
    log-distances to the nearest class, one covariance shared by the classes; it is fitted on
    5,000 inputs of train-ID, because distances of whole maps cost as much as a small network.

    noise_mode `pixels`: raw pixels U{0..255}, through the normalisation, and of texts token ids
    uniform over the vocabulary; `normalised`, images only: the released code's U{0..254} mapped
    to (v - 127.5) / 255 and fed as normalised input.
    """

    cost = "layers"
    reads_maps = True
    enough = _ENOUGH
    reference = "arXiv:2012.12682"
    summary = (
        "Minus the distance of the layer's features to those of pure noise, as published; "
        "`fssd_density` scores the vector of log-distances by class Gaussians instead "
        "(ours, no OOD data)."
    )

    def __init__(
        self,
        noise_mode: NoiseMode = "pixels",
        noise_count: int = 1000,
        noise_seed: int = 0,
        shrinkage: float = 1e-3,
    ) -> None:
        super().__init__()
        if noise_mode not in ("pixels", "normalised"):
            raise ValueError(f"fssd: noise_mode {noise_mode!r}; choose pixels or normalised")
        if noise_count < 1:
            raise ValueError(f"fssd: noise_count is {noise_count}; it must be positive")
        if not 0 < shrinkage < 1:
            raise ValueError(f"fssd: shrinkage is {shrinkage}; choose between 0 and 1")
        self.noise_mode = noise_mode
        self.noise_count = noise_count
        self.noise_seed = noise_seed
        self.shrinkage = shrinkage
        self._moments = ClassMoments()

    def suffixes(self, layers: Sequence[str], penultimate: str) -> tuple[str, ...]:
        return (*layer_suffixes(layers, penultimate), "_density")

    @torch.no_grad()
    def prepare(self, classifier: Classifier) -> None:
        """Centre of each layer: mean flattened features over the noise inputs, float64 sums."""
        self._moments = ClassMoments()
        sums: dict[str, Tensor] = {}
        for taps in self._noise_taps(classifier):
            for layer, tap in taps.items():
                total = sums.setdefault(layer, torch.zeros_like(tap[0], dtype=torch.float64))
                for one in tap:  # one sum stays in a processor's cache
                    total += one
        for layer, total in sums.items():
            self.register_buffer(f"center_{layer}", (total / self.noise_count).float())

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        distances = [_distances_in_parts(tap, center) for tap, center in self._centred(outputs)]
        logs = _logarithms(torch.stack(distances, dim=1))
        self._moments.add(logs, labels, outputs.logits.shape[1])

    def finish(self) -> None:
        if not self._buffers:
            raise FitError("fssd saw no noise: prepare it with the classifier first")
        classes = self._moments.whitened(self.shrinkage)
        self.register_buffer("density_whitening", classes.whitening)
        self.register_buffer("density_whitened_means", classes.whitened_means)
        self._moments = ClassMoments()

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {
            "noise_mode": self.noise_mode,
            "noise_count": self.noise_count,
            "noise_seed": self.noise_seed,
            "shrinkage": self.shrinkage,
        }

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Each tap, flattened (B, D) -> minus its distance to the centre (B,); the density."""
        whitening = self.fitted("density_whitening")
        means = self.fitted("density_whitened_means")
        distances = self._distances(outputs)
        nearness = -distances
        scores = {
            "fssd" if layer == outputs.penultimate else f"fssd_{layer}": nearness[:, index]
            for index, layer in enumerate(outputs.taps)
        }
        logs = _logarithms(distances)
        scores["fssd_density"] = nearest_class_distance(logs, whitening, means)
        return scores

    def _distances(self, outputs: Outputs) -> Tensor:
        """To the centre of each of K layers (B, K)."""
        squares = [flat_squares(tap - center) for tap, center in self._centred(outputs)]
        return torch.cat(squares, dim=1).sqrt()

    def _centred(self, outputs: Outputs) -> list[tuple[Tensor, Tensor]]:
        """Each tap with its centre."""
        return [(tap, self.fitted(f"center_{layer}")) for layer, tap in outputs.taps.items()]

    def _noise_taps(self, classifier: Classifier) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(self.noise_seed)
        device = classifier.device
        for start in range(0, self.noise_count, _PROBE_BATCH):
            count = min(_PROBE_BATCH, self.noise_count - start)
            if self.noise_mode == "pixels":
                yield classifier(classifier.noise(count, generator).to(device)).taps
            elif not isinstance(classifier, ImageClassifier):
                raise FitError("fssd: normalised noise is made of pixels; leave noise_mode out")
            else:
                spec = classifier.spec
                shape = (count, spec.channels, spec.height, spec.width)
                values = torch.randint(0, 255, shape, generator=generator).float()
                yield classifier.from_normalised(((values - 127.5) / 255).to(device)).taps


def _distances_in_parts(tap: Tensor, center: Tensor) -> Tensor:
    """What `flat_norm(tap - center)` says (B,), for streams: no graph could hold the parts."""
    if tap.dim() == 4 and tap.is_contiguous(memory_format=torch.channels_last):
        tap, center = tap.permute(0, 2, 3, 1), center.permute(1, 2, 0)
    rows, point = tap.detach().flatten(1), center.flatten()
    room = torch.empty_like(rows[:_AT_ONCE])
    squares = [
        torch.sub(part, point, out=room[: part.shape[0]]).square_().sum(dim=1)
        for part in rows.split(_AT_ONCE)
    ]
    return torch.cat(squares).sqrt()


def _logarithms(distances: Tensor) -> Tensor:
    return distances.clamp(min=_SMALLEST_DISTANCE).log()


def flat_norm(gaps: Tensor) -> Tensor:
    """(B, C, H, W) or (B, D) -> Euclidean norm over all but the first dimension (B,)."""
    return flat_squares(gaps)[:, 0].sqrt()


def flat_squares(gaps: Tensor) -> Tensor:
    """(B, C, H, W) or (B, D) -> sum of squares over all but the first dimension (B, 1).

    Of a map summed first over space, then over the channels: the float32 error grows with
    the larger of the two counts instead of with their product.
    """
    squares = gaps.square()
    if squares.dim() == 4:
        squares = squares.sum(dim=(2, 3))
    return squares.sum(dim=1, keepdim=True)
