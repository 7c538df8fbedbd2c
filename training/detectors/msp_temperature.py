"""Temperature-scaled maximum softmax probability.  Source: Guo et al. 2017, arXiv:1706.04599.

Higher = more OOD.
"""

import torch
from scipy.optimize import root_scalar
from torch import Tensor

from training.detectors.protocol import Detector, FitError
from training.detectors.reservoir import Reservoir
from training.detectors.vectors import all_finite, gaps_to_largest
from training.outputs import Outputs

_SAMPLE = 50_000
_LOWEST, _HIGHEST = 0.01, 100.0


class MspTemperature(Detector):
    """Log-odds against the predicted class, as `msp`, of softmax(f / T).

    T minimises the negative log-likelihood of the labels of dev-ID (of 50,000 rows drawn
    uniformly where there are more), within 0.01..100.
    """

    reference = "arXiv:1706.04599"
    summary = (
        "Log-odds against the predicted class after dividing the logits by the temperature that "
        "suits held-out ID labels best; needs labelled held-out ID data."
    )

    def __init__(self) -> None:
        super().__init__()
        self._held_out = Reservoir(_SAMPLE)

    def prepare(self, classifier: object) -> None:
        self._held_out = Reservoir(_SAMPLE)

    def observe_held_out(self, outputs: Outputs, labels: Tensor) -> None:
        if not all_finite(outputs.logits):
            raise FitError("msp_temperature: a held-out logit is NaN or infinite")
        self._held_out.add(outputs.logits, labels)

    def finish(self) -> None:
        if not self._held_out.passed:
            raise FitError("msp_temperature saw no held-out inputs; it fits T on their labels")
        logits, labels = self._held_out.columns()
        temperature = best_temperature(logits.double(), labels)
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))
        self._held_out = Reservoir(_SAMPLE)

    def remarks(self) -> tuple[str, ...]:
        temperature = self.noted("temperature")
        if temperature is None or torch.tensor(_LOWEST) < temperature < torch.tensor(_HIGHEST):
            return ()
        return (
            f"msp_temperature: the likelihood of the held-out labels has no maximum between "
            f"T = {_LOWEST:g} and {_HIGHEST:g}; T is {temperature.item():g}.",
        )

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Logits (B, K) -> msp_temperature (B,)."""
        temperature = self.fitted("temperature")
        gaps = gaps_to_largest(outputs.logits) / temperature
        return {"msp_temperature": torch.logsumexp(gaps, dim=1)}


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """Logits (n, K), labels (n,) -> T of least negative log-likelihood, within 0.01..100.

    In b = 1 / T the negative log-likelihood is convex: its slope, the mean of
    E_softmax(b f)[f] - f_y, has one sign change or none.  Without one (every label has the
    largest logit, or the labels have nothing to do with the logits) the nearer end is the answer.
    """
    of_label = logits.gather(1, labels[:, None]).squeeze(1)

    def slope(inverse: float) -> float:
        expected = (torch.softmax(inverse * logits, dim=1) * logits).sum(1)
        return (expected - of_label).mean().item()

    if slope(1 / _HIGHEST) >= 0:
        return _HIGHEST
    if slope(1 / _LOWEST) <= 0:
        return _LOWEST
    return 1 / root_scalar(slope, bracket=(1 / _HIGHEST, 1 / _LOWEST), method="brentq").root
