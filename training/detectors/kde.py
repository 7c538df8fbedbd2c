"""Kernel density of the features (Parzen).

Kernel densities of a network's features as OOD score: Erdil et al. 2021, arXiv:2006.10712
(there of every channel by itself).  Higher = more OOD.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from training.classifier import Classifier
from training.detectors.gaussian import Moments, checked_labels
from training.detectors.protocol import Detector, FitError
from training.detectors.reservoir import Reservoir
from training.detectors.subspace import rank, spectrum
from training.detectors.vectors import finite, unit_length
from training.outputs import Outputs

_LARGEST_BANK = 10_000
# Bank rows whose leave-one-out likelihood chooses the bandwidth.
_QUERIES = 1000
_AT_ONCE = 50
_NEGLIGIBLE = -80.0
# Bandwidths tried, as multiples of median distance / sqrt(2 log n).
_GRID = torch.logspace(-1.25, 0.5, 22, dtype=torch.float64)
# Directions with a smaller share of the average variance would only be magnified noise.
_SMALLEST_VARIANCE = 1e-3


class Kde(Detector):
    """-log mean_i exp(-||t - t_i||^2 / 2 h^2) over a class-balanced bank of training features.

    `transform` makes t of the penultimate features: `normalise`, z / ||z||, or `whiten`, the
    first `components` principal components of z, each divided by its standard deviation
    (blind to motion outside of them).  The density's constant, D log h + D/2 log 2 pi, is left
    out.  h is the one of a logarithmic grid around the bank's median distance / sqrt(2 log n)
    under which the bank is likeliest, each row judged by the others.

    `kde_all` is the density of everything that was trained on: half of the bank are training
    outliers.  Outliers of a known kind are OOD, and yet have a high density there.
    """

    cost = "bank"
    reference = "arXiv:2006.10712"
    summary = (
        "Minus the log of a Gaussian kernel density of the features over a bank of those of the "
        "training set."
    )

    def __init__(
        self,
        name: str = "kde",
        transform: str = "normalise",
        components: int = 32,
        bank_size: int = 5000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.name = name
        self.reads_outliers = name == "kde_all"
        if transform not in ("normalise", "whiten"):
            raise ValueError(f"kde: transform {transform!r}; choose normalise or whiten")
        if components < 1:
            raise ValueError(f"kde: components is {components}; it must be positive")
        if not 2 <= bank_size <= _LARGEST_BANK:
            raise ValueError(f"kde: bank_size is {bank_size}; choose 2 to {_LARGEST_BANK}")
        self.transform = transform
        self.components = components
        self.bank_size = bank_size
        self.seed = seed
        self._forget()

    def prepare(self, classifier: Classifier) -> None:
        self._forget()

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        features = finite(outputs.features).float().cpu()
        classes = outputs.logits.shape[1]
        labels = checked_labels(labels, classes)
        if self.transform == "whiten":
            self._moments.add(features)
        capacity = max(1, self.bank_size // (2 * classes if self.reads_outliers else classes))
        for c in labels.unique().tolist():
            # another seed for every class: the same would keep the same positions of each
            sample = self._samples.setdefault(c, Reservoir(capacity, self.seed * classes + c))
            sample.add(features[labels == c])

    def observe_outliers(self, outputs: Outputs) -> None:
        if not self.reads_outliers:
            return
        features = finite(outputs.features).float().cpu()
        if self.transform == "whiten":
            self._moments.add(features)
        classes = outputs.logits.shape[1]  # outliers come after them
        sample = self._samples.setdefault(
            classes, Reservoir(max(1, self.bank_size // 2), self.seed * classes + classes)
        )
        sample.add(features)
        self._saw_outliers = True

    def finish(self) -> None:
        if not self._samples:
            raise FitError(f"{self.name} saw no training inputs")
        if self.reads_outliers and not self._saw_outliers:
            raise FitError(f"{self.name} saw no training outliers; kde is the density without them")
        if self.transform == "whiten":
            self._register_projection()
        rows = torch.cat([self._samples[c].columns()[0] for c in sorted(self._samples)])
        if len(rows) < 2:
            raise FitError(f"{self.name} saw one training input; a density needs at least two")
        bank = self._transformed(rows).double()
        h, edge = _bandwidth(bank)
        scaled = bank / h
        self.register_buffer("bank", scaled.float())  # (n, D)
        self.register_buffer("lift", (-scaled.square().sum(1) / 2).float())
        self.register_buffer("bandwidth", torch.tensor(h).float())
        self.register_buffer("bandwidth_at_edge", torch.tensor(edge))
        self._forget()

    def remarks(self) -> tuple[str, ...]:
        if not bool(self.fitted("bandwidth_at_edge")):
            return ()
        return (
            f"{self.name}: the bandwidth {float(self.fitted('bandwidth')):.3g} is the first or "
            "last of the grid; repeated training inputs or a bank of few would do that.",
        )

    def hyperparameters(self) -> dict[str, float | int | str]:
        values: dict[str, float | int | str] = {
            "transform": self.transform,
            "bank_size": self.bank_size,
            "seed": self.seed,
        }
        if "bank" in self._buffers:
            values["bank_size"], dim = self.fitted("bank").shape
            values["bandwidth"] = round(float(self.fitted("bandwidth")), 8)
            if self.transform == "whiten":
                values["components"] = dim
        return values

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D) -> minus the log-density, up to a constant (B,)."""
        bank = self.fitted("bank")
        scaled = self._transformed(outputs.features) / self.fitted("bandwidth")
        # -||t - t_i||^2 / 2, all in units of h; rounding may lift it above 0.  With its bias this
        # is a Gemm, which reads the bank as it is stored: no graph holds it twice
        near = functional.linear(scaled, bank, self.fitted("lift"))
        exponents = (near - scaled.square().sum(dim=1, keepdim=True) / 2).clamp(max=0)
        return {self.name: math.log(len(bank)) - torch.logsumexp(exponents, dim=1)}

    def _forget(self) -> None:
        self._samples: dict[int, Reservoir] = {}
        self._saw_outliers = False
        self._moments = Moments()

    def _register_projection(self) -> None:
        values, vectors = spectrum(self._moments.covariance(), self._moments.mean)
        large = int((values > _SMALLEST_VARIANCE * values.mean()).sum())
        kept = min(self.components, large)
        projection = vectors[:, :kept] / values[:kept].sqrt()
        self.register_buffer("center", self._moments.mean.float())
        self.register_buffer("projection", projection.float())  # (D, p)

    def _transformed(self, features: Tensor) -> Tensor:
        if self.transform == "normalise":
            return unit_length(features)
        return (features - self.fitted("center")) @ self.fitted("projection")


def _bandwidth(bank: Tensor) -> tuple[float, bool]:
    """Rows (n, D) float64 -> the likeliest bandwidth, and whether it ends the grid.

    The leave-one-out log-likelihood counts the dimensions the bank really has: silent features
    would otherwise reward small bandwidths without end.
    """
    count = len(bank)
    mean = bank.mean(0)
    values, _ = spectrum((bank - mean).T @ (bank - mean) / count, mean)
    dim = rank(values)
    squares = bank.square().sum(1)
    queries = torch.linspace(0, count - 1, min(count, _QUERIES)).long()
    # float32: a bandwidth's likelihood differs by far more from the next's
    distances = torch.cat([_to_others(bank, squares, part) for part in queries.split(_AT_ONCE)])
    median = distances[distances.isfinite()].median().item() ** 0.5
    if median == 0:
        raise FitError("kde: more than half of the training features are the same")
    candidates = _GRID * median / math.sqrt(2 * math.log(count))
    likelihoods = mean_logs(distances, -0.5 / candidates.square()) - dim * candidates.log()
    best = int(likelihoods.argmax())
    return candidates[best].item(), best in (0, len(candidates) - 1)


def _to_others(bank: Tensor, squares: Tensor, queries: Tensor) -> Tensor:
    """Squared distances of these rows of the bank to all (q, n), float32; infinite to itself."""
    found = torch.addmm(squares, bank[queries], bank.T, alpha=-2)
    found.add_(squares[queries, None]).clamp_(min=0)
    found[torch.arange(len(queries)), queries] = torch.inf
    return found.float()


def mean_logs(distances: Tensor, factors: Tensor) -> Tensor:
    """Rows (q, n), negative factors (f,) -> mean of log sum_n exp(factor * distance), (f,) float64.

    In parts that a processor's cache holds; what float32 would lose beside the largest term, and
    what it would round towards zero ten times as slowly, is cut off.
    """
    total = torch.zeros(len(factors), dtype=torch.float64)
    for part in distances.split(_AT_ONCE):
        nearest = part.amin(dim=1, keepdim=True)
        gaps = part - nearest
        for index, factor in enumerate(factors.tolist()):
            logs = (gaps * factor).clamp_(min=_NEGLIGIBLE).exp_().sum(dim=1).log()
            total[index] += (logs.double() + factor * nearest[:, 0].double()).sum()
    return total / len(distances)
