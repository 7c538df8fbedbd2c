"""Virtual-logit matching.  Source: Wang et al. 2022, arXiv:2203.10807.  Higher = more OOD."""

import torch
from torch import Tensor

from training.classifier import Classifier
from training.detectors.gaussian import Moments
from training.detectors.penultimate import linear_head
from training.detectors.protocol import Detector, FitError
from training.detectors.reservoir import Reservoir
from training.detectors.subspace import rank, spectrum
from training.outputs import Outputs

# The mean residual norm needs the subspace, which the one pass only ends with: it is taken
# over this many training inputs, where its error is under 1 %.
_RESIDUAL_SAMPLE = 10_000
_MOST_PRINCIPAL = 256


class Vim(Detector):
    """alpha ||R^T (z - o)|| - log-sum-exp(f).

    o = -W^+ b is where the head's logits are closest to zero; R the directions in which the
    training features, seen from o, extend least: all but the first `principal_dim`.  alpha
    makes the mean virtual logit equal the mean maximum logit.  Nothing is inverted: the
    residual of a feature that never varied enters with its own length, no more.

    principal_dim 0 chooses half of the directions in which the features vary at all, at most
    256.
    """

    cost = "features"
    reference = "arXiv:2203.10807"
    summary = (
        "Length of the features outside their principal subspace, scaled like a logit, minus "
        "log-sum-exp of the logits."
    )

    def __init__(self, principal_dim: int = 0, seed: int = 0) -> None:
        super().__init__()
        if principal_dim < 0:
            raise ValueError(f"vim: principal_dim is {principal_dim}; it must not be negative")
        self.principal_dim = principal_dim
        self.seed = seed
        self._origin: Tensor | None = None
        self._forget()

    def prepare(self, classifier: Classifier) -> None:
        weight, bias = linear_head(classifier)
        self._origin = -torch.linalg.pinv(weight.double()) @ bias.double()
        self._forget()

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        self._moments.add(outputs.features)
        self._sample.add(outputs.features.float())
        self._logit_sum += float(outputs.logits.detach().amax(dim=1).double().sum())

    def finish(self) -> None:
        if self._origin is None:
            raise FitError("vim has not seen the network's head; prepare it first")
        if self._moments.count == 0:
            raise FitError("vim saw no training inputs")
        offset = self._moments.mean - self._origin
        about_origin = self._moments.covariance() + torch.outer(offset, offset)
        values, vectors = spectrum(about_origin, offset)
        residual = vectors[:, self._chosen_dim(values) :]
        (features,) = self._sample.columns()
        norms = torch.linalg.vector_norm((features.double() - self._origin) @ residual, dim=1)
        mean_logit = self._logit_sum / self._moments.count
        if mean_logit <= 0:
            raise FitError(
                f"vim: the mean maximum logit is {mean_logit:.3g}; no residual can be scaled "
                "to a logit that is not positive"
            )
        self.register_buffer("origin", self._origin.float())
        self.register_buffer("residual", residual.float().contiguous())  # (D, D - d)
        self.register_buffer("alpha", (mean_logit / norms.mean()).float())
        self._forget()

    def hyperparameters(self) -> dict[str, float | int | str]:
        values: dict[str, float | int | str] = {
            "principal_dim": self.principal_dim,
            "seed": self.seed,
        }
        if "residual" in self._buffers:
            dim, left = self.fitted("residual").shape
            values["principal_dim"] = dim - left
            values["alpha"] = round(float(self.fitted("alpha")), 6)
        return values

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D), logits (B, K) -> (B,)."""
        offset = outputs.features - self.fitted("origin")
        norm = torch.linalg.vector_norm(offset @ self.fitted("residual"), dim=1)
        return {"vim": self.fitted("alpha") * norm - torch.logsumexp(outputs.logits, dim=1)}

    def _forget(self) -> None:
        self._moments = Moments()
        self._sample = Reservoir(_RESIDUAL_SAMPLE, self.seed)
        self._logit_sum = 0.0

    def _chosen_dim(self, eigenvalues: Tensor) -> int:
        varying = rank(eigenvalues)
        if self.principal_dim == 0 and varying > 1:
            return min(_MOST_PRINCIPAL, varying // 2)
        if not 0 < self.principal_dim < varying:
            raise FitError(
                f"vim: principal_dim is {self.principal_dim}; the training features vary in "
                f"{varying} of {len(eigenvalues)} directions, and at least one of these must be "
                "left as residual"
            )
        return self.principal_dim
