"""Neural-collapse-inspired score.  Source: Liu & Qin 2025, arXiv:2311.01479.  Higher = more OOD."""

import torch
from torch import Tensor

from training.classifier import Classifier
from training.detectors.penultimate import FeatureSummary, linear_head
from training.detectors.protocol import Detector, FitError
from training.detectors.vectors import all_finite
from training.outputs import Outputs

_SMALLEST_DISTANCE = 1e-12


class Nci(Detector):
    """Minus (how far the centred features point along the predicted class's weights + a |z|_1).

    `norm_weight` is a; None makes both terms vary equally (standard deviation) over dev-ID,
    where the literature picks it on OOD data.
    """

    cost = "features"
    reference = "arXiv:2311.01479"
    summary = (
        "Minus the sum of how far the centred features point along the predicted class's weights "
        "and their weighted L1 norm; needs train-ID features and held-out ID data."
    )

    def __init__(self, norm_weight: float | None = None) -> None:
        super().__init__()
        if norm_weight is not None and norm_weight < 0:
            raise ValueError(f"nci: norm_weight is {norm_weight}; it must not be negative")
        self.norm_weight = norm_weight
        self._head: tuple[Tensor, Tensor] | None = None
        self._summary = FeatureSummary()
        self._opposition = _Spread()
        self._norm = _Spread()

    def prepare(self, classifier: Classifier) -> None:
        self._buffers.clear()
        self._head = linear_head(classifier)
        self._summary = FeatureSummary()
        self._opposition = _Spread()
        self._norm = _Spread()

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        self._summary.add(outputs.features)

    def observe_held_out(self, outputs: Outputs, labels: Tensor) -> None:
        if self.norm_weight is not None:
            return
        center, center_logits = self._center()
        features = outputs.features.detach().double().cpu()
        logits = outputs.logits.detach().double().cpu()
        self._opposition.add(_opposition(features, logits, center, center_logits))
        self._norm.add(features.abs().sum(dim=1))

    def finish(self) -> None:
        center, center_logits = self._center()
        weight = self._equal_spread() if self.norm_weight is None else self.norm_weight
        self.register_buffer("center", center.float())
        self.register_buffer("center_logits", center_logits.float())
        self.register_buffer("weight_of_norm", torch.tensor(weight, dtype=torch.float32))

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {"norm_weight": "equal spread" if self.norm_weight is None else self.norm_weight}

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D), logits (B, K) -> nci (B,)."""
        features = outputs.features
        center, center_logits = self.fitted("center"), self.fitted("center_logits")
        opposed = _opposition(features, outputs.logits, center, center_logits)
        return {"nci": opposed - self.fitted("weight_of_norm") * features.abs().sum(dim=1)}

    def _center(self) -> tuple[Tensor, Tensor]:
        """Train-ID mean (D,) and its logits (K,), float64."""
        if self._head is None:
            raise FitError("nci saw no head: prepare it with the classifier first")
        center = self._summary.mean()
        weight, bias = self._head
        return center, weight.double() @ center + bias.double()

    def _equal_spread(self) -> float:
        if self._norm.count < 2:
            raise FitError("nci saw fewer than two held-out inputs; set norm_weight or give more")
        if self._norm.deviation() == 0:
            raise FitError("nci: the L1 norm of held-out features does not vary; set norm_weight")
        return self._opposition.deviation() / self._norm.deviation()


def _opposition(features: Tensor, logits: Tensor, center: Tensor, center_logits: Tensor) -> Tensor:
    """-w_y . (z - center) / |z - center| (B,), y the predicted class; w_y . z is f_y less its
    bias, so the weights themselves are not needed.
    """
    projected = center_logits[logits.argmax(dim=1)] - logits.amax(dim=1)
    return projected / (features - center).norm(dim=1).clamp(min=_SMALLEST_DISTANCE)


class _Spread:
    """Standard deviation of a stream of float64 values, merged batch by batch."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = 0.0
        self._squares = 0.0

    def add(self, values: Tensor) -> None:
        """Values (B,).  FitError if one is not finite."""
        if not all_finite(values):
            raise FitError("nci: a held-out feature or logit is NaN or infinite")
        count, mean = len(values), values.mean().item()
        total = self.count + count
        step = mean - self._mean
        self._squares += (values - mean).square().sum().item()
        self._squares += step * step * self.count * count / total
        self._mean += step * count / total
        self.count = total

    def deviation(self) -> float:
        return (self._squares / self.count) ** 0.5
