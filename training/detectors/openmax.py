"""OpenMax.  Source: Bendale & Boult 2016, arXiv:1511.06233.  Higher = more OOD."""

import torch
from scipy.optimize import root_scalar
from torch import Tensor

from training.detectors.protocol import Detector, FitError
from training.detectors.reservoir import Reservoir
from training.detectors.vectors import all_finite
from training.outputs import Outputs

_SAMPLE = 50_000
_FEWEST = 3
_LARGEST_LOG = 5.0  # 1 - exp(-e^5) is 1 in float32


class OpenMax(Detector):
    """Log-odds of the `unknown` class that takes activation from the `revised` largest logits.

    Each of them gives up a share of its logit: the Weibull probability of the input's distance to
    the class's mean logits, weighted 1, (A-1)/A, ... 1/A by rank.  The Weibull, location 0, is
    fitted to the `tail` largest distances of the class's correctly classified train-ID inputs
    (of 50,000 drawn uniformly where there are more).  The log-odds rank as the probability,
    without ties.

    A negative logit gives nothing: taken literally, the published sum would let being far from
    such a class speak against the unknown.  Shifting all logits to a smallest of 0 would mend
    that too, but feeds the unknown with the size of the smallest logit, the more so the more
    classes there are.
    """

    reference = "arXiv:1511.06233"
    summary = (
        "Log-odds of an unknown class that is fed by how extreme the logits' distance to the "
        "class means is; needs train-ID logits and labels."
    )

    def __init__(self, tail: int = 25, revised: int = 10) -> None:
        super().__init__()
        if tail < _FEWEST:
            raise ValueError(f"openmax: tail is {tail}; a Weibull needs at least {_FEWEST}")
        if revised < 1:
            raise ValueError(f"openmax: revised is {revised}; it must be positive")
        self.tail = tail
        self.revised = revised
        self._sums = torch.zeros(0, 0, dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.float64)
        self._correct = Reservoir(_SAMPLE)

    def prepare(self, classifier: object) -> None:
        self._sums = torch.zeros(0, 0, dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.float64)
        self._correct = Reservoir(_SAMPLE)

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        logits = outputs.logits.detach().cpu()
        if not all_finite(logits):
            raise FitError("openmax: a training logit is NaN or infinite")
        classes = logits.shape[1]
        if not len(self._counts):
            self._sums = torch.zeros(classes, classes, dtype=torch.float64)
            self._counts = torch.zeros(classes, dtype=torch.float64)
        labels = labels.cpu()
        correct = logits.argmax(1) == labels
        logits, labels = logits[correct], labels[correct]
        self._sums.index_add_(0, labels, logits.double())
        self._counts += torch.bincount(labels, minlength=classes)
        self._correct.add(logits, labels)

    def finish(self) -> None:
        if not len(self._counts):
            raise FitError("openmax saw no training inputs")
        logits, labels = self._correct.columns()
        means = self._sums / self._counts.clamp(min=1)[:, None]
        distances = (logits.double() - means[labels]).norm(dim=1)
        tails = [
            distances[labels == c].sort(descending=True).values[: self.tail]
            for c in range(len(means))
        ]
        few = [c for c, tail in enumerate(tails) if len(tail) < _FEWEST]
        if few:
            raise FitError(
                f"openmax: classes {few} have fewer than {_FEWEST} correctly classified training "
                f"inputs; a Weibull needs more"
            )
        flat = [c for c, tail in enumerate(tails) if tail[0] == tail[-1]]
        if flat:
            raise FitError(f"openmax: the largest distances of classes {flat} are all the same")
        fits = torch.tensor([weibull(tail) for tail in tails], dtype=torch.float64)
        self.register_buffer("means", means.float())
        self.register_buffer("shapes", fits[:, 0].float())
        self.register_buffer("log_scales", fits[:, 1].log().float())
        self.register_buffer("class_counts", torch.bincount(labels, minlength=len(means)))
        self.prepare(None)

    def remarks(self) -> tuple[str, ...]:
        counts = self.noted("class_counts")
        short = [] if counts is None else (counts < 2 * self.tail).nonzero().flatten().tolist()
        if not short:
            return ()
        return (
            f"openmax: classes {short} were seen with fewer than {2 * self.tail} correctly "
            f"classified inputs, so the {self.tail} largest distances are hardly a tail.",
        )

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {"tail": self.tail, "revised": self.revised}

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Logits (B, K) -> openmax (B,), log(p / (1 - p)) of the unknown class."""
        logits = outputs.logits
        revised = min(self.revised, logits.shape[1])
        descending, order = torch.topk(logits, logits.shape[1], dim=1)
        largest, classes = descending[:, :revised], order[:, :revised]  # (B, A)
        means = self.fitted("means")[classes]  # (B, A, K)
        distances = (logits[:, None] - means).norm(dim=2).clamp(min=torch.finfo(logits.dtype).tiny)
        reduced = distances.log() - self.fitted("log_scales")[classes]
        exponent = (self.fitted("shapes")[classes] * reduced).clamp(max=_LARGEST_LOG)
        ranks = torch.arange(revised, 0, -1, dtype=logits.dtype, device=logits.device) / revised
        given = largest.clamp(min=0) * ranks * (1 - torch.exp(-exponent.exp()))
        kept = largest - given
        if revised < logits.shape[1]:
            kept = torch.cat([kept, descending[:, revised:]], dim=1)
        return {"openmax": given.sum(dim=1) - torch.logsumexp(kept, dim=1)}


def weibull(values: Tensor) -> tuple[float, float]:
    """Values (n,) of at least two sizes, float64 -> shape and scale of greatest likelihood.

    With y = log of the values over their largest, the shape k is the only root of
    sum(y e^ky) / sum(e^ky) - 1 / k - mean(y), which increases in k.
    """
    largest = values.max().item()
    logs = (values / largest).clamp(min=torch.finfo(torch.float64).tiny).log()

    def score(shape: float) -> float:
        weights = (shape * logs).exp()
        return ((weights * logs).sum() / weights.sum() - 1 / shape - logs.mean()).item()

    low = high = -1 / logs.mean().item()
    while score(low) > 0:
        low /= 2
    while score(high) < 0:
        high *= 2
    shape = low if low == high else root_scalar(score, bracket=(low, high), method="brentq").root
    return shape, largest * (shape * logs).exp().mean().item() ** (1 / shape)
